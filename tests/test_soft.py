"""Soft activations and skips after masks were found, and the pruning pipeline that uses them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from conftest import ROOT, TINY, small
from helpers import on_engine, pruned_agent, random_batch, small_agent
from mask_changes import begin, moment, schedule
from omegaconf import OmegaConf
from run_results import kill_at_file_operations

from sparse_offline_rl.config import SoftConfig
from sparse_offline_rl.engines.selection import masked_engine
from sparse_offline_rl.networks.masked import masked_product
from sparse_offline_rl.networks.soft import SoftLayers
from sparse_offline_rl.pruning.prune import Twins
from sparse_offline_rl.pruning.schedule import observed
from sparse_offline_rl.training.softened import SoftPhase, SoftUpdate

WEIGHT = torch.tensor([[1.0, -2.0], [0.5, 0.0], [0.0, 1.0]])
X, BIAS = torch.tensor([[2.0, 1.0], [-1.0, 3.0]]), torch.tensor([0.5, -1.0, 0.0])


def test_a_soft_layer_is_pswish_and_a_weighted_skip():
    soft = SoftLayers()
    soft.beta, soft.gamma = 1.5, 0.25
    out = soft.product(X, WEIGHT, BIAS, None, True)
    for row in range(2):
        before = [sum(w * x for w, x in zip(weights, X[row].tolist(), strict=True)) + bias
                  for weights, bias in zip(WEIGHT.tolist(), BIAS.tolist(), strict=True)]  # fmt: skip
        first, last = X[row].tolist()
        skips = [first, (first + last) / 2, last]  # two inputs, resized to three
        wanted = [t / (1 + math.exp(-1.5 * t)) + 0.25 * skip for t, skip in zip(before, skips, strict=True)]
        assert out[row].tolist() == pytest.approx(wanted, rel=1e-6)
    # A head has no activation and no skip.
    assert torch.equal(soft.product(X, WEIGHT, BIAS, None, False), masked_product(X, WEIGHT, BIAS, None, False))


def test_it_is_half_the_identity_at_first_and_relu_in_the_end():
    soft = SoftLayers()
    line = masked_product(X, WEIGHT, BIAS, None, False)
    assert torch.allclose(soft.product(X, WEIGHT, BIAS, None, True), line / 2)
    soft.beta = 1e4
    assert torch.allclose(soft.product(X, WEIGHT, BIAS, None, True), line.relu())


def test_a_phase_goes_from_soft_to_sharp_in_equal_steps():
    phase = SoftPhase(SoftConfig(until=0.1, beta=1.0, beta_max=9.0, skip=0.5), first=100, last=140, update=100)
    assert phase.at(100) == (1.0, 0.5) and phase.at(110) == (3.0, 0.375) and phase.at(140) == (9.0, 0.0)


def test_pruned_weights_stay_out_of_a_soft_agents_updates_and_its_targets_are_soft_alike():
    agent = pruned_agent("bcq", "snip", 0.8, masked_engine("a test"))
    update = SoftUpdate(agent, SoftPhase(SoftConfig(until=0.1, skip=0.5), 0, 4, 0))
    x = torch.randn(8, agent.mlps()["critic1"].topology.in_features, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        soft, target = agent.mlps()["critic1"](x), agent.target_mlps()["critic1"](x)
        sharp = on_engine(agent, agent.state(), masked_engine("a test")).mlps()["critic1"](x)
    assert torch.equal(soft, target) and not torch.allclose(soft, sharp)
    before = agent.state()
    draws = torch.Generator().manual_seed(1)
    for step in range(3):
        update(random_batch(40, seed=step), draws)
    for mlp in agent.mlps().values():
        for layer in mlp.layers().values():
            assert not layer.weight.detach()[~layer.mask].any() and not layer.mask.all()
    after = agent.state()
    assert all((it.values != before.networks[name].values).mean() > 0.5 for name, it in after.networks.items())


@pytest.mark.parametrize(
    "overrides",
    [
        ["prune=snip", "soft.until=0.5", "soft.skip=0.5", "updates=7"],
        ["prune=pipeline", "prune.start=0.1", "prune.until=0.3", "prune.then.start=0.3", "prune.then.until=0.9",
         "prune.then.every=1", "prune.every=1", "soft.until=0.3", "init=zero", "updates=9"],
    ],
    ids=["snip", "pipeline"],
)  # fmt: skip
def test_a_killed_run_ends_with_the_same_bits(tmp_path, overrides):
    found = kill_at_file_operations(tmp_path, 3, *small("bcq"), *overrides, "checkpoint.every=1")
    assert found["killed"] > 3 and found["wrong"] == [] and found["engine"] == "sparse"


def test_the_pipeline_learns_prunes_and_rewires(cli, tmp_path):
    run_dir = tmp_path / "run"
    overrides = ["experiment=pipeline", "prune.every=1", "prune.then.every=2", "updates=40"]
    status, out, err = cli(*[it for it in TINY if it != "prune=snip"], *overrides, f"run_dir={run_dir}")
    assert status == 0, err
    said = [line.partition(" (")[2] for line in out.splitlines() if line.startswith("engine: ")]
    assert [it.split(")")[0] for it in said] == [
        "density 1 is above 0.5, where engine=auto changes over",
        "masks are learned beside the weights",
        "hidden layers are soft",
        "density 0.2 is below 0.5, where engine=auto changes over",
    ]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["masks/first_kept/decoder"] < 1 and summary["gates/left/decoder"] > 0
    assert summary["sparsity_achieved"]["decoder"] == pytest.approx(0.8, abs=1e-3)


def test_a_pipeline_rewires_only_masks_that_are_there():
    plan = schedule("pipeline", 0.8, 100, start=0.1, until=0.4, then=then(every=10, start=0.4, until=0.9))
    assert [update for update in range(1, 100) if plan.due(update)] == [10, 40, 50, 60, 70, 80] and plan.found == 40


@pytest.mark.parametrize("drop", ["threshold", "sign", "magnitude"])
def test_a_pipeline_remembers_numbers_from_its_first_change_of_masks_on(drop):
    """At the update at which masks are found nothing was dropped yet, though a change would be due by then."""
    agent = small_agent("td3bc")
    plan = schedule(
        "pipeline", 0.8, 20, start=0.1, until=0.4, every=2, then=then(every=2, start=0.4, until=0.9, drop=drop)
    )
    twins, change = Twins(agent.TWINS, agent.config.twin), begin(plan, agent)
    for update in range(1, 20):
        if plan.due(update):
            change = observed(plan.change(moment(agent, change.state, update, change.memory)))
            plan.check_memory(update, change.state, change.memory, twins)
    assert any("left" not in key for key in change.memory.numbers) == (drop != "magnitude")


def then(**options):
    values = OmegaConf.to_container(OmegaConf.load(ROOT / "configs" / "prune" / "pipeline.yaml"))
    return values["then"] | options


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["soft.until=1.0"], "soft.until=1 would last to update 40 of updates=40"),
        (["soft.until=0.5", "engine=sparse"], "engine=sparse has no soft activations, and soft.until=0.5"),
        (["prune=espn", "soft.until=0.6"], "soft.until=0.6 would last to update 44"),
        (["soft.until=0.5", "soft.skip=-1"], "soft.skip=-1 cannot be used"),
        (
            ["soft.skip=0.5"],
            "soft.skip=0.5 has no effect with soft.until=0: set soft.until, e.g. soft.until=0.1, or soft.skip=0.",
        ),
        (
            ["soft.beta=5"],
            "soft.beta=5 has no effect with soft.until=0: set soft.until, e.g. soft.until=0.1, or soft.beta=1.",
        ),
        (["soft.beta_max=5"], "soft.beta_max=5 has no effect with soft.until=0"),
        (["soft.until=0.1", "soft.beta=20"], "soft.beta=20 lies above soft.beta_max=10, and beta must not fall"),
        (["prune=pipeline", "prune.then.start=0.4"], "prune.then.start=0.4 lies before prune.until=0.5"),
        (["prune=pipeline"], "prune.then.every=1000 leaves the masks as they are"),
        (["prune=pipeline", "prune.then.every=20"], "no change is due between that and prune.then.until=0.75"),
        (["prune=pipeline", "prune.then.drop=luck", "prune.then.every=2"], "prune.then.drop='luck' cannot be used"),
    ],
)
def test_what_cannot_be_is_one_sentence(refusal, overrides, sentence):
    assert sentence in refusal(*TINY, *overrides)
