"""A forward whose first input is broadcast computes once what depends on that input alone, and nothing else than before."""

import itertools

import numpy as np
import pytest
import torch
from helpers import needs_two_threads, sparse_twin
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_offline_rl.engines.sparse.engine import KernelEngine
from sparse_offline_rl.engines.sparse.placement import Placement
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.engines.sparse.split import SplitPlan
from sparse_offline_rl.networks.mlp import MLP


def pruned(widths, hidden, outputs, density, seed, linear=()):
    generator = torch.Generator().manual_seed(seed)
    mlp = MLP(sum(widths), hidden, {"out": outputs}, generator)
    names = [f"hidden{i}" for i in range(len(hidden))]
    mlp.name_hidden(names, frozenset(names[i] for i in linear if i < len(names)))
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
    linear=st.sets(st.integers(0, 2)),
)
def test_it_equals_float64_dense(distinct, repeats, widths, hidden, outputs, density, seed, linear):
    mlp = pruned(widths, hidden, outputs, density, seed, linear)
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


def test_gradients_flow_through_broadcast_rows():
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
    monkeypatch.setattr("sparse_offline_rl.engines.sparse.engine.MIN_WORK_FOR_THREADS", 0)
    sparse = sparse_twin(pruned((6, 3), (80, 60), 2, 0.1, 0))
    first, second = torch.randn(distinct, 6), torch.randn(distinct * repeats, 3)
    results = []
    for threads in (1, 2):
        use_threads(threads)
        with torch.no_grad():
            results.append(sparse(first, second))
    assert torch.equal(*results)


def test_nan_of_one_state_stays_in_its_candidates():
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
def test_every_row_has_its_lane(states, candidates, threads):
    placement = Placement(states, candidates, 10, threads)
    assert sorted(set(placement.places.ravel().tolist())) == list(range(states * candidates))
    chunks = placement.chunks(len(placement.blocks))  # a block each
    assert len(chunks) == len(placement.blocks)
    tiles = iter(placement.tiles)
    for block, chunk, sources in zip(placement.blocks, chunks, placement.sources, strict=True):
        for tile in itertools.islice(tiles, chunk.length):
            places = placement.places[tile[1] : tile[1] + tile[0]]
            assert np.array_equal(places // candidates, np.broadcast_to(sources, places.shape))  # no lane needs to move
        first, last = chunk.first_row, chunk.first_row + chunk.rows - 1
        assert {first, last} == {block.first * candidates, (block.first + block.states) * candidates - 1}
    vectors = sum(chunk.vectors for chunk in chunks)
    assert next(tiles, None) is None and vectors == len(placement.places)
    # Hardly more vectors than rows need, whatever is left over in a block.
    assert vectors <= -(-states * candidates // 16) + 3 + states // 16 + candidates // 4
    assert sum(chunk.rows for chunk in placement.chunks(2)) == states * candidates


def test_what_counts_as_state_only():
    """Inputs a b | c; units: of a only, of nothing, of a and c, of c, dead; then one that reads the first two only."""
    first = np.array([[1, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1], [1, 1, 1]], bool)
    second = np.array([[1, 1, 0, 0, 0], [1, 0, 1, 1, 0]], bool)
    last = np.ones((1, 2), bool)
    split = SplitPlan(SparsePlan.from_masks([first, second, last]), 2)
    assert split.state_only_units == [2, 2, 1, 0]
    assert split.candidate_units == [1, 2, 1, 1]
    hidden, middle, output = split.layers
    assert (
        len(hidden.state_only.column),
        len(hidden.sums.column),
        len(hidden.mixed.column),
        len(hidden.unmixed.column),
    ) == (
        1,
        1,
        1,
        1,
    )
    assert (
        len(middle.state_only.column),
        len(middle.sums.column),
        len(middle.mixed.column),
        len(middle.unmixed.column),
    ) == (
        2,
        1,
        2,
        0,
    )
    assert (len(output.state_only.unit), len(output.sums.column), len(output.mixed.column)) == (0, 1, 1)
    assert split.state_only_weights == 6 and split.candidate_weights == 5


def test_rows_that_do_not_divide_the_batch_are_refused():
    engine = KernelEngine(SparsePlan.from_masks([np.ones((2, 5), bool)]))
    for distinct, batch in ((2, 5), (0, 5)):
        with pytest.raises(ValueError, match=f"{distinct} rows cannot stand for equally many of {batch} each"):
            engine.forward_broadcast(0, ((0, 12, 3), (0, 8, 2)), distinct, batch, 0)


def test_candidates_cost_what_their_own_part_costs():
    """Of a network that reads the broadcast input only, nothing is left to do for the candidates."""
    masks = [np.ones((8, 5), bool), np.ones((2, 8), bool)]
    masks[0][:, 3:] = False
    engine = KernelEngine(SparsePlan.from_masks(masks))
    split = SplitPlan(engine.plan, 3)
    assert split.candidate_weights == 0
    values = np.random.default_rng(0).standard_normal(engine.plan.parameter_count).astype(np.float32)
    first, second = np.ones((2, 3), np.float32), np.ones((6, 2), np.float32)
    out = np.empty((6, 2), np.float32)
    spans = ((first.ctypes.data, 12, 3), (second.ctypes.data, 8, 2))
    engine.forward_broadcast(values.ctypes.data, spans, 2, 6, out.ctypes.data)
    full = np.concatenate([first.repeat(3, 0), second], 1)
    np.testing.assert_allclose(out, engine.act(values, full), rtol=1e-5)
