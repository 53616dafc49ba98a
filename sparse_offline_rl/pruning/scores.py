"""Scores: what a weight is worth; higher = keep. Used to find masks before training, to drop weights and to grow them.

All are pure: weights, their ``.grad`` and the global random state stay as they were. To add one: a function of this shape, an entry
in ``SCORERS``, and ``configs/prune/<name>.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.pruning.curvature import LeastSquares, alike
from sparse_offline_rl.pruning.views import NetworkView

Scores = dict[str, Tensor]  # layer name -> [out, in]
Scorer = Callable[[NetworkView, torch.Generator], Scores]


def snip(view: NetworkView, generator: torch.Generator) -> Scores:
    """Connection sensitivity ``|w · ∂L/∂w|`` (Lee et al. 2019; the paper's equation 1)."""
    gradients = view.gradients()
    return {name: (value * gradients[name]).abs() for name, value in view.values.items()}


def grasp(view: NetworkView, generator: torch.Generator) -> Scores:
    """Gradient signal preservation ``θ ⊙ Hg`` (Wang et al. 2020; the paper's equation 4 with its sign turned).

    GraSP removes the largest ``-θ ⊙ Hg``, so the largest ``θ ⊙ Hg`` are kept; never its absolute value. ``g`` is a constant
    in the Hessian-vector product, and the loss has no temperature: it is a regression. In a pruned network ``g`` is that of the
    weights which are left (de Jorge et al. 2021).
    """
    objective = view.objective
    weights = list(objective.weights.values())
    gradients = [*torch.autograd.grad(objective.loss(), weights, create_graph=True)]
    constants = [gradient.detach() for gradient in gradients]
    if view.pruned:
        masks = (mask.to(constants[0].device) for mask in view.kept.values())
        constants = [constant * mask for constant, mask in zip(constants, masks, strict=True)]
    product = torch.stack([(c * g).sum() for c, g in zip(constants, gradients, strict=True)]).sum()
    if not product.requires_grad:  # a loss linear in these weights has no curvature
        return {name: torch.zeros_like(value) for name, value in view.values.items()}
    # A weight outside the graph of the gradient has a zero row in the Hessian.
    curvature = torch.autograd.grad(product, weights, materialize_grads=True)
    return {name: value * hg.cpu() for (name, value), hg in zip(view.values.items(), curvature, strict=True)}


def magnitude(view: NetworkView, generator: torch.Generator) -> Scores:
    """``|w|``."""
    return {name: value.abs() for name, value in view.values.items()}


def random(view: NetworkView, generator: torch.Generator) -> Scores:
    """Uniform scores."""
    draw = {name: torch.rand(it.shape, generator=generator, device=generator.device) for name, it in view.kept.items()}
    return {name: score.cpu() for name, score in draw.items()}


def synflow(view: NetworkView, generator: torch.Generator) -> Scores:
    """Synaptic flow ``|θ · ∂R/∂θ|`` (Tanaka et al. 2020, equations 2 and 3): no data, only paths.

    R is the sum of the outputs, before any squashing, for an input of ones when every parameter has its absolute value. ReLU then
    passes everything. Weights that are pruned pass nothing, also where they are judged by the values with which they may come back
    (``prune.revive``). In float64: products over wide layers leave the range of float32.
    """
    magnitudes = {name: value.abs().double() for name, value in view.values.items()}
    weights = {name: (it * view.kept[name]).requires_grad_() for name, it in magnitudes.items()}
    biases = {name: bias.abs().double() for name, bias in view.biases.items()}
    signal = torch.ones(view.topology.in_features, dtype=torch.float64)
    for name in view.topology.hidden:
        signal = weights[name] @ signal + biases[name]
    flow = torch.stack([(weights[name] @ signal + biases[name]).sum() for name in view.topology.heads]).sum()
    gradients = torch.autograd.grad(flow, list(weights.values()))
    return {name: it * g for (name, it), g in zip(magnitudes.items(), gradients, strict=True)}


def gradient(view: NetworkView, generator: torch.Generator) -> Scores:
    """``|∂L/∂w|`` of kept and pruned weights alike: where a weight would learn fastest (RigL; Evci et al. 2020)."""
    return {name: it.abs() for name, it in view.gradients().items()}


def signed_magnitude(view: NetworkView, generator: torch.Generator) -> Scores:
    """Rank of ``|w|`` among the layer's weights of its sign, from 0 to 1: the lowest are nearest to zero on either side.

    SET drops so (Mocanu et al. 2018): the same fraction of the positive and of the negative weights.
    """
    scores = {}
    for name, value in view.values.items():
        flat = value.flatten()
        score = torch.zeros_like(flat)
        places = torch.from_numpy(np.flatnonzero(flat.numpy() != 0))  # few in a sparse layer
        for side in (places[flat[places] > 0], places[flat[places] < 0]):
            order = side[flat[side].abs().argsort(stable=True)]
            score[order] = torch.arange(1, len(order) + 1, dtype=flat.dtype) / max(len(order), 1)
        scores[name] = score.view(value.shape)
    return scores


def obd(view: NetworkView, generator: torch.Generator) -> Scores:
    """``½ w² H_qq``: what the loss gains without the weight (Optimal Brain Damage; LeCun et al. 1990, equation 3).

    H's diagonal is that of the Fisher information, ``E[g_j² a_i²]`` over samples, exact for each weight.
    """
    squares = view.curvature(generator).squares
    return {name: 0.5 * value.double().square() * squares[name] for name, value in view.values.items()}


def obs(view: NetworkView, generator: torch.Generator) -> Scores:
    """``½ w² G_jj / [A⁻¹]_ii``: as :func:`obd`, if the other weights of the row take over (Optimal Brain Surgeon; 1993).

    Layer by layer the Hessian of a row is A (Dong et al. 2017); the factor ``G_jj``, which the Fisher information of row j has, makes
    rows and layers comparable. The inverse is that of the weights which are there: one that is pruned does not take over, and
    scores zero.
    """
    curvature, scores = view.curvature(generator), {}
    for name, value in view.values.items():
        problem, costs = LeastSquares(curvature.damped_inputs(name)), torch.zeros(value.shape, dtype=torch.float64)
        for rows, kept, gone in alike(view.kept[name]):
            costs[rows[:, None], kept[:-1]] = problem.costs(kept, gone)[:-1]  # the constant is read by the bias
        scores[name] = 0.5 * value.double().square() * curvature.outputs[name].diagonal()[:, None] * costs
    return scores


SCORERS: dict[str, Scorer] = {
    "snip": snip,
    "grasp": grasp,
    "magnitude": magnitude,
    "random": random,
    "synflow": synflow,
    "gradient": gradient,
    "signed_magnitude": signed_magnitude,
    "obd": obd,
    "obs": obs,
}
