"""The one exception that reaches the user as a sentence instead of a traceback, and parts of such sentences."""

from __future__ import annotations

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
    return f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}"
