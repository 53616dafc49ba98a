"""Scores, exact counts, controls, reports."""

import copy

import numpy as np
import pytest
import torch
from helpers import on_engine, prune, random_batch, small_agent, spaces, view_of, views
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sparse_offline_rl.agents.bcq import BCQ, BCQConfig
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.config import PruneConfig
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.masked import MaskedLinear
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.pruning.allocate import allocate
from sparse_offline_rl.pruning.controls import shuffle_layerwise
from sparse_offline_rl.pruning.layer_reports import coo_bytes, layer_reports
from sparse_offline_rl.pruning.masks import Masks
from sparse_offline_rl.pruning.prune import Twins, find_masks, prune_state
from sparse_offline_rl.pruning.scores import SCORERS, grasp, snip
from sparse_offline_rl.types import Objective

shapes = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=4)


@settings(deadline=None)
@given(shapes=shapes, sparsity=st.floats(0, 0.999), kind=st.sampled_from(["random", "zeros", "ties"]), data=st.data())
def test_the_count_is_exact(shapes, sparsity, kind, data):
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 100)))
    make = {
        "random": lambda s: torch.randn(s, generator=g),
        "zeros": torch.zeros,
        "ties": lambda s: torch.randint(0, 3, s, generator=g).float(),
    }[kind]
    scores = {f"layer{i}": make(shape) for i, shape in enumerate(shapes)}
    total = sum(s.numel() for s in scores.values())
    expected = round((1 - sparsity) * total)
    for scope in ("network", "layer", "erk"):
        if expected < 1:
            with pytest.raises(UserError, match="fewer than one"):
                allocate(scores, sparsity, scope)
            continue
        masks = allocate(scores, sparsity, scope)
        assert masks.kept == expected
        assert {k: tuple(v.shape) for k, v in masks.items()} == {f"layer{i}": s for i, s in enumerate(shapes)}
        if scope == "network":
            kept = torch.cat([scores[k][m] for k, m in masks.items()])
            dropped = torch.cat([scores[k][~m] for k, m in masks.items()])
            assert not len(dropped) or kept.min() >= dropped.max()
        assert all(torch.equal(masks[k], allocate(scores, sparsity, scope)[k]) for k in masks)


def test_layer_scope_is_uniform_and_erk_is_not():
    scores = {"wide": torch.rand(100, 100), "narrow": torch.rand(4, 100)}
    uniform = allocate(scores, 0.9, "layer")
    assert [int(m.sum()) for m in uniform.values()] == [1000, 40]
    erk = allocate(scores, 0.9, "erk")
    density = {k: float(m.float().mean()) for k, m in erk.items()}
    assert erk.kept == 1040
    assert (
        density["narrow"] / density["wide"] == pytest.approx((104 / 400) / (200 / 10000), rel=0.02)
        or density["narrow"] == 1
    )


def test_non_finite_scores_are_refused():
    with pytest.raises(UserError, match="layer a are not finite"):
        allocate({"a": torch.tensor([[1.0, float("nan")]])}, 0.5)


def view_of_weights(weight, loss):
    """One layer ``w`` with this weight, and this loss."""
    topology = Topology({}, {"w": np.ones(weight.shape, bool)})
    values = topology.pack([weight.detach().numpy(), np.zeros(len(weight), np.float32)])
    zeros = np.zeros_like(values)
    return view_of(NetworkState(topology, values, zeros, zeros, None), Objective({"w": weight}, loss, nn.Module()))


def test_snip_is_weight_times_gradient():
    w = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    x = torch.tensor([2.0, 1.0, -1.0])
    scores = snip(view_of_weights(w, lambda: ((w @ x) ** 2).sum()), torch.Generator())
    residual = float((w.detach() @ x)[0])
    torch.testing.assert_close(scores["w"], torch.tensor([[1.0 * 2, 2.0 * 1, 3.0 * 1]]) * abs(2 * residual))


def test_grasp_on_a_quadratic_computed_by_hand():
    # L = ½ θᵀ A θ: g = A θ, H = A, so the score is θ ⊙ A A θ.
    a = torch.tensor([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.5]])
    theta = torch.tensor([[1.0, -2.0, 4.0]], requires_grad=True)
    scores = grasp(view_of_weights(theta, lambda: 0.5 * (theta @ a @ theta.T).sum()), torch.Generator())
    # A θ = (0, -1, 2); A A θ = (-1, -1, 1); θ ⊙ = (-1, 2, 4)
    torch.testing.assert_close(scores["w"], torch.tensor([[-1.0, 2.0, 4.0]]))
    assert allocate(scores, 0.6)["w"].tolist() == [[False, False, True]]
    assert allocate(scores, 0.4)["w"].tolist() == [[False, True, True]]


