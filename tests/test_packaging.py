"""What the package imports is what ``pyproject.toml`` declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import metadata, packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.specifiers import SpecifierSet

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
PACKAGE = ROOT / "sparse_offline_rl"
# The benchmark is no part of the wheel, and its other libraries live in an environment of their own.
FILES = sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "benchmarks" not in path.parents)


def names(requirements: list[str]) -> set[str]:
    """The normalised names of some requirements, as in ``name[extra]>=1; marker``."""
    return {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~!; ]", text)[0]).lower() for text in requirements}


DEPENDENCIES = names(PROJECT["dependencies"])
EXTRAS = names([text for extra in PROJECT["optional-dependencies"].values() for text in extra])


def imports(tree: ast.AST, inside: bool = False) -> Iterator[tuple[str, bool]]:
    """Module imported -> whether inside a function, which is done only when that is called."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, inside
        yield from imports(node, inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def third_party(path: Path) -> Iterator[tuple[set[str], bool]]:
    """Distributions that may provide what a file imports -> whether inside a function."""
    providers = packages_distributions()
    for module, inside in imports(ast.parse(path.read_text(encoding="utf-8"))):
        top = module.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "sparse_offline_rl":
            assert top in providers, f"{path.name} imports {module}, which is not installed"
            yield names([top, *providers[top]]), inside  # mujoco 4 comes from mujoco-core, which mujoco brings


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_every_import_is_declared(path):
    for distributions, inside in third_party(path):
        declared = DEPENDENCIES | EXTRAS if inside else DEPENDENCIES
        assert distributions & declared, f"declare one of {distributions} in pyproject.toml"


def pins() -> set[str]:
    """The normalised names of what ``constraints.txt`` pins."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return names([line for line in lines if line and not line.startswith("#")])


def test_the_pins_cover_what_is_declared():
    assert (DEPENDENCIES | EXTRAS) - {PROJECT["name"]} <= pins()


def test_the_oldest_python_is_one_that_the_tests_can_run_on():
    """Every dependency, at the version that the tests run with, can be installed on it, and the tools check for it."""
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{sys.version_info.major}.{sys.version_info.minor}")
    assert SETTINGS["tool"]["mypy"]["python_version"] == oldest
    assert SETTINGS["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    wanted = {name: metadata(name)["Requires-Python"] or "" for name in DEPENDENCIES}
    refusing = [name for name, versions in wanted.items() if not SpecifierSet(versions).contains(oldest)]
    assert refusing == []
