"""The inner loop of Adam, compiled by Numba; LLVM turns it into vector instructions."""

from __future__ import annotations

import numpy as np

from sparse_offline_rl.compilation import serial


@serial
def adam_step(parameters, exp_avg, exp_avg_sq, gradients, factors):  # type: ignore[no-untyped-def]
    """One step on float32 vectors of equal length, in place.

    ``factors`` are the step size and the scale of √v, which hold the bias corrections, the weight decay, 1 - β₁, β₂, 1 - β₂ and ε.
    """
    size = factors[0]
    scale = factors[1]
    weight_decay = factors[2]
    rest1 = factors[3]
    beta2 = factors[4]
    rest2 = factors[5]
    epsilon = factors[6]
    for i in range(parameters.size):
        gradient = gradients[i] + weight_decay * parameters[i]
        mean = exp_avg[i] + rest1 * (gradient - exp_avg[i])
        square = beta2 * exp_avg_sq[i] + rest2 * gradient * gradient
        exp_avg[i] = mean
        exp_avg_sq[i] = square
        parameters[i] -= size * mean / (np.sqrt(square) * scale + epsilon)
