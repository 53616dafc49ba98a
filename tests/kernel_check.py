"""The sparse kernels against float64, with NumPy and Numba only: for processors on which nothing else is installed.

``python tests/kernel_check.py`` prints one JSON line: the processor, and how often each kind of vector register occurs in the
compiled code. CONTRIBUTING says how to run it for ARM on another machine.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from sparse_offline_rl.engines.sparse import broadcast_kernels, kernels
from sparse_offline_rl.engines.sparse.engine import KernelEngine
from sparse_offline_rl.engines.sparse.plan import SparsePlan

DRAW = np.random.default_rng(0)


def normal(*shape):
    return DRAW.standard_normal(shape).astype(np.float32)


def span(matrix):
    return matrix.ctypes.data, 4 * matrix.shape[1], matrix.shape[1]


def weights(layer, values):
    dense = np.zeros((layer.out_features, layer.in_features))
    dense[layer.rows(), layer.columns] = values[layer.values]
    return dense


def dense_forward(plan, values, x):
    """The activations of all layers."""
    activations = [x.astype(np.float64)]
    for layer in plan.layers:
        y = activations[-1] @ weights(layer, values).T + values[layer.bias]
        activations.append(y if layer is plan.layers[-1] else np.maximum(y, 0))
    return activations


def dense_backward(plan, values, activations, grad):
    """Gradients of the parameters and of the inputs."""
    dy, gradient = grad.astype(np.float64), np.zeros(plan.parameter_count)
    for layer, x in zip(reversed(plan.layers), reversed(activations[:-1]), strict=True):
        gradient[layer.values] = (dy.T @ x)[layer.rows(), layer.columns]
        gradient[layer.bias] = dy.sum(0)
        dy = dy @ weights(layer, values)
        if layer is not plan.layers[0]:
            dy = dy * (x > 0)
    return gradient, dy


def check(sizes, density, batch):
    masks = [DRAW.random((n_out, n_in)) < density for n_in, n_out in pairwise(sizes)]
    plan = SparsePlan.from_masks(masks)
    engine, values, x = KernelEngine(plan), normal(plan.parameter_count), normal(batch, sizes[0])
    activations = dense_forward(plan, values, x)
    np.testing.assert_allclose(engine.act(values, x), activations[-1], rtol=1e-4, atol=1e-4)
    out, grad, found, found_x = (
        normal(batch, sizes[-1]),
        normal(batch, sizes[-1]),
        np.empty_like(values),
        np.empty_like(x),
    )
    workspace = engine.forward(values.ctypes.data, [span(x)], batch, out.ctypes.data, keep=True)
    np.testing.assert_allclose(out, activations[-1], rtol=1e-4, atol=1e-4)
    address, stride, _ = span(grad)
    engine.backward(values.ctypes.data, workspace, address, stride, [span(found_x)], found.ctypes.data)
    gradient, dx = dense_backward(plan, values, activations, grad)
    np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found_x, dx, rtol=1e-3, atol=1e-3)
    first, others = normal(7, 2), normal(7 * batch, sizes[0] - 2)
    repeated = np.empty((7 * batch, sizes[-1]), np.float32)
    engine.forward_broadcast(values.ctypes.data, [span(first), span(others)], 7, 7 * batch, repeated.ctypes.data)
    whole = np.concatenate([first.repeat(batch, 0), others], 1)
    np.testing.assert_allclose(repeated, dense_forward(plan, values, whole)[-1], rtol=1e-4, atol=1e-4)


def main():
    for sizes, density, batch in (((9, 40, 30, 4), 0.2, 3), ((9, 40, 30, 4), 0.1, 65), ((23, 100, 80, 2), 0.05, 300)):
        check(sizes, density, batch)
    counts = dict.fromkeys(("zmm", "ymm", "fmla"), 0)
    for kernel in (kernels.forward, kernels.backward, broadcast_kernels.candidates):
        for assembly in kernel.inspect_asm().values():
            for name in counts:
                counts[name] += len(re.findall(rf"\b{name}", assembly))
    print(json.dumps({"machine": platform.machine(), **counts}))


if __name__ == "__main__":
    main()
