"""HashedNets: the hash, networks that learn the values that their weights share, schedules."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import flat, on_engine, random_batch, small_agent
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_changes import begin, schedule
from test_distillation import distance

from sparse_offline_rl.agents.flops import flops_and_bytes
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.hashed import HashedLinear, HashedMLP
from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import with_masks
from sparse_offline_rl.pruning.hashed import value_counts
from sparse_offline_rl.training.distillation import Teacher, learn_from


def hashed_agent(name="bcq", sparsity=0.8, **overrides):
    agent = small_agent(name, **overrides)
    return on_engine(agent, begin(schedule("hashed", sparsity), agent).state, "auto")


# The hash.


@pytest.mark.parametrize("shape", [(750, 750), (400, 17), (1, 3000)])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_weights_spread_evenly_over_values_and_signs(shape, share, seed):
    size = shape[0] * shape[1]
    count = round(share * size)
    places = LayerHash(*shape, count, seed).places().ravel()
    expected = size / count
    for cells in (places % count, places):
        found = np.bincount(cells, minlength=count * (2 if cells is places else 1))
        mean = expected / (2 if cells is places else 1)
        freedom = len(found) - 1
        chi_square = float(((found - mean) ** 2 / mean).sum())
        assert abs(chi_square - freedom) < 6 * (2 * freedom) ** 0.5
    assert abs(int((places >= count).sum()) - size / 2) < 6 * (size / 4) ** 0.5


@pytest.mark.parametrize("shape", [(1, 2**22), (2**22, 1), (3, 5)])
def test_a_layer_is_hashed_in_blocks_whatever_its_shape(shape):
    hashing = LayerHash(*shape, 7, 3)
    tracemalloc.start()
    weight = hashing.expand(np.arange(1, 8, dtype=np.float32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < weight.nbytes + 2**24  # what is hashed at a time takes 8 MB or so
    both = np.concatenate([np.arange(1, 8), -np.arange(1, 8)])
    assert np.array_equal(weight, both[hashing.places()]) and weight.shape == shape
    assert np.array_equal(hashing.last(weight), np.arange(1, 8)) == (set(np.abs(weight).flat) == set(range(1, 8)))


def test_neighbours_and_seeds_are_independent():
    count = 10
    first, second = (LayerHash(300, 300, count, seed).places() % count for seed in (5, 6))
    pairs = [(first, second), (first[:, :-1], first[:, 1:]), (first[:-1], first[1:])]
    for one, other in pairs:
        same = float((one == other).mean())
        assert abs(same - 1 / count) < 6 * (0.09 / one.size) ** 0.5


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_expanding_and_collecting_are_inverse(data):
    outputs, inputs = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    hashing = LayerHash(outputs, inputs, data.draw(st.integers(1, outputs * inputs)), data.draw(st.integers(0, 9)))
    values = np.random.default_rng(0).normal(size=hashing.values).astype(np.float32)
    places = hashing.places()
    weight = hashing.expand(values)
    assert np.array_equal(weight, np.where(places < len(values), 1, -1) * values[places % len(values)])
    used = np.isin(np.arange(len(values)), places % len(values))
    assert np.array_equal(hashing.collect(weight), np.where(used, values, 0))


def test_blocks_of_rows_do_not_show(monkeypatch):
    hashing = LayerHash(37, 11, 50, 3)
    whole = hashing.places()
    monkeypatch.setattr("sparse_offline_rl.networks.hashing._BLOCK", 25)
    assert np.array_equal(hashing.places(), whole)


def test_weights_that_differ_are_not_collected():
    hashing = LayerHash(3, 3, 2, 0)
    weight = hashing.expand(np.array([1, 2], np.float32))
    weight[1, 1] += 0.5
    with pytest.raises(ValueError, match="weights that share a value by their hash differ"):
        hashing.collect(weight)


@pytest.mark.parametrize(
    "fields", [(2, 3, 0, 0), (2, 3, 7, 0), (2, 3, 2, -1), (2, 3, 2, 2**32), (0, 3, 1, 0), (2, 3, 2.0, 0), (2, 3, True, 0),
               (2, 3, 2, None), (2**20, 2**20, 5, 0)]
)  # fmt: skip
def test_an_impossible_hash_is_refused(fields):
    with pytest.raises(ValueError, match=r"a hash|cannot be"):
        LayerHash(*fields)


# Layers and networks.


def test_a_small_layer_by_hand_and_against_autograd_in_float64():
    hashing = LayerHash(2, 3, 2, 7)  # rows -b, a, -b and b, b, b: the example of docs/policy_format.md
    layer = HashedLinear(hashing)
    with torch.no_grad():
        layer.values.copy_(torch.tensor([3.0, 0.5]))
        layer.bias.copy_(torch.tensor([1.0, -1.0]))
    x = torch.tensor([[1.0, 2.0, 4.0], [0.0, -1.0, 2.0]], requires_grad=True)
    out = layer(x)
    assert out.tolist() == [[-0.5 + 6 - 2 + 1, 3.5 - 1], [-3 - 1 + 1, 0.5 - 1]]
    assert layer(x, True).tolist() == [[4.5, 2.5], [0.0, 0.0]]
    slopes = torch.tensor([[1.0, 0.5], [-2.0, 3.0]])
    found = torch.autograd.grad((out * slopes).sum(), [layer.values, layer.bias, x])
    a, b = (torch.tensor(it, dtype=torch.float64, requires_grad=True) for it in (3.0, 0.5))
    bias = torch.tensor([1.0, -1.0], dtype=torch.float64, requires_grad=True)
    inputs = x.detach().double().requires_grad_()
    weight = torch.stack([torch.stack([-b, a, -b]), torch.stack([b, b, b])])
    wanted = torch.autograd.grad(((inputs @ weight.T + bias) * slopes).sum(), [a, b, bias, inputs])
    assert found[0].tolist() == [float(wanted[0]), float(wanted[1])]
    assert found[0][0] == 1 * 2 + -2 * -1  # only x[:, 1] of the first row reads it
    assert torch.equal(found[1].double(), wanted[2]) and torch.equal(found[2].double(), wanted[3])


def test_a_network_is_that_of_its_expanded_weights():
    agent = hashed_agent("bcq")
    for name, mlp in agent.mlps().items():
        assert isinstance(mlp, HashedMLP) and mlp.name == name
        x = torch.randn(6, mlp.topology.in_features, generator=torch.Generator().manual_seed(0))
        arrays = [torch.from_numpy(it).double() for it in mlp.topology.unpack(mlp.packed_values())]
        layers = list(zip(arrays[0::2], arrays[1::2], strict=True))
        depth, wanted = len(mlp.topology.hidden), x.double()
        for weight, bias in layers[:depth]:
            wanted = (wanted @ weight.T + bias).relu()
        wanted = torch.cat([wanted @ weight.T + bias for weight, bias in layers[depth:]], 1)
        assert torch.allclose(mlp(x).double(), wanted, atol=1e-6)
        few = x[:3].repeat_interleave(2, 0)
        assert torch.equal(mlp(x[:3, :2], x[:, 2:]), mlp(torch.cat([few[:, :2], x[:, 2:]], 1)))


def test_a_topology_with_hashes_packs_the_values_of_several_heads():
    masks = Topology.dense(3, [4], {"mean": 2, "log_std": 1})
    hashes = {name: LayerHash(*mask.shape, 2, seed) for seed, (name, mask) in enumerate(masks.layers.items())}
    topology = Topology(masks.hidden, masks.heads, hashes)
    assert (topology.size, topology.kept, topology.total) == (6 + 7, 24, 24)
    assert topology.stored == {"hidden0": 2, "mean": 2, "log_std": 2} and topology.expanded.size == 24 + 7
    vector = np.arange(1, 14, dtype=np.float32)
    weights = topology.unpack(vector)
    # hidden0: values, biases; the values of both heads; the biases of both heads.
    assert set(np.abs(weights[0]).ravel()) == {1, 2} and weights[1].tolist() == [3, 4, 5, 6]
    assert set(np.abs(weights[2]).ravel()) == {7, 8} and set(np.abs(weights[4]).ravel()) <= {9, 10}
    assert weights[3].tolist() == [11, 12] and weights[5].tolist() == [13]
    assert np.array_equal(topology.unpack(topology.pack(weights))[2], weights[2])
    weights[2][0, 0] += 1
    with pytest.raises(ValueError, match="differ"):
        topology.pack(weights)


@pytest.mark.parametrize("wrong", ["a layer without", "another shape", "a pruned weight"])
def test_hashes_that_do_not_fit_the_masks_are_refused(wrong):
    masks = Topology.dense(3, [4], {"out": 2})
    hashes = {name: LayerHash(*mask.shape, 2, 0) for name, mask in masks.layers.items()}
    if wrong == "a layer without":
        del hashes["out"]
    elif wrong == "another shape":
        hashes["out"] = LayerHash(4, 2, 2, 0)
    else:
        masks.heads["out"][0, 0] = False
    with pytest.raises(ValueError, match="a hashed network has a hash of the right shape for each layer"):
        Topology(masks.hidden, masks.heads, hashes)


def test_the_masks_of_a_hashed_network_cannot_change():
    network = hashed_agent("td3bc").state().networks["actor"]
    with pytest.raises(ValueError, match="has no masks that could change"):
        with_masks(network, network.topology.layers)


# How many values, and which.


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(1, 8),
    st.floats(0.01, 0.9999),
    st.sampled_from(["network", "layer", "erk"]),
)
def test_as_many_values_as_pruning_would_leave_and_one_a_layer_at_least(inputs, width, outputs, sparsity, scope):
    topology = Topology.dense(inputs, [width, width], {"mean": outputs, "log_std": 1})
    wanted = round((1 - sparsity) * topology.total)
    if wanted < 4:
        with pytest.raises(UserError, match=r"choose a sparsity of at most"):
            value_counts(topology, sparsity, scope)
        return
    counts = value_counts(topology, sparsity, scope)
    assert sum(counts.values()) == wanted
    assert all(1 <= counts[name] <= mask.size for name, mask in topology.layers.items())
    exact = {name: (1 - sparsity) * mask.size for name, mask in topology.layers.items()}
    if scope != "erk" and min(exact.values()) >= 1:
        assert all(abs(counts[name] - share) <= 1 for name, share in exact.items())


def test_tiny_layers_get_a_value_and_erk_gives_them_more():
    topology = Topology.dense(17, [750, 750], {"out": 1})
    assert value_counts(topology, 0.999, "network")["out"] == 1
    plain, erk = (value_counts(topology, 0.95, scope) for scope in ("network", "erk"))
    assert plain == {"hidden0": 638, "hidden1": 28125, "out": 37} or plain == {
        "hidden0": 637,
        "hidden1": 28125,
        "out": 38,
    }
    assert erk["out"] > 5 * plain["out"] and sum(erk.values()) == sum(plain.values())


def test_fresh_values_have_torchs_distribution_and_biases_stay():
    agent = small_agent("td3bc", actor_hidden=(300, 200))
    before, after = agent.state().networks["actor"], begin(schedule("hashed", 0.9), agent).state.networks["actor"]
    for name, (weight, bias) in after.layers().items():
        old, old_bias = before.layers()[name]
        hashing, bound = after.topology.hashes[name], 1 / np.sqrt(weight.shape[1])
        assert bias.tobytes() == old_bias.tobytes() and np.abs(weight).max() <= bound
        values = hashing.collect(weight)
        assert values.std() == pytest.approx(bound / np.sqrt(3), rel=6 / np.sqrt(len(values)))
        assert set(np.abs(values[values != 0]).tolist()) <= set(np.abs(old).ravel().tolist())
    assert after.target.tobytes() == after.values.tobytes() and not after.exp_avg.any() and not after.exp_avg_sq.any()


@pytest.mark.parametrize("twin", ["copy_mask", "copy", "independent"])
def test_twins_follow_by_their_hash(twin):
    agent = small_agent("td3bc", twin=twin)
    networks = begin(schedule("hashed", 0.8), agent).state.networks
    first, second = networks["critic1"], networks["critic2"]
    assert (first.topology.hashes == second.topology.hashes) == (twin != "independent")
    seeds = Counter(it.seed for name in ("actor", "critic1") for it in networks[name].topology.hashes.values())
    assert max(seeds.values()) == 1
    assert not np.array_equal(first.values, second.values)  # `copy` copies weights afterwards, as for masks


def test_the_same_seed_gives_the_same_network():
    one, other = (flat(begin(schedule("hashed", 0.8), small_agent("iql")).state) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


# Training.


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_agent_trains_shared_values_and_goes_on_to_the_bit(name):
    agent = hashed_agent(name)
    begun = agent.state()
    draws = torch.Generator().manual_seed(3)
    for step in range(40):
        agent.update(random_batch(30, seed=step), draws)
        if step == 19:
            halfway, random_state = agent.state(), draws.get_state()
    end = agent.state()
    again, draws = on_engine(agent, halfway, "auto"), torch.Generator()
    draws.set_state(random_state)
    for step in range(20, 40):
        again.update(random_batch(30, seed=step), draws)
    found = flat(again.state())
    assert all(torch.equal(found[key], vector) for key, vector in flat(end).items())
    for network, state in end.networks.items():
        assert state.topology.hashes == begun.networks[network].topology.hashes
        assert (state.values != begun.networks[network].values).mean() > 0.9
        assert (state.exp_avg_sq >= 0).all() and state.exp_avg_sq.any()
        for vector in (state.values, *([] if state.target is None else [state.target])):
            arrays = state.topology.unpack(vector)
            for layer, weight in zip(state.topology.layers, arrays[0::2], strict=True):
                hashing = state.topology.hashes[layer]
                assert hashing.expand(hashing.collect(weight)).tobytes() == weight.tobytes()


def test_a_value_that_no_weight_has_stays():
    topology = Topology.dense(1, [], {"out": 2})
    hashing = next(
        it for it in (LayerHash(2, 1, 2, seed) for seed in range(99)) if len(set(it.places().ravel() % 2)) == 1
    )
    mlp = HashedMLP(Topology(topology.hidden, topology.heads, {"out": hashing}), np.arange(4, dtype=np.float32))
    (gradient, _) = torch.autograd.grad(mlp(torch.ones(3, 1)).sum(), list(mlp.parameters()))
    assert (gradient == 0).sum() >= 1


def test_a_hashed_student_comes_nearer_to_its_teacher():
    teacher, student, alone = small_agent("bc", seed=1), hashed_agent("bc"), hashed_agent("bc")
    learn_from(student, Teacher(teacher.mlps(), ""), 100.0)
    for agent in (student, alone):
        draws = torch.Generator().manual_seed(0)
        for step in range(150):
            agent.update(random_batch(64, seed=step % 7), draws)
    x = torch.randn(200, teacher.mlps()["decoder"].topology.in_features, generator=torch.Generator().manual_seed(2))
    near, far = (distance(agent.mlps()["decoder"], teacher.mlps()["decoder"], x) for agent in (student, alone))
    assert near < 0.7 * far


def test_all_weights_compute_and_few_values_are_read():
    dense, hashed = (flops_and_bytes(agent, 10) for agent in (small_agent("td3bc"), hashed_agent("td3bc", 0.9)))
    for what in ("act", "update"):
        assert hashed[f"{what}_flops"] == hashed[f"{what}_dense_flops"] == dense[f"{what}_flops"]
        assert hashed[f"{what}_dense_bytes"] == dense[f"{what}_bytes"]
    actor = hashed_agent("td3bc", 0.9).mlps()["actor"].topology
    assert hashed["act_bytes"] == 4 * (round(0.1 * actor.total) + 24 + 16 + 2)
