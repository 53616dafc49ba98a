"""Sweeps that are several grids of overrides at once, e.g. dense runs and pruned ones at many sparsities."""

from __future__ import annotations

import functools
import itertools
import re
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from sparse_offline_rl.cli.overrides import check_jobs
from sparse_offline_rl.errors import UserError

PREFIX = "grid."
_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


def sweep(app: Hydra, flags: Namespace, job: Callable[[DictConfig], Any]) -> list[JobReturn]:
    """Do all jobs of a sweep and return how each ended.

    Entries ``grid.NAME: key=value,value key=value`` of ``hydra.sweeper.params`` are a grid each; the sweep has the jobs of all of
    them, each crossed with the other entries and with the overrides of the command line. Another sweeper than Hydra's basic one
    makes its own jobs.
    """
    config, params, given, run_dir = _composed(app, flags)
    if config.hydra.sweeper._target_ != _BASIC:
        batches: Sequence[Sequence[JobReturn]] = app.multirun(
            flags.config_name, job, [*flags.overrides, "hydra.mode=MULTIRUN"]
        )
        return [done for batch in batches for done in batch]
    callbacks, jobs = Callbacks(config), grid_jobs(params, given, run_dir)
    check_jobs(app, flags, jobs)
    context = HydraContext(config_loader=app.config_loader, callbacks=callbacks)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=job, config=config)
    callbacks.on_multirun_start(config=config, config_name=flags.config_name)
    size = config.hydra.sweeper.max_batch_size or len(jobs)
    done = [launcher.launch(jobs[at : at + size], initial_job_idx=at) for at in range(0, len(jobs), size)]
    callbacks.on_multirun_end(config=config, config_name=flags.config_name)
    return [it for batch in done for it in batch]


def run_folders(app: Hydra, flags: Namespace) -> list[Path]:
    """The run folders of the jobs that :func:`sweep` would do.

    To compose a configuration takes a tenth of a second, so jobs that choose alike and set the same keys share one.
    """

    @functools.cache
    def parsed(text: str) -> Override:
        return OverridesParser.create(app.config_loader).parse_overrides([text])[0]

    groups = set(app.config_loader.list_groups(""))
    composed: dict[tuple[str, ...], DictConfig] = {}
    folders = []
    for job in planned_jobs(app, flags):
        overrides = [parsed(text) for text in job]
        alike = tuple(str(it.input_line if it.key_or_group in groups else it.key_or_group) for it in overrides)
        if alike not in composed:
            composed[alike] = app.compose_config(flags.config_name, job, RunMode.RUN)
        for override in overrides:
            if override.key_or_group not in groups:
                OmegaConf.update(composed[alike], override.key_or_group, override.value())
        folders.append(Path(composed[alike].run_dir))
    return folders


def planned_jobs(app: Hydra, flags: Namespace) -> list[list[str]]:
    """The overrides of the jobs that :func:`sweep` would do."""
    _, params, given, run_dir = _composed(app, flags)
    jobs = grid_jobs(params, given, run_dir)
    check_jobs(app, flags, jobs)
    return jobs