def test_grasp_of_a_linear_loss_is_zero():
    w = torch.ones(1, 3, requires_grad=True)
    assert torch.equal(grasp(view_of_weights(w, lambda: w.sum()), torch.Generator())["w"], torch.zeros(1, 3))


@pytest.mark.parametrize("method", sorted(SCORERS))
def test_scoring_leaves_no_trace_and_ignores_earlier_losses(method):
    agent = small_agent()
    g = torch.Generator().manual_seed(0)
    objectives = agent.objectives(random_batch(50), g)
    looked_at = views(agent, g)
    state = copy.deepcopy(agent.networks.state_dict())
    torch_state = torch.get_rng_state()
    first = SCORERS[method](looked_at["critic1"], torch.Generator().manual_seed(1))
    SCORERS[method](looked_at["actor"], torch.Generator().manual_seed(1))
    objectives["actor"].loss().backward()
    assert all(p.grad is None for p in agent.networks.critic.q1.parameters())
    for p in agent.networks.parameters():
        p.grad = None
    again = SCORERS[method](looked_at["critic1"], torch.Generator().manual_seed(1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert all(torch.equal(state[k], v) for k, v in agent.networks.state_dict().items())
    assert all(p.grad is None for p in agent.networks.parameters())
    assert torch.equal(torch_state, torch.get_rng_state())


@pytest.mark.parametrize("method", sorted(SCORERS))
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.95])
@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_network_gets_its_exact_sparsity(name, method, sparsity):
    agent = small_agent(name)
    state = prune(agent, method, sparsity)
    assert set(state.networks) == set(agent.mlps())
    for network in state.networks.values():
        assert network.topology.kept == round((1 - sparsity) * network.topology.total)


def test_shuffle_keeps_counts_and_moves_positions():
    masks = allocate({"a": torch.rand(20, 20), "b": torch.rand(5, 20)}, 0.8)
    shuffled = shuffle_layerwise(masks, torch.Generator().manual_seed(0))
    assert [int(m.sum()) for m in shuffled.values()] == [int(m.sum()) for m in masks.values()]
    assert not torch.equal(masks["a"], shuffled["a"])


def test_masks_are_validated():
    with pytest.raises(ValueError, match=r"mask of hidden0 is torch\.float32"):
        Masks({"hidden0": torch.ones(2, 2)})
    with pytest.raises(ValueError, match=r"shape \(2, 3\) is needed"):
        MaskedLinear(3, 2).set_mask(torch.ones(3, 2, dtype=torch.bool))


def test_masks_survive_deepcopy_and_state_dict():
    layer = MaskedLinear(6, 4, torch.Generator().manual_seed(0))
    mask = torch.rand(4, 6) < 0.3
    layer.set_mask(mask)
    other = MaskedLinear(6, 4)
    other.load_state_dict(layer.state_dict())
    for clone in (copy.deepcopy(layer), other):
        assert torch.equal(clone.mask, mask)
        clone(torch.randn(3, 6)).sum().backward()
        assert (clone.weight.grad[~mask] == 0).all()
        assert clone.mask.data_ptr() != layer.mask.data_ptr()


@given(st.integers(0, 1000), st.floats(0.0, 1.0))
@settings(deadline=None, max_examples=30)
def test_pack_and_unpack_are_inverse(seed, density):
    g = torch.Generator().manual_seed(seed)
    mlp = MLP(3, [5, 4], {"mean": 2, "log_std": 2}, g)
    for layer in mlp.layers().values():
        layer.set_mask(torch.rand(layer.weight.shape, generator=g) < density)
    parameters = [p.detach() for p in mlp.parameters()]
    vector = mlp.pack(parameters)
    assert len(vector) == sum(int(x.mask.sum()) + x.out_features for x in mlp.layers().values())
    assert all(torch.equal(a, b) for a, b in zip(parameters, mlp.unpack(vector), strict=True))


