"""Rewards on a scale that does not depend on the environment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.datasets.transitions import Transitions
from sparse_offline_rl.errors import UserError

_RANGE = 1000.0  # between the smallest and the largest return, as IQL's authors have it


def scale_rewards(transitions: Transitions) -> Transitions:
    """Divide rewards by the range of the episodes' returns, times 1000 (Kostrikov et al. 2021, appendix B).

    Episodes end where a transition terminated or was truncated, and at the end of the data. Raises UserError if all episodes have
    the same return.
    """
    returns = np.add.reduceat(transitions.rewards.astype(np.float64), _starts(transitions))
    spread = float(returns.max() - returns.min())
    if spread <= 0:
        raise UserError(
            f"agent.rewards=return_range: all {len(returns)} episodes of the dataset have the return {returns[0]:g}, so there is "
            "no range to scale by: use agent.rewards=raw."
        )
    return replace(transitions, rewards=(transitions.rewards * (_RANGE / spread)).astype(np.float32))


def mean_return(transitions: Transitions) -> float | None:
    """Mean undiscounted return of the whole episodes: what the policy that made the data earns. None without a whole one.

    An episode that the end of the data cuts off does not count. (The last one of each policy in a generated dataset does: it is
    marked as truncated.)
    """
    starts = _starts(transitions)
    returns = np.add.reduceat(transitions.rewards.astype(np.float64), starts)
    if not (transitions.terminated[-1] or transitions.truncated[-1]):
        returns = returns[:-1]
    return float(returns.mean()) if len(returns) else None


def _starts(transitions: Transitions) -> NDArray[np.int64]:
    """The first row of each episode."""
    ends = np.flatnonzero(transitions.terminated | transitions.truncated) + 1
    return np.unique([0, *ends[ends < len(transitions)]])
