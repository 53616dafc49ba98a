"""``key=value`` arguments of the scripts, checked against a typed model; training itself is configured by Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sparse_offline_rl.cli.errors import closest
from sparse_offline_rl.errors import UserError, remedy


class Options(BaseModel):
    """What a command takes, a field a key.

    The docstring of the subclass and the ``description`` of each ``Field`` make its ``--help``; a key with a dot is written
    as ``Field(alias="env.id")``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyOptions = TypeVar("AnyOptions", bound=Options)


def parse_options(model: type[AnyOptions], arguments: Sequence[str]) -> AnyOptions:
    """Check ``arguments``, e.g. ``["episodes=100"]``; ``--help`` prints the keys and exits.

    Raises UserError for an argument that is no ``key=value``, an unknown, repeated or missing key, or a value of another type.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        print(_help(model))
        raise SystemExit(0)
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UserError(f"'{argument}' is not key=value: write e.g. {_example(model)}.")
        if key not in _keys(model):
            raise UserError(f"{argument}: there is no key '{key}'; {closest(key, _keys(model))}.")
        if key in values:
            raise UserError(f"{argument}: the key '{key}' is given twice; keep one.")
        values[key] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(model, error)) from None


def _keys(model: type[Options]) -> dict[str, str]:
    """Key on the command line -> name of the field."""
    return {field.alias or name: name for name, field in model.model_fields.items()}


def _example(model: type[Options]) -> str:
    return f"{next(iter(_keys(model)))}=…"


def _sentence(model: type[Options], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0])
    if first["type"] == "missing":
        field = model.model_fields[_keys(model)[key]]
        return f"{key} is missing: give {key}=… ({field.description})."
    return f"{key}={first['input']} cannot be used: {remedy(first)}."


def _help(model: type[Options]) -> str:
    lines = [(model.__doc__ or "").strip(), ""]
    for key, name in _keys(model).items():
        field = model.model_fields[name]
        if field.is_required():
            default = "required"
        elif field.default in (None, ""):
            default = "optional"
        else:
            default = str(field.default)
        lines.append(f"  {key + '=':<22} {field.description} ({default})")
    return "\n".join(lines)
