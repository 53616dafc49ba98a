"""The one exception that reaches the user as a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake the user can mend.

    The message is one clear sentence: it names the offending value, the file or key it came from, and what to do.
    Command-line entry points print it as ``error: …`` and exit with status 2; library callers catch it.
    """
