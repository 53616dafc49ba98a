"""The replay buffer: the whole dataset in one tensor, so that a batch is one gather."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.datasets.transitions import Transitions
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.types import Batch


class ReplayBuffer:
    """N transitions as one float32 tensor ``[N, S + A + 1 + S + 1]`` on ``device``, observations already normalised."""

    def __init__(
        self, transitions: Transitions, normalization: Normalization, device: str | torch.device = "cpu"
    ) -> None:
        dim, actions = transitions.observations.shape[1], transitions.actions.shape[1]
        self._sizes = (dim, actions, 1, dim, 1)
        rows = np.empty((len(transitions), sum(self._sizes)), np.float32)
        ends = np.cumsum(self._sizes)
        rows[:, : ends[0]] = normalization.apply(transitions.observations)
        rows[:, ends[0] : ends[1]] = transitions.actions
        rows[:, ends[1]] = transitions.rewards
        rows[:, ends[2] : ends[3]] = normalization.apply(transitions.next_observations)
        rows[:, ends[3]] = transitions.terminated
        self.fingerprint = (
            f"{len(rows)} rows, crc32 {zlib.crc32(rows.data):08x}"  # tells whether a resumed run has the same data
        )
        self._rows = torch.from_numpy(rows).to(device)

    def __len__(self) -> int:
        return len(self._rows)

    def require(self, batch_size: int, key: str) -> None:
        """Raise :class:`UserError` naming ``key`` when the dataset is smaller than a batch of ``batch_size``."""
        if batch_size > len(self):
            raise UserError(
                f"{key}={batch_size} is larger than the dataset, which has {len(self)} transitions: "
                f"set {key} to at most {len(self)} or use a larger dataset."
            )

    def sample(self, generator: torch.Generator, batch_size: int) -> Batch:
        """``batch_size`` transitions, uniform with replacement; ``generator`` lives on the buffer's device.

        The fields are views of the gathered rows.
        """
        index = torch.randint(len(self), (batch_size,), generator=generator, device=self._rows.device)
        return Batch(*self._rows.index_select(0, index).split(self._sizes, dim=1))
