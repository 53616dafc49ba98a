"""Whether the sparse kernels can be used in this process. Needs no torch: policies act without it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from sparse_offline_rl.engines.sparse.plan import SparsePlan

if TYPE_CHECKING:
    from sparse_offline_rl.engines.sparse.engine import KernelEngine


@functools.cache
def engine_factory() -> Callable[[SparsePlan], KernelEngine] | None:
    """The constructor of kernel engines, or None, after one warning, where Numba cannot be imported or cannot compile."""
    try:
        from sparse_offline_rl.engines.sparse.engine import KernelEngine

        plan = SparsePlan.from_masks([np.ones((1, 1), bool)])
        KernelEngine(plan).act(np.ones(2, np.float32), np.ones((2, 1), np.float32))
    except Exception as error:
        warnings.warn(
            f"the sparse kernels are not available ({type(error).__name__}: {next(iter(str(error).splitlines()), '')}); sparse networks run on dense "
            "matrices: the same results, but no faster than dense ones. Reinstall numba to get the speed.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return KernelEngine
