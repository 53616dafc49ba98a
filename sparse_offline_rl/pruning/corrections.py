"""What the weights that are left become when others leave: surgery's correction of the values, from curvature.

To add one: a function of this shape and an entry in ``CORRECTIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.pruning.curvature import Curvature, LeastSquares, alike

# From the curvature, a layer's name, its mask [out, in] after the change and its weights before, [n, out, in + 1] with the bias last
# (n sets of them are corrected alike), to the weights after. What is given for pruned weights is not asked for.
Correction = Callable[[Curvature, str, Tensor, Tensor], Tensor]


def obs(curvature: Curvature, layer: str, mask: Tensor, weights: Tensor) -> Tensor:
    """Of each row the survivors and the bias move so that the layer's outputs change least on the inputs that it reads.

    Optimal Brain Surgeon with H = A for every row (Hassibi and Stork 1993; layer by layer, Dong et al. 2017): the exact minimum of
    ``½ Δᵀ A Δ`` given that all pruned weights are zero, where the authors let one weight after another go,
    ``Δ = -w_q / [A⁻¹]_qq · A⁻¹ e_q``. A factor of the row, such as ``G_jj``, does not change the minimum.
    """
    problem, moved = LeastSquares(curvature.damped_inputs(layer)), weights.clone()
    for rows, kept, gone in alike(mask):
        lost = weights[:, rows][:, :, gone].flatten(0, 1)
        if bool(lost.any()):
            steps = problem.follow(kept, gone, -lost).unflatten(0, (len(weights), len(rows)))
            moved[:, rows[:, None], kept] += steps
    return moved


def kron_obs(curvature: Curvature, layer: str, mask: Tensor, weights: Tensor) -> Tensor:
    """The units that stay take over from those that leave, as their output gradients go together (Kron-OBS; Wang et al. 2019).

    The exact minimum of ``½ tr(Δᵀ G Δ A)`` given that the rows of all leaving units are zero: ``Δ_stay = G_ss⁻¹ G_sl W_l``, biases
    included, whatever A is. The authors let one unit after another go, ``Δ = -G⁻¹ e_j w_jᵀ / [G⁻¹]_jj``. What others read of a unit
    that leaves is zero from then on, so nothing is left to be corrected for the weights by which it was read.
    """
    stays = mask.any(1)
    (stay,), (leave,) = stays.nonzero(as_tuple=True), (~stays).nonzero(as_tuple=True)
    if not len(leave):
        return weights
    problem, moved = LeastSquares(curvature.damped_outputs(layer)), weights.clone()
    lost = weights[:, leave].transpose(1, 2).flatten(0, 1)
    steps = problem.follow(stay, leave, -lost).unflatten(0, (len(weights), weights.shape[2]))
    moved[:, stay] += steps.transpose(1, 2)
    return moved


CORRECTIONS: dict[str, Correction | None] = {"none": None, "obs": obs, "kron_obs": kron_obs}


def corrected(before: NetworkState, after: NetworkState, curvature: Curvature, correction: Correction) -> NetworkState:
    """``after``, which was ``before`` until its masks changed, with the values that ``correction`` gives; moments stay.

    A target's weights are corrected by the same linear map. It averages what the network was in the last updates, so its layers read
    and give nearly the same, and without a correction it would fall back to what the correction mends.
    """
    vectors = [before.values] if before.target is None else [before.values, before.target]
    arrays = [before.topology.unpack(vector) for vector in vectors]
    moved: list[list[Tensor]] = [[] for _ in vectors]
    for i, (layer, mask) in enumerate(after.topology.layers.items()):
        pairs = [(torch.from_numpy(it[2 * i]), torch.from_numpy(it[2 * i + 1])) for it in arrays]
        weights = torch.stack([torch.cat([weight, bias[:, None]], 1) for weight, bias in pairs]).double()
        found = correction(curvature, layer, torch.from_numpy(mask), weights).float()
        for parts, it in zip(moved, found, strict=True):
            parts += [it[:, :-1], it[:, -1]]
    values, *target = (after.topology.pack([part.numpy() for part in parts]) for parts in moved)
    return replace(after, values=values, target=target[0] if target else None)
