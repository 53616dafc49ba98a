"""When masks change, and to what: rounds, cosine, cubic curve, levels and tickets; and settings that do not fit together."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import flat, on_engine, small_agent
from hypothesis import given
from hypothesis import strategies as st
from mask_changes import begin, moment, schedule, trained

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, NetworkState
from sparse_offline_rl.pruning.layer_reports import layer_reports
from sparse_offline_rl.pruning.prune import Twins, find_masks
from sparse_offline_rl.pruning.registry import SCHEDULES
from sparse_offline_rl.pruning.schedule import (
    MaskSchedule,
    Memory,
    Moment,
    first_update,
    last_update,
    movement,
    observed,
)

TWINS = Twins({}, "copy_mask")


def masks_of(state: AgentState) -> dict[str, np.ndarray]:
    return {f"{n}.{layer}": mask for n, it in state.networks.items() for layer, mask in it.topology.layers.items()}


def due(plan: MaskSchedule) -> list[int]:
    return [update for update in range(1, plan.updates) if plan.due(update)]


def test_rewiring_happens_between_start_and_until():
    assert due(schedule("rigl", updates=100, every=10)) == [10, 20, 30, 40, 50, 60, 70]
    assert due(schedule("rigl", updates=100, every=10, start=0.3, until=0.6)) == [30, 40, 50]  # the fraction is 0 at 60
    assert due(schedule("set", updates=100, every=25)) == [25, 50, 75]  # never after the last update
    assert due(schedule("snip")) == []


@pytest.mark.parametrize(
    ("method", "options", "changes"),
    [
        ("gradual", {"every": 1000, "start": 0.55, "until": 0.57}, [55_000, 56_000, 57_000]),
        ("rigl", {"every": 1000, "start": 0.55, "until": 0.56}, [55_000]),
        ("gradual", {"every": 1000, "start": 0.5, "until": 0.5}, [50_000]),
        ("obs", {"start": 0.55, "levels": 1}, [55_000]),
        ("espn", {"start": 0.14, "until": 0.29}, [14_000, 29_000]),
    ],
)
def test_fractions_of_training_are_the_updates_that_one_expects(method, options, changes):
    """0.55 · 100000 is 55000.00000000001 in floating point, and 0.29 · 100000 is 28999.999999999996."""
    assert due(schedule(method, 0.9, updates=100_000, **options)) == changes


@given(st.integers(0, 1000), st.integers(1, 10**9))
def test_a_fraction_with_three_digits_is_exact(thousandths, updates):
    exact = Fraction(thousandths, 1000) * updates
    found = first_update(thousandths / 1000, updates), last_update(thousandths / 1000, updates)
    assert found == (math.ceil(exact), math.floor(exact))


def test_the_fraction_falls_along_a_cosine():
    plan = schedule("rigl", updates=1000, every=10, fraction=0.3, until=0.75)
    for update in (10, 250, 375, 740):
        assert plan.fraction(update) == pytest.approx(0.3 / 2 * (1 + math.cos(math.pi * update / 750)))
    assert plan.fraction(375) == pytest.approx(0.15) and plan.fraction(750) == 0
    assert schedule("set", updates=1000, every=10).fraction(730) == 0.3


def test_gradual_pruning_follows_the_cubic_curve():
    plan = schedule("gradual", 0.8, updates=100, every=10, until=0.4)
    assert due(plan) == [10, 20, 30, 40]
    # Zhu and Gupta's equation 1 with t0 = 0, n Δt = 40, initial sparsity 0.
    expected = [0.8 * (1 - (1 - t / 40) ** 3) for t in due(plan)]
    assert [plan.sparsity_after(t) for t in due(plan)] == pytest.approx(expected)
    assert plan.sparsity_after(40) == 0.8
    late = schedule("gradual", 0.9, updates=100, every=7, start=0.2, until=0.9)
    assert due(late)[0] == 21 and due(late)[-1] == 84
    curve = [late.sparsity_after(t) for t in due(late)]
    assert curve[-1] == 0.9 and all(a < b for a, b in itertools.pairwise(curve))
    assert schedule("gradual", 0.7, updates=20, every=10).sparsity_after(10) == 0.7  # a single change


def test_levels_of_tickets():
    plan = schedule("lottery", 0.95, updates=1500)
    assert (plan.levels, plan.every) == (14, 100)  # 13.4 levels of 20 %
    assert due(plan) == [100 * level for level in range(1, 15)]
    assert [plan.sparsity_after(t) for t in (100, 200, 1300, 1400)] == pytest.approx([0.2, 0.36, 1 - 0.8**13, 0.95])
    assert schedule("lottery", 1 - 0.8**3, updates=100).levels == 3  # no level more for a rounding error
    three = schedule("lottery", 1 - 0.5**3, updates=100, levels=3, every=20, rewind=7)
    assert due(three) == [7, 20, 40, 60] and [three.ends_level(t) for t in (7, 20, 60, 80)] == [
        False,
        True,
        True,
        False,
    ]
    assert [three.sparsity_after(t) for t in (20, 40, 60)] == pytest.approx([0.5, 0.75, 0.875])
    after = schedule("after_training", 0.9, updates=100)
    assert due(after) == [50] and after.sparsity_after(50) == 0.9


@pytest.mark.parametrize("method", ["synflow", "iter_snip", "force", "iter_grasp"])
def test_rounds_thin_out_exponentially(method, monkeypatch):
    agent, seen = small_agent(), []

    def spy(views, config, score, sparsity, generator, again):
        assert again == (method == "force")
        seen.append(({name: view.kept for name, view in views.items()}, sparsity))
        return find_masks(views, config, score, sparsity, generator, again)

    monkeypatch.setattr("sparse_offline_rl.pruning.schedule.find_masks", spy)
    plan = schedule(method, 0.9, rounds=5)
    state = plan.start(moment(agent))
    assert [sparsity for _, sparsity in seen] == pytest.approx([1 - 0.1 ** (t / 5) for t in range(1, 6)])
    original = agent.state()
    revived = 0
    stages = [
        *(kept for kept, _ in seen),
        {n: {k: torch.from_numpy(m) for k, m in state.networks[n].topology.layers.items()} for n in seen[0][0]},
    ]
    for before, after in itertools.pairwise(stages):
        revived += sum(
            int((after[name][layer] & ~mask).sum()) for name, it in before.items() for layer, mask in it.items()
        )
    assert (revived > 0) == (method == "force")
    for name, network in state.networks.items():
        assert network.topology.kept == round(0.1 * network.topology.total)
        # Survivors, revived ones too, have the values that they were drawn with.
        start = original.networks[name]
        for ours, theirs, mask in zip(
            network.topology.unpack(network.values)[0::2],
            start.topology.unpack(start.values)[0::2],
            network.topology.layers.values(),
            strict=True,
        ):
            assert np.array_equal(ours, np.where(mask, theirs, 0))


def deep_and_narrow(seed: int) -> AgentState:
    """A network of 12 layers of 20 units that read 100 inputs."""
    topology = Topology.dense(100, [20] * 12, {"out": 5})
    draw = np.random.default_rng(seed)
    arrays = [
        a
        for mask in topology.layers.values()
        for a in (draw.normal(0, 1 / np.sqrt(mask.shape[1]), mask.shape), np.zeros(len(mask)))
    ]
    values = topology.pack([a.astype(np.float32) for a in arrays])
    zeros = np.zeros_like(values)
    return AgentState({"net": NetworkState(topology, values, zeros, zeros, None)}, {}, {}, {})


def test_one_round_of_synflow_collapses_a_layer_and_a_hundred_do_not():
    """Tanaka et al. 2020: the highest compression without collapse is that of one weight a layer, approached in rounds."""
    collapsed = {}
    for rounds in (1, 100):
        state = deep_and_narrow(0)
        no_data = Moment(0, state, Memory(), torch.Generator(), lambda _: lambda _: {"net": None}, TWINS)
        pruned = schedule("synflow", 0.99, rounds=rounds).start(no_data)
        collapsed[rounds] = sum(report.collapsed for report in layer_reports("net", pruned.networks["net"].topology))
    assert collapsed[1] > 0 and collapsed[100] == 0


def test_a_shuffled_start_has_the_counts_of_the_last_round():
    agent = small_agent()
    plain, shuffled = (schedule("iter_snip", 0.9, shuffle_layerwise=it).start(moment(agent)) for it in (False, True))
    ours, theirs = masks_of(plain), masks_of(shuffled)
    assert {k: m.sum() for k, m in ours.items()} == {k: m.sum() for k, m in theirs.items()}
    assert any((ours[k] != theirs[k]).any() for k in ours)


def tickets(agent, **options):
    """The schedule of two levels with 10 updates each, what training begins with, and the state at the end of the first."""
    plan = schedule("lottery", 0.75, updates=30, levels=2, **options)
    change = begin(plan, agent)
    return plan, change, trained(change.state, 1)


@pytest.mark.parametrize("name", ["bcq", "iql"])
def test_tickets_go_back_to_the_beginning(name):
    agent = small_agent(name)
    plan, change, end = tickets(agent)
    ticket = plan.change(moment(agent, end, 10, change.memory)).state
    start = agent.state()
    assert ticket.steps == start.steps and ticket.parameters is change.state.parameters
    for key, network in ticket.networks.items():
        # The largest trained half is kept, with the values, moments and targets of the beginning.
        assert network.topology.kept == round(0.5 * network.topology.total)
        trained_ones, first = end.networks[key], start.networks[key]
        both = zip(network.topology.layers, trained_ones.topology.unpack(trained_ones.values)[0::2], strict=True)
        magnitudes = {layer: np.abs(values) for layer, values in both}
        kept = np.concatenate([magnitudes[layer][mask] for layer, mask in network.topology.layers.items()])
        gone = np.concatenate([magnitudes[layer][~mask] for layer, mask in network.topology.layers.items()])
        if not Twins(agent.TWINS, agent.config.twin).follows(key):
            assert kept.min() >= gone.max()
        for kind, vector in network.vectors().items():
            dense = first.topology.unpack(first.vectors()[kind])
            assert np.array_equal(vector, network.topology.pack(dense)), kind


def test_tickets_go_back_to_update_k():
    agent = small_agent()
    plan, change, early = tickets(agent, rewind=3)
    assert change.memory.rewind is None
    at_k = plan.change(moment(agent, early, 3, change.memory))
    assert at_k.state is early and at_k.memory.rewind is early
    ticket = plan.change(moment(agent, trained(early, 2), 10, at_k.memory)).state
    assert ticket.steps == early.steps
    actor, first = ticket.networks["actor"], early.networks["actor"]
    for kind, vector in actor.vectors().items():
        assert np.array_equal(vector, actor.topology.pack(first.topology.unpack(first.vectors()[kind])))


@pytest.mark.parametrize("twin", ["copy", "copy_mask", "independent"])
def test_controls_of_tickets(twin):
    agent = small_agent(twin=twin)
    found = {}
    for kind in ("rewind", "retain", "reinit", "random"):
        plan, change, end = tickets(agent, ticket=kind)
        found[kind] = plan.change(moment(agent, end, 10, change.memory)).state
    masks = {kind: masks_of(state) for kind, state in found.items()}
    for key, mask in masks["rewind"].items():
        assert np.array_equal(mask, masks["retain"][key]) and np.array_equal(mask, masks["reinit"][key])
        assert mask.sum() == masks["random"][key].sum()
    assert any((masks["random"][key] != mask).any() for key, mask in masks["rewind"].items())
    actor = {kind: state.networks["actor"] for kind, state in found.items()}
    topology, last = actor["retain"].topology, end.networks["actor"]
    for kind, vector in actor["retain"].vectors().items():
        assert np.array_equal(vector, topology.pack(last.topology.unpack(last.vectors()[kind])))
    assert not np.isin(actor["reinit"].values, agent.state().networks["actor"].values).any()
    assert not actor["reinit"].exp_avg.any() and np.array_equal(actor["reinit"].values, actor["reinit"].target)
    same = np.array_equal(found["reinit"].networks["critic1"].values, found["reinit"].networks["critic2"].values)
    assert same == (twin == "copy")


def test_a_second_level_prunes_the_first_ticket():
    agent = small_agent()
    plan, change, end = tickets(agent)
    first = observed(plan.change(moment(agent, end, 10, change.memory)))
    second = observed(plan.change(moment(agent, trained(first.state, 5), 20, first.memory)))
    before, after = masks_of(first.state), masks_of(second.state)
    assert all((after[key] <= mask).all() for key, mask in before.items())
    moved = movement({name: it.topology for name, it in second.state.networks.items()}, second.memory)
    assert moved["masks/ever_kept/actor"] == 1 and moved["masks/first_kept/actor"] == pytest.approx(0.25, abs=1e-3)


def test_what_was_ever_kept_and_what_is_left_of_the_first_masks():
    agent = small_agent()
    plan = schedule("set", 0.8, updates=30, every=10, fraction=0.5)
    change = begin(plan, agent)
    seen, state = [masks_of(change.state)], change
    for update in (10, 20):
        state = observed(plan.change(moment(agent, trained(state.state, update), update, state.memory, update)))
        seen.append(masks_of(state.state))
    moved = movement({name: it.topology for name, it in state.state.networks.items()}, state.memory)
    layers = [key for key in seen[0] if key.startswith("decoder.")]
    ever = sum(int((seen[0][k] | seen[1][k] | seen[2][k]).sum()) for k in layers)
    total = sum(seen[0][k].size for k in layers)
    still = sum(int((seen[0][k] & seen[2][k]).sum()) for k in layers)
    assert moved["masks/ever_kept/decoder"] == pytest.approx(ever / total)
    assert moved["masks/first_kept/decoder"] == pytest.approx(still / sum(int(seen[0][k].sum()) for k in layers))


@pytest.mark.parametrize(
    ("method", "options", "sentence"),
    [
        ("rigl", {"score": "foo", "every": 10}, "prune.score='foo' cannot be used: choose one of snip"),
        ("rigl", {"drop": "foo", "every": 10}, "prune.drop='foo' cannot be used: choose one of threshold, sign"),
        ("rigl", {"grow": "foo", "every": 10}, "prune.grow='foo' cannot be used: choose one of gradient"),
        ("rigl", {"share": "foo", "every": 10}, "prune.share='foo' cannot be used: choose one of own"),
        ("rigl", {"born": "foo", "every": 10}, "prune.born='foo' cannot be used: choose one of zero"),
        (
            "set",
            {"share": "mean_score", "every": 10},
            "are random numbers with prune.grow=random: set prune.grow=gradient or",
        ),
        ("rigl", {}, "prune.every=1000 leaves the masks as they are"),
        ("rigl", {"every": 10, "start": 0.8}, "prune.start=0.8 does not lie before prune.until=0.75"),
        ("rigl", {"every": 10, "start": 0.74}, "which is updates 74 to 74"),
        ("rigl", {"every": 75}, "prune.every=75 leaves the masks as they are"),
        ("set", {"every": 100}, "prune.every=100 leaves the masks as they are"),
        ("gradual", {"every": 76}, "prune.every=76 leaves the masks as they are"),
        ("gradual", {"every": 10, "rounds": 3}, "prune.rounds=3 is about masks found before training"),
        ("gradual", {"every": 10, "revive": True}, "prune.revive=true is about masks found before training"),
        ("lottery", {"shuffle_layerwise": True}, "set prune.shuffle_layerwise=false"),
        ("lottery", {"reinit": True}, "prune.schedule=tickets training begins dense: set prune.reinit=false"),
        ("lottery", {"levels": 100}, "100 levels of 1 updates leave nothing of updates=100 for the last ticket"),
        ("lottery", {"levels": 2, "every": 50}, "train longer, or lower prune.every or prune.levels."),
        ("lottery", {"fraction": 0.01}, "train longer, or set prune.levels, or raise prune.fraction."),
        ("lottery", {"rewind": 12}, "prune.rewind=12 must lie before the end of the first level, update 8"),
        ("lottery", {"rewind": 2, "ticket": "retain"}, "prune.rewind=2 has no meaning with prune.ticket=retain"),
        ("lottery", {"rewind": 2, "ticket": "reinit"}, "prune.rewind=2 has no meaning with prune.ticket=reinit"),
        ("deepr", {"every": 10, "decay": "cosine"}, "prune.decay=cosine has no meaning with prune.drop=sign"),
        ("obs", {"levels": 1, "every": 7}, "prune.every=7 has no meaning with prune.levels=1"),
        ("obd", {"damping": 5.0}, "prune.damping=5.0 has no meaning with prune.score=obd and prune.correct=none"),
        (
            "structured",
            {"batches": 5},
            "prune.batches=5 has no meaning with prune.score=unit_l2 and prune.correct=none",
        ),
        ("kron_obd", {"score": "unit_l1", "fisher": "empirical"}, "prune.fisher=empirical has no meaning with"),
        ("eigendamage", {"damping": 5.0}, "prune.damping=5.0 has no meaning with prune.score=eigendamage"),
        ("force", {"rounds": 1}, "prune.revive=true needs prune.rounds of at least 2"),
        ("none", {"schedule": "tickets"}, "prune=none with prune.schedule=tickets names no pruning method"),
        (
            "none",
            {"schedule": "gradual", "every": 10},
            "prune=none with prune.schedule=gradual names no pruning method",
        ),
    ],
)
def test_settings_that_do_not_fit_together(method, options, sentence):
    with pytest.raises(UserError) as refused:
        schedule(method, 0.0 if method == "none" else 0.9, updates=100, **options)
    assert sentence in str(refused.value) and str(refused.value).count(". ") <= 1


@pytest.mark.parametrize(
    ("method", "options"), [("gradual", {"every": 10}), ("lottery", {"levels": 3}), ("rigl", {"every": 10})]
)
def test_a_sparsity_that_a_network_cannot_have_is_refused_before_training(method, options):
    agent = small_agent()
    with pytest.raises(
        UserError, match=r"network actor: sparsity=0.9999 would leave fewer than one of the \d+ weights"
    ):
        schedule(method, 0.9999, **options).start(moment(agent))


@pytest.mark.parametrize(("method", "network"), [("rigl", "decoder"), ("snfs", "actor")])
def test_a_loss_that_overflows_while_training_is_a_sentence(method, network):
    agent = small_agent()
    plan = schedule(method, 0.8, every=10)
    change = begin(plan, agent)
    decoder = change.state.networks["decoder"]
    decoder.values[:] = np.float32(1e38)
    with pytest.raises(UserError, match=rf"network {network}: the scores of layer \w+ are not finite"):
        plan.change(moment(agent, change.state, 10, change.memory))


def test_the_same_moment_gives_the_same_bits_and_draws_nothing_from_elsewhere():
    agent = small_agent()
    plan = schedule("set", 0.8, every=10)
    change = begin(plan, agent)
    before = torch.get_rng_state()
    first, second = (flat(plan.change(moment(agent, change.state, 10, change.memory)).state) for _ in range(2))
    assert all(torch.equal(vector, second[key]) for key, vector in first.items())
    assert torch.equal(before, torch.get_rng_state())
    assert on_engine(agent, change.state).state().steps == change.state.steps


def test_a_schedule_that_ends_after_training_is_refused(monkeypatch):
    class Late(MaskSchedule):
        found = 100

    monkeypatch.setitem(SCHEDULES, "once", Late)
    assert schedule("snip", 0.9, updates=101).found == 100
    with pytest.raises(
        UserError, match=r"prune=snip would reach sparsity=0\.9 after update 100, and updates=100 end before it"
    ):
        schedule("snip", 0.9, updates=100)
