"""Command lines, checked as ``train.py`` checks them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager

from hydra._internal.hydra import Hydra
from hydra.types import RunMode

from sparse_offline_rl.cli.configs import hydra_app, parse_flags, run_mode
from sparse_offline_rl.cli.overrides import check_overrides


@contextmanager
def checked(*arguments: str) -> Iterator[tuple[Hydra, Namespace, bool]]:
    """Hydra, the flags, and whether they ask for a sweep. Raises UserError as ``train.py`` does."""
    flags = parse_flags(list(arguments))
    with hydra_app(flags) as app:
        sweep = run_mode(app, flags) == RunMode.MULTIRUN
        check_overrides(app, flags, sweep)
        yield app, flags, sweep
