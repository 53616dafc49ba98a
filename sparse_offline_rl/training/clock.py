"""The clock of training: seconds of work, whatever the compiler took."""

from __future__ import annotations

import sys
import time


def working_time() -> float:
    """Seconds by a clock that stands still while kernels are compiled, which a machine does once and then keeps on its disk."""
    compilation = sys.modules.get(
        "sparse_offline_rl.compilation"
    )  # absent where nothing was compiled, as without Numba
    compiled: float = compilation.seconds_compiling() if compilation else 0.0
    return time.perf_counter() - compiled
