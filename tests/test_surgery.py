"""Surgery: curvature, importance and corrections against autograd, brute force and small cases by hand; whole units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import on_engine, random_batch, small_agent, view_of
from mask_changes import begin, draws, moment, network, schedule
from torch import nn

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.pruning.corrections import CORRECTIONS, corrected
from sparse_offline_rl.pruning.curvature import Curvature, CurvatureSettings, LeastSquares, Pass, gather, passes
from sparse_offline_rl.pruning.scores import SCORERS
from sparse_offline_rl.pruning.units import UNIT_SCORES, without_units
from sparse_offline_rl.pruning.views import NetworkView
from sparse_offline_rl.types import Objective


def two_heads(seed: int = 0, linear: frozenset[str] = frozenset()) -> MLP:
    mlp = MLP(4, [5, 3], {"mean": 2, "log_std": 1}, torch.Generator().manual_seed(seed))
    mlp.name_hidden(["hidden0", "hidden1"], linear)
    return mlp


def state_of(mlp: MLP) -> NetworkState:
    values = mlp.packed_values()
    return NetworkState(mlp.topology, values, np.zeros_like(values), np.zeros_like(values), values * 2)


def regression(mlp: MLP, rows: int = 20, seed: int = 0) -> tuple[Objective, torch.Tensor, torch.Tensor]:
    """The mean squared error of ``mlp`` on random rows, and these."""
    g = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randn(rows, 4, generator=g), torch.randn(rows, 3, generator=g)
    weights = {name: layer.weight for name, layer in mlp.layers().items()}
    # Two inputs, as critics have; the call without gradients is none that the loss learns from.
    return (
        Objective(weights, lambda: nn.functional.mse_loss(mlp(inputs[:, :1], inputs[:, 1:]), targets), mlp),
        inputs,
        targets,
    )


def random_curvature(sizes: dict[str, tuple[int, int]], seed: int = 0, damping: float = 1e-12) -> Curvature:
    """Of layers ``{name: (out, in)}``, from more random rows than there are inputs, correlated ones."""
    g = np.random.default_rng(seed)

    def moments(width: int, constant: bool) -> torch.Tensor:
        rows = g.normal(size=(4 * width + 8, width)) @ g.normal(size=(width, width)) + 0.3
        if constant:
            rows[:, -1] = 1
        return torch.from_numpy(rows.T @ rows / len(rows))

    inputs = {name: moments(n_in + 1, constant=True) for name, (_, n_in) in sizes.items()}
    outputs = {name: moments(n_out, constant=False) for name, (n_out, _) in sizes.items()}
    return Curvature(inputs, outputs, {}, damping)


class Seen(NetworkView):
    """A view with a given curvature."""

    def __init__(self, net: NetworkState, curvature: Curvature) -> None:
        super().__init__(net, lambda batch: pytest.fail("no batch is needed"))
        self._curvature = curvature


@pytest.mark.parametrize("fisher", ["empirical", "sampled"])
@pytest.mark.parametrize("linear", [frozenset(), frozenset({"hidden0"})])
def test_second_moments_are_those_of_the_gradients_of_single_samples(fisher, linear):
    mlp = two_heads(linear=linear)
    objective, inputs, targets = regression(mlp)
    found = gather(state_of(mlp), passes(objective, fisher, draws(3)), 0.1)
    noise = torch.randn(20, 3, generator=draws(3)).double()
    exact = two_heads(linear=linear).double()
    layers = exact.layers()
    expected: dict[str, list[torch.Tensor]] = {name: [torch.zeros(()) for _ in range(3)] for name in layers}
    for i in range(20):
        x = inputs[i : i + 1].double()
        output = exact(x)
        loss = nn.functional.mse_loss(output, targets[i : i + 1].double()) if fisher == "empirical" else None
        loss = (output * noise[i]).sum() if loss is None else loss
        exact.zero_grad()
        loss.backward()
        for name, layer in layers.items():
            read = torch.cat([x, torch.ones(1, 1, dtype=torch.float64)], 1)
            x = layer(x, relu=name not in linear).detach() if name.startswith("hidden") else x
            slope, weight = layer.bias.grad[:, None], layer.weight.grad
            for k, part in enumerate((read.T @ read, slope @ slope.T, weight.square())):
                expected[name][k] = expected[name][k] + part / 20
    for name, moments in expected.items():
        for ours, theirs in zip((found.inputs, found.outputs, found.squares), moments, strict=True):
            torch.testing.assert_close(ours[name], theirs, rtol=1e-4, atol=1e-7)


def test_calls_without_gradients_are_left_out():
    mlp = two_heads()
    objective, inputs, _ = regression(mlp)

    def loss() -> torch.Tensor:
        with torch.no_grad():
            mlp(inputs * 100)
        return objective.loss()

    (seen,) = passes(objective._replace(loss=loss), "empirical", draws())
    assert torch.equal(seen.inputs, inputs.double()) and not mlp._forward_hooks


def test_damping_is_relative_to_the_mean_eigenvalue():
    found = Curvature({"w": torch.diag(torch.tensor([1.0, 3.0]).double())}, {"w": torch.zeros(1, 1)}, {}, 0.5)
    assert found.damped_inputs("w").diagonal().tolist() == [2, 4]
    assert found.damped_outputs("w").item() > 0  # to be inverted where nothing has a gradient


def test_a_curvature_that_overflows_names_the_layer():
    net = network(hidden0=[[1, 2]], out=[[1]])
    with pytest.raises(UserError, match="curvature of layer hidden0 is not finite"):
        gather(net, [Pass(torch.full((2, 2), 1e200, dtype=torch.float64), torch.ones(2, 1).double())], 0.1)


def test_obd_by_hand():
    net = network(out=[[2, -1]])
    seen = [Pass(torch.tensor([[1.0, 2], [3, 0]]).double(), torch.tensor([[1.0], [-2]]).double())]
    # E[g² a²] = ((1·1 + 4·9) / 2, (1·4 + 4·0) / 2); ½ w² of it.
    assert SCORERS["obd"](Seen(net, gather(net, seen, 0.1)), draws())["out"].tolist() == [[37, 1]]


def constrained_minimum(hessian: np.ndarray, held: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, float]:
    """``Δ`` that minimises ``½ Δᵀ H Δ`` with the ``held`` coordinates at ``steps``, by its optimality conditions; and the minimum."""
    n, k = len(hessian), len(held)
    conditions = np.zeros((n + k, n + k))
    conditions[:n, :n] = hessian
    conditions[n + np.arange(k), held] = conditions[held, n + np.arange(k)] = 1
    step = np.linalg.solve(conditions, np.concatenate([np.zeros(n), steps]))[:n]
    return step, float(step @ hessian @ step / 2)


@pytest.mark.parametrize("mask", [[[1, 1, 1, 1], [1, 1, 1, 1]], [[1, 0, 1, 1], [1, 0, 0, 1]]])
def test_obs_is_the_least_that_a_weight_costs_if_the_others_of_its_row_take_over(mask):
    rows = np.where(np.array(mask), np.random.default_rng(1).normal(size=(2, 4)), 0)
    net, curvature = network(out=rows.tolist()), random_curvature({"out": (2, 4)})
    scores = SCORERS["obs"](Seen(net, curvature), draws())["out"]
    for j, row in enumerate(mask):
        hessian = curvature.inputs["out"].numpy() * curvature.outputs["out"][j, j].item()
        gone = [i for i, kept in enumerate(row) if not kept]
        for i, kept in enumerate(row):
            held, steps = np.array([*gone, i]), np.zeros(len(gone) + 1)
            steps[-1] = np.float32(rows[j, i])
            expected = constrained_minimum(hessian, held, steps)[1] if kept else 0.0
            assert scores[j, i].item() == pytest.approx(expected, rel=1e-6)


def test_both_ways_to_the_least_squares_agree():
    matrix = random_curvature({"w": (1, 9)}).damped_inputs("w")
    problem = LeastSquares(matrix)
    for held in (1, 4, 5, 6, 9):
        order = torch.randperm(10, generator=draws(held))
        steps = torch.randn(3, held, generator=draws(held), dtype=torch.float64)
        found = problem.follow(order[held:], order[:held], steps)
        for step, follow in zip(steps, found, strict=True):
            expected, _ = constrained_minimum(matrix.numpy(), order[:held].numpy(), step.numpy())
            assert follow.numpy() == pytest.approx(expected[order[held:].numpy()], rel=1e-6, abs=1e-9)
        inverse = torch.linalg.inv(matrix[order[held:]][:, order[held:]])
        assert torch.allclose(problem.costs(order[held:], order[:held]), 1 / inverse.diagonal(), rtol=1e-6)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_obs_gives_the_exact_minimum_of_a_quadratic_over_the_remaining_weights(density):
    """A linear layer's error on its own rows is quadratic: what is left is the least-squares fit with the weights that are left."""
    g = np.random.default_rng(0)
    rows = np.hstack([g.normal(size=(60, 8)) @ g.normal(size=(8, 8)), np.ones((60, 1))])
    weights, mask = g.normal(size=(5, 9)), g.random((5, 8)) < density
    mask[1] = False  # a row that keeps its bias only
    curvature = Curvature({"w": torch.from_numpy(rows.T @ rows / 60)}, {}, {}, 1e-12)
    found = CORRECTIONS["obs"](curvature, "w", torch.from_numpy(mask), torch.from_numpy(weights)[None])[0].numpy()
    for j in range(5):
        kept = np.append(np.flatnonzero(mask[j]), 8)
        expected = np.linalg.lstsq(rows[:, kept], rows @ weights[j], rcond=None)[0]
        assert found[j, kept] == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_obs_moves_the_others_by_hassibis_equation_5():
    weights = torch.tensor([[[2.0, -1.0, 3.0, 0.5]]]).double()
    curvature = random_curvature({"w": (1, 3)})
    found = CORRECTIONS["obs"](curvature, "w", torch.tensor([[True, False, True]]), weights)[0, 0]
    inverse = torch.linalg.inv(curvature.inputs["w"])
    expected = weights[0, 0] - weights[0, 0, 1] / inverse[1, 1] * inverse[:, 1]
    kept = [0, 2, 3]
    assert torch.allclose(found[kept], expected[kept], rtol=1e-6)
    untouched = CORRECTIONS["obs"](curvature, "w", torch.ones(1, 3, dtype=torch.bool), weights)
    assert torch.equal(untouched, weights)


