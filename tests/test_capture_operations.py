"""Every operation that can be recorded computes what torch computes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_offline_rl.engines.capture.builder import Builder, Unsupported
from sparse_offline_rl.engines.capture.executable import Executable
from sparse_offline_rl.engines.capture.tracer import UpdateTracer


def replay(function, inputs):
    """``function`` recorded on zeros of the shapes and strides of ``inputs``, then run on ``inputs``."""
    static = [torch.zeros_like(x) for x in inputs]
    tracer = UpdateTracer(torch.Generator(), static)
    with tracer:
        out = function(*static)
    builder = Builder()
    tracer.lower(builder)
    program = Executable(builder.tasks, 1)
    for place, value in zip(static, inputs, strict=True):
        place.copy_(value)
    program()
    return out


def grad_of(function):
    def gradients(*inputs):
        leaves = [x.detach().requires_grad_() for x in inputs]
        return torch.cat([g.flatten() for g in torch.autograd.grad(function(*leaves).sum(), leaves)])

    return gradients


BINARY = {
    "add": torch.add, "scaled add": lambda a, b: torch.add(a, b, alpha=3), "sub": torch.sub, "rsub": lambda a, b: 2 - a + b,
    "scaled sub": lambda a, b: torch.sub(a, b, alpha=0.5), "mul": torch.mul, "div": torch.div, "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "lerp to the end": lambda a, b: torch.lerp(1e8 * a, b, 1.0),
    "maximum": torch.maximum, "minimum": torch.minimum, "where": lambda a, b: torch.where(a > b, a, 2 * b),
    "logic": lambda a, b: ((a < b) & (a >= 0) | ~(b <= 1)) * a, "eq": lambda a, b: (a == b) * b, "ne": lambda a, b: (a != b) * b,
    "mse": torch.nn.functional.mse_loss, "mse sum": lambda a, b: torch.nn.functional.mse_loss(a, b, reduction="sum"),
    "addcmul": lambda a, b: torch.addcmul(a, a, b), "cat": lambda a, b: torch.cat((a, b), 1), "cat rows": lambda a, b: torch.cat((a, b)),
    "in place": lambda a, b: a.clone().mul_(b).add_(1).clamp_(-1, 1), "clamp by tensors": lambda a, b: torch.clamp(a, b, b + 1),
    "lerp_": lambda a, b: torch._foreach_lerp_([a], [b], 0.25) or a,
    "gradient of products": grad_of(lambda a, b: a * b / (b * b + 1)), "gradient of a loss": grad_of(torch.nn.functional.mse_loss),
    "gradient of a maximum": grad_of(lambda a, b: torch.where(a > b, a * a, b).mean()),
    "gradient of means": grad_of(lambda a, b: (a.mean(0) * b.mean(0) + a.sum() * b.sum(1, keepdim=True)).mean()),
}  # fmt: skip
UNARY = {
    "exp": torch.exp, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "neg": torch.neg, "abs": torch.abs, "square": torch.square,
    "sqrt": lambda a: torch.sqrt(a.abs()), "relu": torch.relu, "pow": lambda a: a**2, "clamp": lambda a: a.clamp(-0.5, 1),
    "clamp below": lambda a: a.clamp(min=0.25), "clamp above": lambda a: a.clamp(max=0.25), "mean": torch.mean, "sum": torch.sum,
    "row sums": lambda a: a.sum(1), "column means": lambda a: a.mean(0, keepdim=True), "amax": lambda a: a.amax(1, keepdim=True),
    "amin": lambda a: a.amin(0), "repeat": lambda a: a.repeat_interleave(3, 0), "transpose": lambda a: a.t().contiguous() + 1,
    "halves": lambda a: a.chunk(2, 1)[-1] * 2, "constants": lambda a: torch.ones_like(a) + torch.zeros_like(a) + a.new_full((1,), 2.0) + torch.full_like(a, 3),
    "gradient of tanh": grad_of(torch.tanh), "gradient of exp": grad_of(torch.exp), "gradient of relu": grad_of(torch.relu),
    "gradient of a clamp": grad_of(lambda a: a.clamp(-0.5, 1) * a), "gradient of products of tanh": grad_of(lambda a: a * torch.tanh(a).square()),
    "gradient of sigmoid": grad_of(torch.sigmoid), "sign": torch.sign, "gradient of abs": grad_of(lambda a: a.abs() * a),
}  # fmt: skip


def matrix(rows, columns, seed, transposed):
    x = torch.randn(columns, rows, generator=torch.Generator().manual_seed(seed))
    return x.t() if transposed else x.t().contiguous()


SHAPES = (st.integers(1, 40), st.integers(1, 40), st.integers(0, 99), st.booleans())


@pytest.mark.parametrize("name", UNARY)
@settings(max_examples=15, deadline=None)
@given(*SHAPES)
def test_unary_operations(name, rows, columns, seed, transposed):
    x = matrix(rows, columns, seed, transposed)
    torch.testing.assert_close(
        replay(UNARY[name], [x]), UNARY[name](x), rtol=1e-5, atol=1e-4 if "sum" in name else 1e-5
    )


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=15, deadline=None)
@given(*SHAPES, st.booleans())
def test_binary_operations(name, rows, columns, seed, transposed, single):
    x = matrix(rows, columns, seed, transposed)
    broadcasts = not name.startswith(("cat", "mse", "gradient", "lerp_"))
    y = matrix(1 if single and broadcasts else rows, columns, seed + 1, False)
    found = replay(BINARY[name], [x, y])
    torch.testing.assert_close(found, BINARY[name](x.clone(), y), rtol=1e-5, atol=1e-5)


def test_three_dimensions_and_more():
    x = torch.randn(4, 3, 5)
    for function in (
        lambda a: a.permute(2, 0, 1) + 1,
        lambda a: a.sum((0, 2)),
        lambda a: a.amax(1),
        lambda a: a.mean((1, 2)),
    ):
        torch.testing.assert_close(replay(function, [x]), function(x))
    with pytest.raises(Unsupported, match="shape"):
        replay(lambda a: a.permute(3, 1, 0, 2).contiguous(), [torch.randn(2, 3, 4, 5)])


def ulps(found, x, exact):
    reference = exact(x.double().numpy())
    spacing = np.spacing(np.abs(reference).astype(np.float32)).astype(np.float64)
    return np.abs(found.double().numpy() - reference) / spacing


@pytest.mark.parametrize(("function", "exact"), [(torch.exp, np.exp), (torch.tanh, np.tanh)])
def test_exponentials_are_exact_to_three_units_in_the_last_place(function, exact):
    x = torch.cat([torch.linspace(-87, 88.7, 200_001), torch.linspace(-1, 1, 100_001), torch.logspace(-30, 0, 10_001)])
    assert ulps(replay(function, [x]), x, exact).max() < 3


def test_special_values():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 89.0, -104.0, 1e30, -1e30])
    for function in (torch.exp, torch.tanh, torch.sign, torch.relu, lambda a: a.clamp(-1, 1), lambda a: -a):
        torch.testing.assert_close(replay(function, [x]), function(x), equal_nan=True, atol=1e-37, rtol=1e-6)
    assert torch.signbit(replay(torch.tanh, [x])[4])
    for function in (torch.maximum, torch.minimum):
        for pair in ([x, torch.ones(9)], [torch.ones(9), x]):
            torch.testing.assert_close(replay(function, pair), function(*pair), equal_nan=True)
    for function in (torch.amax, torch.amin):
        for values in (x, x[1:]):
            torch.testing.assert_close(replay(lambda a, f=function: f(a), [values]), function(values), equal_nan=True)


def test_signs_of_zero_overflowing_constants_and_gradients_of_nan():
    x = torch.tensor([1.0, -2.0, float("nan"), 0.0])
    for function in (lambda a: (a * 0.0 + 1.0) / torch.full((4,), -0.0), lambda a: a * 1e39, grad_of(torch.relu)):
        torch.testing.assert_close(replay(function, [x]), function(x), equal_nan=True)
    with pytest.raises(Unsupported, match="lazily negated"):
        replay(lambda a: torch._neg_view(a) + 1, [x])
