"""Changes of masks while training, as a run makes them, on random standardised data."""

from __future__ import annotations

from collections.abc import Sequence

from sparse_offline_rl.benchmarks.contestant import Contestant
from sparse_offline_rl.benchmarks.contestants.agents import random_buffer, spaces
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.seeding import generator
from sparse_offline_rl.training.active import put_on_engine
from sparse_offline_rl.training.mask_changes import MaskChanges
from sparse_offline_rl.training.process import prepare_process


class _Run:
    """A run that changes its masks whenever it is told to."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._config, buffer = config_of(overrides), random_buffer()
        prepare_process(self._config.threads)
        self._masks = MaskChanges(self._config, spaces(), buffer)
        begin = self._masks.start()
        self._memory, self._active = begin.memory, put_on_engine(self._config, spaces(), begin.state)
        self._draws, self._sample = generator(0, "train"), buffer.sampler(self._config.batch_size)
        self._moment = self._config.prune.model_dump().get("every", 0)  # at which all methods drop and grow

    def change(self) -> None:
        """Everything that lies between two updates."""
        change = self._masks.change(self._moment, self._active.agent.state(), self._memory)
        self._memory = change.memory
        self._active = put_on_engine(self._config, spaces(), change.state, before=self._active)

    def update(self) -> None:
        """One update with its batch; after a change the update is recorded first."""
        self._active.update(self._sample(self._draws), self._draws)


def change(overrides: Sequence[str]) -> Contestant:
    """A change of all networks, with the update after it, which is recorded anew."""
    run = _Run(overrides)

    def step() -> None:
        run.change()
        run.update()

    return Contestant(step)


def training(overrides: Sequence[str], updates: int) -> Contestant:
    """``updates`` updates after a change."""
    run = _Run(overrides)

    def step() -> None:
        run.change()
        for _ in range(updates):
            run.update()

    return Contestant(step)
