"""Files that are either whole or not there."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sparse_offline_rl.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; when the block ends well the file is synced and renamed over ``path``.

    On any error the temporary file is removed and what ``path`` held stays. A full disk and the like become a UserError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({error.strerror or error}): make room or choose another folder; "
            "what was there before is untouched."
        ) from error
    finally:
        with suppress(OSError):  # absent, or on a disk that just failed
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed processes left in ``folder``; nobody else may be writing there."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, all or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write ``rows``, the first of them the header, as a CSV file with Unix line ends, all or nothing."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_bytes(path, text.getvalue().encode())


def read_csv(path: Path, columns: Sequence[str], remedy: str) -> list[dict[str, str]]:
    """The rows of a CSV file that :func:`write_csv` wrote with these ``columns``.

    Raises UserError, which names the file and ends with ``remedy``, if it is none.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}): {remedy}.") from None
    if not lines or lines[0] != list(columns) or any(len(line) != len(columns) for line in lines):
        raise UserError(f"{path} does not have the columns {', '.join(columns)}, each in every row: {remedy}.")
    return [dict(zip(columns, line, strict=True)) for line in lines[1:]]


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, all or nothing. Not-a-number and infinity are refused by the format."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged one becomes a UserError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable JSON file ({error}): restore it or remove its folder.") from None