def kronecker(curvature: Curvature, layer: str) -> np.ndarray:
    """``G ⊗ A``, for a layer's weights row by row."""
    return np.kron(curvature.outputs[layer].numpy(), curvature.inputs[layer].numpy())


def test_kron_scores_are_what_a_unit_costs_alone_and_if_the_others_take_over():
    g = np.random.default_rng(2)
    net = network(hidden0=g.normal(size=(4, 3)).tolist(), out=g.normal(size=(2, 4)).tolist())
    curvature = random_curvature({"hidden0": (4, 3), "out": (2, 4)})
    rows = np.hstack([net.layers()["hidden0"][0], np.zeros((4, 1))])
    scores = {name: UNIT_SCORES[name](Seen(net, curvature), draws())["hidden0"] for name in ("kron_obd", "kron_obs")}
    for j in range(4):
        alone = np.zeros((4, 4))
        alone[j] = rows[j]
        expected = alone.ravel() @ kronecker(curvature, "hidden0") @ alone.ravel() / 2
        assert scores["kron_obd"][j].item() == pytest.approx(expected)
        _, least = constrained_minimum(kronecker(curvature, "hidden0"), 4 * j + np.arange(4), -rows[j])
        assert scores["kron_obs"][j].item() == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize("leave", [[2], [0, 2, 3]])
