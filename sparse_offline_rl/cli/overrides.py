"""A check of the command line's overrides that speaks in sentences, before Hydra composes anything."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra._internal.hydra import Hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from sparse_offline_rl.cli.configs import hydra_errors
from sparse_offline_rl.cli.errors import closest
from sparse_offline_rl.config import dotted, shipped_settings
from sparse_offline_rl.errors import UserError

_SCHEDULE = "prune.schedule"
_MOST_JOBS = 100_000  # of a sweep, whose jobs Hydra lists in memory before it starts the first


def check_overrides(app: Hydra, flags: Namespace, sweep: bool) -> None:
    """Raise UserError for the first override that names no group, no choice of it, or no key, and for an endless sweep."""
    with hydra_errors():
        overrides = [_parse(app, text) for text in flags.overrides]
        loader = app.config_loader
        groups = {name: loader.get_group_options(name) for name in loader.list_groups("") if name != "hydra"}
        chosen = [override for override in overrides if override.key_or_group in groups and not override.is_delete()]
        for override in chosen:
            if _values(override) <= _MOST_JOBS:
                _check_choice(override, groups[override.key_or_group])
        known = _known_keys(app, flags, [override for override in chosen if _values(override) <= _MOST_JOBS])
        for override in overrides:
            if override.is_sweep_override() and not sweep:
                raise UserError(
                    f"{override.input_line}: several values make a sweep: add -m, as in -m {override.input_line}."
                )
        jobs = 1.0
        for override in overrides:
            key = override.key_or_group
            jobs *= _values(override)
            if not jobs <= _MOST_JOBS:
                raise UserError(
                    f"{override.input_line}: a sweep may have {_MOST_JOBS} jobs at most; give fewer values."
                )
            if key != "hydra" and not key.startswith(("hydra.", "hydra/")):
                _check_key(override, known, groups)
        if not sweep:  # each job of a sweep is composed when Hydra has made it
            config = app.compose_config(flags.config_name, flags.overrides, RunMode.RUN)
            OmegaConf.to_container(
                OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), resolve=True
            )


def check_jobs(app: Hydra, flags: Namespace, jobs: Iterable[Sequence[str]]) -> None:
    """Raise UserError for the first key in the overrides of ``jobs`` that the job's own choice of its group lacks.

    The grids of a sweep may set keys of an agent or a method in whose place the command line puts another.
    """
    groups = app.config_loader.list_groups("")

    @functools.cache
    def keys(choice: str) -> set[str]:
        (found,) = _known_keys(app, flags, [_parse(app, choice)]).values()
        return found

    for job in jobs:
        chosen = {override.partition("=")[0]: override for override in job}
        for key in chosen:
            group = key.partition(".")[0]
            if key != group and group in groups and group in chosen and key not in keys(chosen[group]):
                raise UserError(
                    f"{chosen[key]}, in a job of this sweep: there is no key '{key}' with {chosen[group]}; choose what has it, "
                    "or make a sweep of your own."
                )


def _known_keys(app: Hydra, flags: Namespace, choices: list[Override]) -> dict[str, set[str]]:
    """The keys of the configuration with each chosen member of each group (``prune=rigl``): agents and methods have keys of their own."""
    options = {choice.key_or_group: [str(value) for value in _choices(choice)] for choice in choices}
    first = {group: values[0] for group, values in options.items()}
    selections = {f"{group}={value}": {**first, group: value} for group, values in options.items() for value in values}
    known: dict[str, set[str]] = {}
    for name, selection in (selections or {"": {}}).items():
        overrides = [f"{group}={value}" for group, value in selection.items()]
        composed = app.compose_config(flags.config_name, overrides, RunMode.RUN)
        values = OmegaConf.to_container(composed, resolve=False)
        assert isinstance(values, dict)
        known[name] = {key for key, _ in dotted({str(key): value for key, value in values.items()})}
    return known


def _parse(app: Hydra, text: str) -> Override:
    try:
        return OverridesParser.create(app.config_loader).parse_overrides([text])[0]
    except HydraException:
        remedy = "write key=value, and quote values with spaces or commas"
        raise UserError(f"'{text}' is not an override: {remedy}, e.g. sparsity=0.95.") from None


def _values(override: Override) -> float:
    """How many values a sweep has, without making them; 1 for what is no sweep."""
    value = override.value()
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        size = (value.stop - value.start) / value.step if value.step else 0
        if not size > 0:
            raise UserError(f"{override.input_line}: there is no value in it; a sweep needs one at least.")
        return size
    return len(value.list) if isinstance(value, ChoiceSweep) else 1


def _check_key(override: Override, known: Mapping[str, set[str]], groups: Mapping[str, list[str]]) -> None:
    key, text = override.key_or_group, override.input_line
    if override.is_delete():
        raise UserError(f"{text}: keys cannot be left out; give {key} another value instead.")
    own = {name: keys for name, keys in known.items() if name.startswith(f"{key.partition('.')[0]}=")} or known
    lacking = [name for name, keys in own.items() if key not in groups and key not in keys]
    if len(lacking) == len(own):
        names = sorted({*set.union(*known.values()), *groups})
        inside = [name for name in names if name.startswith(f"{key}.")]
        if inside:
            raise UserError(f"{text}: '{key}' stands for several keys; give each its value, e.g. {inside[0]}=….")
        raise UserError(f"{text}: there is no key '{key}'; {_holders(key, groups) or closest(key, names)}.")
    if lacking:
        raise UserError(f"{text}: there is no key '{key}' with {lacking[0]}; make a sweep of its own of what has it.")
    if key == _SCHEDULE:
        raise UserError(f"{text}: {_schedule_advice(override, groups['prune'])}.")


def _schedule_advice(override: Override, methods: Sequence[str]) -> str:
    """What to type in place of a schedule, which cannot be changed by itself: each has keys of its own."""
    values = [str(value) for value in _choices(override)]
    having = [method for method in methods if shipped_settings("prune", method).get(_SCHEDULE) in values]
    if not having:
        return "no method has this schedule; choose a method by prune=…"
    takes = _any_of("prune", having)
    return f"a schedule has keys of its own, so it comes with a method: take {takes} and change its other keys, e.g. prune.score"


def _holders(key: str, groups: Mapping[str, list[str]]) -> str:
    """``it goes with prune=rigl or prune=set``: which choices have ``key``, if some of its group have."""
    group = key.partition(".")[0]
    holders = [choice for choice in groups.get(group, ()) if key in shipped_settings(group, choice)]
    return f"it goes with {_any_of(group, holders)}" if holders else ""


def _any_of(group: str, choices: Sequence[str]) -> str:
    *first, last = [f"{group}={choice}" for choice in choices]
    return f"{', '.join(first)} or {last}" if first else last


def _check_choice(override: Override, choices: list[str]) -> None:
    group = override.key_or_group
    for choice in _choices(override):
        if choice not in choices:
            raise UserError(f"{group}={choice}: there is no such {group}; {closest(str(choice), choices)}.")


def _choices(override: Override) -> Iterable[Any]:
    return override.sweep_string_iterator() if override.is_sweep_override() else [override.value()]
