"""A forward whose first input is repeated computes once what depends on that input alone, and nothing else than before."""

import numpy as np
import pytest
import torch
from helpers import needs_two_threads, sparse_twin
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_offline_rl.engines.sparse.engine import KernelEngine
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.engines.sparse.repeats import Layout
from sparse_offline_rl.engines.sparse.split import SplitPlan
from sparse_offline_rl.networks.mlp import MLP


def pruned(widths, hidden, outputs, density, seed):
    generator = torch.Generator().manual_seed(seed)
    mlp = MLP(sum(widths), hidden, {"out": outputs}, generator)
    for layer in mlp.layers().values():
        layer.set_mask(torch.rand(layer.weight.shape, generator=generator) < density)
    return mlp


@settings(deadline=None, max_examples=150)
@given(
    distinct=st.integers(1, 40),
    repeats=st.integers(2, 20),
    widths=st.tuples(st.integers(0, 20), st.integers(1, 20)) | st.tuples(*[st.integers(1, 6)] * 3),
    hidden=st.lists(st.integers(1, 40), max_size=3),
    outputs=st.integers(1, 20),
    density=st.sampled_from([0.0, 0.03, 0.1, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_it_equals_float64_dense(distinct, repeats, widths, hidden, outputs, density, seed):
    mlp = pruned(widths, hidden, outputs, density, seed)
    sparse = sparse_twin(mlp)
    rows = (distinct, *[distinct * repeats] * (len(widths) - 1))
    inputs = [torch.randn(n, width) for n, width in zip(rows, widths, strict=True)]
    with torch.no_grad():
        out = sparse(*inputs)
        double = [x.double() for x in inputs]
        want = mlp.double()(double[0].repeat_interleave(repeats, 0), *double[1:])
        torch.testing.assert_close(mlp(*double), want)
    torch.testing.assert_close(out.double(), want, rtol=1e-4, atol=1e-4)


def test_inputs_with_strides_and_of_any_number():
    mlp = pruned((4, 2, 3, 2), (40, 30), 5, 0.3, 0)
    sparse = sparse_twin(mlp)
    wide = torch.randn(60, 20)
    for inputs in (
        (wide[:20, 3:10], wide[:, 10:14]),  # views of rows
        (wide[:20, :7].t().contiguous().t(), wide[:, :4]),  # columns contiguous
        (wide[:3, :4], wide[:, 4:6], wide[:, 6:9], wide[:, 9:11]),  # more than the kernels take
        (wide[:0, :7], wide[:0, :4]),
    ):
        with torch.no_grad():
            torch.testing.assert_close(sparse(*inputs), mlp(*inputs), rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_repeated_rows():
    mlp = pruned((6, 3), (40, 30), 2, 0.3, 0)
    sparse = sparse_twin(mlp)
    results = []
    for network in (mlp, sparse):
        first, second = (torch.ones(n, width).cumsum(0).requires_grad_() for n, width in ((4, 6), (12, 3)))
        results.append(torch.autograd.grad(network(first, second).square().sum(), [first, second]))
    for want, found in zip(*results, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-3)


@needs_two_threads
@pytest.mark.parametrize(("distinct", "repeats"), [(100, 10), (7, 9), (3, 100), (1, 300), (33, 2)])
def test_the_same_bits_on_one_thread_and_on_two(use_threads, monkeypatch, distinct, repeats):
    monkeypatch.setattr("sparse_offline_rl.engines.sparse.engine._WORTH_A_THREAD", 0)
    sparse = sparse_twin(pruned((6, 3), (80, 60), 2, 0.1, 0))
    first, second = torch.randn(distinct, 6), torch.randn(distinct * repeats, 3)
    results = []
    for threads in (1, 2):
        use_threads(threads)
        with torch.no_grad():
            results.append(sparse(first, second))
    assert torch.equal(*results)


def test_nan_of_one_row_stays_in_its_repeats():
    sparse = sparse_twin(pruned((6, 3), (40, 30), 2, 0.5, 0))
    first, second = torch.randn(20, 6), torch.randn(100, 3)
    with torch.no_grad():
        clean = sparse(first, second)
        first[7] = float("nan")
        second[3, 0] = float("inf")
        found = sparse(first, second)
    touched = torch.zeros(100, dtype=torch.bool)
    touched[35:40] = touched[3] = True
    assert torch.equal(found[~touched], clean[~touched])
    assert not bool(found[35:40].isfinite().any())


@given(st.integers(1, 100), st.integers(1, 120), st.integers(1, 3))
def test_every_row_has_its_lane(distinct, repeats, threads):
    layout = Layout(distinct, repeats, 10, threads)
    assert sorted(set(layout.places.ravel().tolist())) == list(range(distinct * repeats))
    vectors = 0
    for i, block in enumerate(layout.blocks):
        sources = layout.sources[i]
        for tile in layout.tiles_of(range(i, i + 1)):
            places = layout.places[tile[1] : tile[1] + tile[0]]
            assert np.array_equal(places // repeats, np.broadcast_to(sources, places.shape))  # no lane needs to move
            vectors += int(tile[0])
        first, count = layout.rows_of(range(i, i + 1))
        assert {first, first + count - 1} == {block.first * repeats, (block.first + block.rows) * repeats - 1}
    assert vectors == len(layout.places)
    # Hardly more vectors than rows need, whatever is left over in a block.
    assert vectors <= -(-distinct * repeats // 16) + 3 + distinct // 16 + repeats // 4


def test_what_counts_as_shared():
    """Inputs a b | c; units: of a only, of nothing, of a and c, of c, dead; then one that reads the first two only."""
    first = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1], [1, 1, 1]], bool)
    second = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0]], bool)
    last = np.ones((1, 2), bool)
    split = SplitPlan(SparsePlan.from_masks([first, second, last]), 2)
    assert split.shared_units == [2, 2, 1, 0]
    assert split.own_units == [1, 2, 1, 1]
    hidden, middle, output = split.layers
    assert (len(hidden.shared.column), len(hidden.sums.column), len(hidden.begun.column), len(hidden.fresh.column)) == (
        1,
        1,
        1,
        1,
    )
    assert (len(middle.shared.column), len(middle.sums.column), len(middle.begun.column), len(middle.fresh.column)) == (
        2,
        1,
        2,
        0,
    )
    assert (len(output.shared.unit), len(output.sums.column), len(output.begun.column)) == (0, 1, 1)
    assert split.shared_weights == 6 and split.own_weights == 5


