"""Hydra with the project's YAML files: its flags, its application object, and its complaints as sentences."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparse_offline_rl.config import config_dir
from sparse_offline_rl.errors import UserError

CONFIG_NAME = "train"


def parse_flags(arguments: Sequence[str]) -> Namespace:
    """Hydra's own flags, and the overrides between them. Raises UserError for flags that it has not or cannot combine."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; --hydra-help lists the flags.")

    parser.error = refuse  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args(list(arguments))  # -m may stand between overrides
    if flags.experimental_rerun is not None:
        raise UserError("--experimental-rerun reads a pickle, which is never done here: give the run's command again.")
    commands = {
        "--run": flags.run,
        "--multirun": flags.multirun,
        "--cfg": flags.cfg,
        "--info": flags.info,
        "--shell-completion": flags.shell_completion,
    }
    given = [name for name, value in commands.items() if value]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other: give one of them.")
    if flags.resolve and not (flags.cfg or flags.help):
        raise UserError("--resolve goes with --cfg or --help: add one of them, or leave it out.")
    if flags.package is not None and not flags.cfg:
        raise UserError(f"--package {flags.package} goes with --cfg: add it, or leave it out.")
    flags.config_name = flags.config_name or CONFIG_NAME
    return flags


@contextmanager
def hydra_app(flags: Namespace) -> Iterator[Hydra]:
    """Hydra over ``configs/``, or over what the flags ``--config-path`` and ``--config-dir`` name."""
    for name, folder in (("--config-path", flags.config_path), ("--config-dir", flags.config_dir)):
        if folder is not None and not Path(folder).is_dir():
            raise UserError(f"{name} {folder}: there is no such folder; give one that holds YAML files.")
    version.setbase("1.3")
    with hydra_errors():
        path = create_config_search_path(str(Path(flags.config_path or config_dir()).absolute()))
        if flags.config_dir is not None:
            extra = Path(flags.config_dir).absolute()
            path.prepend("command-line", f"file://{extra}", SearchPathQuery(provider="schema"))
        app = Hydra.create_main_hydra2(CONFIG_NAME, path)
    try:
        yield app
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def hydra_errors() -> Iterator[None]:
    """Turn whatever Hydra raises within the block, which must run no code of ours, into a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = " ".join(f"{error}".split()) or type(error).__name__
        if not isinstance(error, (HydraException, OmegaConfBaseException)):
            message = f"Hydra ended in {type(error).__name__}: {message}"
        raise UserError(message) from None


def run_mode(app: Hydra, flags: Namespace) -> RunMode:
    """A sweep if the flag ``-m`` or the configuration (``hydra.mode``) says so."""
    if flags.multirun:
        return RunMode.MULTIRUN
    return app.get_mode(flags.config_name, flags.overrides) or RunMode.RUN


def show(app: Hydra, flags: Namespace) -> bool:
    """Print what a flag such as ``--help`` or ``--cfg job`` asks for; False if none does."""
    name, overrides = flags.config_name, flags.overrides
    with hydra_errors():
        if flags.help:
            app.app_help(name, get_args_parser(), flags)
        elif flags.hydra_help:
            app.hydra_help(name, get_args_parser(), flags)
        elif flags.cfg:
            if flags.package not in (None, "_global_"):
                composed = app.compose_config(name, overrides, RunMode.RUN)
                if OmegaConf.select(composed, flags.package) is None:
                    raise UserError(f"--package {flags.package}: the configuration has no such part.")
            app.show_cfg(name, overrides, flags.cfg, flags.package, flags.resolve)
        elif flags.info:
            app.show_info(flags.info, name, overrides)
        elif flags.shell_completion:
            app.shell_completion(name, overrides)
        else:
            return False
    return True
