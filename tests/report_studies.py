"""What the tests of the reports share: a sweep of made runs, and what a figure shows."""

from __future__ import annotations

import csv

import yaml
from matplotlib.figure import Figure
from run_folders import write_run

from sparse_offline_rl.reports.axes import Axes
from sparse_offline_rl.reports.compare import compare
from sparse_offline_rl.reports.store import read_runs

HOPPER = "bcq · Hopper-v5, expert"


def write_sweep(root):
    """Two environments; dense, SNIP at two sparsities, GraSP; two seeds, of which one GraSP run is unfinished."""
    for env, scale in (("hopper", 1), ("halfcheetah", 10)):
        for prune, sparsity in (("none", 0.0), ("snip", 0.5), ("snip", 0.95), ("grasp", 0.95)):
            for seed in (0, 1):
                curve = tuple(scale * (100.0 * i + 50 * seed) for i in range(1, 4))
                unfinished = (env, prune, seed) == ("hopper", "grasp", 1)
                folder = root / env / f"{prune}-{sparsity}" / f"seed{seed}"
                returns = curve[:2] if unfinished else curve
                collapsed = prune == "grasp" and env == "hopper"
                write_run(folder, env, "bcq", prune, sparsity, seed, returns, not unfinished, collapsed)
    return root


def study_of(root, axes=Axes(), **wanted):  # noqa: B008  (it is frozen)
    """The study of the runs below a folder, of the groups with these attributes."""
    study = compare(read_runs(root)[0], axes)
    return study.only(lambda group: all(getattr(group, key) == value for key, value in wanted.items()))


def groups_of(root, axes=Axes(), **wanted):  # noqa: B008
    return [group for panel in study_of(root, axes, **wanted).panels for group in panel.groups]


def panel_of(figure: Figure, title: str):
    (ax,) = (ax for ax in figure.axes if ax.get_title() == title)
    return ax


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def d4rl_sweep(root, paths):
    """SNIP and GraSP on each of some D4RL files."""
    for number, path in enumerate(paths):
        for prune in ("snip", "grasp"):
            folder = write_run(root / f"{number}-{prune}", prune=prune)
            values = yaml.safe_load((folder / "config.yaml").read_text())
            values["dataset"] = {"name": "d4rl", "id": None, "path": path}
            (folder / "config.yaml").write_text(yaml.safe_dump(values))


LONG = [
    "/home/someone/projects/offline-rl/datasets/d4rl/mujoco/hopper_medium-v2.hdf5",
    "/mnt/storage/a/long/path/to/shared/datasets/d4rl-v2/hopper_medium-v2.hdf5",
    f"/scratch/{'_'.join(['hopper'] * 20)}-v2.hdf5",
]


def table(path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["experiment"]: row for row in csv.DictReader(file)}