def test_rows_that_no_repeats_make_are_refused():
    engine = KernelEngine(SparsePlan.from_masks([np.ones((2, 5), bool)]))
    for distinct, batch in ((2, 5), (0, 5)):
        with pytest.raises(ValueError, match=f"{distinct} rows cannot stand for equally many of {batch} each"):
            engine.forward_repeated(0, ((0, 12, 3), (0, 8, 2)), distinct, batch, 0)


def test_repeats_cost_what_the_own_part_costs():
    """Of a network that reads the repeated input only, nothing is left to do for the repeats."""
    masks = [np.ones((8, 5), bool), np.ones((2, 8), bool)]
    masks[0][:, 3:] = False
    engine = KernelEngine(SparsePlan.from_masks(masks))
    split = SplitPlan(engine.plan, 3)
    assert split.own_weights == 0
    values = np.random.default_rng(0).standard_normal(engine.plan.parameter_count).astype(np.float32)
    first, second = np.ones((2, 3), np.float32), np.ones((6, 2), np.float32)
    out = np.empty((6, 2), np.float32)
    spans = ((first.ctypes.data, 12, 3), (second.ctypes.data, 8, 2))
    engine.forward_repeated(values.ctypes.data, spans, 2, 6, out.ctypes.data)
    full = np.concatenate([first.repeat(3, 0), second], 1)
    np.testing.assert_allclose(out, engine.act(values, full), rtol=1e-5)
