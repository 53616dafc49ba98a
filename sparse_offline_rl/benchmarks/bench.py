"""What every section is given: the scale, the races, and the entries that several sections share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sparse_offline_rl.benchmarks.race import Entry, Outcome, race
from sparse_offline_rl.benchmarks.results import Cell, Table
from sparse_offline_rl.benchmarks.scale import Scale

OBSERVATIONS, ACTIONS, BATCH = 17, 6, 100  # HalfCheetah and the paper's batch
TRANSITION_NUMBERS = 2 * OBSERVATIONS + ACTIONS + 2  # state, action, next state, reward, whether it ended
Measure = Callable[["Bench"], list[Table]]


@dataclass(frozen=True)
class Bench:
    """One call of the benchmark."""

    scale: Scale
    peers: str  # interpreter of the libraries that are not ours
    say: Callable[[str], None]

    def race(self, lines: Mapping[str, Sequence[Entry]], each: bool = False) -> dict[str, Outcome]:
        """Time ``lines`` against each other."""
        self.say(f"  timing {len(lines)} contestants in turn")
        return self._told(race(lines, self.scale.rounds, self.scale.seconds, each))

    def once(self, lines: Mapping[str, Sequence[Entry]]) -> dict[str, Outcome]:
        """Start ``lines`` one after the other and ask for their facts."""
        self.say(f"  asking {len(lines)} contestants")
        return self._told(race(lines, 0, 0.0, at_once=False))

    def _told(self, outcomes: dict[str, Outcome]) -> dict[str, Outcome]:
        for name, outcome in outcomes.items():
            if outcome.missing:
                self.say(f"  no figure for {name}: {outcome.missing}")
        return outcomes

    def overrides(
        self, agent: str, engine: str, sparsity: float, threads: int = 1, factor: int = 1, prune: str = "snip"
    ) -> list[str]:
        """The training configuration of one setting; ``factor`` multiplies the hidden widths."""
        overrides = [
            f"agent={agent}",
            f"agent.target_candidates={self.scale.candidates}",
            f"engine={engine}",
            f"threads={threads}",
            f"batch_size={BATCH}",
            *self.scale.overrides(factor),
        ]
        return [*overrides, f"prune={prune}", f"sparsity={sparsity!r}"] if sparsity else overrides

    def training(self, agent: str, engine: str, sparsity: float, threads: int = 1, core: int = 0) -> Entry:
        """Whole updates at one setting."""
        return Entry("agents:training", {"overrides": self.overrides(agent, engine, sparsity, threads)}, threads, core)


def ratio(value: float | None, reference: float | None) -> Cell:
    """``value / reference``, or nothing."""
    return value / reference if value and reference else None


def best_rate(*outcomes: Outcome) -> float | None:
    """The highest rate of those that have one."""
    return max((outcome.rate for outcome in outcomes if outcome.rate is not None), default=None)


def remark(outcome: Outcome) -> dict[str, Cell]:
    """The column that says why a row has no figures."""
    return {"remark": outcome.missing} if outcome.missing else {}
