"""Scorers: weights and an objective in, one score per weight out; higher = keep.

All are pure: weights, their ``.grad`` and the global random state stay as they were. To add one: a function of this shape,
an entry in ``SCORERS``, its name in ``PruneConfig``, and ``configs/prune/<name>.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparse_offline_rl.types import Objective

Scorer = Callable[[Objective, torch.Generator], dict[str, Tensor]]


def snip(objective: Objective, generator: torch.Generator) -> dict[str, Tensor]:
    """Connection sensitivity ``|w · ∂L/∂w|`` (Lee et al. 2019; the paper's equation 1)."""
    weights = objective.weights
    gradients = torch.autograd.grad(objective.loss(), list(weights.values()))
    pairs = zip(weights.items(), gradients, strict=True)
    return {name: (weight * gradient).detach().abs() for (name, weight), gradient in pairs}


def grasp(objective: Objective, generator: torch.Generator) -> dict[str, Tensor]:
    """Gradient signal preservation ``θ ⊙ Hg`` (Wang et al. 2020; the paper's equation 4 with its sign turned).

    GraSP removes the largest ``-θ ⊙ Hg``, so the largest ``θ ⊙ Hg`` are kept; never its absolute value. ``g`` is a constant
    in the Hessian-vector product, and the loss has no temperature: it is a regression.
    """
    weights = list(objective.weights.values())
    gradients = torch.autograd.grad(objective.loss(), weights, create_graph=True)
    product = torch.stack([(g.detach() * g).sum() for g in gradients]).sum()
    if not product.requires_grad:  # a loss linear in these weights has no curvature
        return {name: torch.zeros_like(weight) for name, weight in objective.weights.items()}
    # A weight outside the graph of the gradient has a zero row in the Hessian.
    curvature = torch.autograd.grad(product, weights, materialize_grads=True)
    scores = [(weight * hg).detach() for weight, hg in zip(weights, curvature, strict=True)]
    return dict(zip(objective.weights, scores, strict=True))


def magnitude(objective: Objective, generator: torch.Generator) -> dict[str, Tensor]:
    """``|w|`` at initialisation: a control."""
    return {name: weight.detach().abs() for name, weight in objective.weights.items()}


def random(objective: Objective, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform scores: a control."""
    return {
        name: torch.rand(weight.shape, generator=generator, device=generator.device).to(weight.device)
        for name, weight in objective.weights.items()
    }


SCORERS: dict[str, Scorer] = {"snip": snip, "grasp": grasp, "magnitude": magnitude, "random": random}