def _composed(app: Hydra, flags: Namespace) -> tuple[DictConfig, dict[str, Any], list[str], str]:
    """The configuration of a sweep with the first choice of each group, its parameters, the overrides of its jobs, and its ``run_dir``.

    These overrides are the ones of the command line that are not Hydra's, and :func:`_own_folders`.
    """
    overrides = OverridesParser.create(app.config_loader).parse_overrides(list(flags.overrides))
    firsts = [_first(app, it) for it in overrides]
    config = app.compose_config(flags.config_name, [*firsts, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
    # As they stand: what ${…} in them means depends on the job.
    values: Any = OmegaConf.to_container(config, resolve=False)
    params = values["hydra"]["sweeper"].get("params") or {}
    given = [it for it in overrides if not it.is_hydra_override()]
    return config, params, [*map(_listed, given), *_own_folders(values, params, given)], values["run_dir"]


def _first(app: Hydra, override: Override) -> str:
    """The override, of a sweep over a group its first choice: keys of its members can only be set where one is chosen."""
    if not (override.is_sweep_override() and app.config_loader.get_group_options(override.key_or_group)):
        return str(override.input_line)
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def _listed(override: Override) -> str:
    """The override, ``glob(…)`` as a list of the choices for which it stands."""
    if not isinstance(override.value(), Glob):
        return str(override.input_line)
    return f"{override.get_key_element()}={','.join(map(str, override.sweep_string_iterator()))}"


def _own_folders(values: Mapping[str, Any], params: Mapping[str, Any], given: Sequence[Override]) -> list[str]:
    """An override of ``run_dir`` with each key that the command line sweeps over and that is not in it: no two jobs share a folder.

    None where all are in it, or where the command line says ``run_dir`` itself. What a sweep's own parameters sweep over, its own
    ``run_dir`` tells apart.
    """
    planned = {key for value in params.values() for key in re.findall(r"(\S+?)=", str(value))} | set(params)
    swept = [it.key_or_group for it in given if it.is_sweep_override() and it.key_or_group not in planned]
    missing = {}
    for key in swept:
        if "." not in key and key not in values:  # experiment=a,b is no value, and each has a run_dir of its own
            continue
        if not _names(values["run_dir"], key):
            missing[key] = f"${{{key}.name}}" if isinstance(values.get(key), Mapping) else f"${{{key}}}"
    if not missing or any(it.key_or_group == "run_dir" for it in given):
        return []
    parts = values["run_dir"].split("/")
    parts[max(len(parts) - 2, 0)] += "".join(f"-{key}={value}" for key, value in missing.items())
    return [f"run_dir='{'/'.join(parts)}'"]


def _names(run_dir: str, key: str) -> bool:
    """Whether the folder has the value of ``key`` in it, or the choice of the group ``key``."""
    return f"${{{key}}}" in run_dir or f"${{{key}.name}}" in run_dir


def grid_jobs(params: Mapping[str, Any], given: Sequence[str], run_dir: str) -> list[list[str]]:
    """The overrides of each job, those of the first grid first; without grids there is one of ``given`` alone.

    ``given`` are those of the command line. A value that some grids have picks these grids, any other takes the place of theirs. Grids
    without its key have it, too, but for a job that a grid with that key has with more keys, none of which ``run_dir`` names.
    Raises UserError for a mixture of the two, and if no grid is left.
    """
    shared = _axes([f"{key}={value}" for key, value in params.items() if not key.startswith(PREFIX)])
    grids = [_axes(str(value).split()) for key, value in params.items() if key.startswith(PREFIX)] or [{}]
    wanted = _axes(given)
    known = {key: {v for grid in grids for v in grid.get(key, ())} for key in wanted}
    for key, values in wanted.items():
        holders, others = [grid for grid in grids if key in grid], [it for it in values if it not in known[key]]
        if known[key] & set(values):
            if others:
                raise UserError(
                    f"{key}={others[0]}: no grid of this sweep has it, and there is one with the other values of {key}: give it in a sweep "
                    "of its own."
                )
            for grid in holders:
                grid[key] = [value for value in grid[key] if value in values]
            grids = [grid for grid in grids if grid.get(key) != []]
        else:
            for grid in holders:
                grid[key] = values
    if not grids:
        raise UserError(f"{' '.join(given)}: no grid of this sweep has all of these values; leave some out.")
    theirs = {key for key in wanted if any(key in grid for grid in grids)}
    jobs: list[tuple[list[str], bool]] = []  # and whether its grid has all of these keys by itself
    for grid in grids:
        axes = {**shared, **{key: values for key, values in wanted.items() if key not in grid}, **grid}
        found = itertools.product(*([f"{key}={v}" for v in values] for key, values in axes.items()))
        jobs += [([*job], theirs <= grid.keys()) for job in found]
    wholes = [set(job) for job, whole in jobs if whole]

    def in_one_folder(job: Sequence[str], other: set[str]) -> bool:
        more = {override.partition("=")[0] for override in other.difference(job)}
        return other.issuperset(job) and not any(_names(run_dir, key) for key in more)

    return [job for job, whole in jobs if whole or not any(in_one_folder(job, other) for other in wholes)]


def _axes(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Key -> the values that it sweeps over, one for what is no sweep."""
    found: dict[str, list[str]] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        swept = override.is_sweep_override()
        values = map(str, override.sweep_string_iterator()) if swept else [override.get_value_element_as_str()]
        found[override.get_key_element()] = list(values)
    return found
