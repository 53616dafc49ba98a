"""The tables of README about measurements say what the files of the measurements hold."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT

from sparse_offline_rl.benchmarks.results import SectionResult, Table, save_results
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import write_csv, write_json

sys.path.insert(0, str(ROOT / "scripts"))
import findings_measured


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A benchmark with one table: ours at 462.5 and theirs at 23.7 updates/s, and two rows of a third."""
    rows = [
        *({"who": who, "threads": 1, "updates/s": rate} for who, rate in (("ours", 462.5), ("theirs", 23.7))),
        *({"who": "twice", "threads": threads, "updates/s": None} for threads in (1, 2)),
    ]
    section = SectionResult("Race", "command", {}, False, None, 1.0, "2026-11-23 12:00:00", [Table("Updates", rows)])
    (tmp_path / "results").mkdir()
    save_results(tmp_path / "results/benchmark.json", {"race": section})
    monkeypatch.setattr(findings_measured, "ROOT", tmp_path)
    return findings_measured.Measured("", "race", "Updates")


def test_a_cell_says_the_number_of_its_row_and_a_ratio_that_of_two(measured):
    ours, theirs = {"who": "ours"}, {"who": "theirs", "threads": 1}
    assert measured.cell("updates/s", **ours)() == "462"
    assert measured.cell("updates/s", **theirs)() == "23.7"
    assert measured.ratio("updates/s", ours, theirs)() == "19.5 ×"
    both = findings_measured.bracketed(measured.cell("updates/s", **theirs), measured.ratio("updates/s", ours, theirs))
    assert both() == "23.7 (19.5 ×)"


@pytest.mark.parametrize(
    ("column", "row"),
    [
        ("updates/s", {"who": "nobody"}),
        ("updates/s", {"who": "twice"}),
        ("updates/s", {"who": "twice", "threads": 1}),
        ("ms", {"who": "ours"}),
        ("who", {"who": "ours"}),
    ],
)
def test_a_row_that_is_missing_not_one_or_has_no_number_is_named(measured, column, row):
    with pytest.raises(UserError, match=rf"benchmark.json, Updates: no single row .* with a number for {column}"):
        measured.value(column, **row)
    with pytest.raises(UserError, match="measure section none again"):
        findings_measured.Measured("", "none", "Updates").value("updates/s", who="ours")


@pytest.mark.parametrize(
    ("value", "written"),
    [(1.1208, "1.12"), (10.99, "11.0"), (99.6, "99.6"), (100.4, "100"), (1189.9, "1190"), (0.0879, "0.0879")],
)
def test_numbers_have_three_significant_digits(value, written):
    assert findings_measured.significant(value) == written


def test_cells_about_compressed_policies(tmp_path, monkeypatch):
    monkeypatch.setattr(findings_measured, "ROOT", tmp_path)
    run = "results/study/rates hopper/synflow seed"
    rows = [
        ("a", "Hopper", "snip", 0.95, "bits=8", 46817, 20, 3505.7, 3.2, 3498.7),
        ("a", "Hopper", "snip", 0.95, "bits=8", 46817, 100, 1.0, 1.0, 1.0),
        *((f"{run}{seed}", "Hopper", "synflow", 0.99, "before", 1, 100, 100.0 + seed, 1.0, "") for seed in (0, 1)),
        *((f"{run}{seed}", "Hopper", "synflow", 0.99, "bits=8", 1, 100, 90.0 + seed, 1.0, "") for seed in (0, 1)),
    ]
    (tmp_path / "results/compress").mkdir(parents=True)
    write_csv(tmp_path / "results/compress/returns.csv", [findings_measured.COMPRESSED_COLUMNS, *rows])
    assert [cell() for cell in findings_measured._file_and_return("a", "bits=8")] == ["46.8", "3506 ± 3"]
    assert [cell() for cell in findings_measured._file_and_return("a", "bits=4")] == ["", ""]
    cells = findings_measured._before_and_after("hopper", "bits=8", seeds=(0, 1))
    assert [cell() for cell in cells] == ["100 / 90", "101 / 91", "90.0 %"]
    with pytest.raises(UserError, match=r"rates hopper/synflow seed2 was not played bits=8"):
        findings_measured._before_and_after("hopper", "bits=8")[-1]()


def test_the_best_rate_is_the_one_that_needs_fewest_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(findings_measured, "ROOT", tmp_path)
    (tmp_path / "results/batch").mkdir(parents=True)
    rows = [(8, 0.0, 0.001, 30), (8, 0.0, 0.003, 20), (8, 0.0, 0.01, ""), (8, 0.98, 0.001, ""), (32, 0.0, 0.001, 5)]
    columns = findings_measured.batch_study.COLUMNS
    write_csv(tmp_path / "results/batch/steps.csv", [columns["steps.csv"], *rows])
    write_csv(tmp_path / "results/batch/lipschitz.csv", [columns["lipschitz.csv"]])
    write_json(tmp_path / "results/batch/settings.json", {"steps": 50})
    assert findings_measured._fewest_steps(8, 0.0)() == "20 (0.003)"
    assert findings_measured._fewest_steps(8, 0.98)() == "more than 50"
