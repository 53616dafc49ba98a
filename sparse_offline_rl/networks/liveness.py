"""Which units of a pruned MLP can still learn. NumPy only: acting, which imports no torch, needs it too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparse_offline_rl.types import BoolArray


def live_units(masks: Sequence[BoolArray]) -> list[BoolArray]:
    """Whether each input, then each unit of every layer, has a path to the output; a hidden unit that has none is dead.

    ``masks`` ``[out, in]`` go from input to output, several heads stacked as one last mask. The gradient of everything that a
    dead unit reads with, and of its bias, is zero for ever.
    """
    live: list[BoolArray] = [np.ones(masks[-1].shape[0], bool)]
    for mask in reversed(masks):
        live.insert(0, np.any(mask[live[0]], axis=0))
    return live
