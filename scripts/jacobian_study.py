"""Singular values of the Jacobians before training, by pruner, sparsity and initial weights, as CSV and figure.

``python scripts/jacobian_study.py out=results/jacobian`` repeats the study of Lee et al. (2020, figure 2) on the networks of an agent.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.main import run_main
from sparse_offline_rl.config import Config
from sparse_offline_rl.experiment import load_training_data
from sparse_offline_rl.files import write_bytes, write_csv
from sparse_offline_rl.networks.jacobian import singular_values
from sparse_offline_rl.reports.drawing import plain_log_ticks
from sparse_offline_rl.training.mask_changes import MaskChanges
from sparse_offline_rl.training.process import prepare_process

PRUNERS = ("random", "snip", "grasp", "synflow")
INITS = ("default", "sparse", "isometry")
SPARSITIES = (0.0, 0.8, 0.9, 0.95, 0.98, 0.99)
_INPUTS = 200  # drawn for each network
Row = dict[str, str | float]


class JacobianOptions(Options):
    """Study the singular values of the networks' Jacobians before training: python scripts/jacobian_study.py out=results/jacobian"""

    out: Path = Field(Path("results/jacobian"), description="folder for jacobian.csv and jacobian.png")
    agent: str = Field("bcq", description="whose networks")
    env: str = Field("hopper", description="whose expert data score the weights")
    size: int = Field(100_000, ge=1000, description="transitions of it")


def main() -> None:
    """Entry point."""
    with user_errors():
        options = parse_options(JacobianOptions, sys.argv[1:])
        prepare_process(threads=1)
        rows = list(measure(options))
        write_csv(options.out / "jacobian.csv", [list(rows[0]), *(list(row.values()) for row in rows)])
        picture = io.BytesIO()
        draw(rows).savefig(picture, dpi=110)
        write_bytes(options.out / "jacobian.png", picture.getvalue())
        print(f"written to {options.out}")


def measure(options: JacobianOptions) -> Iterator[Row]:
    """Mean and standard deviation of all singular values of each network, over inputs that are standard normal."""
    data = None
    for pruner in PRUNERS:
        for sparsity in SPARSITIES:
            for init in INITS if sparsity else ("default", "isometry"):
                config = _config(options, pruner if sparsity else "none", sparsity, init)
                data = data or load_training_data(config)
                state = MaskChanges(config, data.loaded.spaces, data.buffer).start().state
                for name, network in state.networks.items():
                    inputs = np.random.default_rng(0).standard_normal((_INPUTS, network.topology.in_features))
                    found = singular_values(network, inputs.astype(np.float32))
                    yield {
                        "network": name, "pruner": pruner, "sparsity": sparsity, "init": init,
                        "mean": float(found.mean()), "std": float(found.std()), "largest": float(found.max()),
                    }  # fmt: skip
                print(f"{pruner} {sparsity:g} {init}", flush=True)


def draw(rows: list[Row]) -> Figure:
    """A column for each network, a row for each choice of initial weights: the mean over the share of the weights that is left."""
    networks = list(dict.fromkeys(str(row["network"]) for row in rows))
    figure = Figure(figsize=(3.0 * len(networks), 2.6 * len(INITS) + 0.5), layout="constrained")
    axes = figure.subplots(len(INITS), len(networks), squeeze=False, sharex=True, sharey=True)
    for line, init in zip(axes, INITS, strict=True):
        for ax, network in zip(line, networks, strict=True):
            for pruner in PRUNERS:
                points = [r for r in rows if (r["network"], r["init"], r["pruner"]) == (network, init, pruner)]
                kept = [1 - float(point["sparsity"]) for point in points]
                ax.plot(kept, [float(point["mean"]) for point in points], marker="o", markersize=3, label=pruner)
            ax.set_title(f"{network}, init={init}", fontsize="small")
            ax.grid(alpha=0.25)
    axes[0][0].set_xscale("log")
    axes[0][0].set_yscale("log")
    axes[0][0].invert_xaxis()
    for ax in axes[-1]:
        ax.set_xlabel("weights kept")
        plain_log_ticks(ax.xaxis)
    for ax in axes[:, 0]:
        ax.set_ylabel("mean singular value")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def _config(options: JacobianOptions, pruner: str, sparsity: float, init: str) -> Config:
    data = [f"agent={options.agent}", f"env={options.env}", f"dataset.size={options.size}"]
    return config_of([*data, f"prune={pruner}", f"sparsity={sparsity}", f"init={init}"])


if __name__ == "__main__":
    run_main(main)
