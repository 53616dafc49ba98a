"""The examples of docs/engine.md are true."""

import re

import pytest
from conftest import ROOT

TEXT = (ROOT / "docs" / "engine.md").read_text(encoding="utf-8")
EXAMPLES = [block for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "assert" in block]


def test_there_is_a_worked_example():
    assert len(EXAMPLES) == 1 and EXAMPLES[0].count("assert") > 10


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_worked_example_runs(code):
    exec(code, {})


def test_files_that_are_named_exist():
    engines = ROOT / "sparse_offline_rl" / "engines"
    named = set(re.findall(r"\b(?:sparse|capture)/\w+\.py\b", TEXT))
    assert len(named) > 20
    assert not [name for name in named if not (engines / name).exists()]


def test_names_are_those_of_the_code():
    """Each name of a function or class in the maps of calls is defined in the file that stands beside it."""
    engines = ROOT / "sparse_offline_rl" / "engines"
    lines = re.findall(r"^[ │├└─]*(?:run → )?([\w.]+)[^\n]*?\s((?:sparse|capture)/\w+\.py)", TEXT, re.MULTILINE)
    assert len(lines) > 20
    for name, file in lines:
        source = (engines / file).read_text(encoding="utf-8")
        assert re.search(rf"\b{name.rpartition('.')[2]}\b", source), (name, file)


def test_the_recipe_for_an_operation_shows_a_line_of_the_code():
    (example,) = re.findall(r"`(\"\w+\": lambda b, out, x: [^`]*)`", TEXT)
    assert example in (ROOT / "sparse_offline_rl/engines/capture/lowering.py").read_text(encoding="utf-8")
