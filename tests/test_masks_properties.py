"""What must hold after every change, whatever the agent, the method, its settings and the seed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import flat, on_engine, random_batch, small_agent
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_changes import begin, moment, schedule, trained

from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.engines.selection import choose_engine
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, NetworkState, all_grown
from sparse_offline_rl.pruning.prune import Twins
from sparse_offline_rl.pruning.schedule import Change, MaskSchedule, observed
from sparse_offline_rl.pruning.units import UNIT_SCORES

REWIRED = ["rigl", "set", "snfs", "dsr", "deepr"]
UNITS = ["kron_obd", "kron_obs", "structured"]  # which prune whole hidden units
SURGERIES = ["obd", "obs", *UNITS]
ROUNDS = ["synflow", "iter_snip", "force", "iter_grasp"]  # which prune before training
METHODS = [*ROUNDS, *REWIRED, "gradual", "lottery", "iterative_magnitude", "after_training", *SURGERIES]
UPDATES = 30


@st.composite
def agents(draw):
    """A dense agent with hidden layers of any size."""
    name = draw(st.sampled_from(sorted(AGENTS)))
    keys = [key for key in AGENTS[name].Config.model_fields if key.endswith("_hidden")]
    twin = draw(st.sampled_from(["copy", "copy_mask", "independent"]))
    sizes = {key: (draw(st.integers(8, 32)), draw(st.integers(8, 32))) for key in keys}
    return small_agent(name, seed=draw(st.integers(0, 99)), twin=twin, **sizes)


def rewired(draw) -> dict[str, object]:
    found: dict[str, object] = {
        "every": draw(st.integers(3, 12)),
        "start": draw(st.sampled_from([0.0, 0.3])),
        "until": draw(st.sampled_from([0.6, 1.0])),
        "drop": draw(st.sampled_from(["magnitude", "signed_magnitude", "threshold", "sign", "snip"])),
        "born": draw(st.sampled_from(["zero", "drawn"])),
        "share": draw(st.sampled_from(["own", "survivors", "mean_score", "network"])),
        "grow": draw(st.sampled_from(["gradient", "momentum", "random"])),
    }
    if found["grow"] == "random" and found["share"] == "mean_score":
        found["share"] = "own"
    if found["drop"] != "sign":
        found["fraction"] = draw(st.sampled_from([0.2, 0.5, 1.0]))
        found["decay"] = draw(st.sampled_from(["cosine", "constant"]))
    if found["grow"] == "momentum":
        found["batches"] = 2
    return found


def options_of(draw, method: str) -> dict[str, object]:
    """Settings of the method's own."""
    if method in ROUNDS:
        return {"rounds": draw(st.integers(2, 5))}
    if method in REWIRED:
        return rewired(draw)
    if method == "gradual":
        return {"every": draw(st.integers(3, 12)), "score": draw(st.sampled_from(["magnitude", "snip"]))}
    if method == "lottery":
        ticket = draw(st.sampled_from(["rewind", "retain", "reinit", "random"]))
        back = {"rewind": draw(st.integers(0, 2))} if ticket in ("rewind", "random") else {}
        return {"levels": draw(st.integers(1, 4)), "ticket": ticket, **back}
    if method in SURGERIES:
        correct = draw(st.sampled_from(["none", "obs", *(["kron_obs"] if method in UNITS else [])]))
        found = {"start": draw(st.sampled_from([0.0, 0.5])), "levels": draw(st.integers(1, 4)), "correct": correct}
        if method != "structured" or correct != "none":  # which alone looks at no curvature
            found |= {"fisher": draw(st.sampled_from(["sampled", "empirical"])), "batches": draw(st.integers(1, 3))}
        return found
    return {}


@st.composite
def runs(draw, method: str):
    """An agent, the method with settings of its own and a sparsity, and a seed."""
    scope = draw(st.sampled_from(["network", "layer", *([] if method in UNITS else ["erk"])]))
    plan = schedule(method, draw(st.sampled_from([0.2, 0.8, 0.9])), UPDATES, scope=scope, **options_of(draw, method))
    return draw(agents()), plan, draw(st.integers(0, 99))


def density(plan: MaskSchedule, update: int) -> float:
    curve = getattr(plan, "sparsity_after", None)
    return 1 - (plan.sparsity if curve is None else curve(update))


