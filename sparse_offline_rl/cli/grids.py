"""Sweeps that are several grids of overrides at once, e.g. dense runs and pruned ones at many sparsities."""

from __future__ import annotations

import itertools
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from sparse_offline_rl.errors import UserError

PREFIX = "grid."


def sweep(app: Hydra, flags: Namespace, job: Callable[[DictConfig], Any]) -> list[JobReturn]:
    """Do all jobs of a sweep and return how each ended.

    Entries ``grid.NAME: key=value,value key=value`` of ``hydra.sweeper.params`` are a grid each; the sweep has the jobs of all of
    them, each crossed with the other entries and with the overrides of the command line. Without such entries it is Hydra's own.
    """
    config, params, given = _composed(app, flags)
    if not any(key.startswith(PREFIX) for key in params):
        overrides = [*flags.overrides, "hydra.mode=MULTIRUN"]
        batches: Sequence[Sequence[JobReturn]] = app.multirun(flags.config_name, job, overrides)
        return [done for batch in batches for done in batch]
    context = HydraContext(config_loader=app.config_loader, callbacks=Callbacks(config))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=config)
    return list(launcher.launch(grid_jobs(params, given), initial_job_idx=0))


def run_folders(app: Hydra, flags: Namespace) -> list[Path]:
    """The run folders of the jobs that :func:`sweep` would do."""
    jobs = planned_jobs(app, flags)
    return [Path(app.compose_config(flags.config_name, job, RunMode.RUN).run_dir) for job in jobs]


def planned_jobs(app: Hydra, flags: Namespace) -> list[list[str]]:
    """The overrides of the jobs that :func:`sweep` would do."""
    _, params, given = _composed(app, flags)
    return grid_jobs(params, given)


def _composed(app: Hydra, flags: Namespace) -> tuple[DictConfig, dict[str, Any], list[str]]:
    """The configuration of a sweep, its parameters, and the overrides of the command line that are not Hydra's."""
    config = app.compose_config(flags.config_name, [*flags.overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
    # As they stand: what ${…} in them means depends on the job.
    sweeper: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    given: Any = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    return config, sweeper.get("params") or {}, given


def grid_jobs(params: Mapping[str, Any], given: Sequence[str]) -> list[list[str]]:
    """The overrides of each job, those of the first grid first; without grids there is one of ``given`` alone.

    ``given`` are those of the command line. A value that some grids have picks these grids, any other takes the place of theirs.
    Raises UserError if no grid is left.
    """
    shared = _axes([f"{key}={value}" for key, value in params.items() if not key.startswith(PREFIX)])
    grids = [_axes(str(value).split()) for key, value in params.items() if key.startswith(PREFIX)] or [{}]
    wanted = _axes(given)
    known = {key: {v for grid in grids for v in grid.get(key, ())} for key in wanted}
    for key, values in wanted.items():
        holders = [grid for grid in grids if key in grid]
        if known[key] & set(values):
            for grid in holders:
                grid[key] = [value for value in grid[key] if value in values]
            grids = [grid for grid in grids if grid.get(key) != []]
        else:
            for grid in holders:
                grid[key] = values
    if not grids:
        raise UserError(f"{' '.join(given)}: no grid of this sweep has all of these values; leave some out.")
    jobs = []
    for grid in grids:
        axes = {**shared, **{key: values for key, values in wanted.items() if key not in grid}, **grid}
        jobs += [[*job] for job in itertools.product(*([f"{key}={v}" for v in values] for key, values in axes.items()))]
    return jobs


def _axes(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Key -> the values that it sweeps over, one for what is no sweep."""
    found: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        swept = override.is_sweep_override()
        values = map(str, override.sweep_string_iterator()) if swept else [override.get_value_element_as_str()]
        found[override.get_key_element()] = list(values)
    return found
