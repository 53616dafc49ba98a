"""The parts of a change against small cases computed by hand: scores, which weights drop, which positions grow, how many, with what value."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import small_agent, view_of
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_changes import begin, draws, moment, network, schedule, view
from torch import nn

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.pruning.allocate import allocate, distribute, highest, highest_by_layer
from sparse_offline_rl.pruning.drop import DROPS, FIRST_NUMBERS, by_fraction
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.regrow import BIRTHS, GROWTHS, SHARES
from sparse_offline_rl.pruning.scores import SCORERS
from sparse_offline_rl.types import Objective

SETTINGS = SimpleNamespace(threshold=0.5)


def kept(**layers: list[list[int]]) -> Masks:
    return Masks({name: torch.tensor(rows, dtype=torch.bool) for name, rows in layers.items()})


def rows(masks: Masks) -> dict[str, list[list[int]]]:
    return {name: mask.int().tolist() for name, mask in masks.items()}


def test_synflow_of_two_layers():
    topology = Topology({"hidden0": np.array([[True, True], [True, False]])}, {"out": np.ones((2, 2), bool)})
    weights = [[[1, -2], [3, 0]], [[-1, 2], [0.5, 4]]]
    biases = [[-0.5, 1], [7, 7]]
    arrays = [np.array(it, np.float32) for pair in zip(weights, biases, strict=True) for it in pair]
    values = topology.pack(arrays)
    zeros = np.zeros_like(values)
    scores = SCORERS["synflow"](view(NetworkState(topology, values, zeros, zeros, None)), draws())
    # Signal of ones: hidden units 1 + 2 + 0.5 = 3.5 and 3 + 1 = 4. They are read with 1 + 0.5 = 1.5 and 2 + 4 = 6.
    assert scores["hidden0"].tolist() == [[1.5, 3], [18, 0]]
    assert scores["out"].tolist() == [[3.5, 8], [1.75, 16]]


def test_synflow_of_weights_that_may_come_back():
    """They pass nothing themselves, and are worth what they would pass: 3 times the signal of the second unit, whose own weight is of no use now."""
    zeros = np.zeros(5, np.float32)
    masks = {"hidden0": np.ones((2, 1), bool)}, {"out": np.array([[True, False]])}
    pruned = NetworkState(Topology(*masks), np.array([2, 1, 0, 0, 1, 0], np.float32), zeros, zeros, None)
    seen = view(pruned)
    revived = type(seen)(pruned, seen._objective, network(hidden0=[[2], [1]], out=[[1, 3]]))
    scores = SCORERS["synflow"](revived, draws())
    assert scores["hidden0"].tolist() == [[2], [0]] and scores["out"].tolist() == [[2, 3]]


def test_snip_judges_revived_weights_by_their_earlier_value():
    net = network(out=[[2, 0, -1]])
    seen = view(net, {"out": [[3.0, -5.0, 1.0]]})
    assert SCORERS["snip"](seen, draws())["out"].tolist() == [[6, 0, 1]]
    revived = type(seen)(net, seen._objective, network(out=[[9, 2, 9]]))
    assert SCORERS["snip"](revived, draws())["out"].tolist() == [[27, 10, 9]]


def test_grasp_of_a_pruned_network_takes_the_gradient_of_what_is_left():
    a = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    theta = torch.tensor([[3.0, 0.0]], requires_grad=True)  # the second weight is pruned
    objective = Objective({"out": theta}, lambda: 0.5 * (theta @ a @ theta.T).sum(), nn.Module())
    seen = view_of(network(out=[[3, 0]]), objective)
    # g = A θ = (6, 3), of which (6, 0) is left; H g = (12, 6); θ ⊙ H g = (36, 0).
    assert SCORERS["grasp"](seen, draws())["out"].tolist() == [[36, 0]]


def test_signed_magnitude_ranks_each_side():
    scores = SCORERS["signed_magnitude"](view(network(out=[[0.1, -5, 3, 0, -0.2, 2, -1, 4]])), draws())["out"]
    assert scores.tolist() == [pytest.approx([1 / 4, 1, 3 / 4, 0, 1 / 3, 2 / 4, 2 / 3, 1])]


def test_rigl_drops_and_grows_what_its_authors_would():
    net = network(out=[[5, -1, 0, 0, 2, 0, -3, 0, 4, 6]])
    seen = view(net, {"out": [[0.0, 8, 1, -9, 0, 7, 0, 2, 0, 0]]})
    stay, numbers = by_fraction(SCORERS["magnitude"])(seen, 0.4, {}, SETTINGS, draws())  # int(0.4 · 6) = 2 go
    assert rows(stay) == {"out": [[1, 0, 0, 0, 0, 0, 1, 0, 1, 1]]} and numbers == {}
    scores = GROWTHS["gradient"](seen, 1, draws())
    counts = SHARES["own"](seen, stay, scores)
    assert counts == {"out": 2}
    # Position 1 was dropped just now and has the second largest gradient: it comes back.
    grown = highest_by_layer(scores, counts, {name: ~mask for name, mask in stay.items()})
    assert rows(grown) == {"out": [[0, 1, 0, 1, 0, 0, 0, 0, 0, 0]]}


@pytest.mark.parametrize(
    ("fraction", "count", "dropped"), [(0.3, 9, 2), (0.3, 10, 3), (0.3, 3, 0), (1.0, 4, 4), (0.05, 100, 5)]
)
def test_a_fraction_is_rounded_down(fraction, count, dropped):
    seen = view(network(out=[[float(i + 1) for i in range(count)]]))
    stay, _ = by_fraction(SCORERS["magnitude"])(seen, fraction, {}, SETTINGS, draws())
    assert stay["out"].tolist() == [[i >= dropped for i in range(count)]]


def test_set_drops_the_same_fraction_of_both_signs():
    seen = view(network(out=[[9, 0.01, 8, 0.02, 0.03, -7, -6, -5, -4, 0.04]]))
    stay, _ = by_fraction(SCORERS["signed_magnitude"])(seen, 0.4, {}, SETTINGS, draws())
    # Of six positive weights the two or three nearest to zero, of four negative ones one or two, four in all.
    assert rows(stay) == {"out": [[1, 0, 1, 0, 1, 1, 1, 0, 0, 1]]}


def test_momentum_is_the_mean_of_batches_of_their_own():
    seen = view(network(out=[[1, 0, 1]]), {"out": [[1.0, 4, 0]]}, {"out": [[1.0, -4, 2]]}, {"out": [[1.0, 3, -5]]})
    assert GROWTHS["momentum"](seen, 3, draws())["out"].tolist() == [[1, 1, 1]]
    assert GROWTHS["gradient"](seen, 3, draws())["out"].tolist() == [[1, 4, 0]]


def test_snfs_deals_by_the_mean_score_of_the_weights_that_were_there():
    seen = view(network(hidden0=[[1, 2, 0, 0], [0, 3, 0, 0]], out=[[4, 0]]))
    stay = kept(hidden0=[[0, 0, 0, 0], [0, 1, 0, 0]], out=[[0, 0]])
    scores = {"hidden0": torch.tensor([[6.0, 3, 9, 9], [9, 0, 9, 9]]), "out": torch.tensor([[6.0, 9]])}
    # hidden0 has the mean (6 + 3 + 0) / 3 = 3, out has 6: two of the three freed weights go to out.
    assert SHARES["mean_score"](seen, stay, scores) == {"hidden0": 1, "out": 2}


def test_dsr_deals_in_proportion_to_survivors_and_full_layers_pass_on():
    seen = view(network(hidden0=[[1, 2], [3, 4], [5, 6]], out=[[7, 8, 9]]))
    stay = kept(hidden0=[[0, 0], [0, 1], [0, 1]], out=[[1, 1, 0]])
    assert SHARES["survivors"](seen, stay, {}) == {
        "hidden0": 4,
        "out": 1,
    }  # out's half of five is 2.5, and it has room for 1
    few = kept(hidden0=[[1, 1], [1, 1], [0, 0]], out=[[0, 0, 1]])
    assert SHARES["survivors"](seen, few, {}) == {"hidden0": 2, "out": 2}  # 3.2 of four, of which two fit
    assert SHARES["survivors"](seen, kept(hidden0=[[0, 0]] * 3, out=[[0, 0, 0]]), {}) == {"hidden0": 6, "out": 3}


def test_network_shares_are_those_of_the_best_positions():
    seen = view(network(hidden0=[[1, 2, 0]], out=[[7]]))
    stay = kept(hidden0=[[0, 0, 0]], out=[[0]])
    assert SHARES["network"](seen, stay, {"hidden0": torch.tensor([[1.0, 5, 4]]), "out": torch.tensor([[3.0]])}) == {
        "hidden0": 2,
        "out": 1,
    }


@pytest.mark.parametrize(("fraction", "after"), [(0.5, 1.0), (0.25, 1.0), (0.2, 0.5), (0.18, 0.25), (0.1, 0.25)])
def test_dsr_moves_its_threshold(fraction, after):
    seen = view(network(hidden0=[[0.3, -0.4], [0.6, 5]], out=[[9, -8], [7, 6], [-6, 5]]))  # two of ten are below 0.5
    stay, numbers = DROPS["threshold"](seen, fraction, {}, SETTINGS, draws())
    assert rows(stay) == {"hidden0": [[0, 0], [1, 1]], "out": [[1, 1]] * 3}
    assert numbers["threshold"].tolist() == [after]


def test_dsr_remembers_its_threshold_and_never_reaches_zero():
    seen = view(network(out=[[0.3, -0.4, 2, 3]]))
    stay, _ = DROPS["threshold"](seen, 0.5, {"threshold": np.array([0.35], np.float32)}, SETTINGS, draws())
    assert rows(stay) == {"out": [[0, 1, 1, 1]]}
    tiny = {"threshold": np.array([np.finfo(np.float32).tiny], np.float32)}
    zero = network(out=[[1, 1, 1, 1]])
    dead = NetworkState(zero.topology, np.zeros_like(zero.values), zero.exp_avg, zero.exp_avg_sq, None)
    assert DROPS["threshold"](view(dead), 0.1, tiny, SETTINGS, draws())[1]["threshold"] > 0


def test_deepr_drops_what_lost_its_sign():
    begin = view(network(out=[[2, -3, 0, 1]]))
    given = FIRST_NUMBERS["sign"](begin)
    assert given["out"].tolist() == [[1, -1, 0, 1]]
    first, signs = DROPS["sign"](begin, 0.3, given, SETTINGS, draws())
    assert rows(first) == {"out": [[1, 1, 0, 1]]}  # all have the sign that they began with
    assert signs["out"][0, [0, 1, 3]].tolist() == [1, -1, 1] and abs(signs["out"][0, 2]) == 1
    # The third position has grown since and has its random sign; the first has crossed zero, the fourth has reached it.
    sign = float(signs["out"][0, 2])
    now = network(out=[[-0.1, -5, 2 * sign, 1]])
    at_zero = np.array([-0.1, -5, 2 * sign, 0, 0], np.float32)
    now = NetworkState(now.topology, at_zero, now.exp_avg, now.exp_avg_sq, None)
    second, again = DROPS["sign"](view(now), 0.3, signs, SETTINGS, draws(1))
    assert rows(second) == {"out": [[0, 1, 1, 1]]}
    assert again["out"][0, [1, 2, 3]].tolist() == [-1, sign, 1]
    against = NetworkState(now.topology, -at_zero, now.exp_avg, now.exp_avg_sq, None)
    assert rows(DROPS["sign"](view(against), 0.3, signs, SETTINGS, draws())[0]) == {"out": [[1, 0, 0, 1]]}


def test_births():
    topology = Topology.dense(16, [50], {"out": 3})
    assert BIRTHS["zero"](topology, draws()) is None
    drawn = BIRTHS["drawn"](topology, draws())
    for name, bound in {"hidden0": 1 / 4, "out": 1 / math.sqrt(50)}.items():
        assert drawn[name].shape == topology.layers[name].shape
        assert bound * 0.9 < np.abs(drawn[name]).max() <= bound


def test_random_growth_has_equal_chances():
    seen = view(network(out=[[1.0] * 50 + [0.0] * 50]))
    counts = np.zeros(100)
    generator = draws()
    for _ in range(200):
        scores = GROWTHS["random"](seen, 1, generator)
        counts += highest_by_layer(scores, {"out": 10}, {"out": ~seen.kept["out"]})["out"].numpy()[0]
    assert not counts[:50].any()
    assert counts.sum() == 2000 and counts[50:].min() > 20 and counts.max() < 65  # 40 ± 6 each


def test_tiny_weights_are_weights():
    assert distribute(1, [0, 2], [0.0, 2.2e-311]) == [0, 1]
    assert distribute(6, [3, 4, 4], [1.0, 2e-311, 1e-311]) == [3, 2, 1]


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_whatever_is_dealt_is_dealt_exactly(data):
    sizes = data.draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
    weights = data.draw(st.lists(st.floats(0, 1e30) | st.just(0.0), min_size=len(sizes), max_size=len(sizes)))
    total = data.draw(st.integers(0, sum(sizes)))
    counts = distribute(total, sizes, weights)
    assert sum(counts) == total
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    assert counts == distribute(total, sizes, weights)


def test_more_than_there_is_room_for_is_refused():
    with pytest.raises(ValueError, match="5 do not fit into 4"):
        distribute(5, [1, 3], [1.0, 1.0])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.floats(0.05, 1), st.floats(0, 1), st.sampled_from(["network", "layer", "erk"]))
def test_among_what_is_left_the_count_is_exact(seed, there, wanted, scope):
    generator = draws(seed)
    scores = {name: torch.randn(shape, generator=generator) for name, shape in {"a": (9, 7), "b": (3, 9)}.items()}
    among = {name: torch.rand(score.shape, generator=generator) < there for name, score in scores.items()}
    total, left = 90, sum(int(mask.sum()) for mask in among.values())
    count = min(max(1, round(wanted * left)), left)
    if not left:
        return
    masks = allocate(scores, 1 - count / total, scope, among)
    assert masks.kept == count
    assert not any((mask & ~among[name]).any() for name, mask in masks.items())


def test_among_keeps_erk_shares_where_there_is_room():
    scores = {"wide": torch.rand(100, 100), "narrow": torch.rand(4, 100)}
    free = allocate(scores, 0.95, "erk")
    there = {"wide": torch.rand(100, 100) < 0.5, "narrow": torch.rand(4, 100) < 0.9}
    assert [int(m.sum()) for m in allocate(scores, 0.95, "erk", there).values()] == [
        int(m.sum()) for m in free.values()
    ]
    scarce = {"wide": torch.ones(100, 100, dtype=torch.bool), "narrow": torch.zeros(4, 100, dtype=torch.bool)}
    scarce["narrow"][0, :7] = True
    assert [int(m.sum()) for m in allocate(scores, 0.95, "erk", scarce).values()] == [513, 7]


def test_scores_that_are_not_finite_are_refused_wherever_they_decide():
    scores = {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor([[1.0, float("nan")]])}
    for decide in (lambda: highest(scores, 2), lambda: highest_by_layer(scores, {"a": 1, "b": 1})):
        with pytest.raises(UserError, match="layer b are not finite"):
            decide()


def test_deepr_drops_what_lost_its_sign_before_the_first_change():
    """Half of the weights of each layer, exactly those that it turned round."""
    agent = small_agent()
    plan = schedule("deepr", 0.5, every=10, shrink=0.0, temperature=0.0)
    begun = begin(plan, agent)
    network = begun.state.networks["decoder"]
    values = [array.copy() for array in network.topology.unpack(network.values)]
    for i, mask in enumerate(network.topology.stacked):
        values[2 * i][mask] *= np.where(np.arange(np.count_nonzero(mask)) % 2, 1, -1)
    turned = replace(network, values=network.topology.pack(values))
    state = replace(begun.state, networks={**begun.state.networks, "decoder": turned})
    after = plan.change(moment(agent, state, 10, begun.memory)).state.networks["decoder"]
    for old, new in zip(network.topology.stacked, after.topology.stacked, strict=True):
        stay = np.zeros_like(old)
        stay[old] = np.arange(np.count_nonzero(old)) % 2 == 1
        assert new[stay].all()
        gone = old & ~stay
        assert (new & gone).sum() < 0.9 * gone.sum()  # some come back


def test_deepr_shrinks_weights_and_adds_noise_for_the_steps_since_the_last_change():
    agent = small_agent()
    plan = schedule("deepr", 0.5, every=10, shrink=2e-4, temperature=0.0)
    begun = begin(plan, agent)
    state, memory = begun.state, begun.memory
    before = state.networks["decoder"]
    for change in (plan, schedule("deepr", 0.5, every=10, shrink=0.0, temperature=3e-6)):
        after = change.change(moment(agent, state, 10, memory)).state.networks["decoder"]
        steps = []
        pairs = zip(before.topology.unpack(before.values), after.topology.unpack(after.values), strict=True)
        layers = list(before.topology.layers)
        for i, (old, new) in enumerate(pairs):
            if i % 2:  # biases stay as they are
                assert np.array_equal(old, new)
                continue
            both = before.topology.layers[layers[i // 2]] & after.topology.layers[layers[i // 2]] & (np.abs(old) > 0.01)
            steps.append((new - old)[both] * np.sign(old[both]))
        moved = np.concatenate(steps)
        if change is plan:
            assert moved == pytest.approx(-10 * 2e-4, rel=1e-3)
        else:
            assert moved.std() == pytest.approx(np.sqrt(2 * 10 * 3e-6), rel=0.1) and abs(moved.mean()) < 1e-3
