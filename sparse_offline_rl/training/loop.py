"""The training loop, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sparse_offline_rl.agents.base import Metrics
from sparse_offline_rl.training.clock import working_time


@dataclass(frozen=True)
class Schedule:
    """After which updates something happens; the last update always logs, evaluates and saves."""

    updates: int
    log_every: int
    eval_every: int
    checkpoint_every: int

    def due(self, every: int, update: int) -> bool:
        """Whether something that happens every ``every`` updates happens after ``update``."""
        return update % every == 0 or update == self.updates


@dataclass
class Clock:
    """Where the time went, over all sessions of a run, in seconds without those of the compiler."""

    train: float = 0.0
    evaluate: float = 0.0


@dataclass(frozen=True)
class Hooks:
    """What the loop calls; each gets the number of updates done."""

    ends_level: Callable[[int], bool]  # whether to evaluate before the masks change
    change_masks: Callable[[int], None]  # where they are to change now
    evaluate: Callable[[int], dict[str, float]]
    log: Callable[[int, Metrics, dict[str, float]], None]
    save: Callable[[int], None]
    should_stop: Callable[[], bool]


def train(step: Callable[[], Metrics], schedule: Schedule, hooks: Hooks, clock: Clock, start: int = 0) -> int:
    """Run updates ``start + 1 … schedule.updates``; returns the last one done, earlier if ``should_stop`` said so."""
    for update in range(start + 1, schedule.updates + 1):
        begin = working_time()
        metrics = step()
        clock.train += working_time() - begin

        evaluation: dict[str, float] = {}
        if update < schedule.updates:
            if hooks.ends_level(update):
                evaluation = _evaluate(hooks, clock, update)
            begin = working_time()
            hooks.change_masks(update)
            clock.train += working_time() - begin
        if not evaluation and schedule.due(schedule.eval_every, update):
            evaluation = _evaluate(hooks, clock, update)
        if evaluation or schedule.due(schedule.log_every, update):
            hooks.log(update, metrics, evaluation)
        stop = hooks.should_stop()
        if stop or schedule.due(schedule.checkpoint_every, update):
            hooks.save(update)
        if stop:
            return update
    return schedule.updates


def _evaluate(hooks: Hooks, clock: Clock, update: int) -> dict[str, float]:
    begin = working_time()
    evaluation = hooks.evaluate(update)
    clock.evaluate += working_time() - begin
    return evaluation