def test_kron_obs_gives_the_exact_minimum_over_the_units_that_stay(leave):
    weights, curvature = np.random.default_rng(3).normal(size=(4, 4)), random_curvature({"w": (4, 3)})
    mask = torch.ones(4, 3, dtype=torch.bool)
    mask[leave] = False
    found = CORRECTIONS["kron_obs"](curvature, "w", mask, torch.from_numpy(weights)[None])[0].numpy()
    held = (4 * np.array(leave)[:, None] + np.arange(4)).ravel()
    step, _ = constrained_minimum(kronecker(curvature, "w"), held, -weights[leave].ravel())
    stay = mask.any(1).numpy()
    assert found[stay] == pytest.approx((weights + step.reshape(4, 4))[stay], rel=1e-6)
    untouched = torch.from_numpy(weights)[None]
    assert CORRECTIONS["kron_obs"](curvature, "w", torch.ones_like(mask), untouched) is untouched


@pytest.mark.parametrize("correct", ["obs", "kron_obs"])
def test_a_target_is_corrected_by_the_same_map_and_moments_stay(correct):
    before = state_of(two_heads())
    (objective, _, _), settings = regression(two_heads()), CurvatureSettings(batches=1)
    view = NetworkView(before, lambda batch: objective, settings=settings)
    masks = without_units(before.topology, {"hidden0": torch.arange(5), "hidden1": torch.arange(3)}, 0.5)
    hidden = {name: mask for name, mask in masks.arrays().items() if name in before.topology.hidden}
    after = Topology(hidden, {name: masks.arrays()[name] for name in before.topology.heads})
    vectors = {kind: after.pack(before.topology.unpack(it)) for kind, it in before.vectors().items()}
    pruned = NetworkState(after, vectors["values"], vectors["exp_avg"], vectors["exp_avg_sq"], vectors["target"])
    found = corrected(before, pruned, view.curvature(draws()), CORRECTIONS[correct])
    # The target was twice the network, biases included, and a linear map keeps that.
    assert found.target == pytest.approx(2 * found.values, rel=1e-4, abs=1e-6)
    assert not np.allclose(found.values, pruned.values)
    assert found.exp_avg is pruned.exp_avg and found.exp_avg_sq is pruned.exp_avg_sq


