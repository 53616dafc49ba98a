"""How every command ends when something is wrong: one sentence on standard error and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sparse_offline_rl.cli.interrupt import INTERRUPTED, MESSAGE, interruptible
from sparse_offline_rl.errors import UserError

_MOST_NAMES = 16  # that a sentence lists


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn a UserError into ``error: …`` and exit status 2, and Ctrl-C into one line and status 130."""
    try:
        with interruptible():
            yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(MESSAGE, file=sys.stderr)
        sys.exit(INTERRUPTED)


def closest(word: str, known: Iterable[str]) -> str:
    """``the closest is 'x'``, or the list of all that is ``known``, or, where that is long, how to see it."""
    import difflib  # takes a while, and few commands fail

    names = sorted(known)
    # Letters that changed places: bqc is bcq, not bc.
    swapped = [name for name in names if sorted(name) == sorted(word)]
    close = swapped or difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"the closest is '{close[0]}'"
    return f"there is {', '.join(names)}" if len(names) <= _MOST_NAMES else "--help lists them all"
