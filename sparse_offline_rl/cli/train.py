"""``sparse-offline-rl train …``: compose the configuration, do the run or the sweep, tell how it ended."""

from __future__ import annotations

import sys
import traceback
from argparse import Namespace
from collections.abc import Collection, Iterable

from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sparse_offline_rl.cli.configs import hydra_app, hydra_errors, parse_flags, run_mode, show
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.grids import sweep
from sparse_offline_rl.cli.interrupt import INTERRUPTED, was_interrupted
from sparse_offline_rl.cli.overrides import check_overrides
from sparse_offline_rl.cli.streams import steady_output
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.experiment import read_config, run
from sparse_offline_rl.training.console import say, show_summary
from sparse_offline_rl.training.process import stop_was_requested


def main() -> None:
    """Do what the command line asks for; Hydra's flags and overrides are in ``sys.argv``."""
    with user_errors():
        flags = parse_flags(sys.argv[1:])
        with hydra_app(flags) as app:
            several = run_mode(app, flags) == RunMode.MULTIRUN
            if not flags.shell_completion and not flags.hydra_help:
                check_overrides(app, flags, several)
            if not show(app, flags):
                (_sweep if several else _one)(app, flags)


def _one(app: Hydra, flags: Namespace) -> None:
    with hydra_errors():
        done = app.run(flags.config_name, _job, [*flags.overrides, "hydra.mode=RUN"])
        failure = done.return_value
    if failure is not None:
        raise failure


def _sweep(app: Hydra, flags: Namespace) -> None:
    """Do all jobs, whichever of them fail, and raise UserError that names those that did."""
    with hydra_errors():
        done = sweep(app, flags, _job)
        failed = [job for job in done if job.return_value is not None]
    if failed:
        shared = set.intersection(*(set(job.overrides or ()) for job in done)) if len(done) > 1 else set()
        lines = [f"{_name(job.overrides or (), shared)} {job.return_value}" for job in failed]
        raise UserError("\n  ".join([f"{len(failed)} of {len(done)} jobs failed:", *lines]))


def _job(composed: DictConfig) -> Exception | None:
    """One run, here or in a worker process; what went wrong is returned, so that the other jobs of a sweep go on."""
    with steady_output():
        try:
            _run_one(composed)
        except Exception as error:
            if was_interrupted():
                raise KeyboardInterrupt from error
            return _report(error) if HydraConfig.get().mode == RunMode.MULTIRUN else error
    return None


def _report(error: Exception) -> UserError:
    """Print what a job of a sweep failed of as soon as it is known, and make it a UserError, which any process can read."""
    if not isinstance(error, UserError):
        traceback.print_exception(error)
        error = UserError(f"it ended in {type(error).__name__}: {error}")
    print(f"error: {_name(HydraConfig.get().overrides.task)} {error}", file=sys.stderr)
    return error


def _name(overrides: Iterable[str], shared: Collection[str] = ()) -> str:
    """A job of a sweep, by the overrides that are not ``shared`` by all."""
    return f"[{' '.join(text for text in overrides if text not in shared)}]"


def _run_one(composed: DictConfig) -> None:
    with hydra_errors():
        missing = sorted(OmegaConf.missing_keys(composed))
        if missing:
            raise UserError(f"{missing[0]}=??? stands for a value that is missing: give {missing[0]}=….")
        values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    config = read_config({str(key): value for key, value in values.items()})
    result = run(config)
    if result.summary is None:
        say(f"stopped after {result.update} of {config.updates} updates; all is saved: run the same command to go on.")
        sys.exit(INTERRUPTED)
    show_summary(result.summary, config.run_dir, result.status)
    if result.status == "finished" and stop_was_requested():
        sys.exit(INTERRUPTED)  # it came after the last update; a sweep must not go on to the next run
