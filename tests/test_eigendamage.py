"""EigenDamage: the rotated importance, which directions leave, and layers in factors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import flat, on_engine, random_batch, small_agent
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_changes import begin, draws, moment, network, schedule
from test_configs import composed

from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.agents.flops import flops_and_bytes
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.datasets.load import DatasetInfo
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.experiment import read_config
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, NetworkState
from sparse_offline_rl.policy.format import read_policy, write_policy
from sparse_offline_rl.policy.runtime import Policy, load_policy
from sparse_offline_rl.pruning.curvature import Curvature
from sparse_offline_rl.pruning.eigendamage import Directions, Rotation, as_many, factored, rotations, strongest
from sparse_offline_rl.pruning.layer_reports import layer_reports
from sparse_offline_rl.pruning.prune import Twins
from sparse_offline_rl.pruning.schedule import Change, movement, observed
from sparse_offline_rl.pruning.scores import SCORERS
from sparse_offline_rl.pruning.views import NetworkView
from sparse_offline_rl.training.deploy import policy_content


def two_heads(seed: int = 0) -> NetworkState:
    """4 -> 9 -> 7 -> 3 + 2, with moments, and a target that is twice the network."""
    mlp = MLP(4, [9, 7], {"mean": 3, "log_std": 2}, draws(seed))
    values = mlp.packed_values()
    return NetworkState(mlp.topology, values, np.ones_like(values), np.ones_like(values), values * 2)


def second_moments(width: int, seed: int) -> torch.Tensor:
    rows = torch.randn(3 * width, width, generator=draws(seed), dtype=torch.float64)
    return rows.T @ rows / len(rows)


def curvature_of(net: NetworkState, diagonal: bool = False) -> Curvature:
    """Correlated second moments for each layer, or diagonal ones, with the squares of independent inputs and gradients."""
    inputs, outputs, squares = {}, {}, {}
    for i, (name, mask) in enumerate(net.topology.layers.items()):
        read, given = second_moments(mask.shape[1] + 1, 2 * i), second_moments(len(mask), 2 * i + 1)
        inputs[name], outputs[name] = (it.diagonal().diag() if diagonal else it for it in (read, given))
        squares[name] = torch.outer(given.diagonal(), read.diagonal()[:-1])
    return Curvature(inputs, outputs, squares, 1e-3)


def all_directions(net: NetworkState) -> dict[str, Directions]:
    return {name: Directions(*map(torch.arange, mask.shape)) for name, mask in net.topology.hidden.items()}


def outputs(net: NetworkState, vector: np.ndarray, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return MLP.from_packed(net.topology, vector)(inputs)


def test_rotation_alone_changes_nothing():
    net, inputs = two_heads(), torch.randn(50, 4, generator=draws(1))
    turned = factored(net, rotations(net, curvature_of(net)), all_directions(net))
    assert list(turned.topology.layers) == [
        *("hidden0.rotate_in", "hidden0.core", "hidden0"),
        *("hidden1.rotate_in", "hidden1.core", "hidden1"),
        *("mean", "log_std"),
    ]
    assert turned.topology.linear == {f"{it}.{part}" for it in ("hidden0", "hidden1") for part in ("rotate_in", "core")}
    for kind in ("values", "target"):
        before, after = (outputs(it, it.vectors()[kind], inputs) for it in (net, turned))
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_a_diagonal_fisher_gives_the_scores_of_obd():
    net = two_heads()
    curvature = curvature_of(net, diagonal=True)

    class Seen(NetworkView):
        def curvature(self, generator: torch.Generator) -> Curvature:
            return curvature

    obd = SCORERS["obd"](Seen(net, lambda batch: pytest.fail("no batch is needed")), draws())
    rotated = rotations(net, curvature)
    assert list(rotated) == ["hidden0", "hidden1"]
    for name, rotation in rotated.items():
        # The eigenbasis of a diagonal matrix is that of its own coordinates in another order, with a sign for each.
        back = rotation.outputs.abs() @ rotation.importance @ rotation.inputs.abs().T
        torch.testing.assert_close(back, obd[name], rtol=1e-9, atol=1e-12)


def test_importance_by_hand():
    """[[3, 1], [1, 3]] takes (1, 1) to 4 (1, 1) and (1, -1) to 2 (1, -1); [[2, 1], [1, 2]] has the eigenvalues 3 and 1 for them."""
    net, moments = network(hidden0=[[3, 1], [1, 3]], out=[[1, 1]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double()
    read = torch.zeros(3, 3).double()
    read[:2, :2] = moments
    found = rotations(net, Curvature({"hidden0": read}, {"hidden0": moments}, {}, 1e-3))["hidden0"]
    # ½ · 2² · 1 · 1 and ½ · 4² · 3 · 3, eigenvalues in ascending order.
    torch.testing.assert_close(found.importance, torch.tensor([[2.0, 0.0], [0.0, 72.0]]).double())


def ranked(*sizes: int) -> Rotation:
    """A layer ``(out, in)`` whose directions are worth the more the higher their numbers, outputs as much as inputs."""
    worth = [torch.arange(1, size + 1).double() / (size * (size + 1) / 2) for size in sizes]
    return Rotation(torch.eye(sizes[0]).double(), torch.eye(sizes[1]).double(), torch.outer(*worth))


ONE_HEAD = Topology({"w": np.ones((10, 10), bool)}, {"out": np.ones((1, 10), bool)})


def sparsity_for(wanted: int) -> float:
    """That of ``ONE_HEAD`` with so many weights of ``w``: the ten of the head stay."""
    return 1 - (wanted + 10) / 110


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (99, None),  # the matrix of 100 is nearer than factors of 96
        (95, (4, 4)),  # 10 · 4 + 4 · 4 + 4 · 10 = 96
        (80, (3, 4)),  # 40 + 12 + 30 = 82
        (50, (2, 3)),  # 30 + 6 + 20 = 56 is as near as the 44 of (2, 2), and the larger
        (45, (2, 2)),
        (21, (1, 1)),
    ],
)
@pytest.mark.parametrize("scope", ["network", "layer"])
def test_directions_leave_in_order_until_the_count_is_nearest(wanted, left, scope):
    found = strongest({"w": ranked(10, 10)}, ONE_HEAD, sparsity_for(wanted), scope)
    expected = {} if left is None else {"w": [list(range(10 - count, 10)) for count in left]}
    assert {name: [side.tolist() for side in stay] for name, stay in found.items()} == expected


def test_a_layer_whose_factors_would_not_be_smaller_stays_one_matrix():
    wide, flat_one = ranked(40, 30), ranked(1, 40)  # of which the second has 40 weights, and 42 in its smallest factors
    worthless = flat_one._replace(importance=1e-9 * flat_one.importance)
    found = strongest({"hidden0": wide, "hidden1": worthless}, Topology.dense(30, [40, 1], {"out": 3}), 0.7)
    # 30 · 8 + 8 · 2 + 2 · 40 and 43 others are 379, and 373 of 1243 are wanted.
    assert set(found) == {"hidden0"} and [len(it) for it in found["hidden0"]] == [2, 8]


def test_a_twin_keeps_as_many_directions_those_of_its_own():
    first = strongest({"w": ranked(10, 10)}, ONE_HEAD, sparsity_for(50))
    other = ranked(10, 10)
    flipped = other._replace(importance=other.importance.flip(0, 1))
    assert [it.tolist() for it in as_many({"w": flipped}, first)["w"]] == [[0, 1], [0, 1, 2]]
    assert [it.tolist() for it in as_many({"w": other}, first)["w"]] == [it.tolist() for it in first["w"]]


def test_what_the_data_never_show_costs_nothing():
    """Inputs in a space of three dimensions: the other directions go first, and outputs on such inputs stay."""
    mlp = MLP(20, [6], {"out": 1}, draws())
    values = mlp.packed_values()
    net = NetworkState(mlp.topology, values, values, values, None)
    inputs = torch.randn(40, 3, generator=draws(1)) @ torch.randn(3, 20, generator=draws(2))
    read = torch.cat([inputs, torch.ones(40, 1)], 1).double()
    seen = Curvature({"hidden0": read.T @ read / 40}, {"hidden0": second_moments(6, 0)}, {}, 1e-3)
    rotated = rotations(net, seen)
    stay = strongest(rotated, net.topology, 1 - 120 / 126)
    found = factored(net, rotated, stay)
    assert [len(it) for it in stay["hidden0"]] == [6, 3] and found.topology.kept == 20 * 3 + 3 * 6 + 6 * 6 + 6
    torch.testing.assert_close(outputs(found, found.values, inputs), mlp(inputs).detach(), rtol=1e-4, atol=1e-5)


def test_factors_begin_without_moments_and_all_else_goes_on():
    net = two_heads()
    rotated = rotations(net, curvature_of(net))
    stay = {name: it for name, it in all_directions(net).items() if name != "hidden1"}
    turned = factored(net, rotated, stay)
    for kind in ("exp_avg", "exp_avg_sq"):
        arrays = iter(turned.topology.unpack(turned.vectors()[kind]))
        for name, weight, bias in zip(turned.topology.layers, arrays, arrays, strict=True):
            assert weight.all() if name in ("hidden1", "mean", "log_std") else not weight.any()
            assert not bias.any() if name in turned.topology.linear else bias.all()
    old, new = net.layers(), turned.layers()
    assert all(np.array_equal(new[name][1], old[name][1]) for name in old)
    assert np.array_equal(new["hidden1"][0], old["hidden1"][0])
    target = replace(turned, values=turned.target).layers()
    for name in ("hidden0", "hidden0.rotate_in"):
        assert np.array_equal(target[name][0], new[name][0])
    assert target["hidden0.core"][0] == pytest.approx(2 * new["hidden0.core"][0], rel=1e-6)


FACTORED = Topology(
    {
        "hidden0.rotate_in": np.ones((2, 5), bool),
        "hidden0.core": np.ones((3, 2), bool),
        "hidden0": np.ones((8, 3), bool),
    }
    | {"hidden1": np.ones((6, 8), bool), "heads.rotate_in": np.ones((3, 6), bool)},
    {"mean": np.ones((4, 3), bool), "log_std": np.ones((2, 3), bool)},
    linear=frozenset({"hidden0.rotate_in", "hidden0.core", "heads.rotate_in"}),
)


def test_a_topology_in_factors_knows_the_matrices_for_which_they_stand():
    shapes = {"hidden0": (8, 5), "hidden1": (6, 8), "mean": (4, 6), "log_std": (2, 6)}
    assert FACTORED.shapes == shapes and FACTORED.total == 40 + 48 + 24 + 12
    assert FACTORED.kept == (10 + 6 + 24) + 48 + 18 + 12 + 6
    assert {name: mask.shape for name, mask in FACTORED.original.layers.items()} == shapes
    assert FACTORED.original.linear == frozenset() and list(FACTORED.original.heads) == ["mean", "log_std"]
    assert FACTORED.unpruned.layers.keys() == FACTORED.layers.keys() and FACTORED.unpruned.linear == FACTORED.linear
    assert FACTORED.rectified == [False, False, True, True, False, False]
    with pytest.raises(ValueError, match="mean is to be linear and is no hidden layer"):
        Topology(FACTORED.hidden, FACTORED.heads, linear=frozenset({"mean"}))


def test_a_layer_in_factors_is_reported_as_one():
    reports = {it.name: it for it in layer_reports("net", FACTORED)}
    counts = {name: (it.kept, it.total, it.outputs) for name, it in reports.items()}
    # The heads share 18 weights.
    assert counts == {"hidden0": (40, 40, 8), "hidden1": (48, 48, 6), "mean": (21, 24, 4), "log_std": (15, 12, 2)}
    assert (reports["hidden0"].live_inputs, reports["hidden0"].live_outputs) == (5, 8)
    assert not any(it.collapsed for it in reports.values())
    core = {**FACTORED.hidden, "hidden0.core": np.zeros((3, 2), bool)}
    broken = layer_reports("net", replace(FACTORED, hidden=core))
    assert [it.name for it in broken if it.collapsed] == ["hidden0", "hidden1", "mean", "log_std"]


def pruned(name: str, sparsity: float = 0.7, **options: object) -> tuple[Agent, AgentState]:
    """A small agent and its state in factors."""
    agent, plan = (
        small_agent(name, **({"acting_candidates": 9} if name == "bcq" else {})),
        schedule("eigendamage", sparsity, batches=2, **options),
    )
    return agent, plan.change(moment(agent, begin(plan, agent).state, plan.first)).state


def test_work_is_counted_in_factors_and_compared_with_the_matrices():
    agent, state = pruned("td3bc")
    whole, found = (flops_and_bytes(it, 10) for it in (agent, on_engine(agent, state)))
    assert all(found[key] == whole[key] for key in whole if "dense" in key)
    assert found["act_flops"] == 2 * state.networks["actor"].topology.kept
    assert found["update_flops"] < 0.4 * found["update_dense_flops"]


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_every_network_comes_as_near_as_a_direction_allows(data):
    agent = small_agent(
        data.draw(st.sampled_from(sorted(AGENTS))),
        seed=data.draw(st.integers(0, 99)),
        twin=data.draw(st.sampled_from(["copy", "copy_mask", "independent"])),
    )
    sparsity = data.draw(st.floats(0.01, 0.75))
    options = {
        "scope": data.draw(st.sampled_from(["network", "layer"])),
        "fisher": data.draw(st.sampled_from(["sampled", "empirical"])),
    }
    plan, twins = schedule("eigendamage", sparsity, batches=1, **options), Twins(agent.TWINS, agent.config.twin)
    change = begin(plan, agent)
    plan.check_memory(0, change.state, change.memory, twins)
    state, before = change.state, {key: vector.clone() for key, vector in flat(change.state).items()}
    one, other = (plan.change(moment(agent, state, plan.first, change.memory)) for _ in range(2))
    assert all(torch.equal(vector, flat(other.state)[key]) for key, vector in flat(one.state).items())
    assert all(torch.equal(vector, before[key]) for key, vector in flat(state).items())
    for name, net in one.state.networks.items():
        old, new = state.networks[name].topology, net.topology
        assert new.shapes == old.shapes and new.total == old.total and all(mask.all() for mask in new.layers.values())
        assert abs(new.kept - round((1 - sparsity) * old.total)) <= max(map(sum, old.shapes.values())) / 2
        assert {len(vector) for vector in net.vectors().values()} == {new.size}
        for layer, before_it in new.factors.items():
            if before_it and layer in new.hidden:
                assert sum(new.layers[it].size for it in (*before_it, layer)) < old.layers[layer].size
        if twins.follows(name):
            first = one.state.networks[twins.pairs[name]].topology
            assert {it: mask.shape for it, mask in first.layers.items()} == {
                it: mask.shape for it, mask in new.layers.items()
            }
    memory = observed(Change(one.state, change.memory)).memory
    plan.check_memory(plan.first, one.state, memory, twins)
    moved = movement({name: net.topology for name, net in one.state.networks.items()}, memory)
    for name, net in one.state.networks.items():
        whole = sum(
            out * width for layer, (out, width) in net.topology.shapes.items() if not net.topology.factors[layer]
        )
        assert moved[f"masks/ever_kept/{name}"] == 1 and moved[f"masks/first_kept/{name}"] == whole / net.topology.total


def test_a_twin_that_follows_has_a_rotation_of_its_own():
    _, state = pruned("td3bc")
    first, twin = (state.networks[name].layers() for name in ("critic1", "critic2"))
    assert first.keys() == twin.keys() and "hidden1.core" in first
    assert not np.allclose(first["hidden1.rotate_in"][0], twin["hidden1.rotate_in"][0])


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_engines_agree_on_factors(name):
    agent, state = pruned(name)
    learners = [on_engine(agent, state, engine) for engine in ("dense", "sparse")]
    for learner in learners:
        assert all(torch.equal(vector, flat(learner.state())[key]) for key, vector in flat(state).items())
        for update in range(4):
            learner.update(random_batch(seed=update), torch.Generator().manual_seed(update))
    dense, sparse = (flat(learner.state()) for learner in learners)
    for key, vector in dense.items():
        torch.testing.assert_close(vector, sparse[key], rtol=1e-3, atol=1e-5, msg=key)
    trained = [key for key in dense if key.startswith("values/") and not torch.equal(dense[key], flat(state)[key])]
    assert len(trained) > 1


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_a_stored_policy_acts_as_the_agent_does(tmp_path, name):
    agent, state = pruned(name)
    info = DatasetInfo(agent.spaces, "env", "data")
    content = policy_content(
        read_config(composed(f"agent={name}")), on_engine(agent, state), Normalization.identity(5), info
    )
    write_policy(tmp_path / "policy.sorl", content)
    states = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    expected = on_engine(agent, state).act(torch.from_numpy(states), torch.Generator().manual_seed(3)).numpy()
    shape = (6 * content.acting.candidates, content.acting.latent_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(3)).numpy()
    for policy in (Policy(content), load_policy(tmp_path / "policy.sorl")):
        assert np.allclose(policy.act(states, noise=noise), expected, atol=1e-5)
    assert read_policy(tmp_path / "policy.sorl").networks["critic1" if name == "bcq" else content.acting.propose].linear
