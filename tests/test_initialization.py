"""Initial weights other than torch's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import TINY
from helpers import MASKED, on_engine, prune, random_batch, small_agent
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_offline_rl.networks.initialization import AFTER_MASKS, BEFORE_MASKS, initialized, isometry, sparse, zero
from sparse_offline_rl.networks.jacobian import singular_values
from sparse_offline_rl.networks.mlp import MLP
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import NetworkState


def network(*masks: np.ndarray, seed: int = 0) -> NetworkState:
    """Layers with these masks, the last one a head; values as torch draws them."""
    rng = np.random.default_rng(seed)
    hidden = {f"hidden{i}": mask for i, mask in enumerate(masks[:-1])}
    topology = Topology(hidden, {"out": masks[-1]})
    arrays = []
    for mask in masks:
        bound = 1 / np.sqrt(mask.shape[1])
        arrays += [rng.uniform(-bound, bound, mask.shape), rng.uniform(-bound, bound, len(mask))]
    values = topology.pack([array.astype(np.float32) for array in arrays])
    ones = np.ones_like(values)
    return NetworkState(topology, values, ones, ones, ones)


def weights(state: NetworkState) -> list[np.ndarray]:
    return state.topology.unpack(state.values)[0::2]


def biases(state: NetworkState) -> list[np.ndarray]:
    return state.topology.unpack(state.values)[1::2]


def test_zero_is_a_partial_identity_or_a_part_of_a_hadamard_matrix():
    state = zero(network(np.ones((6, 3), bool), np.ones((2, 6), bool)))
    first, second = weights(state)
    np.testing.assert_array_equal(first, (scipy.linalg.hadamard(8) / np.sqrt(8)).astype(np.float32)[:6, :3])
    np.testing.assert_array_equal(second, np.eye(2, 6))
    assert not any(bias.any() for bias in biases(state))


@given(exponent=st.integers(1, 6), inputs=st.integers(1, 64))
@settings(deadline=None, max_examples=30)
def test_a_layer_of_zero_that_widens_to_a_power_of_two_keeps_lengths(exponent, inputs):
    outputs = 2**exponent
    inputs = min(inputs, outputs - 1)
    (weight,) = weights(zero(network(np.ones((outputs, inputs), bool))))
    np.testing.assert_allclose(weight.T @ weight, np.eye(inputs), atol=1e-6)


def test_sparse_gives_survivors_the_variance_of_a_network_of_their_number():
    mask = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    before = network(mask)
    after = sparse(before)
    scale = np.array([2, 1, 1, np.sqrt(2)], np.float32)
    np.testing.assert_allclose(weights(after)[0], weights(before)[0] * scale[:, None], rtol=1e-6)
    np.testing.assert_array_equal(biases(after)[0], biases(before)[0])


@pytest.mark.parametrize("shape", [(40, 40), (40, 12), (12, 40)])
@pytest.mark.parametrize("density", [1.0, 0.3])
def test_isometry_reaches_orthogonality_where_the_mask_allows_it(shape, density):
    rng = np.random.default_rng(1)
    before = network(rng.random(shape) < density)
    (weight,), (start,) = weights(isometry(before)), weights(before)
    small = min(shape)

    def error(matrix: np.ndarray) -> float:
        gram = matrix @ matrix.T if shape[0] < shape[1] else matrix.T @ matrix
        return float(np.linalg.norm(gram - np.eye(small)))

    assert error(weight) < 0.1 < error(start)
    assert not weight[~before.topology.heads["out"]].any()


def test_isometry_of_an_empty_layer_is_that_layer():
    before = network(np.zeros((3, 2), bool))
    np.testing.assert_array_equal(isometry(before).values, before.values)


@pytest.mark.parametrize("how", [*BEFORE_MASKS, *AFTER_MASKS])
def test_targets_start_as_their_networks_and_moments_are_zero(how):
    function = {**BEFORE_MASKS, **AFTER_MASKS}[how]
    agent = small_agent()
    state = initialized(prune(agent), function)
    for stored in state.networks.values():
        assert not stored.exp_avg.any() and not stored.exp_avg_sq.any()
        if stored.target is not None:
            np.testing.assert_array_equal(stored.target, stored.values)
    restored = on_engine(agent, state, MASKED)
    metrics = restored.update(random_batch(20), torch.Generator().manual_seed(0))
    assert all(bool(torch.isfinite(value).all()) for value in metrics.values())


@pytest.mark.parametrize("init", ["sparse", "zero", "isometry"])
def test_a_run_begins_with_them(cli, tmp_path, init):
    status, out, err = cli(*TINY, f"init={init}", f"run_dir={tmp_path / 'run'}")
    assert status == 0, err
    assert "finished" in out
    assert ("exactly zero" in err) == (init == "zero")


@pytest.mark.parametrize("linear", [frozenset(), frozenset({"hidden0"})])
def test_singular_values_are_those_of_the_jacobian_by_autograd(linear):
    state = network(np.random.default_rng(0).random((8, 5)) < 0.7, np.ones((3, 8), bool))
    state = replace(state, topology=replace(state.topology, linear=linear))
    mlp = MLP.from_packed(state.topology, state.values)
    inputs = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    wanted = [torch.linalg.svdvals(torch.autograd.functional.jacobian(lambda x: mlp(x[None])[0], x)) for x in inputs]
    np.testing.assert_allclose(
        singular_values(state, inputs.numpy()), torch.stack(wanted).numpy(), rtol=1e-4, atol=1e-6
    )