def by_position(network: NetworkState, kind: str) -> list[np.ndarray]:
    """Weights and biases of a vector at their places; pruned weights are not a number."""
    unpacked = network.topology.unpack(network.vectors()[kind].astype(np.float64))
    for i, mask in enumerate(network.topology.layers.values()):
        unpacked[2 * i][~mask] = np.nan
    return unpacked


def check_change(plan: MaskSchedule, update: int, twins: Twins, before: AgentState, after: AgentState) -> None:
    ticket = getattr(plan.config, "ticket", None)
    for name, network in after.networks.items():
        topology = network.topology
        if plan.score in UNIT_SCORES:
            check_units(topology, round(density(plan, update) * topology.total))
        else:
            assert topology.kept == round(density(plan, update) * topology.total)
        assert {len(vector) for vector in network.vectors().values()} == {topology.size}
        if twins.follows(name):
            first = after.networks[twins.pairs[name]].topology.layers
            assert all(np.array_equal(mask, first[layer]) for layer, mask in topology.layers.items())
        assert network.target is None or set(network.vectors()) == set(before.networks[name].vectors())
        if ticket not in ("reinit", "rewind", "random"):  # those go back
            check_survivors(plan, before.networks[name], network)


def check_units(topology: Topology, wanted: int) -> None:
    """Whole units: each layer keeps all weights between what is left of it, and the count is the wanted one to one unit."""
    units = [np.ones(topology.in_features, bool)]
    for mask in topology.hidden.values():
        units.append(mask.any(1))
        assert units[-1].any() and np.array_equal(mask, np.outer(units[-1], units[-2]))
    assert all(np.array_equal(head, np.outer(np.ones(len(head), bool), units[-1])) for head in topology.heads.values())
    widths = [int(it.sum()) for it in units] + [sum(map(len, topology.heads.values()))]
    assert abs(topology.kept - wanted) <= max(a + b for a, b in zip(widths[:-2], widths[2:], strict=True)) / 2 + 1


def check_survivors(plan: MaskSchedule, before: NetworkState, after: NetworkState) -> None:
    born = getattr(plan.config, "born", "zero")
    for kind in after.vectors():
        pairs = zip(by_position(before, kind), by_position(after, kind), strict=True)
        for old, new in pairs:
            stayed, grown = ~np.isnan(old) & ~np.isnan(new), np.isnan(old) & ~np.isnan(new)
            moved_on_purpose = kind == "values" and getattr(plan.config, "shrink", 0) > 0
            moved_on_purpose |= kind in ("values", "target") and getattr(plan.config, "correct", "none") != "none"
            assert moved_on_purpose or np.array_equal(old[stayed], new[stayed]), kind
            if kind.startswith("exp_avg") or born == "zero":
                assert not new[grown].any(), kind
            elif grown.any():
                assert np.abs(new[grown]).max() <= 1 / math.sqrt(new.shape[1]) and new[grown].any()
            if kind == "target":
                values = by_position(after, "values")
                place = next(
                    i for i, it in enumerate(by_position(after, kind)) if np.array_equal(it, new, equal_nan=True)
                )
                assert np.array_equal(new[grown], values[place][grown])


def check_start(plan: MaskSchedule, twins: Twins, dense: AgentState, state: AgentState) -> None:
    wanted = 0 if plan.STARTS_DENSE else plan.sparsity
    for name, network in state.networks.items():
        assert network.topology.kept == round((1 - wanted) * network.topology.total)
        check_survivors(plan, dense.networks[name], network)
        if twins.follows(name):
            first = state.networks[twins.pairs[name]].topology.layers
            assert all(np.array_equal(mask, first[layer]) for layer, mask in network.topology.layers.items())


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=6)
@given(st.data())
def test_every_change_keeps_its_word(method, data):
    agent, plan, seed = data.draw(runs(method))
    twins = Twins(agent.TWINS, agent.config.twin)
    change = begin(plan, agent)
    assert_same_bits(change, begin(plan, agent))
    check_start(plan, twins, agent.state(), change.state)
    if plan.CHANGES:
        plan.check_memory(0, change.state, change.memory, twins)
    changes = 0
    for update in range(1, UPDATES):
        if not plan.due(update):
            continue
        changes += 1
        state = trained(change.state, seed + update)
        kept = flat(state), {key: mask.copy() for key, mask in change.memory.masks.items()}
        first, second = (plan.change(moment(agent, state, update, change.memory, seed)) for _ in range(2))
        assert_same_bits(first, second)
        # It is a function: neither the state nor the memory that it was given has changed.
        assert all(torch.equal(vector, kept[0][key]) for key, vector in flat(state).items())
        assert all(np.array_equal(mask, kept[1][key]) for key, mask in change.memory.masks.items())
        if not (hasattr(plan, "ends_level") and 0 < update == getattr(plan.config, "rewind", 0)):
            check_change(plan, update, twins, state, first.state)
        change = observed(first)
        plan.check_memory(update, change.state, change.memory, twins)
    assert (changes > 0) == plan.CHANGES


