"""What the documents point to is there: files, headings, and commands whose keys and values the program takes."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from string import Template

import pytest
from command_lines import checked
from conftest import ROOT

from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.cli.grids import planned_jobs
from sparse_offline_rl.errors import UserError

DOCUMENTS = sorted(
    Path(name) for name in subprocess.check_output(("git", "ls-files", "*.md"), cwd=ROOT, text=True).split()
)
# Any arguments, and the command of a file that the reader of CONTRIBUTING.md is about to write.
OF_THE_READER = {("…",), ("prune=snip_rigl", "sparsity=0.95")}


def text_of(document: Path) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", shown.strip().lower()).replace(" ", "-")


def prose(document: Path) -> str:
    return re.sub(r"^```.*?^```", "", text_of(document), flags=re.DOTALL | re.MULTILINE)


def anchors(document: Path) -> set[str]:
    return set(map(anchor, re.findall(r"^#+ (.*)$", prose(document), re.MULTILINE)))


def broken_links(document: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", prose(document)):
        name, _, fragment = link.partition("#")
        target = document.parent / name if name else document
        if not (ROOT / target).exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    return broken


def commands(document: Path, program: str) -> list[tuple[str, ...]]:
    """The arguments of each call of a program in a document, in a code span or on an indented line."""
    text = text_of(document).replace("prune=METHOD", "prune=snip")
    found = re.findall(rf"`{re.escape(program)}(?:\s+([^`]*))?`", text)
    variables: dict[str, str] = {}
    for line in re.findall(r"^ +(\S.*)$", text, re.MULTILINE):
        if assignment := re.fullmatch(r"(\w+)=(\S+)", line):
            variables[assignment[1]] = assignment[2]
        elif line.startswith(program):
            found.append(Template(line.removeprefix(program)).safe_substitute(variables))
    return sorted({tuple(shlex.split(it, comments=True)) for it in found} - OF_THE_READER)


TRAININGS = sorted({it for document in DOCUMENTS for it in commands(document, "python train.py")})
REPORTS = sorted({it for document in DOCUMENTS for it in commands(document, "sparse-offline-rl report")})


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_leads_to_a_file_and_a_heading(document):
    assert broken_links(document) == []


@pytest.mark.parametrize("arguments", TRAININGS, ids=" ".join)
def test_every_training_in_the_documents_is_one_that_the_program_takes(arguments):
    with checked(*arguments) as (app, flags, sweep):
        if sweep:
            assert planned_jobs(app, flags)
    if not sweep:
        config_of(flags.overrides)


def test_a_training_that_no_longer_works_would_be_seen():
    assert len(TRAININGS) > 40
    with pytest.raises(UserError, match="snipp"), checked("experiment=study", "prune=snipp"):
        pass


@pytest.mark.parametrize("arguments", REPORTS, ids=" ".join)
def test_every_report_in_the_documents_is_of_runs_that_are_there(arguments):
    runs = [it.removeprefix("runs=").split(",") for it in arguments if it.startswith("runs=")]
    for folder in (folder for folders in runs for folder in folders if folder.startswith("results/")):
        assert (ROOT / folder / "runs.csv").is_file()
