"""The one exception that reaches the user as a sentence instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend.

    The message is one clear sentence: it names the offending value, the file or key it came from, and what to do.
    Command-line entry points print it as ``error: …`` and exit with status 2; library callers catch it.
    """


def reason(error: BaseException) -> str:
    """The first line of what a library's ``error`` says, or its kind where it says nothing: for use inside a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
