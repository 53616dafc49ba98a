"""Steps to a fixed loss over batch size and sparsity, and the Lipschitz constant of the gradient on the way, as CSVs and figure.

``python scripts/batch_study.py out=results/batch`` repeats the study of Lee et al. (2021, "Understanding the effects of data
parallelism and sparsity on neural network training") on BC's VAE. The loss is the VAE's own on transitions that it does not train on,
with its noise frozen. Each cell has its own learning rate: the one of a grid that gets there first. The same command goes on where it
was stopped.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.main import run_main
from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.buffer import ReplayBuffer, Sampler
from sparse_offline_rl.datasets.load import load_dataset
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import read_csv, read_json, write_bytes, write_csv, write_json
from sparse_offline_rl.reports.drawing import plain_log_ticks, round_log_limits
from sparse_offline_rl.seeding import generator
from sparse_offline_rl.training.active import put_on_engine
from sparse_offline_rl.training.mask_changes import MaskChanges
from sparse_offline_rl.training.process import prepare_process
from sparse_offline_rl.types import Spaces

NETWORKS = ("encoder", "decoder")


class BatchOptions(Options):
    """Study steps to a fixed loss over batch size and sparsity: python scripts/batch_study.py out=results/batch"""

    out: Path = Field(Path("results/batch"), description="folder for steps.csv, lipschitz.csv and batch_study.png")
    env: str = Field("hopper", description="whose expert data")
    size: int = Field(100_000, ge=1000, description="transitions to train on")
    held_out: int = Field(1000, ge=10, description="further transitions, on which the loss is measured")
    hidden: int = Field(256, ge=1, description="width of both hidden layers of encoder and decoder")
    prune: str = Field("snip", description="pruner")
    sparsities: str = Field("0,0.8,0.9,0.95,0.98", description="shares of the weights removed")
    batch_sizes: str = Field("8,32,128,512,2048", description="transitions in a batch")
    rates: str = Field(
        "1e-3,3e-3,3e-4,1e-2,1e-4,3e-2",
        description="learning rates to choose from; one slower than those before it is cut short",
    )
    goal: float = Field(0.08, gt=0, description="the loss to reach")
    every: int = Field(5, ge=1, description="steps between two measurements")
    steps: int = Field(5000, ge=1, description="the most steps of a run")
    seed: int = Field(0, ge=0, description="of weights, masks and batches")

    @field_validator("sparsities", "batch_sizes", "rates")
    @classmethod
    def _are_numbers(cls, text: str, field: ValidationInfo) -> str:
        low, high = (0, 1) if field.field_name == "sparsities" else (1e-12, math.inf)
        try:
            fits = all(low <= number < high for number in _numbers(text))
        except ValueError:
            fits = False
        if not fits or (field.field_name == "batch_sizes" and not text.replace(",", "").isdigit()):
            raise ValueError(f"write numbers from {low:g} on, below {high:g}, with commas between them")
        return text


class Cell(NamedTuple):
    """One run."""

    batch_size: int
    sparsity: float
    rate: float


class Point(NamedTuple):
    """What was measured at a step of a run."""

    step: int
    loss: float
    lipschitz: float  # ‖∇L(θ') - ∇L(θ)‖ / ‖θ' - θ‖ for θ before and θ' after the update that follows the step


# The files of results. A run counts as done once steps.csv has it, so that one is written last.
COLUMNS = {"lipschitz.csv": (*Cell._fields, *Point._fields), "steps.csv": (*Cell._fields, "steps")}


class Outcome(NamedTuple):
    """What a run came to."""

    cell: Cell
    steps: int | None  # until the goal; None if it was not reached in as many as were allowed
    points: list[Point]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(BatchOptions, sys.argv[1:] if arguments is None else arguments)
        prepare_process(threads=1)
        _check(options)
        outcomes = read(options.out)
        study = Study(options)
        for cell in _cells(options):
            if any(outcome.cell == cell for outcome in outcomes):
                continue
            outcomes.append(study.run(cell, _allowed(outcomes, cell, options.steps)))
            _write(options, outcomes)
            steps = outcomes[-1].steps
            print(
                f"batch size {cell.batch_size}, sparsity {cell.sparsity:g}, rate {cell.rate:g}: "
                f"{'not reached' if steps is None else f'{steps} steps'}",
                flush=True,
            )
        picture = io.BytesIO()
        draw(outcomes, options.goal).savefig(picture, dpi=110)
        write_bytes(options.out / "batch_study.png", picture.getvalue())
        print(f"written to {options.out}")


class Study:
    """The data, and what a run does with it."""

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        config = self._config(Cell(1, 0.0, 1e-3))
        loaded = load_dataset(config.dataset, config.env)
        transitions, count = loaded.transitions, options.size
        rest = {name: array[count:] for name, array in vars(transitions).items()}
        normalization = Normalization.fit(transitions.head(count).observations)
        self._buffer = ReplayBuffer(transitions.head(count), normalization)
        self._held_out = ReplayBuffer(replace(transitions, **rest), normalization)
        self._spaces: Spaces = loaded.spaces

    def run(self, cell: Cell, most: int) -> Outcome:
        """Train until the goal is reached, or for ``most`` steps."""
        options, config = self._options, self._config(cell)
        state = MaskChanges(config, self._spaces, self._buffer).start().state
        active = put_on_engine(config, self._spaces, state)
        draws = generator(options.seed, "train")
        sample: Sampler = self._buffer.sampler(cell.batch_size)
        fixed = self._held_out.sampler(len(self._held_out))(generator(options.seed, "held out"))
        loss = active.agent.losses(fixed, generator(options.seed, "noise"))["decoder"]
        parameters = [it for name in NETWORKS for it in active.agent.mlps()[name].parameters()]
        points: list[Point] = []
        for step in range(most + 1):
            measured = step % options.every == 0
            value, before = measure(loss, parameters) if measured else (math.inf, ())
            if not math.isfinite(value) and measured:
                return Outcome(cell, None, points)  # diverged
            places = [it.detach().clone() for it in parameters] if measured else []
            active.update(sample(draws), draws)
            if measured:
                _, after = measure(loss, parameters)
                ratio = distance(after, before) / distance(parameters, places)
                points.append(Point(step, _shortened(value), _shortened(ratio)))
            if value <= options.goal and not step:
                raise UserError(
                    f"goal={options.goal:g}: the loss of untrained networks is {value:.3g} already; choose a lower goal."
                )
            if value <= options.goal:
                return Outcome(cell, step, points)
        return Outcome(cell, None, points)

    def _config(self, cell: Cell) -> Config:
        options, width = self._options, self._options.hidden
        overrides = [f"agent=bc agent.train_critic=false agent.vae_hidden=[{width},{width}] agent.vae_lr={cell.rate}"]
        overrides += [f"env={options.env} dataset.size={options.size + options.held_out} threads=1"]
        overrides += [f"prune={options.prune if cell.sparsity else 'none'} sparsity={cell.sparsity}"]
        overrides += [f"batch_size={cell.batch_size} seed={options.seed}"]
        return config_of(" ".join(overrides).split())


def measure(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> tuple[float, tuple[Tensor, ...]]:
    """The value of ``loss`` and its gradient."""
    value = loss()
    return value.item(), torch.autograd.grad(value, parameters)


def distance(left: Iterable[Tensor], right: Iterable[Tensor]) -> float:
    """The Euclidean distance of two points, each given in parts."""
    return math.sqrt(sum(float((a.detach() - b).square().sum()) for a, b in zip(left, right, strict=True)))


def best(outcomes: Iterable[Outcome]) -> dict[tuple[int, float], Outcome]:
    """Batch size and sparsity -> the run that reached the goal first."""
    found: dict[tuple[int, float], Outcome] = {}
    for outcome in outcomes:
        place = outcome.cell.batch_size, outcome.cell.sparsity
        if outcome.steps is not None and (place not in found or outcome.steps < (found[place].steps or 0)):
            found[place] = outcome
    return found


def draw(outcomes: Sequence[Outcome], goal: float) -> Figure:
    """Steps to the goal over the batch size; the Lipschitz constant along the best run of each sparsity, at the middle batch size."""
    found = best(outcomes)
    sizes = sorted({outcome.cell.batch_size for outcome in outcomes})
    sparsities = sorted({outcome.cell.sparsity for outcome in outcomes})
    middle = sizes[len(sizes) // 2]
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    steps, lipschitz = figure.subplots(1, 2)
    for i, sparsity in enumerate(sparsities):
        reached = {size: found[size, sparsity] for size in sizes if (size, sparsity) in found}
        counts = [it.steps or 0 for it in reached.values()]
        steps.plot(list(reached), counts, color=f"C{i}", marker="o", markersize=4, label=f"sparsity {sparsity:g}")
        if middle in reached:
            points, label = reached[middle].points, f"sparsity {sparsity:g}, rate {reached[middle].cell.rate:g}"
            x, y = [point.step for point in points], [point.lipschitz for point in points]
            lipschitz.plot(x, y, color=f"C{i}", linewidth=1.2, label=label)
    if found:
        most = max(it.steps or 0 for it in found.values())
        linear = [most * sizes[0] / size for size in sizes]
        steps.plot(sizes, linear, color="0.5", linestyle=":", label="inversely proportional")
    steps.set(xscale="log", yscale="log", xlabel="batch size", ylabel=f"steps to a loss of {goal:g}, best rate")
    steps.set_xticks(sizes, [str(size) for size in sizes])
    steps.minorticks_off()
    lipschitz.set(yscale="log", xlabel="step", ylabel="Lipschitz constant of the gradient")
    lipschitz.set_title(f"batch size {middle}", fontsize="medium")
    for ax in (steps, lipschitz):
        ax.grid(alpha=0.25)
        if ax.lines:
            round_log_limits(ax)
            plain_log_ticks(ax.yaxis)
            ax.legend(frameon=False, fontsize="small")
    return figure


def _shortened(value: float) -> float:
    """Five digits, which a figure does not use up, make a file of half the size."""
    return float(f"{value:.5g}")


def _cells(options: BatchOptions) -> Iterator[Cell]:
    for sparsity in _numbers(options.sparsities):
        for batch_size in _numbers(options.batch_sizes):
            for rate in _numbers(options.rates):
                yield Cell(int(batch_size), sparsity, rate)


def _allowed(outcomes: Iterable[Outcome], cell: Cell, most: int) -> int:
    """Steps that ``cell`` may take: a rate that is slower than the best one so far need not be finished."""
    found = best(outcomes).get((cell.batch_size, cell.sparsity))
    return most if found is None or found.steps is None else found.steps


def _numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _settings(options: BatchOptions) -> dict[str, object]:
    return options.model_dump(mode="json", exclude={"out"})


def _check(options: BatchOptions) -> None:
    """Raise UserError if the results in the folder are of other settings."""
    path, settings = options.out / "settings.json", _settings(options)
    stored = read_json(path) if path.exists() else settings
    if differing := [key for key in settings if stored.get(key) != settings[key]]:
        raise UserError(f"{options.out} holds a study with other {', '.join(differing)}: choose another out.")


def _write(options: BatchOptions, outcomes: Sequence[Outcome]) -> None:
    write_json(options.out / "settings.json", _settings(options))
    rows: dict[str, list[list[object]]] = {
        "lipschitz.csv": [[*it.cell, *point] for it in outcomes for point in it.points],
        "steps.csv": [[*it.cell, "" if it.steps is None else it.steps] for it in outcomes],
    }
    for name, columns in COLUMNS.items():
        write_csv(options.out / name, [columns, *rows[name]])


def read(folder: Path) -> list[Outcome]:
    """The runs that are done; none in a new folder."""
    if not (folder / "steps.csv").exists():
        return []
    remedy = "restore it, or choose another out"
    measured, runs = (read_csv(folder / name, columns, remedy) for name, columns in COLUMNS.items())
    try:
        points: dict[Cell, list[Point]] = {}
        for row in measured:
            point = Point(int(row["step"]), float(row["loss"]), float(row["lipschitz"]))
            points.setdefault(_cell(row), []).append(point)
        return [
            Outcome(_cell(row), int(row["steps"]) if row["steps"] else None, points.get(_cell(row), [])) for row in runs
        ]
    except ValueError as error:
        raise UserError(f"{folder} holds a file of this study that is damaged ({error}): {remedy}.") from None


def _cell(row: Mapping[str, str]) -> Cell:
    return Cell(int(row["batch_size"]), float(row["sparsity"]), float(row["rate"]))


if __name__ == "__main__":
    run_main(main)
