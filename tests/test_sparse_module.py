"""SparseMLP: the same numbers as the dense masked MLP, through torch."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import needs_two_threads, sparse_twin
from torch import Tensor

from sparse_offline_rl.engines.sparse.available import engine_factory
from sparse_offline_rl.engines.sparse.module import SparseMLP, set_threads
from sparse_offline_rl.networks.mlp import MLP

BATCHES = [1, 15, 16, 17, 63, 64, 65, 100, 112, 113, 1000]


def pruned_mlp(density: float, seed: int = 0, hidden: tuple[int, ...] = (40, 30), linear: tuple[str, ...] = ()) -> MLP:
    generator = torch.Generator().manual_seed(seed)
    mlp = MLP(9, hidden, {"mean": 4, "log_std": 2}, generator)
    mlp.name_hidden([f"hidden{i}" for i in range(len(hidden))], frozenset(linear))
    for layer in mlp.layers().values():
        layer.set_mask(torch.rand(layer.weight.shape, generator=generator) < density)
    return mlp


def inputs(batch: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 6, generator=generator), torch.randn(batch, 3, generator=generator)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("linear", [(), ("hidden0",), ("hidden0", "hidden1")])
def test_forward_and_gradients_equal_float64_dense(batch: int, density: float, linear: tuple[str, ...]) -> None:
    mlp = pruned_mlp(density, linear=linear)
    sparse = sparse_twin(mlp)
    a, b = inputs(batch)
    a.requires_grad_()
    b.requires_grad_()
    out = sparse(a, b)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
    got = torch.autograd.grad((out * weight).sum(), [sparse.values, a, b])
    exact = mlp.double()
    x, y = a.detach().double().requires_grad_(), b.detach().double().requires_grad_()
    want_out = exact(x, y)
    parameters = list(exact.parameters())
    *want, want_x, want_y = torch.autograd.grad((want_out * weight).sum(), [*parameters, x, y])
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(out.double(), want_out, **close)
    torch.testing.assert_close(got[0].double(), torch.from_numpy(mlp.pack(want)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got[1].double(), want_x, **close)
    torch.testing.assert_close(got[2].double(), want_y, **close)
    with torch.no_grad():
        torch.testing.assert_close(sparse(a, b), out, rtol=1e-5, atol=1e-5)


def gradients(sparse: SparseMLP, batch: int) -> list[Tensor]:
    a, b = (x.requires_grad_() for x in inputs(batch))
    out = sparse(a, b)
    return [out, *torch.autograd.grad(out.square().sum(), [sparse.values, a, b])]


@pytest.mark.parametrize("batch", [17, 100, 1000])
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=needs_two_threads)])
def test_repeated_calls_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, use_threads: Callable[[int], None], batch: int, threads: int
) -> None:
    monkeypatch.setattr("sparse_offline_rl.engines.sparse.engine.MIN_WORK_FOR_THREADS", 0)
    sparse = sparse_twin(pruned_mlp(0.3))
    use_threads(threads)
    for first, second in zip(gradients(sparse, batch), gradients(sparse, batch), strict=True):
        assert torch.equal(first, second)


@needs_two_threads
@pytest.mark.parametrize("batch", [17, 100, 113, 1000])
def test_threads_change_only_the_last_bits_of_weight_gradients(
    monkeypatch: pytest.MonkeyPatch, use_threads: Callable[[int], None], batch: int
) -> None:
    monkeypatch.setattr("sparse_offline_rl.engines.sparse.engine.MIN_WORK_FOR_THREADS", 0)
    sparse = sparse_twin(pruned_mlp(0.3))
    one = gradients(sparse, batch)
    use_threads(2)
    two = gradients(sparse, batch)
    for i in (0, 2, 3):
        assert torch.equal(one[i], two[i])
    torch.testing.assert_close(one[1], two[1], rtol=1e-4, atol=1e-4 * float(one[1].abs().max()))


@pytest.mark.parametrize("count", [0, 10_000])
def test_impossible_thread_counts_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="threads must be"):
        set_threads(count)


def test_deepcopy_shares_the_plan_and_copies_the_values() -> None:
    sparse = sparse_twin(pruned_mlp(0.3))
    target = copy.deepcopy(sparse)
    assert target.plan is sparse.plan and target.engine is sparse.engine
    with torch.no_grad():
        sparse.values.zero_()
    assert bool(target.values.any())


def test_state_dict_and_pickle_round_trip() -> None:
    sparse, other = sparse_twin(pruned_mlp(0.3)), sparse_twin(pruned_mlp(0.3))
    with torch.no_grad():
        other.values.zero_()
    other.load_state_dict(sparse.state_dict())
    assert list(sparse.state_dict()) == ["values"] and torch.equal(other.values, sparse.values)
    file = io.BytesIO()
    torch.save(sparse, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(*inputs(20)), sparse(*inputs(20)))


def test_several_forwards_before_a_backward() -> None:
    sparse = sparse_twin(pruned_mlp(0.3))
    x, y = inputs(100), inputs(100, seed=5)
    first, second = sparse(*x), sparse(*y)
    got = torch.autograd.grad(first.sum() - second.square().sum(), sparse.values)[0]
    want = torch.autograd.grad(sparse(*x).sum(), sparse.values)[0]
    want = want - torch.autograd.grad(sparse(*y).square().sum(), sparse.values)[0]
    torch.testing.assert_close(got, want)


def test_a_second_backward_says_what_to_do() -> None:
    loss = sparse_twin(pruned_mlp(0.3))(*inputs(20)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="run the forward again"):
        loss.backward()


def test_frozen_parameters_still_pass_input_gradients() -> None:
    mlp = pruned_mlp(0.3)
    sparse = sparse_twin(mlp).requires_grad_(False)
    a, b = inputs(100)
    b.requires_grad_()
    torch.autograd.backward(sparse(a, b).square().sum())
    want = torch.autograd.grad(mlp(a, b).square().sum(), b)[0]
    assert b.grad is not None and sparse.values.grad is None
    torch.testing.assert_close(b.grad, want, rtol=1e-4, atol=1e-4)


def test_dead_parameters_have_exactly_zero_gradient() -> None:
    mlp = pruned_mlp(0.05)
    sparse = sparse_twin(mlp)
    assert len(sparse.plan.dead) > 0
    gradient = gradients(sparse, 100)[1]
    assert not bool(gradient[torch.from_numpy(sparse.plan.dead).long()].any())


def test_inputs_in_any_layout() -> None:
    mlp = pruned_mlp(0.3)
    sparse = sparse_twin(mlp)
    wide = torch.randn(40, 30)
    column = torch.randn(6, 40).t()
    expanded = torch.randn(1, 3).expand(40, 3)
    torch.testing.assert_close(sparse(wide[:, 5:11], wide[:, 20:23]), mlp(wide[:, 5:11], wide[:, 20:23]))
    torch.testing.assert_close(sparse(column, expanded), mlp(column, expanded))
    five = [wide[:, 2 * i : 2 * i + 2] for i in range(4)] + [wide[:, 8:9]]
    torch.testing.assert_close(sparse(*five), mlp(*five))
    torch.testing.assert_close(sparse(wide[:, :9][::2]), mlp(wide[:, :9][::2]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_empty_batch_and_other_dtypes_take_the_dense_path(dtype: torch.dtype) -> None:
    mlp = pruned_mlp(0.3).to(dtype)
    sparse = sparse_twin(pruned_mlp(0.3)).to(dtype)
    empty = torch.zeros(0, 9, dtype=dtype)
    assert sparse(empty).shape == (0, 6)
    gradient = torch.autograd.grad(sparse(empty).sum(), sparse.values)[0]
    assert not bool(gradient.any())
    x = torch.randn(5, 9, dtype=dtype)
    torch.testing.assert_close(sparse(x), mlp(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shapes", [[(4, 8)], [(4, 6), (4, 4)], [(9,)]])
def test_wrong_shapes_name_the_sizes(shapes: list[tuple[int, ...]]) -> None:
    sparse = sparse_twin(pruned_mlp(0.3))
    with pytest.raises(ValueError, match="9 columns together"):
        sparse(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize(
    "shapes", [[(4, 6), (5, 3)], [(6, 6), (3, 3)], [(0, 6), (3, 3)], [(3, 6), (0, 3)], [(2, 4), (4, 3), (2, 2)]]
)
def test_rows_that_do_not_fit_are_refused(shapes: list[tuple[int, ...]]) -> None:
    for network in (pruned_mlp(0.3), sparse_twin(pruned_mlp(0.3))):
        for grad in (True, False):
            with (
                torch.set_grad_enabled(grad),
                pytest.raises(ValueError, match="first may have a whole part of the rows"),
            ):
                network(*(torch.zeros(shape) for shape in shapes))


def test_a_collapsed_network_trains_its_output_bias() -> None:
    sparse = sparse_twin(pruned_mlp(0.0))
    optimizer = torch.optim.Adam(sparse.parameters(), lr=0.1)
    target = torch.arange(6.0)
    for _ in range(300):
        optimizer.zero_grad()
        (sparse(*inputs(32)) - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(sparse(*inputs(3))[0], target, rtol=0.05, atol=0.05)


def test_nan_passes_as_it_does_through_relu() -> None:
    sparse = sparse_twin(pruned_mlp(1.0))
    a, b = inputs(20)
    a[3, 2] = float("nan")
    with torch.no_grad():
        out = sparse(a, b)
    assert bool(out[3].isnan().all()) and not bool(out[[0, 1, 2, 4]].isnan().any())


def test_the_values_are_the_survivors_of_the_mlp() -> None:
    mlp = pruned_mlp(0.3)
    sparse = sparse_twin(mlp)
    vector = mlp.packed_values()
    assert np.array_equal(sparse.packed_values(), vector)
    sparse.packed_values()[:] = 0  # a copy
    assert np.array_equal(sparse.values.detach().numpy(), vector)
    unpacked = mlp.unpack(sparse.packed_values())
    assert all(torch.equal(a, b) for a, b in zip(unpacked, mlp.parameters(), strict=True))


@pytest.mark.parametrize("broken", ["import", "compile"])
def test_without_kernels_one_warning_and_the_same_numbers(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    mlp = pruned_mlp(0.3)
    want = gradients(sparse_twin(mlp), 20)
    if broken == "import":
        monkeypatch.setitem(sys.modules, "sparse_offline_rl.engines.sparse.engine", None)
    else:
        monkeypatch.setattr("sparse_offline_rl.engines.sparse.engine.KernelEngine.act", lambda *_: 1 // 0)
    engine_factory.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="sparse kernels are not available") as caught:
            fallback = sparse_twin(mlp)
            sparse_twin(mlp)
            set_threads(1)
        assert len(caught) == 1 and fallback.engine is None
        for ours, theirs in zip(gradients(fallback, 20), want, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    finally:
        engine_factory.cache_clear()
