"""Compiles functions with Numba and keeps the result on disk until one of their sources changes.

Numba writes an index and data files for each function, named after the function, its module and its line, into the ``__pycache__``
folder of the module, or, where that cannot be written, into the user's cache folder (``NUMBA_CACHE_DIR`` overrides both).
An index counts as empty when the one file that holds the function has changed (``numba/core/caching.py``). That is not enough
here: a kernel is compiled together with functions, intrinsics and constants of other modules. So the names of the files end in
a digest of every module of this package that the function's module imports, directly or not. A name that differs also keeps
an index that was written from pointing to older code when the data that belong to it could not be written.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from numba.core import caching as _caching
from numba.core import event as _event

# Typed by hand: Numba ships no annotations.
caching: Any = _caching
event: Any = _event

_PACKAGE = __name__.partition(".")[0]
_IMPORT = re.compile(rf"^(?:from|import) ({_PACKAGE}[\w.]*)(?: import (.*))?$", re.MULTILINE)

_timer = event.TimingListener()
event.register("numba:compile", _timer)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def serial(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile ``function`` at its first call. It runs on one thread and lets other Python threads run meanwhile."""
    return _compiled(function, parallel=False)


def parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`serial`; loops over ``numba.prange`` share their iterations among Numba's threads."""
    return _compiled(function, parallel=True)


def seconds_compiling() -> float:
    """How long this process has compiled functions so far; those that were found on the disk take no time."""
    return float(_timer.duration) if _timer.done else 0.0


def source_digest(module: str) -> str:
    """Digest of the sources of an imported module of this package and of all modules of the package that it imports."""
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in sources:
            sources[name], imported = _source(name)
            waiting += imported
    return hashlib.sha256(b"".join(sources[name] for name in sorted(sources))).hexdigest()[:16]


@functools.cache
def _source(module: str) -> tuple[bytes, list[str]]:
    """The bytes of a module's file, and the modules of this package that it imports at its top."""
    found: Any = sys.modules[module]
    source: bytes = found.__loader__.get_data(found.__file__)  # reads zipped packages as well
    return source, list(_imported(source.decode(errors="replace")))


def _imported(source: str) -> Iterator[str]:
    for name, members in _IMPORT.findall(source):
        yield name
        modules = (f"{name}.{member.strip()}" for member in members.split(","))
        yield from (module for module in modules if module in sys.modules)


def _compiled(function: Callable[..., Any], parallel: bool) -> Callable[..., Any]:
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy", parallel=parallel)(function)
    try:
        dispatcher._cache = _DiskCache(function)  # what cache=True does, with Numba's own class
    except (RuntimeError, OSError) as error:  # no folder can be written
        _warn(error)
    compiled: Callable[..., Any] = dispatcher
    return compiled


class _Files(caching.CompileResultCacheImpl):  # type: ignore[misc]
    """Where the compiled code of a function is kept."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._digest = source_digest(function.__module__)
        super().__init__(function)

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        """The name of Numba's files without their endings."""
        return f"{super().get_filename_base(fullname, abiflags)}.{self._digest}"


class _DiskCache(caching.FunctionCache):  # type: ignore[misc]
    """Numba's cache of one function. What cannot be read or written is compiled instead."""

    _impl_class = _Files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Compiled code for a signature, or None."""
        try:
            return super().load_overload(sig, target_context)
        except (OSError, EOFError, pickle.UnpicklingError):
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code for a signature, and remove that of older sources."""
        try:
            super().save_overload(sig, data)
            self._remove_outdated()
        except OSError as error:
            self.disable()
            _warn(error)

    def _remove_outdated(self) -> None:
        name = self._impl.filename_base
        for path in Path(self.cache_path).glob(f"{name.partition('-')[0]}-*.nb[ic]"):
            if not path.name.startswith(name):
                path.unlink(missing_ok=True)


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(
        f"compiled kernels cannot be kept on disk ({reason}): every process compiles them anew, which takes some seconds. "
        "Make room, or let NUMBA_CACHE_DIR name a folder that can be written.",
        RuntimeWarning,
        stacklevel=2,
    )


def _warn(error: Exception) -> None:
    _warn_once(error.strerror if isinstance(error, OSError) and error.strerror else "no folder can be written")
