"""Compiled code is kept on disk as long as none of its sources changes, and used without a disk that can be written."""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numba
import pytest

from sparse_offline_rl import compilation
from sparse_offline_rl.engines.capture import interpreter
from sparse_offline_rl.engines.sparse import kernels
from sparse_offline_rl.training.clock import working_time

PACKAGE = "sparse_offline_rl"
# Calls a kernel through a constant of another module; prints its result and whether the code came from the disk.
PROBE = """
import warnings, sys
warnings.simplefilter("always")
from small.compilation import serial
from small.kernel import double
print(double(3.0), sum(double.stats.cache_hits.values()))
"""


def package(folder: Path, factor: str = "2.0") -> None:
    """A small package with a kernel whose constant comes from a module that it imports."""
    root = folder / "small"
    root.mkdir(exist_ok=True)
    (root / "__init__.py").write_text("")
    shutil.copy(compilation.__file__, root / "compilation.py")
    (root / "constants.py").write_text(f"FACTOR = {factor}\n")
    (root / "kernel.py").write_text(
        "from small import constants\nfrom small.compilation import serial\n\n"
        "@serial\ndef double(x):\n    return constants.FACTOR * x\n"
    )


def probe(folder: Path, before: str = "", **environment: str) -> tuple[list[str], str]:
    settings = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", before + PROBE], env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


def test_code_is_compiled_again_when_a_module_that_it_imports_changes(tmp_path):
    package(tmp_path)
    assert probe(tmp_path)[0] == ["6.0", "0"]
    assert probe(tmp_path)[0] == ["6.0", "1"]
    package(tmp_path, "5.0")
    assert probe(tmp_path)[0] == ["15.0", "0"]
    assert probe(tmp_path)[0] == ["15.0", "1"]
    kept = sorted(path.suffix for path in (tmp_path / "small" / "__pycache__").iterdir())
    assert kept == [".nbc", ".nbi"]  # those of the older source are gone


def test_an_index_without_its_data_does_not_lead_to_older_code(tmp_path):
    package(tmp_path)
    probe(tmp_path)
    (data,) = (tmp_path / "small" / "__pycache__").glob("*.nbc")
    data.write_bytes(b"")
    assert probe(tmp_path)[0] == ["6.0", "0"]


# A write beyond 200 bytes fails, as on a full disk.
FULL_DISK = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))\n"


@pytest.mark.skipif(sys.platform == "win32", reason="limits a file's size as POSIX does")
def test_a_full_disk_costs_time_and_says_so_once(tmp_path):
    package(tmp_path)
    (output, errors) = probe(tmp_path, before=FULL_DISK)
    assert output == ["6.0", "0"]
    assert errors.count("compiled kernels cannot be kept on disk") == 1
    assert "File too large" in errors and "NUMBA_CACHE_DIR" in errors


def test_no_folder_that_can_be_written_costs_time_and_says_so_once(tmp_path):
    package(tmp_path)
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "small" / "__pycache__").write_text("")  # a file, where a folder would have to be
    output, errors = probe(tmp_path, NUMBA_CACHE_DIR=str(file), XDG_CACHE_HOME=str(file), HOME=str(file))
    assert output == ["6.0", "0"]
    assert errors.count("compiled kernels cannot be kept on disk (no folder can be written)") == 1


def reachable(module: str) -> set[str]:
    """A module of the package and all that it imports, by its syntax tree."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in found or name not in sys.modules:
            continue
        found.add(name)
        for node in ast.parse(Path(str(sys.modules[name].__file__)).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE):
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.parametrize("module", [kernels, interpreter])
def test_the_digest_covers_all_imports_of_the_kernels(module, monkeypatch):
    names = reachable(module.__name__)
    assert f"{PACKAGE}.engines.sparse.simd" in names and f"{PACKAGE}.compilation" in names
    digest = compilation.source_digest(module.__name__)
    read = compilation._source
    for changed in names:
        monkeypatch.setattr(compilation, "_source", lambda name, c=changed: (b"other" * (name == c), read(name)[1]))
        assert compilation.source_digest(module.__name__) != digest


def test_the_clock_of_training_stands_still_while_a_kernel_is_compiled():
    compiled = numba.njit(lambda x: x**3 + 1)
    before, wall, work = compilation.seconds_compiling(), time.perf_counter(), working_time()
    assert compiled(2.0) == 9
    wall, work = time.perf_counter() - wall, working_time() - work
    spent = compilation.seconds_compiling() - before
    assert 0 < spent <= wall and work == pytest.approx(wall - spent, abs=1e-3)
    compiled(3.0)
    assert compilation.seconds_compiling() - before == spent