@pytest.mark.parametrize("twin", ["copy_mask", "independent"])
def test_all_networks_do_more_nearly_what_they_did_twins_and_targets_included(twin):
    agent = small_agent(twin=twin)
    inputs = torch.cat([random_batch(200, seed=9).observations, random_batch(200, seed=9).actions], 1)
    state = begin(schedule("obs", 0.5), agent).state
    errors: dict[str, dict[str, float]] = {}
    for correct in ("none", "obs"):
        plan = schedule("obs", 0.2, correct=correct, score="random")
        after = plan.change(moment(agent, state, plan.first)).state
        for kind in ("mlps", "target_mlps"):
            ours, theirs = (getattr(on_engine(agent, it), kind)() for it in (after, state))
            for name in ("critic1", "critic2"):
                error = float((ours[name](inputs) - theirs[name](inputs)).square().mean().detach())
                errors.setdefault(f"{kind}/{name}", {})[correct] = error
    assert len(errors) == 4 and all(it["obs"] < 0.8 * it["none"] for it in errors.values()), errors


def units(*widths: int) -> Topology:
    return Topology.dense(widths[0], widths[1:-1], {"out": widths[-1]})


def left(
    topology: Topology, scores: dict[str, list[float]], sparsity: float, scope: str = "network"
) -> list[list[int]]:
    """The units that stay of each hidden layer."""
    masks = without_units(topology, {name: torch.tensor(it) for name, it in scores.items()}, sparsity, scope)
    return [masks[name].any(1).nonzero().flatten().tolist() for name in topology.hidden]


def test_units_leave_in_order_until_the_count_is_nearest():
    net = units(2, 3, 3, 1)  # 6 + 9 + 3 weights
    scores = {"hidden0": [5.0, 1.0, 9.0], "hidden1": [2.0, 8.0, 7.0]}
    assert left(net, scores, 0.1) == [[0, 1, 2], [0, 1, 2]]  # 16 wanted: 18 are nearer than 13
    assert left(net, scores, 0.25) == [[0, 2], [0, 1, 2]]  # 14 wanted: 13
    assert left(net, scores, 0.5) == [[0, 2], [1, 2]]  # 9 wanted: without unit 0 of hidden1, 10
    assert left(net, scores, 0.7) == [[2], [1, 2]]  # 5 wanted: without unit 0 of hidden0, 6
    assert left(net, {**scores, "hidden0": [0.1, 0.2, 0.3]}, 0.7) == [[2], [1, 2]]  # one stays in each layer
    masks = without_units(net, {name: torch.tensor(it) for name, it in scores.items()}, 0.5)
    assert masks["hidden1"].tolist() == [[False] * 3, [True, False, True], [True, False, True]]
    assert masks["out"].tolist() == [[False, True, True]]


def test_with_the_scope_of_a_layer_each_loses_the_same_fraction_of_its_units():
    scores = {"hidden0": [1.0, 2, 3, 4], "hidden1": [50.0, 60, 70, 80]}
    assert left(units(2, 4, 4, 1), scores, 0.7, "layer") == [[2, 3], [2, 3]]
    assert left(units(2, 4, 4, 1), scores, 0.7) == [[3], [1, 2, 3]]


def test_norms_of_units_are_means_so_that_layers_compare():
    net = view_of(network(hidden0=[[3, -4]], hidden1=[[1], [-2]], out=[[1, 1]]), None)
    assert UNIT_SCORES["unit_l1"](net, draws())["hidden0"].tolist() == [3.5]
    assert UNIT_SCORES["unit_l2"](net, draws())["hidden0"].tolist() == pytest.approx([12.5**0.5])
    assert UNIT_SCORES["unit_l1"](net, draws())["hidden1"].tolist() == [1, 2]
    thinned = view_of(network(hidden0=[[3, 0]], hidden1=[[1], [-2]], out=[[1, 1]]), None)
    assert UNIT_SCORES["unit_l1"](thinned, draws())["hidden0"].tolist() == [3]  # of the weights that are there


def test_a_curvature_without_an_inverse_is_a_sentence_wherever_it_is_asked():
    same = torch.ones(3, 3, dtype=torch.float64)
    with pytest.raises(UserError, match=r"raise prune\.damping"):
        LeastSquares(same)
