"""Where the YAML files are, and a check of the command line's overrides that speaks in sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import sparse_offline_rl
from sparse_offline_rl.cli.errors import closest
from sparse_offline_rl.errors import UserError


def config_dir() -> Path:
    """``configs/`` of the repository, or its copy inside an installed package."""
    package = Path(sparse_offline_rl.__file__).parent
    packaged = package / "configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def check_overrides(arguments: Sequence[str]) -> None:
    """Raise UserError for the first override that names no group, no choice of it, or no key."""
    groups = {
        path.name: sorted(file.stem for file in path.glob("*.yaml")) for path in config_dir().iterdir() if path.is_dir()
    }
    flags = get_args_parser().parse_args(list(arguments))  # Hydra's own flags, some of which take a value
    overrides = [override for text in flags.overrides if (override := _parse(text))]
    for override in overrides:
        if override.is_sweep_override() and not flags.multirun:
            raise UserError(
                f"{override.input_line}: several values make a sweep: add -m, as in train.py -m {override.input_line}."
            )
        if override.key_or_group in groups:
            for choice in _values(override):
                if choice not in groups[override.key_or_group]:
                    hint = closest(str(choice), groups[override.key_or_group])
                    raise UserError(
                        f"{override.key_or_group}={choice}: there is no such {override.key_or_group}; {hint}."
                    )
    known = _known_keys([override for override in overrides if override.key_or_group in groups])
    for override in overrides:
        key = override.key_or_group
        if key not in groups and key not in known and not key.startswith("hydra"):
            raise UserError(f"{override.input_line}: there is no key '{key}'; {closest(key, {*known, *groups})}.")
    if not flags.multirun:
        _check_composition(flags.overrides)


def _known_keys(choices: Sequence[Override]) -> set[str]:
    """The keys of every composition of the chosen groups: each agent has keys of its own."""
    options = [[f"{choice.key_or_group}={value}" for value in _values(choice)] for choice in choices]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = (compose("train", list(selected)) for selected in itertools.product(*options))
        return {key for config in composed for key in _keys(OmegaConf.to_container(config, resolve=False))}


def _check_composition(overrides: list[str]) -> None:
    """Compose and resolve once, so that Hydra's own complaints come as a sentence."""
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            OmegaConf.to_container(compose("train", overrides), resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(" ".join(f"{error}".split())) from None


def _parse(text: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        remedy = "write key=value, and quote values with spaces or commas"
        raise UserError(f"'{text}' is not an override: {remedy}, e.g. sparsity=0.95.") from None


def _values(override: Override) -> Iterator[Any]:
    if override.is_sweep_override():
        yield from override.sweep_string_iterator()
    else:
        yield override.value()


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    assert isinstance(config, Mapping)
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
