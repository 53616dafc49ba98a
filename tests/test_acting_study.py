"""The study of what each part of acting does: each row is what a policy that lacks this part returns."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from conftest import ROOT
from policy_samples import make_policy

from sparse_offline_rl.evaluation.returns import evaluate
from sparse_offline_rl.policy.format import write_policy
from sparse_offline_rl.policy.runtime import Policy

sys.path.insert(0, str(ROOT / "scripts"))
import acting_study

EPISODES, SEED = 7, 3


class Payout(gymnasium.Env):
    """An episode is one step that pays 1 and the first action, so that a return tells what was done."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 1 + float(action[0]), True, False, {}


@pytest.fixture(scope="module", autouse=True)
def environment():
    gymnasium.register("Payout-v0", Payout, disable_env_checker=True)
    yield
    del gymnasium.registry["Payout-v0"]


def policy(kind, **options):
    return replace(make_policy(kind, state=3, action=2, **options), env_id="Payout-v0")


@pytest.fixture
def study(tmp_path, monkeypatch, capsys):
    def run(*arguments, episodes=EPISODES, seed=SEED):
        monkeypatch.setattr(sys, "argv", ["acting_study.py", f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'acting.csv'}",
                                          f"episodes={episodes}", f"seed={seed}", *arguments])  # fmt: skip
        status = 0
        try:
            acting_study.main()
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def returns(content):
    return evaluate(Policy(content, SEED).act, "Payout-v0", EPISODES, SEED)


def test_each_way_to_act_is_that_of_a_policy_made_so(tmp_path, study):
    whole = policy("bcq", perturbation=0.4, candidates=5)
    write_policy(tmp_path / "runs" / "walker" / "seed0" / "policy" / "policy.sorl", whole)
    status, out, err = study()
    assert status == 0, err
    rows = rows_of(tmp_path / "acting.csv")
    alone = {"acting": policy("bc").acting, "networks": {"decoder": whole.networks["decoder"]}}
    wanted = {
        "whole": whole,
        "not perturbed": policy("bcq", perturbation=0.0, candidates=5),
        "not ranked": policy("bcq", perturbation=0.4, candidates=1),
        "neither": replace(whole, **alone),
        "neither, latent 0": replace(whole, **{**alone, "acting": replace(alone["acting"], latent_clip=0.0)}),
    }
    assert {row["run"] for row in rows} == {"walker/seed0"}
    assert [row["acting"] for row in rows] == list(wanted)
    best = max(returns(content).max() for content in wanted.values())
    for row, content in zip(rows, wanted.values(), strict=True):
        values = returns(content)
        found = [float(row[f"return_{what}"]) for what in ("mean", "median", "min", "max")]
        assert found == pytest.approx([values.mean(), np.median(values), values.min(), values.max()], rel=1e-5)
        assert (row["episodes"], row["seed"]) == (str(EPISODES), str(SEED))
        assert float(row["under_half_of_best"]) == np.mean(values < best / 2)
    assert len({row["return_mean"] for row in rows}) == 5
    assert "walker/seed0: whole" in out


def test_an_agent_has_the_ways_of_its_parts_only(tmp_path, study):
    for kind in ("bc", "actor"):
        write_policy(tmp_path / "runs" / kind / "policy" / "policy.sorl", policy(kind))
    assert study()[0] == 0
    ways = [(row["run"], row["acting"]) for row in rows_of(tmp_path / "acting.csv")]
    assert ways == [("actor", "whole"), ("bc", "whole"), ("bc", "neither, latent 0")]


def test_a_run_that_the_file_holds_is_not_played_again(tmp_path, study):
    write_policy(tmp_path / "runs" / "a" / "policy" / "policy.sorl", policy("bc"))
    study()
    before = rows_of(tmp_path / "acting.csv")
    write_policy(tmp_path / "runs" / "b" / "policy" / "policy.sorl", policy("bc", seed=1))
    _, out, _ = study()
    assert rows_of(tmp_path / "acting.csv")[:2] == before
    assert [row["run"] for row in rows_of(tmp_path / "acting.csv")] == ["a", "a", "b", "b"]
    assert "b: whole" in out
    assert "a: whole" not in out


def test_a_pattern_picks_runs(tmp_path, study):
    for run in ("walker2d/seed0", "walker2d/seed1", "hopper/seed0"):
        write_policy(tmp_path / "runs" / run / "policy" / "policy.sorl", policy("actor"))
    assert study("only=walker2d*1")[0] == 0
    assert [row["run"] for row in rows_of(tmp_path / "acting.csv")] == ["walker2d/seed1"]
    status, _, err = study("only=ant*")
    assert status == 2
    assert "of only=ant*" in err


def test_what_cannot_be_done_is_said_in_one_sentence(tmp_path, study):
    status, _, err = study()
    assert (status, err.count("\n")) == (2, 1)
    assert "holds no policy/policy.sorl of only=*: give a folder with finished runs" in err
    write_policy(tmp_path / "runs" / "a" / "policy" / "policy.sorl", policy("bc"))
    columns = ",".join(acting_study.COLUMNS)
    foreign_file = "does not have the columns run, acting, "
    for foreign, sentence in (
        (b"update,loss\n1,2\n", foreign_file),
        (b"", foreign_file),
        (f"{columns}\na,whole\n".encode(), foreign_file),
        (b"\xff\xfe", "cannot be read"),
    ):
        (tmp_path / "acting.csv").write_bytes(foreign)
        status, _, err = study()
        assert (status, err.count("\n")) == (2, 1)
        assert "acting.csv" in err
        assert sentence in err
        assert "give another name" in err
        assert (tmp_path / "acting.csv").read_bytes() == foreign
    (tmp_path / "acting.csv").unlink()
    (tmp_path / "acting.csv").mkdir()
    status, _, err = study()
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot be read" in err


@pytest.mark.parametrize(("other", "held"), [({"episodes": 8}, f"episodes={EPISODES}"), ({"seed": 4}, f"seed={SEED}")])
def test_a_file_holds_one_comparison(tmp_path, study, other, held):
    write_policy(tmp_path / "runs" / "a" / "policy" / "policy.sorl", policy("bc"))
    assert study()[0] == 0
    status, _, err = study(**other)
    assert (status, err.count("\n")) == (2, 1)
    assert f"has {held}: give the same, or another name" in err
