"""Whole runs that end in factors, what is written of them, and settings that do not fit."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from conftest import TINY, TINY_RUN, small
from helpers import small_agent, spaces
from mask_changes import moment, schedule
from run_results import assert_same, run_result
from test_configs import composed

from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.cli import compress as compress_cli
from sparse_offline_rl.cli import export as export_cli
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.experiment import read_config
from sparse_offline_rl.policy.format import read_policy
from sparse_offline_rl.policy.runtime import load_policy
from sparse_offline_rl.pruning.surgery import Surgery
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint


def command_of(name: str) -> list[str]:
    command = [*TINY_RUN, *small(name), "prune=eigendamage", "prune.batches=2", "checkpoint.every=7", "sparsity=0.7"]
    return [it for it in command if it != "prune=snip"]


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_a_run_ends_in_factors_and_goes_on_where_it_failed(cli, tmp_path, monkeypatch, name):
    whole, broken, later = (tmp_path / it for it in ("whole", "broken", "later"))
    command = command_of(name)
    status, out, err = cli(*command, f"run_dir={whole}")
    assert status == 0, err
    assert "engine: sparse" in out
    summary = json.loads((whole / "summary.json").read_text())
    assert [it["update"] for it in summary["levels"]] == [20]
    dense = AGENTS[name].create(spaces(11, 3), read_config(composed(*command)).agent)
    assert summary["total_weights"] == sum(mlp.topology.total for mlp in dense.mlps().values())
    for achieved in summary["sparsity_achieved"].values():
        assert achieved == pytest.approx(0.7, abs=0.03)
    assert {it["name"] for it in summary["layers"]} == {
        f"{it}.{layer}" for it, mlp in dense.mlps().items() for layer in mlp.topology.layers
    }
    checkpoint = load_checkpoint(checkpoint_path(whole))
    assert all(net.topology.linear for net in checkpoint.state.networks.values())
    change, save = Surgery.change, "sparse_offline_rl.training.session.save_checkpoint"

    def fail(self, now):
        raise RuntimeError("the machine stopped")

    monkeypatch.setattr(Surgery, "change", fail)
    with pytest.raises(RuntimeError, match="the machine stopped"):
        cli(*command, f"run_dir={broken}")
    monkeypatch.setattr(Surgery, "change", change)
    assert cli(*command, f"run_dir={broken}")[0] == 0
    assert_same(run_result(whole), run_result(broken))

    from sparse_offline_rl.training.checkpoint import save_checkpoint

    def fail_in_factors(path, stored):
        if stored.update > 28:
            raise RuntimeError("the machine stopped")
        save_checkpoint(path, stored)

    monkeypatch.setattr(save, fail_in_factors)
    with pytest.raises(RuntimeError, match="the machine stopped"):
        cli(*command, f"run_dir={later}")
    monkeypatch.undo()
    assert cli(*command, f"run_dir={later}")[0] == 0
    assert_same(run_result(whole), run_result(later))


def test_the_policy_of_a_run_is_exported_and_compressed(cli, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "run"
    assert cli(*command_of("bcq"), f"run_dir={run_dir}")[0] == 0

    def call(of, *arguments):
        monkeypatch.setattr("sys.argv", ["command", f"run_dir={run_dir}", *arguments])
        of.main()
        return capsys.readouterr()

    for how in (["bits=8"], ["clusters=16", "finetune=2"]):
        call(compress_cli, "episodes=1", *how)
        compressed = read_policy(run_dir / "policy" / "compressed.sorl")
        assert all(network.linear for network in compressed.networks.values())
        observation = np.zeros(11, np.float32)
        noise = np.zeros((compressed.acting.candidates, compressed.acting.latent_dim), np.float32)
        actions = [
            load_policy(run_dir / "policy" / it).act(observation, noise) for it in ("policy.sorl", "compressed.sorl")
        ]
        assert np.allclose(*actions, atol=0.1)
    for to in ("onnx", "c", "dense"):
        call(export_cli, f"to={to}", f"out={tmp_path}")
    (source,) = tmp_path.glob("*.c")
    subprocess.run(["gcc", "-std=c99", "-DPOLICY_MAIN", str(source), "-o", str(tmp_path / "main"), "-lm"], check=True)
    assert subprocess.run([str(tmp_path / "main")], check=False).returncode == 0


def test_a_plain_run_still_writes_the_older_formats(cli, tmp_path):
    def formats(*arguments: str) -> tuple[int, str]:
        run_dir = tmp_path / str(len(arguments))
        assert cli(*TINY, "updates=10", "eval.every=10", *arguments, f"run_dir={run_dir}")[0] == 0
        stored = checkpoint_path(run_dir).read_bytes()
        (number,) = (it for it in (b"2", b"3") if b"sparse_offline_rl.checkpoint/" + it in stored)
        return int.from_bytes((run_dir / "policy" / "policy.sorl").read_bytes()[8:12], "little"), number.decode()

    assert formats() == (2, "2")
    assert formats("prune=eigendamage", "sparsity=0.7") == (4, "3")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"levels": 2},
            "prune.levels=2 would prune layers that prune.score=eigendamage has left in factors: set prune.levels=1.",
        ),
        ({"correct": "obs"}, "prune.correct=obs corrects weights that stay where they are"),
        ({"correct": "kron_obs"}, "prune.correct=kron_obs corrects weights that stay where they are"),
        ({"scope": "erk"}, "prune.scope=erk deals out single weights, and prune.score=eigendamage prunes directions"),
        ({"rounds": 3}, "prune.rounds=3 is about masks found before training"),
        ({"reinit": True}, "prune.reinit=true is about masks found before training"),
    ],
)
def test_settings_that_do_not_fit_together(options, sentence):
    with pytest.raises(UserError) as refused:
        schedule("eigendamage", 0.8, **options)
    assert sentence in str(refused.value) and str(refused.value).count(". ") <= 1


def test_other_schedules_cannot_score_by_it():
    with pytest.raises(UserError, match=r"prune\.score='eigendamage' cannot be used"):
        schedule("gradual", 0.8, score="eigendamage", every=10)


def test_a_sparsity_below_one_direction_a_layer_is_refused_before_training():
    agent = small_agent()
    with pytest.raises(
        UserError, match=r"network actor: sparsity=0.9 would leave fewer weights than the 105 of the heads and of"
    ):
        schedule("eigendamage", 0.9).start(moment(agent))


def test_soft_layers_are_refused(refusal):
    assert "leaves layers in factors: set soft.until=0" in refusal(*command_of("bcq"), "soft.until=0.1")
