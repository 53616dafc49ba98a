"""The order of the house: imports go one way, acting needs no torch, files and functions stay short."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest
from conftest import ROOT

PACKAGE = ROOT / "sparse_offline_rl"
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]

TIERS = [
    {"cores", "errors", "types", "config", "files", "seeding", "tracing", "compilation"},
    {"networks", "datasets"},
    {"pruning", "agents", "engines", "policy", "evaluation", "export", "compression"},
    {"training"},
    {"experiment"},
    {"cli", "reports", "benchmarks"},
]
TIER_OF = {unit: number for number, tier in enumerate(TIERS) for unit in tier}
STRANGERS = [("agents", "pruning"), ("pruning", "agents")]


def imported(path) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in the file; with the name, where that is a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("sparse_offline_rl."))


def unit_of(path) -> str:
    """The subpackage, or the module at the top of the package, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def edges() -> dict[str, set[str]]:
    """Unit -> units that it imports; the package's own ``__init__`` only forwards to the policy runtime."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        targets = {name.split(".")[1] for name in imported(path)} & set(TIER_OF)
        found.setdefault(unit_of(path), set()).update(targets - {unit_of(path)})
    del found["__init__"]
    return found


def test_every_part_has_its_place():
    assert set(edges()) <= set(TIER_OF), "a new module or subpackage needs a place in TIERS"


def test_no_import_goes_upwards():
    upwards = [
        (unit, target) for unit, targets in edges().items() for target in targets if TIER_OF[target] > TIER_OF[unit]
    ]
    assert not upwards


def test_parts_of_one_tier_form_no_circle():
    list(TopologicalSorter(edges()).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize(("unit", "other"), STRANGERS)
def test_agents_and_pruning_do_not_know_each_other(unit, other):
    assert other not in edges()[unit]


def test_modules_form_no_circle():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES if path.stem != "__init__"
    }
    graph = {
        name: {target for found in imported(path) for target in (found, found.rpartition(".")[0]) if target in modules}
        for name, path in modules.items()
    }
    list(TopologicalSorter(graph).static_order())


def test_the_package_and_acting_import_no_torch(tmp_path):
    script = """
import sys
import numpy as np
import sparse_offline_rl
from policy_samples import make_policy
from sparse_offline_rl.policy.format import write_policy
path = sys.argv[1]
for kind in ("bcq", "bc", "actor"):
    for density in (0.1, 1.0):
        write_policy(__import__("pathlib").Path(path), make_policy(kind, density))
        assert sparse_offline_rl.load_policy(path).act(np.zeros(5)).shape == (3,)
import sparse_offline_rl.cli.evaluate
assert "torch" not in sys.modules, "torch was imported"
"""
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path / "policy.sorl")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT / "tests")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_files_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno + 1 <= 60, node.name
