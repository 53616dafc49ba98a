"""Surgery as a schedule: when it happens, whose curvature it takes, whole runs, and what does not fit together."""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from conftest import TINY
from helpers import small_agent
from mask_changes import begin, draws, moment, schedule, trained
from run_results import assert_same, run_result

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.pruning.curvature import Curvature, CurvatureSettings, Pass, gather
from sparse_offline_rl.pruning.prune import Twins, copy_twins
from sparse_offline_rl.pruning.surgery import Surgery

METHODS = ["obd", "obs", "kron_obd", "kron_obs", "structured"]
CURVED = ["obd", "obs", "kron_obd", "kron_obs"]


def due(plan: Surgery) -> list[int]:
    return [update for update in range(1, plan.updates) if plan.due(update)]


def test_levels_begin_at_the_start_and_thin_out_exponentially():
    assert due(schedule("obd", updates=100)) == [50] and due(schedule("obd", updates=100, start=0.0)) == [1]
    assert due(schedule("obs", updates=100)) == [50, 60, 70, 80, 90]
    plan = schedule("obs", 1 - 0.5**3, updates=100, levels=3)
    assert due(plan) == [50, 66, 82] and all(map(plan.ends_level, due(plan)))
    assert [plan.sparsity_after(update) for update in due(plan)] == pytest.approx([0.5, 0.75, 0.875])
    assert plan.sparsity_after(82) == plan.sparsity
    assert due(schedule("obs", updates=100, levels=3, every=20)) == [50, 70, 90]


@pytest.mark.parametrize("method", METHODS)
def test_what_a_schedule_is_given_reaches_the_curvature(method, monkeypatch):
    seen = []

    def spy(net: NetworkState, found: Iterable[Pass], damping: float) -> Curvature:
        given = list(found)
        seen.append((len(given), damping))
        return gather(net, given, damping)

    monkeypatch.setattr("sparse_offline_rl.pruning.views.gather", spy)
    given = {"batches": 3} if method in CURVED else {}
    given |= {"damping": 0.25} if method in ("obs", "kron_obs") else {}
    agent, plan = small_agent("td3bc"), schedule(method, 0.8, **given)
    state = trained(begin(plan, agent).state, 1)
    plan.change(moment(agent, state, plan.first))
    # Once for each network; the second critic, which follows the first one, only to be corrected.
    networks = {"obd": 2, "obs": 3, "kron_obd": 2, "kron_obs": 3, "structured": 0}[method]
    assert seen == [(3, given.get("damping", 1e-3))] * networks


@pytest.mark.parametrize("method", METHODS)
def test_a_run_reports_the_result_before_and_goes_on_where_it_failed(cli, tmp_path, monkeypatch, method):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    batches = ["prune.batches=2"] if method in CURVED else []
    command = [*TINY, f"prune={method}", "prune.levels=2", *batches, "checkpoint.every=7"]
    status, _, err = cli(*command, f"run_dir={whole}")
    assert status == 0, err
    summary = json.loads((whole / "summary.json").read_text())
    assert [it["update"] for it in summary["levels"]] == [20, 30]
    exact = method in ("obd", "obs")
    for achieved in summary["sparsity_achieved"].values():
        assert achieved == pytest.approx(0.8, abs=1e-3 if exact else 0.03)
    change = Surgery.change

    def fail_at_the_second(self, now):
        if now.update == 30:
            raise RuntimeError("the machine stopped")
        return change(self, now)

    monkeypatch.setattr(Surgery, "change", fail_at_the_second)
    with pytest.raises(RuntimeError, match="the machine stopped"):
        cli(*command, f"run_dir={broken}")
    monkeypatch.undo()
    assert cli(*command, f"run_dir={broken}")[0] == 0
    assert_same(run_result(whole), run_result(broken))


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        (
            "obd",
            {"correct": "kron_obs"},
            "prune.correct=kron_obs is about hidden units that leave, and prune.score=obd",
        ),
        ("obs", {"correct": "luck"}, "prune.correct='luck' cannot be used: choose one of none, obs, kron_obs"),
        ("obs", {"score": "luck"}, "prune.score='luck' cannot be used: choose one of snip"),
        ("gradual", {"score": "kron_obd", "every": 10}, "prune.score='kron_obd' cannot be used"),
        ("structured", {"scope": "erk"}, "prune.scope=erk deals out single weights"),
        ("obs", {"start": 1.0}, "changes 1 updates apart from update 100 on leave nothing of updates=100"),
        ("obs", {"levels": 6, "every": 10}, "prune.levels=6 changes 10 updates apart from update 50 on leave nothing"),
        ("obs", {"levels": 60}, "prune.levels=60 changes 1 updates apart from update 50 on leave nothing"),
        ("kron_obs", {"rounds": 3}, "prune.rounds=3 is about masks found before training"),
    ],
)
def test_settings_that_do_not_fit_together(method, options, sentence):
    with pytest.raises(UserError) as refused:
        schedule(method, 0.9, updates=100, **options)
    assert sentence in str(refused.value) and str(refused.value).count(". ") <= 1