def assert_same_bits(first: Change, second: Change) -> None:
    ours, theirs = flat(first.state), flat(second.state)
    assert ours.keys() == theirs.keys() and all(torch.equal(vector, theirs[key]) for key, vector in ours.items())
    for name, network in first.state.networks.items():
        masks = second.state.networks[name].topology.layers
        assert all(np.array_equal(mask, masks[layer]) for layer, mask in network.topology.layers.items())
    assert first.memory.numbers.keys() == second.memory.numbers.keys()
    assert all(np.array_equal(v, second.memory.numbers[k]) for k, v in first.memory.numbers.items())


@pytest.mark.parametrize("method", [*REWIRED, "gradual", "lottery", "obs", "kron_obs"])
@settings(deadline=None, max_examples=2)
@given(st.data())
def test_engines_agree_after_a_change_and_nothing_pruned_comes_to_life(method, data):
    agent, plan, seed = data.draw(runs(method))
    change = begin(plan, agent)
    learner = on_engine(agent, change.state)
    for update in range(3):
        learner.update(random_batch(seed=seed + update), torch.Generator().manual_seed(update))
    update = next(it for it in range(1, UPDATES) if plan.due(it))
    change = plan.change(moment(agent, learner.state(), update, change.memory))
    engines = {name: choose_engine(name, "cpu", 0.1, masks_change=plan.CHANGES) for name in ("dense", "sparse")}
    learners = {name: on_engine(agent, change.state, engine) for name, engine in engines.items()}
    for learner in learners.values():
        loaded = learner.state()
        assert all(torch.equal(vector, flat(loaded)[key]) for key, vector in flat(change.state).items())
    for update in range(3):
        for learner in learners.values():
            learner.update(random_batch(seed=9 + update), torch.Generator().manual_seed(update))
    dense, sparse = (flat(learner.state()) for learner in learners.values())
    for key, vector in dense.items():
        torch.testing.assert_close(vector, sparse[key], rtol=1e-3, atol=1e-5, msg=key)
    masked = on_engine(agent, change.state)
    masked.update(random_batch(seed=3), torch.Generator().manual_seed(3))
    for networks in (masked.mlps(), masked.target_mlps()):
        for mlp_name, mlp in networks.items():
            for layer, mask in change.state.networks[mlp_name].topology.layers.items():
                assert not mlp.layers()[layer].weight[~torch.from_numpy(mask)].any()
    for optimizer in masked.optimizers.values():
        for parameter, *moments in zip(optimizer.parameters, optimizer.exp_avg, optimizer.exp_avg_sq, strict=True):
            assert not any(it[parameter == 0].any() for it in moments if parameter.dim() == 2)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 999), st.floats(0.01, 1))
def test_all_grown_is_the_same_function_with_every_weight_there(seed, there):
    agent = small_agent("td3bc", seed=seed % 7)
    draw = np.random.default_rng(seed)
    state = agent.state()
    networks = {}
    for name, network in state.networks.items():
        layers = {layer: draw.random(mask.shape) < there for layer, mask in network.topology.layers.items()}
        hidden = {layer: mask for layer, mask in layers.items() if layer in network.topology.hidden}
        topology = Topology(hidden, {layer: mask for layer, mask in layers.items() if layer not in hidden})
        vectors = {kind: topology.pack(network.topology.unpack(it)) for kind, it in network.vectors().items()}
        networks[name] = NetworkState(
            topology, vectors["values"], vectors["exp_avg"], vectors["exp_avg_sq"], vectors.get("target")
        )
    state = AgentState(networks, state.parameters, state.buffers, state.steps)
    grown = all_grown(state)
    assert all(network.topology.kept == network.topology.total for network in grown.networks.values())
    observations = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))
    actions = [on_engine(agent, it).act(observations, torch.Generator()) for it in (state, grown)]
    assert torch.equal(*actions)
