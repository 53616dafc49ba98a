"""Rows of a dataset that the runs of one machine hold in memory once."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from sparse_offline_rl.datasets import shared_rows
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.datasets.shared_rows import SMALLEST, shared, shared_folder
from sparse_offline_rl.datasets.transitions import Transitions

COLUMNS = 8


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return shared_folder()


@pytest.fixture(scope="module")
def rows():
    count = SMALLEST // (4 * COLUMNS)
    return np.random.default_rng(0).standard_normal((count, COLUMNS), dtype=np.float32)


def files(folder):
    return sorted(path for path in folder.iterdir() if path.name != ".lock") if folder.exists() else []


def test_large_rows_become_a_mapped_file_that_the_next_run_maps_as_well(rows, folder):
    first = shared(rows, 1)
    (path,) = files(folder)
    written = path.stat().st_ino
    second = shared(rows.copy(), 1)
    assert (first == rows).all() and (second == rows).all()
    assert not np.shares_memory(first, rows)
    assert [file.stat().st_ino for file in files(folder)] == [written]
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    assert len(mapped) == 2
    assert {line.split()[1] for line in mapped} == {"rw-p"}  # whoever wrote would write to a copy of his own
    first[0] = 7
    assert (second == rows).all()


def test_small_rows_stay_where_they_are(rows, folder):
    few = rows[:-1]
    assert shared(few, 1) is few
    assert files(folder) == []


@pytest.mark.parametrize("content", [b"", b"\0" * SMALLEST])
def test_a_file_of_other_content_is_replaced(rows, folder, content):
    shared(rows, 1)
    (path,) = files(folder)
    path.write_bytes(content)
    assert (shared(rows, 1) == rows).all()
    assert files(folder) == [path]
    assert path.read_bytes() == rows.tobytes()


def test_runs_that_start_together_write_one_file(rows, folder):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: shared(rows, 1), range(4)))
    assert all((it == rows).all() for it in found)
    (path,) = files(folder)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    assert {line[4] for line in maps} == {str(path.stat().st_ino)} and len(maps) == 4


def test_what_no_run_has_begun_with_for_a_day_is_removed_when_one_begins(rows, folder):
    shared(rows, 1)
    shared(rows, 2)
    old, young = files(folder)
    leftover, foreign = folder / ".3.f32.77.tmp", folder / "notes.txt"
    leftover.write_bytes(b"half")
    foreign.write_text("mine")
    long_ago = time.time() - 2 * 24 * 3600
    for path in (old, leftover, foreign):
        os.utime(path, (long_ago, long_ago))
    shared(rows, 2)
    assert files(folder) == [young, foreign]


def test_a_folder_of_somebody_else_is_not_used(rows, folder, tmp_path):
    folder.mkdir(mode=0o700)
    folder.chmod(0o770)
    assert shared(rows, 1) is rows
    folder.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert shared(rows, 1) is rows
    assert files(tmp_path / "elsewhere") == []


def test_without_a_folder_for_temporary_files_nothing_is_shared(rows, monkeypatch):
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert shared(rows, 1) is rows


def test_a_full_disk_or_a_foreign_folder_costs_only_the_sharing(rows, folder, monkeypatch):
    folder.write_text("not a folder")
    assert shared(rows, 1) is rows
    folder.unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shared_rows.os, "utime", full)
    shared(rows, 1)
    assert shared(rows, 1) is rows


def test_batches_are_the_same_and_another_process_maps_the_same_pages(rows, folder, tmp_path):
    count = len(rows)
    flags = np.zeros(count, bool)
    data = Transitions(rows[:, :3], rows[:, 3:4], rows[:, 4], rows[:, 5:], flags, flags)
    buffer = ReplayBuffer(data, Normalization.identity(3))
    (path,) = files(folder)
    assert f"{zlib.crc32(path.read_bytes()):08x}" in buffer.fingerprint
    expected = ReplayBuffer(data.head(count - 1), Normalization.identity(3))  # too small to be shared
    for it in (buffer, expected):
        it._rows = it._rows[: count - 1]
    one, other = (it.sampler(64)(torch.Generator().manual_seed(3)) for it in (buffer, expected))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    script = (
        "import sys, numpy as np\n"
        "from sparse_offline_rl.datasets.shared_rows import shared\n"
        "rows = np.fromfile(sys.argv[1], np.float32).reshape(-1, 9)\n"
        "found = shared(rows, int(sys.argv[2], 16))\n"
        "print(found is not rows, sys.argv[1] in open('/proc/self/maps').read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), path.name.partition("-")[0]],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "True"]
