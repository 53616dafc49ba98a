"""The one exception that reaches the user as a sentence instead of a traceback, and parts of such sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError


class UserError(Exception):
    """A mistake the user can mend.

    The message is one clear sentence: it names the offending value, the file or key it came from, and what to do.
    Command-line entry points print it as ``error: …`` and exit with status 2; library callers catch it.
    """


def reason(error: BaseException) -> str:
    """The first line of what a library's ``error`` says, or its kind where it says nothing: for use inside a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def first_problem(error: ValidationError) -> str:
    """``key: what is wrong with it``, of the first value that a pydantic model refused."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"])) or "the whole"
    return f"{key}: {_clause(first)}"


def remedy(problem: Mapping[str, Any]) -> str:
    """What to give instead of a value that a pydantic model refused: a clause for a sentence, from one of its ``errors()``."""
    kind, value = problem["type"], problem["input"]
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f"give a whole number, written {value:.0f}"
    if kind in _REMEDIES:
        return _REMEDIES[kind].format(**problem.get("ctx", {}))
    return _clause(problem)


def _clause(problem: Mapping[str, Any]) -> str:
    """What pydantic says of a problem, as a part of a sentence."""
    message: str = problem["msg"].removeprefix("Value error, ")
    return message[0].lower() + message[1:]


_REMEDIES = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "give a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "give a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "give true or false"),
    "finite_number": "give a finite number",
    "greater_than": "give more than {gt:g}",
    "greater_than_equal": "give at least {ge:g}",
    "less_than": "give less than {lt:g}",
    "less_than_equal": "give at most {le:g}",
    "literal_error": "choose {expected}",
    "tuple_type": "give a list, e.g. [256,256]",
}
