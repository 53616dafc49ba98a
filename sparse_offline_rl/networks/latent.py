"""The VAE's latent step in closed form: one node of the graph instead of twenty.

On a pruned network the bookkeeping of small operations takes longer than the products, so this step has its own gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_LOG_STD_MIN, _LOG_STD_MAX = -4.0, 15.0  # the BCQ authors' bounds


class _GaussianLatent(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, statistics: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(statistics, noise)
        mean, raw = statistics.chunk(2, dim=1)
        log_std = raw.clamp(_LOG_STD_MIN, _LOG_STD_MAX)
        std = log_std.exp()
        kl = mean.square().add_(std.square()).sub_(log_std, alpha=2).mean().sub_(1).mul_(0.5)
        return torch.addcmul(mean, std, noise), kl

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        grad_latent, grad_kl = gradients
        # Recomputed from what was saved, so that GraSP can differentiate this once more.
        statistics, noise = ctx.saved_tensors
        mean, raw = statistics.chunk(2, dim=1)
        log_std = raw.clamp(_LOG_STD_MIN, _LOG_STD_MAX)
        std = log_std.exp()
        weight = grad_kl / mean.numel()
        grad_mean = torch.addcmul(grad_latent, weight, mean)
        grad_log_std = grad_latent * noise * std + weight * (std.square() - 1)
        return torch.cat((grad_mean, grad_log_std * (raw == log_std)), dim=1), None


def gaussian_latent(statistics: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample a diagonal Gaussian and measure it against the standard normal.

    ``statistics`` ``[B, 2 latent]`` holds μ and log σ side by side; log σ is clamped to the BCQ authors' (-4, 15). Returns
    ``μ + σ noise`` ``[B, latent]`` and the KL divergence's mean over all elements, ``-½ mean(1 + log σ² - μ² - σ²)``.
    """
    latent, kl = _GaussianLatent.apply(statistics, noise)  # type: ignore[no-untyped-call]
    return latent, kl
