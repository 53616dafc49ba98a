"""Compaction: the same function with fewer units."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import forward, heavy_tailed_mask, make_network

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.export.compact import compact
from sparse_offline_rl.policy.content import PolicyLayer, PolicyNetwork


def run(layers, x):
    for i, layer in enumerate(layers):
        x = (np.maximum(x, 0) if i else x) @ layer.weight.T.astype(float) + layer.bias
    return x


def rebuild(layers):
    made = [PolicyLayer(str(i), it.weight, it.weight != 0, it.bias) for i, it in enumerate(layers)]
    return PolicyNetwork("again", tuple(made[:-1]), tuple(made[-1:]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=3), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_compaction_keeps_the_function_and_cannot_be_repeated(hidden, density, seed):
    rng = np.random.default_rng(seed)
    network = make_network(rng, "net", [4, *hidden, 3], density, heads=(1, 2))
    layers, x = compact(network), rng.normal(size=(20, 4))
    assert np.allclose(run(layers, x), forward(network, x), atol=1e-6)
    assert layers[0].weight.shape[1] == 4 and layers[-1].weight.shape[0] == 3
    again = compact(rebuild(layers))
    assert [it.weight.shape for it in again] == [it.weight.shape for it in layers]
    for before, layer in pairwise(layers):
        assert (layer.weight != 0).any(0).all(), "a unit that nobody reads is left"
        assert (before.weight != 0).any(1).all(), "a unit that reads nothing is left"


def network_of(*weights, biases):
    layers = []
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        array = np.array(weight, np.float32)
        layers.append(PolicyLayer(str(i), array, array != 0, np.array(bias, np.float32)))
    return PolicyNetwork("net", tuple(layers[:-1]), tuple(layers[-1:]))


def test_constants_fold_through_relu_and_cascade():
    # Unit 1 of the first layer is relu(3), unit 2 relu(-5) = 0; then unit 0 of the second reads constants only.
    network = network_of(
        [[1, 0], [0, 0], [0, 0]], [[0, 2, 7], [1, 1, 0]], [[10, 1]], biases=([0.5, 3, -5], [-1, 0], [0.25])
    )  # fmt: skip
    first, second, last = compact(network)
    assert first.weight.tolist() == [[1, 0]] and first.bias.tolist() == [0.5]
    assert second.weight.tolist() == [[1]] and second.bias.tolist() == [3]
    assert last.weight.tolist() == [[1]] and last.bias.tolist() == [50.25]


def test_units_without_readers_go_with_what_only_they_read():
    network = network_of([[1, 0], [0, 1]], [[1, 0], [0, 1]], [[3, 0]], biases=([0, 0], [0, 0], [0]))
    assert [layer.weight.tolist() for layer in compact(network)] == [[[1, 0]], [[1]], [[3]]]


def test_a_network_cut_from_its_input_is_one_constant_layer():
    (only,) = compact(network_of([[1, 1]], [[0]], [[2]], biases=([0], [4], [1])))
    assert only.weight.tolist() == [[0, 0]] and only.bias.tolist() == [9]


def test_snip_like_masks_shrink_a_lot():
    rng = np.random.default_rng(0)
    shapes = [(300, 20), (300, 300), (5, 300)]
    masks = [heavy_tailed_mask(rng, shape, round(0.03 * shape[0] * shape[1])) for shape in shapes]
    layers = [PolicyLayer(str(i), m.astype(np.float32), m, np.zeros(len(m), np.float32)) for i, m in enumerate(masks)]
    compacted = compact(PolicyNetwork("net", tuple(layers[:2]), tuple(layers[2:])))
    assert sum(it.weight.size for it in compacted) < 0.3 * sum(m.size for m in masks)


def test_diverged_networks_are_refused():
    with pytest.raises(UserError, match="network net has weights that are not finite"):
        compact(network_of([[np.nan]], biases=([0],)))
