"""CompactMLP: a pruned MLP with fewer hidden units, the same function, the same gradients and the same checkpoints."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import MASKED, flat, on_engine, prune, random_batch, small_agent
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_offline_rl.engines.dense import CompactMLP, compacted, hidden_units
from sparse_offline_rl.engines.selection import left_out
from sparse_offline_rl.engines.sparse.module import SparseMLP
from sparse_offline_rl.networks.mlp import MLP

HEADS = {"mean": 2, "log_std": 3}


def pruned_mlp(hidden, density, cut, seed, linear=()):
    """Random masks in float64; of each layer about a fraction ``cut`` of the rows and of the columns is empty."""
    g = torch.Generator().manual_seed(seed)
    mlp = MLP(4, hidden, HEADS, g).double()
    names = [f"hidden{i}" for i in range(len(hidden))]
    mlp.name_hidden(names, frozenset(names[i] for i in linear if i < len(names)))
    for layer in mlp.layers().values():
        rows, columns = (torch.rand(n, generator=g) >= cut for n in layer.weight.shape)
        mask = torch.rand(layer.weight.shape, generator=g) < density
        layer.set_mask(mask & rows[:, None] & columns)
    return mlp


def output_and_gradients(network, a, b):
    """The output, the gradients of the parameters, packed, and those of the inputs."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    out = network(a, b)
    *inner, grad_a, grad_b = torch.autograd.grad(out.sin().sum(), [*network.parameters(), a, b])
    return [out, torch.from_numpy(network.pack(inner)), grad_a, grad_b]


@settings(deadline=None, max_examples=200)
@given(
    hidden=st.lists(st.integers(1, 9), max_size=3),
    density=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    cut=st.sampled_from([0.0, 0.4, 0.8]),
    seed=st.integers(0, 1000),
    linear=st.sets(st.integers(0, 2)),
)
def test_function_gradients_and_packing_are_those_of_the_mlp(hidden, density, cut, seed, linear):
    mlp = pruned_mlp(hidden, density, cut, seed, linear)
    compact = compacted(mlp)
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randn(7, 3, generator=g).double(), torch.randn(7, 1, generator=g).double()
    for ours, theirs in zip(output_and_gradients(compact, a, b), output_and_gradients(mlp, a, b), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    vector = mlp.packed_values()
    assert np.array_equal(compact.packed_values(), vector)
    other = torch.randn(vector.shape, generator=g).double().numpy()
    target = copy.deepcopy(compact)
    compact.load_values(other)
    mlp.load_values(other)
    assert np.array_equal(compact.packed_values(), other)
    torch.testing.assert_close(compact(a, b), mlp(a, b))
    assert np.array_equal(target.packed_values(), vector)
    moments = [torch.randn(p.shape, generator=g) for p in compact.parameters()]
    packed = compact.pack(compact.unpack(compact.pack(moments)))
    assert np.array_equal(packed, compact.pack(moments))


def test_units_by_hand():
    """Of two hidden layers 3 -> 4 -> 4: what is computed, what is a constant, what is dead."""
    mlp = MLP(3, [4, 4], {"out": 1}, torch.Generator().manual_seed(0))
    first, second, out = mlp.layers().values()
    # Unit 0 reads and is read; 1 reads nothing and is read; 2 is read by a dead unit only; 3 is read by nobody.
    first.set_mask(torch.tensor([[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1]]).bool())
    # Unit 0 reads all kinds; 1 is dead; 2 reads nothing and is read; 3 reads the constant only.
    second.set_mask(torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 0]]).bool())
    out.set_mask(torch.tensor([[1, 0, 1, 1]]).bool())
    compact = compacted(mlp)
    assert isinstance(compact, CompactMLP)
    assert [layer.weight.shape for layer in compact.small.layers().values()] == [(1, 3), (2, 1), (1, 2)]
    assert (hidden_units(mlp), hidden_units(compact)) == (8, 3)
    assert torch.equal(compact.biases, torch.stack([first.bias[1], second.bias[2]]))
    assert torch.equal(compact.weights, torch.stack([second.weight[0, 1], second.weight[3, 1], out.weight[0, 2]]))
    # Dead are 2 weights and 2 biases of the first layer, and 1 weight and 1 bias of the second.
    assert (compact.pack([torch.ones_like(p) for p in compact.parameters()]) == 0).sum() == 6


def test_an_mlp_with_hardly_an_idle_unit_stays_as_it_is():
    mlp = pruned_mlp([6, 50], 1.0, 0.0, 0)
    assert compacted(mlp) is mlp
    mlp.layers()["hidden1"].set_mask(torch.ones(50, 6).bool() & (torch.arange(50) > 1)[:, None])
    assert compacted(mlp) is mlp
    one = pruned_mlp([1], 0.0, 0.0, 0)  # there is no smaller layer than one of a single unit
    assert compacted(one) is one


