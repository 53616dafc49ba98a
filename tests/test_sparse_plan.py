"""The plan's tables and the NumPy engine, against plain NumPy."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_check import dense_forward

from sparse_offline_rl.engines.sparse.engine import KernelEngine
from sparse_offline_rl.engines.sparse.plan import SparsePlan
from sparse_offline_rl.types import BoolArray


def random_masks(sizes: list[int], density: float, rng: np.random.Generator) -> list[BoolArray]:
    return [rng.random((n_out, n_in)) < density for n_in, n_out in pairwise(sizes)]


def live_by_paths(masks: list[BoolArray]) -> list[set[int]]:
    """Units of each level (inputs first) with a path to the output, by walking every edge."""
    live = [set(range(len(masks[-1])))]
    for mask in reversed(masks):
        live.insert(0, {int(j) for i in live[0] for j in np.flatnonzero(mask[i])})
    return live


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=5),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 1000),
)
def test_tables_describe_the_masks(sizes: list[int], density: float, seed: int) -> None:
    masks = random_masks(sizes, density, np.random.default_rng(seed))
    plan = SparsePlan.from_masks(masks)
    assert plan.parameter_count == sum(int(mask.sum()) + mask.shape[0] for mask in masks)
    assert plan.nnz == sum(int(mask.sum()) for mask in masks)
    for mask, again in zip(masks, plan.masks(), strict=True):
        np.testing.assert_array_equal(mask, again)
    live = live_by_paths(masks)
    for i, layer in enumerate(plan.layers):
        assert (set(layer.live_inputs), set(layer.live_outputs)) == (live[i], live[i + 1])
    used = {int(k) for table in plan.tables for k in np.concatenate([table.column_value, table.bias])}
    assert used | set(plan.dead.tolist()) == set(range(plan.parameter_count))
    assert not used & set(plan.dead.tolist())


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=4),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    batch=st.sampled_from([1, 2, 15, 16, 17, 100, 130]),
    seed=st.integers(0, 1000),
)
def test_act_equals_dense(sizes: list[int], density: float, batch: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = SparsePlan.from_masks(random_masks(sizes, density, rng))
    values = rng.standard_normal(plan.parameter_count).astype(np.float32)
    x = rng.standard_normal((batch, sizes[0])).astype(np.float32)
    out = KernelEngine(plan).act(values, x)
    want = dense_forward(plan, values, x)[-1]
    np.testing.assert_allclose(out, want, rtol=1e-4, atol=1e-4 * (1 + np.abs(want).max()))


def test_act_on_an_empty_batch_is_empty() -> None:
    plan = SparsePlan.from_masks([np.ones((3, 2), bool)])
    assert KernelEngine(plan).act(np.zeros(9, np.float32), np.zeros((0, 2), np.float32)).shape == (0, 3)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([], "at least one"),
        ([np.ones((2, 3))], "boolean"),
        ([np.ones(3, bool)], "boolean matrix"),
        ([np.ones((2, 3), bool), np.ones((1, 4), bool)], "4 inputs but mask 0 has 2 outputs"),
    ],
)
def test_bad_masks_are_refused(masks: list[BoolArray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparsePlan.from_masks(masks)


def test_act_refuses_wrong_sizes() -> None:
    engine = KernelEngine(SparsePlan.from_masks([np.ones((3, 2), bool)]))
    with pytest.raises(ValueError, match="9 parameters"):
        engine.act(np.zeros(8, np.float32), np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match=r"\[B, 2\]"):
        engine.act(np.zeros(9, np.float32), np.zeros((1, 3), np.float32))


def test_copies_share_the_plan_and_pickles_rebuild_it() -> None:
    plan = SparsePlan.from_masks(random_masks([5, 7, 2], 0.4, np.random.default_rng(0)))
    assert copy.deepcopy(plan) is plan
    again = pickle.loads(pickle.dumps(plan))
    for mask, other in zip(plan.masks(), again.masks(), strict=True):
        np.testing.assert_array_equal(mask, other)


def test_acting_needs_no_torch() -> None:
    code = (
        "import sys, numpy as np\n"
        "from sparse_offline_rl.engines.sparse.engine import KernelEngine\n"
        "from sparse_offline_rl.engines.sparse.plan import SparsePlan\n"
        "plan = SparsePlan.from_masks([np.ones((2, 3), bool)])\n"
        "KernelEngine(plan).act(np.ones(8, np.float32), np.ones((1, 3), np.float32))\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
