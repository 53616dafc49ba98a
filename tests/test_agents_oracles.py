"""TD3+BC and IQL against oracles in NumPy: whole updates, one and ten of them, dense and pruned, on both engines."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import MASKED, flat, on_engine, prune, random_batch, small_agent
from iql_oracle import IQLOracle, IQLSettings
from td3bc_oracle import TD3BCOracle, TD3BCSettings

DECAY = 20  # updates until IQL's actor stands still


def layers_of(agent, kind):
    """(W, b) of every layer of every network in float64, heads as one layer; those of targets are called ``…_target``."""
    found = {}
    for name, network in agent.state().networks.items():
        for suffix, vector in (("", network.values), ("_target", network.target)):
            if vector is not None and suffix == kind:
                arrays = [np.array(array, float) for array in network.topology.unpack(vector)]
                found[name + suffix] = list(zip(arrays[0::2], arrays[1::2], strict=True))
    return found


def make(name, sparsity, engine):
    options = {"actor_lr_decay": DECAY} if name == "iql" else {}
    agent = small_agent(name, **options)
    state = prune(agent, "snip", sparsity) if sparsity else agent.state()
    agent = on_engine(agent, state, engine)
    masks = {key: network.topology.stacked for key, network in agent.state().networks.items()} if sparsity else None
    networks = layers_of(agent, "")
    if name == "td3bc":
        return agent, TD3BCOracle(networks, TD3BCSettings(), masks)
    return agent, IQLOracle(networks, np.zeros(2), IQLSettings(total_updates=DECAY), masks)


def run(name, agent, oracle, updates):
    """The same updates on both, and the losses of the last one."""
    for i in range(updates):
        batch = random_batch(64, seed=i)
        arrays = [np.array(x, float) for x in batch]
        noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(i))
        expected = oracle.update(arrays, np.array(noise, float)) if name == "td3bc" else oracle.update(arrays)
        cast = type(batch)(*(x.to(torch.get_default_dtype()) for x in batch))
        metrics = agent.update(cast, torch.Generator().manual_seed(i))
    return metrics, expected


def compare(agent, oracle, metrics, expected, tolerance, learning_rate):
    for key, value in expected.items():
        assert float(metrics[f"loss/{key}"]) == pytest.approx(value, rel=tolerance, abs=tolerance)
    for suffix in ("", "_target"):
        for key, layers in layers_of(agent, suffix).items():
            for (w, b), (expected_w, expected_b) in zip(layers, oracle.networks[key], strict=True):
                for ours, theirs in ((w, expected_w), (b, expected_b)):
                    # Where a gradient is zero up to rounding, Adam's first steps have a random sign: leave those out.
                    sure = np.abs(ours - theirs) < 0.9 * learning_rate
                    assert sure.mean() > 0.98
                    np.testing.assert_allclose(ours[sure], theirs[sure], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("engine", [MASKED, "dense", "sparse"], ids=["masked", "dense", "sparse"])
@pytest.mark.parametrize("sparsity", [0.0, 0.7])
@pytest.mark.parametrize("updates", [1, 10])
@pytest.mark.parametrize("name", ["td3bc", "iql"])
def test_updates_equal_the_equations(name, updates, sparsity, engine):
    agent, oracle = make(name, sparsity, engine)
    compare(agent, oracle, *run(name, agent, oracle, updates), tolerance=1e-5, learning_rate=3e-4)


@pytest.mark.parametrize("name", ["td3bc", "iql"])
def test_in_float64_they_are_equal(name):
    torch.set_default_dtype(torch.float64)
    try:
        agent, oracle = make(name, 0.7, MASKED)
        compare(agent, oracle, *run(name, agent, oracle, 10), tolerance=1e-9, learning_rate=3e-4)
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_learned_deviation_follows_the_oracle():
    agent, oracle = make("iql", 0.0, MASKED)
    run("iql", agent, oracle, 10)
    ours = flat(agent.state())["parameter/actor.log_std/values"].numpy()
    assert np.abs(ours).max() > 1e-4
    np.testing.assert_allclose(ours, oracle.log_std, rtol=1e-4, atol=1e-6)


def test_the_policy_moves_every_second_time_and_so_do_targets():
    agent = small_agent("td3bc")
    states = [flat(agent.state())]
    for i in range(4):
        agent.update(random_batch(64, seed=i), torch.Generator().manual_seed(i))
        states.append(flat(agent.state()))
    moved = [not torch.equal(a["values/actor"], b["values/actor"]) for a, b in itertools.pairwise(states)]
    targets = [not torch.equal(a["target/critic1"], b["target/critic1"]) for a, b in itertools.pairwise(states)]
    assert moved == targets == [False, True, False, True]