def test_collapse_is_detected():
    full = torch.ones(4, 3, dtype=torch.bool)
    empty = torch.zeros(4, 4, dtype=torch.bool)
    head = torch.ones(1, 4, dtype=torch.bool)
    masks = {"hidden0": full.numpy(), "hidden1": empty.numpy()}
    reports = {r.name: r for r in layer_reports("net", Topology(masks, {"out": head.numpy()}))}
    assert all(r.collapsed for r in reports.values())
    # Units 0 and 1 are fed, only units 2 and 3 are read: every layer has weights, yet no signal gets through.
    first, second = torch.zeros(4, 3, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)
    first[:2], second[:, 2:] = True, True
    broken = layer_reports("net", Topology({"hidden0": first.numpy()}, {"out": second.numpy()}))
    assert [r.collapsed for r in broken] == [True, True]
    assert (broken[0].live_inputs, broken[0].live_outputs, broken[0].kept) == (3, 2, 6)
    second[:, 1] = True
    assert not any(
        r.collapsed for r in layer_reports("net", Topology({"hidden0": first.numpy()}, {"out": second.numpy()}))
    )


def test_one_empty_head_is_named():
    mlp = MLP(3, [4], {"mean": 2, "log_std": 2})
    mlp.layers()["mean"].set_mask(torch.zeros(2, 4, dtype=torch.bool))
    reports = {r.full_name: r.collapsed for r in layer_reports("encoder", mlp.topology)}
    assert reports == {"encoder.hidden0": False, "encoder.mean": True, "encoder.log_std": False}


def _paper_agent():
    return BCQ.create(spaces(17, 6), BCQConfig(), torch.Generator().manual_seed(0))


def test_weight_counts_of_table_1():
    nets = _paper_agent().networks
    counts = {}
    for name, module in {"actor": nets.actor, "critic": nets.critic, "vae": nets.vae}.items():
        sizes = [p.numel() for p in module.parameters()]
        counts[name] = (sum(sizes[0::2]), sum(sizes[1::2]))
    assert counts == {"actor": (131000, 706), "critic": (259000, 1402), "vae": (1186500, 3030)}


# The torch of the paper's day spent about 285 bytes of a file on each storage (a zip entry and its pickle record); a COO
# tensor has two storages, indices and values. Today's torch aligns storages to 64 bytes and spends a little more.
STORAGE_OVERHEAD = 285


@pytest.mark.parametrize(
    ("network", "dense", "dense_coo", "snip"),
    [("actor", 0.5287, 2.6318, 0.14297), ("critic", 1.04492, 5.2035, 0.2824), ("vae", 4.7621, 23.7739, 1.2303)],
)
def test_file_sizes_of_table_1(network, dense, dense_coo, snip):
    agent = _paper_agent()
    g = torch.Generator().manual_seed(0)
    state, objectives = agent.state(), agent.objectives(random_batch(100, 17, 6), g)
    looked_at = {name: view_of(state.networks[name], objective) for name, objective in objectives.items()}
    masks = find_masks(looked_at, PruneConfig(name="snip"), "snip", 0.95, g)
    agent = on_engine(agent, prune_state(state, masks, Twins(agent.TWINS, agent.config.twin)))
    parameters = list(getattr(agent.networks, network).parameters())
    biases = sum(p.numel() for p in parameters if p.dim() == 1)
    weights = sum(p.numel() for p in parameters if p.dim() == 2)
    kept = sum(int(p.count_nonzero()) for p in parameters if p.dim() == 2)
    overhead = STORAGE_OVERHEAD * len(parameters)
    assert (4 * (weights + biases) + overhead) / 1e6 == pytest.approx(dense, rel=2e-3)
    assert (coo_bytes(weights, biases) + 2 * overhead) / 1e6 == pytest.approx(dense_coo, rel=2e-3)
    assert (coo_bytes(kept, biases) + 2 * overhead) / 1e6 == pytest.approx(snip, rel=2e-3)


def test_coo_bytes_are_those_of_torch():
    w, b = torch.rand(30, 20) * (torch.rand(30, 20) < 0.2), torch.rand(30)
    tensors = [x for p in (w, b) for c in [p.to_sparse().coalesce()] for x in (c.indices(), c.values())]
    assert coo_bytes(int(w.count_nonzero()), 30) == sum(x.numel() * x.element_size() for x in tensors)
