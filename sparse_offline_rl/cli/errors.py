"""How every command ends when something is wrong: one sentence on standard error and exit status 2."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sparse_offline_rl.errors import UserError

INTERRUPTED = 130  # the shell's status for Ctrl-C


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a UserError into ``error: …`` and exit status 2, and Ctrl-C into one line and status 130."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: nothing half-written is left; run the same command again.", file=sys.stderr)
        sys.exit(INTERRUPTED)


def closest(word: str, known: Iterable[str]) -> str:
    """``the closest is 'x'``, or the list of all that is ``known``."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"the closest is '{close[0]}'" if close else f"there is {', '.join(names)}"
