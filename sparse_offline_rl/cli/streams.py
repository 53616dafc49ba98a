"""Standard output that is closed, full or a broken pipe: the work goes on without it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast


class SteadyStream:
    """A text stream whose writes never fail: after the first failure all goes to the null device.

    ``lost`` is that failure. A reader that went away, as in ``… | head``, wants no more and is told nothing.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        self.lost: OSError | ValueError | None = None

    def write(self, text: str) -> int:
        """Write ``text`` if there is anybody to read it; returns its length."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError) as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flush what can be; of a stream that was closed nothing is left, as where a handler of logging outlives it."""
        try:
            if not self._stream.closed:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def writelines(self, lines: Iterator[str]) -> None:
        """Write every line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError | ValueError) -> None:
        if self.lost is not None:
            return
        self.lost = error
        with suppress(OSError, ValueError):  # a stream of the tests has no descriptor
            descriptor = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)  # takes what is still buffered, too
            os.close(null)
        if getattr(error, "errno", None) != errno.EPIPE:
            reason = getattr(error, "strerror", None) or error
            sys.stderr.write(f"warning: {self._name} cannot be written ({reason}); going on without it.\n")


@contextmanager
def steady_output() -> Iterator[None]:
    """Within the block ``sys.stdout`` and ``sys.stderr`` are :class:`SteadyStream`."""
    _open_standard_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout = _steady(sys.stdout, "standard output")
    sys.stderr = _steady(sys.stderr, "standard error")
    try:
        yield
    finally:
        # Here, and not at Python's end, where a failure would be printed as an ignored exception.
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def output_was_lost() -> bool:
    """Whether standard output failed inside the present :func:`steady_output` block, other than by a reader's leaving."""
    lost = getattr(sys.stdout, "lost", None)
    return lost is not None and getattr(lost, "errno", None) != errno.EPIPE


def _steady(stream: TextIO | None, name: str) -> TextIO:
    if stream is None:  # it was closed when Python started
        stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - it lasts as long as the process
    return stream if isinstance(stream, SteadyStream) else cast(TextIO, SteadyStream(stream, name))


def _open_standard_descriptors() -> None:
    """Give closed standard descriptors to the null device, lest the next file opened, such as the metrics, become one."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the lowest free number: this one
