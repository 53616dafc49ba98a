"""Prune offline-RL agents before training, and make the sparsity pay.

``load_policy`` opens a trained policy for acting; neither it nor this package imports torch before training is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparse_offline_rl.policy.runtime import Policy, load_policy

__all__ = ["Policy", "__version__", "load_policy"]

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("sparse-offline-rl")
    if name in __all__:
        from sparse_offline_rl.policy import runtime

        return getattr(runtime, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
