"""EigenDamage (Wang, Grosse, Fidler and Zhang 2019): layers pruned in the eigenbasis of their curvature, which leaves them in factors.

With the Fisher information of a layer approximated by ``A ⊗ G`` (K-FAC), ``A = Q_A diag(d_A) Q_Aᵀ`` and ``G = Q_G diag(d_G) Q_Gᵀ``, the
weights ``W* = Q_Gᵀ W Q_A`` have a curvature that is nearly diagonal, so that what each costs alone is nearly what it costs together with
others. Rows and columns of W*, output and input directions, leave; ``W = Q_G W* Q_Aᵀ`` becomes three thin layers without anything between
them: ``rotate_in`` ``[r_A, in]``, ``core`` ``[r_G, r_A]`` and, under the layer's old name, ``[out, r_G]`` with the bias and
ReLU. The two new layers have biases, as all layers have; they start at zero. All three are trained.
A direction on either side costs a row and a column, so that of a layer of 256 × 256 a twentieth of the weights is a rank of six.

As in the authors' code a layer stays one matrix, of which nothing is pruned, where its factors would not have fewer weights, and so do the
heads in any case: in factors that are smaller a matrix has a rank below its number of rows, so an actor of three actions would move in a
plane.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, NetworkState
from sparse_offline_rl.pruning.allocate import require_finite, survivors
from sparse_offline_rl.pruning.curvature import Curvature
from sparse_offline_rl.pruning.prune import naming
from sparse_offline_rl.pruning.units import ranks
from sparse_offline_rl.types import BoolArray, FloatArray

EIGENDAMAGE = "eigendamage"


class Rotation(NamedTuple):
    """A layer in the eigenbasis of its curvature, in float64."""

    outputs: Tensor  # Q_G, [out, out], a direction a column
    inputs: Tensor  # Q_A, [in, in]
    importance: Tensor  # [out, in], of each weight of W*


class Directions(NamedTuple):
    """The directions of a layer that stay: their numbers in ascending order."""

    outputs: Tensor  # [r_G]
    inputs: Tensor  # [r_A]


def rotations(network: NetworkState, curvature: Curvature) -> dict[str, Rotation]:
    """Of each hidden layer ``½ W*² ⊙ (d_G ⊗ d_A)`` and the two bases.

    A is that of the weights' inputs: the constant that a bias reads is left out, for biases are not rotated. The authors leave out the
    factor ½ and rotate biases.
    """
    layers, found = network.layers(), {}
    for name in network.topology.hidden:
        weight = torch.from_numpy(layers[name][0]).double()
        moments = curvature.inputs[name][:-1, :-1], curvature.outputs[name]
        (d_a, inputs), (d_g, outputs) = map(torch.linalg.eigh, moments)
        scale = torch.outer(d_g.clamp(min=0), d_a.clamp(min=0))  # rounding makes zeros negative
        found[name] = Rotation(outputs, inputs, 0.5 * (outputs.T @ weight @ inputs).square() * scale)
    return found


def require_directions_of(state: AgentState, sparsity: float) -> None:
    """Raise UserError naming the network if ``sparsity`` would leave less than its heads and one direction on each side of a layer."""
    for name, network in state.networks.items():
        topology = network.topology
        total, heads = topology.total, sum(mask.size for mask in topology.heads.values())
        smallest = heads + sum(_size(mask.shape, 1, 1) for mask in topology.hidden.values())
        with naming(name):
            if survivors(total, sparsity) < smallest:
                raise UserError(
                    f"sparsity={sparsity:g} would leave fewer weights than the {smallest} of the heads and of one direction in each hidden "
                    f"layer: choose a sparsity of at most {1 - smallest / total:.6g}, or a method that prunes single weights, e.g. prune=obs."
                )


def strongest(
    rotated: Mapping[str, Rotation], topology: Topology, sparsity: float, scope: str = "network"
) -> dict[str, Directions]:
    """The directions of the hidden layers but those of the lowest importance; a layer that stays one matrix is left out.

    The importance of a direction is that of its row or column of W* in sum. They leave in that order (one threshold for all layers, as in
    the paper; sums are not renewed as others leave) until the number of weights, those of all factors and heads, is nearest to
    ``round((1 - s) n)``; of two equally near ones the larger. The authors' ratio counts directions, and what it leaves of the weights
    follows. Each layer keeps one direction on either side. ``scope``: ``network`` (one order over all layers) or ``layer`` (the same
    fraction of each side of each layer). Raises UserError for an importance that is not finite.
    """
    sides = {f"{name}.{side}": (name, side) for name in rotated for side in (0, 1)}
    sums = {key: rotated[name].importance.sum(1 - side) for key, (name, side) in sides.items()}
    require_finite(sums)
    shapes = {name: topology.shapes[name] for name in rotated}
    stay = {key: list(range(len(it))) for key, it in sums.items()}
    left = {name: list(shape) for name, shape in shapes.items()}
    sizes = {name: _size(shape, *shape) for name, shape in shapes.items()}
    kept, wanted = topology.total, survivors(topology.total, sparsity)
    for _, key, direction in sorted(ranks(sums, stay, scope)):
        name, side = sides[key]
        if left[name][side] == 1:
            continue
        fewer = [count - (i == side) for i, count in enumerate(left[name])]
        freed = sizes[name] - _size(shapes[name], *fewer)
        if wanted - (kept - freed) >= kept - wanted:
            break
        stay[key].remove(direction)
        left[name], kept, sizes[name] = fewer, kept - freed, sizes[name] - freed
    return {
        name: Directions(*(torch.tensor(stay[f"{name}.{side}"]) for side in (0, 1)))
        for name, (outputs, inputs) in shapes.items()
        if sizes[name] < outputs * inputs
    }


def as_many(rotated: Mapping[str, Rotation], first: Mapping[str, Directions]) -> dict[str, Directions]:
    """For a twin: of each layer as many directions as ``first`` keeps of its own, those of the highest importance here.

    Hidden units of two networks have nothing to do with each other, so neither have their bases.
    """
    return {
        name: Directions(*(_highest(rotated[name].importance.sum(1 - side), len(it)) for side, it in enumerate(stay)))
        for name, stay in first.items()
    }


def factored(network: NetworkState, rotated: Mapping[str, Rotation], stay: Mapping[str, Directions]) -> NetworkState:
    """``network``, of which nothing is pruned, with each layer that ``stay`` names in factors of the directions that stay.

    A target has the same two rotations, and its own weights between them: it was near to the network, and is near to it in any basis.
    Adam's moments of all factors begin at zero; those of the old biases, and of layers that stay one matrix, go on.
    """
    old = network.topology
    hidden: dict[str, BoolArray] = {}
    for name, mask in old.hidden.items():
        if name in stay:
            r_g, r_a = map(len, stay[name])
            shapes = (r_a, mask.shape[1]), (r_g, r_a), (len(mask), r_g)
            hidden |= {it: np.ones(shape, bool) for it, shape in zip((*_before(name), name), shapes, strict=True)}
        else:
            hidden[name] = mask
    new = Topology(hidden, old.heads, linear=frozenset(it for name in stay for it in _before(name)))

    def move(vector: FloatArray, moments: bool) -> FloatArray:
        arrays = old.unpack(vector)
        layers = dict(zip(old.layers, zip(arrays[0::2], arrays[1::2], strict=True), strict=True))
        for name, it in stay.items():
            weight, bias = layers[name]
            factors = [np.zeros_like(x) if moments else x for x in _factors(weight, rotated[name], it)]
            biases = (*(np.zeros(len(x), np.float32) for x in factors[:2]), bias)
            layers |= zip((*_before(name), name), zip(factors, biases, strict=True), strict=True)
        return new.pack([array for name in new.layers for array in layers[name]])

    moved = {kind: move(vector, kind.startswith("exp_avg")) for kind, vector in network.vectors().items()}
    return NetworkState(new, moved["values"], moved["exp_avg"], moved["exp_avg_sq"], moved.get("target"))


def _factors(weight: FloatArray, rotation: Rotation, stay: Directions) -> list[FloatArray]:
    """What ``weight`` ``[out, in]`` is the product of, from input to output, but for the directions that leave."""
    q_g, q_a = rotation.outputs[:, stay.outputs], rotation.inputs[:, stay.inputs]
    return [it.float().numpy() for it in (q_a.T, q_g.T @ torch.from_numpy(weight).double() @ q_a, q_g)]


def _before(name: str) -> tuple[str, str]:
    """The names of the two factors before a layer."""
    return f"{name}.rotate_in", f"{name}.core"


def _size(shape: tuple[int, ...], r_g: int, r_a: int) -> int:
    """The weights of a layer ``(out, in)`` with so many directions: those of its factors, or of the matrix if they are fewer."""
    outputs, inputs = shape
    return min(outputs * inputs, inputs * r_a + r_a * r_g + r_g * outputs)


def _highest(scores: Tensor, count: int) -> Tensor:
    """The numbers of the ``count`` highest scores in ascending order; of equal ones the later, which also :func:`strongest` keeps."""
    order = sorted(range(len(scores)), key=lambda i: (float(scores[i]), i))
    return torch.tensor(sorted(order[len(order) - count :]))
