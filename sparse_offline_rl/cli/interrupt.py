"""Ctrl-C, whenever it comes: one short line on standard error and exit status 130."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED = 130  # the shell's status for Ctrl-C
MESSAGE = "interrupted: nothing half-written is left; run the same command again."

_pressed = False


def leave_at_once() -> None:
    """From now on Ctrl-C ends the process then and there, outside :func:`interruptible` blocks.

    Meant for the imports before a command and for Python's own end, where there is nothing to clean up and where libraries
    turn a KeyboardInterrupt into errors of their own, print it, or lose it.
    """
    if _can_be_set():
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the first Ctrl-C raises KeyboardInterrupt, so that what is under way cleans up; a second one leaves.

    Whatever error comes out of the block after Ctrl-C, a KeyboardInterrupt does: libraries report it in many guises.
    """
    global _pressed
    if not _can_be_set():
        yield
        return
    _pressed = False
    previous_hook = sys.unraisablehook

    def leave_if_pressed(unraisable: sys.UnraisableHookArgs) -> None:
        # An interrupted destructor or callback, whose error Python would print and forget.
        if _pressed:
            _leave(signal.SIGINT, None)
        previous_hook(unraisable)

    previous_handler = signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = leave_if_pressed
    try:
        yield
    except BaseException as error:
        if _pressed and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous_handler)
        sys.unraisablehook = previous_hook


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed since the last :func:`interruptible` block began."""
    return _pressed


def _can_be_set() -> bool:
    """Signals belong to the main thread; and whoever started us in the background with Ctrl-C ignored, meant it."""
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _pressed
    if _pressed:
        _leave(number, frame)
    _pressed = True
    raise KeyboardInterrupt


def _leave(_number: int, _frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(2, f"{MESSAGE}\n".encode())  # print() is not safe in a signal handler
    os._exit(INTERRUPTED)