@pytest.mark.parametrize(
    ("method", "sparsity", "sentence"),
    [
        ("obs", 0.9999, "sparsity=0.9999 would leave fewer than one of the"),
        ("structured", 0.99, "sparsity=0.99 would leave fewer weights than the 10 of one unit in each hidden layer"),
    ],
)
def test_a_sparsity_that_a_network_cannot_have_is_refused_before_training(method, sparsity, sentence):
    agent = small_agent()
    with pytest.raises(UserError, match=f"network actor: {sentence}"):
        schedule(method, sparsity).start(moment(agent))


def test_a_loss_that_overflowed_is_a_sentence():
    agent, plan = small_agent(), schedule("obs", 0.8)
    change = begin(plan, agent)
    change.state.networks["decoder"].values[:] = np.float32(np.inf)
    with pytest.raises(UserError, match=r"network \w+: the curvature of layer \w+ is not finite"):
        plan.change(moment(agent, change.state, plan.first))


@pytest.mark.parametrize("method", ["obs", "kron_obs", "eigendamage"])
def test_twins_that_are_copies_stay_copies(method):
    """Although the curvature of each is sampled anew."""
    agent, plan = small_agent("bcq", twin="copy"), schedule(method, 0.5, batches=1)
    state = copy_twins(trained(begin(plan, agent).state, 1), Twins(agent.TWINS, "copy"))
    after = plan.change(moment(agent, state, plan.first)).state.networks
    first, twin = after["critic1"], after["critic2"]
    assert first.topology.kept < first.topology.total
    assert all(np.array_equal(a, b) for a, b in zip(first.topology.stacked, twin.topology.stacked, strict=True))
    assert all(np.array_equal(vector, twin.vectors()[key]) for key, vector in first.vectors().items())


def test_a_twin_is_corrected_by_what_its_own_layers_read():
    """Its masks are those of the first critic; its units are not."""
    agent, plan = small_agent("td3bc"), schedule("obs", 0.5, score="magnitude", batches=1)
    state = begin(plan, agent).state
    now = moment(agent, state, plan.first)
    assert Twins(agent.TWINS, agent.config.twin).follows("critic2")
    after = plan.change(now).state.networks["critic2"]
    seen = moment(agent, state, plan.first).views(settings=CurvatureSettings(1), followers=True)["critic2"]
    own = seen.curvature(draws())
    weight, bias = (torch.from_numpy(it).double() for it in after.layers()["hidden1"])
    old, old_bias = (torch.from_numpy(it).double() for it in state.networks["critic2"].layers()["hidden1"])
    step = torch.cat([weight - old, (bias - old_bias)[:, None]], 1)
    # At the minimum the gradient A Δ of each row is zero for all that it keeps.
    slope = step @ own.damped_inputs("hidden1")
    kept = torch.from_numpy(after.topology.layers["hidden1"])
    assert slope[:, :-1][kept].abs().max() < 1e-5 * slope.abs().max() and slope[:, -1].abs().max() < 1e-5