def test_an_mlp_without_any_path_trains_its_output_bias():
    compact = compacted(pruned_mlp([6, 5], 0.0, 0.0, 0).float())
    assert hidden_units(compact) == 2
    optimizer = torch.optim.Adam(compact.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        (compact(torch.randn(32, 4)) - torch.arange(5.0)).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(compact(torch.randn(3, 4))[0], torch.arange(5.0), rtol=0.05, atol=0.05)


def test_building_one_draws_no_random_numbers():
    mlp, before = pruned_mlp([6, 5], 0.1, 0.4, 0), torch.get_rng_state()
    assert isinstance(compacted(mlp), CompactMLP)
    assert torch.equal(before, torch.get_rng_state())


def pruned_agent(engine=MASKED, sparsity=0.9, **overrides):
    """A pruned agent; without an engine, on the whole masked matrices."""
    agent = small_agent(**overrides)
    return on_engine(agent, prune(agent, sparsity=sparsity), engine)


def train(agent, updates, first=0):
    draws = torch.Generator().manual_seed(first)
    for i in range(first, first + updates):
        batch = random_batch(64, seed=i)
        agent.update(type(batch)(*(x.to(torch.get_default_dtype()) for x in batch)), draws)
    return flat(agent.state())


def kinds(agent):
    return {type(mlp) for mlp in [*agent.mlps().values(), *agent.target_mlps().values()]}


@pytest.mark.parametrize("name", ["bcq", "bc"])
@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.995])
def test_twenty_updates_are_those_of_the_whole_matrices(name, sparsity):
    torch.set_default_dtype(torch.float64)
    try:
        compact, whole = (pruned_agent(engine, sparsity, name=name) for engine in ("dense", MASKED))
        assert (kinds(compact), kinds(whole)) == ({CompactMLP}, {MLP})
        ours, theirs = train(compact, 20), train(whole, 20)
    finally:
        torch.set_default_dtype(torch.float32)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-6, atol=1e-9, msg=lambda text, key=key: f"{key}: {text}")


def test_in_float32_they_agree_to_rounding():
    ours, theirs = (train(pruned_agent(engine), 20) for engine in ("dense", MASKED))
    for key, value in theirs.items():
        if not key.startswith("exp_avg"):
            assert (ours[key] - value).norm() <= 1e-3 * value.norm(), key


def test_a_checkpoint_goes_from_engine_to_engine_and_back_exactly():
    sparse = pruned_agent("sparse")
    assert kinds(sparse) == {SparseMLP}
    with torch.no_grad():  # dead parameters that differ from the other agents' initial ones, in targets too
        for mlp in [*sparse.mlps().values(), *sparse.target_mlps().values()]:
            mlp.values.add_(torch.randn(mlp.values.shape, generator=torch.Generator().manual_seed(len(mlp.values))))
    first = train(sparse, 5)
    compact = on_engine(sparse, sparse.state(), "dense")
    assert kinds(compact) == {CompactMLP}
    second = flat(compact.state())
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    third = train(compact, 5, first=5)
    back = on_engine(compact, compact.state(), "sparse")
    after = flat(back.state())
    assert all(torch.equal(value, after[key]) for key, value in third.items())
    assert {optimizer.steps for optimizer in back.optimizers.values()} == {10}
    moved = {key: float((third[key] != first[key]).float().mean()) for key in first if key.startswith("values")}
    assert all(0.3 < share < 1 for share in moved.values()), moved  # the living learned, the dead stayed


def test_a_resumed_compact_agent_ends_with_the_same_bits():
    whole, broken = (pruned_agent("dense") for _ in range(2))
    train(whole, 4)
    train(broken, 4)
    resumed = on_engine(broken, broken.state(), "dense")
    ours, theirs = train(resumed, 4, first=4), train(whole, 4, first=4)
    assert all(torch.equal(value, ours[key]) for key, value in theirs.items())


def test_gradients_of_one_network_can_be_frozen():
    agent = pruned_agent("dense")
    before = [p.clone() for p in agent.networks.critic.parameters()]
    agent.optimizers["actor"].minimize(agent.actor_loss(random_batch(), torch.zeros(20, 4)))
    assert all(torch.equal(a, b) for a, b in zip(before, agent.networks.critic.parameters(), strict=True))
    assert all(p.requires_grad for p in agent.networks.critic.parameters())


def test_with_weight_decay_dead_parameters_decay_on_both_engines_alike():
    dense, sparse = (pruned_agent(engine, weight_decay=0.1) for engine in ("dense", "sparse"))
    assert kinds(dense) == {MLP}
    start = flat(pruned_agent().state())["values/decoder"]
    ours, theirs = train(dense, 5)["values/decoder"], train(sparse, 5)["values/decoder"]
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
    dead = torch.from_numpy(sparse.networks.vae.decoder.plan.dead).long()
    assert len(dead) > 0
    assert bool((ours[dead].abs() < start[dead].abs()).all())


def test_what_the_engine_says_it_left_out():
    whole = small_agent()
    assert left_out(on_engine(whole, whole.state(), "dense")) == ""
    agent = pruned_agent("dense")
    total = 3 * (24 + 16) + 4 * 32
    assert left_out(agent) == f"{hidden_units(agent.networks)} of {total} hidden units are computed"
    assert hidden_units(agent.networks) < total
    assert left_out(pruned_agent("sparse")) == ""
    with pytest.raises(TypeError, match="is a CompactMLP, and only dense networks can be scored"):
        agent.objectives(random_batch(), torch.Generator())
