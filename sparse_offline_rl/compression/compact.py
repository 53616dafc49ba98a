"""Policies without the units that carry nothing, and which weights those units leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np

from sparse_offline_rl.export.compact import compact, require_finite
from sparse_offline_rl.networks.liveness import live_units
from sparse_offline_rl.policy.content import PolicyLayer, PolicyNetwork
from sparse_offline_rl.types import BoolArray, FloatArray


def live_weights(network: PolicyNetwork) -> dict[str, BoolArray]:
    """Layer name -> ``[out, in]``: the weights that lie on a way from the input to the output, which :func:`compacted` keeps.

    Raises UserError for a value that is not finite.
    """
    require_finite(network)
    stacked = [*(layer.weight for layer in network.hidden), np.concatenate([head.weight for head in network.heads])]
    masks = [weight != 0 for weight in stacked]
    for before, after in pairwise(masks):
        after[:, ~before.any(1)] = False  # what a unit that reads nothing gives is a constant
    useful = live_units(masks)
    masks = [mask & outputs[:, None] for mask, outputs in zip(masks, useful[1:], strict=True)]
    ends = np.cumsum([len(head.bias) for head in network.heads])[:-1]
    names = [layer.name for layer in network.layers]
    return dict(zip(names, [*masks[:-1], *np.split(masks[-1], ends)], strict=True))


def with_weights(network: PolicyNetwork, weights: Mapping[str, FloatArray]) -> PolicyNetwork:
    """The same network and masks with other weights (layer name -> ``[out, in]``)."""
    hidden, heads = (
        tuple(replace(layer, weight=weights[layer.name]) for layer in group)
        for group in (network.hidden, network.heads)
    )
    return replace(network, hidden=hidden, heads=heads)


def compacted(network: PolicyNetwork) -> PolicyNetwork:
    """The same function with fewer units, up to rounding (:func:`~sparse_offline_rl.export.compact.compact`); zeros are pruned.

    Raises UserError for a value that is not finite.
    """
    *hidden, last = compact(network)
    ends = np.cumsum([len(head.bias) for head in network.heads])[:-1]
    heads = zip(np.split(last.weight, ends), np.split(last.bias, ends), strict=True)
    names = [layer.name for layer in network.hidden][: len(hidden)]  # none is left where nothing reaches the output
    return PolicyNetwork(
        network.name,
        tuple(
            PolicyLayer(name, layer.weight, layer.weight != 0, layer.bias)
            for name, layer in zip(names, hidden, strict=True)
        ),
        tuple(
            PolicyLayer(head.name, weight, weight != 0, bias)
            for head, (weight, bias) in zip(network.heads, heads, strict=True)
        ),
        network.linear.intersection(names),
    )
