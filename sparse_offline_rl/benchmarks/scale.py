"""How much a benchmark measures: everything, or just enough to see that it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scale:
    """Repetitions, grids and sizes of all sections."""

    rounds: int  # interleaved repetitions; their median counts
    seconds: float  # length of one repetition
    sparsities: tuple[float, ...]
    densities: tuple[float, ...]  # of the engine crossover
    threads: tuple[int, ...]
    agents: tuple[str, ...]
    batches: tuple[int, ...]  # of the single layer
    layer: int  # width of the single layer
    widths: tuple[int, ...]  # factors on the hidden widths, at constant survivors
    starts: int  # repetitions of what needs a fresh process each time
    memory_updates: int  # updates before the peak is read
    side_by_side: tuple[int, ...]  # runs at once whose memory is read
    transitions: int  # of the dataset that they share
    updates_a_change: int  # from one change of masks to the next
    episodes: int
    candidates: int = 10  # BCQ's actions per next state
    hidden: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {"actor": (400, 300), "critic": (400, 300), "vae": (750, 750)}
    )

    def overrides(self, factor: int = 1) -> list[str]:
        """The hidden widths, times ``factor``, as overrides of the training configuration."""
        return [
            f"agent.{key}_hidden={[factor * n for n in sizes]}".replace(" ", "") for key, sizes in self.hidden.items()
        ]


FULL = Scale(
    rounds=7,
    seconds=0.6,
    sparsities=(0.8, 0.9, 0.95, 0.98, 0.99),
    densities=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7),
    threads=(1, 2),
    agents=("bcq", "bc"),
    batches=(1024, 128),
    layer=750,
    widths=(1, 2, 4),
    starts=3,
    memory_updates=100,
    side_by_side=(1, 4, 8),
    transitions=1_000_000,
    updates_a_change=1000,
    episodes=10,
)
QUICK = Scale(
    rounds=2,
    seconds=0.1,
    sparsities=(0.95,),
    densities=(0.05, 0.5),
    threads=(1,),
    agents=("bcq",),
    batches=(128,),
    layer=750,
    widths=(1, 2),
    starts=1,
    memory_updates=5,
    side_by_side=(1, 2),
    transitions=120_000,
    updates_a_change=10,
    episodes=1,
)
