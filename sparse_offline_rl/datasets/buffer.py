"""The replay buffer: the whole dataset in one tensor, so that a batch is one gather."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.datasets.shared_rows import shared
from sparse_offline_rl.datasets.transitions import Transitions
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.types import Batch


class ReplayBuffer:
    """N transitions as one float32 tensor ``[N, S + A + 1 + S + 1]`` on ``device``, observations already normalised.

    On the CPU, large ones are shared with other runs on the same data (:func:`~sparse_offline_rl.datasets.shared_rows.shared`).
    """

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
        checksum = zlib.crc32(rows.data)
        self.fingerprint = f"{len(rows)} rows, crc32 {checksum:08x}"  # tells whether a resumed run has the same data
        if torch.device(device).type == "cpu":
            rows = shared(rows, checksum)
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

    def sampler(self, batch_size: int) -> Sampler:
        """Draws batches of ``batch_size`` transitions."""
        return Sampler(self._rows, self._sizes, batch_size)


class Sampler:
    """Draws batches, uniform with replacement, always into the same tensors: making new ones took longer than gathering."""

    def __init__(self, rows: Tensor, sizes: Sequence[int], batch_size: int) -> None:
        self._rows = rows
        self._index = torch.empty(batch_size, dtype=torch.long, device=rows.device)
        self._drawn = rows.new_empty(batch_size, rows.shape[1])
        self._batch = Batch(*self._drawn.split(list(sizes), dim=1))

    def __call__(self, generator: torch.Generator) -> Batch:
        """The next batch, which takes the place of the last one; ``generator`` lives on the device of the rows."""
        self._index.random_(len(self._rows), generator=generator)
        torch.index_select(self._rows, 0, self._index, out=self._drawn)
        return self._batch
