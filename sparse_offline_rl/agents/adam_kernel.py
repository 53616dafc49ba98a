"""The inner loop of Adam, compiled by Numba; LLVM turns it into vector instructions."""

from __future__ import annotations

import numpy as np
from numba import njit

_BETA2 = np.float32(0.999)
_REST1, _REST2 = np.float32(1 - 0.9), np.float32(1 - 0.999)
_EPS = np.float32(1e-8)


@njit(cache=True, nogil=True, error_model="numpy")
def adam_step(parameters, exp_avg, exp_avg_sq, gradients, factors):  # type: ignore[no-untyped-def]
    """One step on float32 vectors of equal length, in place.

    ``factors`` are the step size and the scale of √v, which hold the bias corrections, and the weight decay.
    """
    size, scale, weight_decay = factors[0], factors[1], factors[2]
    for i in range(parameters.size):
        gradient = gradients[i] + weight_decay * parameters[i]
        mean = exp_avg[i] + _REST1 * (gradient - exp_avg[i])
        square = _BETA2 * exp_avg_sq[i] + _REST2 * gradient * gradient
        exp_avg[i] = mean
        exp_avg_sq[i] = square
        parameters[i] -= size * mean / (np.sqrt(square) * scale + _EPS)
