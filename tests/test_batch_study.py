"""The study of batch size and sparsity: what it measures, and that it goes on where it was stopped."""

from __future__ import annotations

import csv
import sys

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import batch_study
from batch_study import Cell, Outcome, best, distance, measure

TINY = [
    "size=1000",
    "held_out=50",
    "hidden=8",
    "sparsities=0,0.5",
    "batch_sizes=4,16",
    "rates=1e-2",
    "every=2",
    "steps=40",
    "goal=0.3",
]


def rows(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_ratio_of_gradients_to_steps_is_the_curvature_of_a_quadratic():
    parameter = torch.tensor([1.0, 2.0], requires_grad=True)
    scale = torch.tensor([3.0, 3.0])

    def loss() -> torch.Tensor:
        return (scale * parameter.square()).sum() / 2

    value, before = measure(loss, [parameter])
    place = parameter.detach().clone()
    with torch.no_grad():
        parameter += torch.tensor([0.5, -0.25])
    _, after = measure(loss, [parameter])
    assert value == 7.5
    assert distance(after, before) / distance([parameter], [place]) == pytest.approx(3)


def test_the_best_rate_is_the_one_that_gets_there_first():
    runs = [Outcome(Cell(8, 0.5, rate), steps, []) for rate, steps in ((1e-3, 40), (1e-2, 20), (1e-1, None))]
    assert best(runs) == {(8, 0.5): runs[1]}
    assert batch_study._allowed(runs, Cell(8, 0.5, 1.0), 100) == 20
    assert batch_study._allowed(runs, Cell(16, 0.5, 1.0), 100) == 100


def test_a_study_that_was_stopped_is_finished_by_the_same_command(tmp_path, monkeypatch, capsys):
    batch_study.main([*TINY, f"out={tmp_path / 'whole'}"])
    whole, part = tmp_path / "whole", tmp_path / "part"
    runs = rows(whole / "steps.csv")
    assert len(runs) == 4
    assert {(row["batch_size"], row["sparsity"]) for row in runs} == {
        (b, s) for b in ("4", "16") for s in ("0.0", "0.5")
    }
    assert any(row["steps"] for row in runs)
    points = rows(whole / "lipschitz.csv")
    assert all(0 < float(row["lipschitz"]) < 1e3 for row in points)
    for run in (row for row in runs if row["steps"]):
        cell = [float(row["loss"]) for row in points if all(row[key] == run[key] for key in Cell._fields)]
        assert cell[-1] <= 0.3 < min(cell[:-1], default=1.0)
    real, done = batch_study.Study.run, []

    def stopped(study, cell, most):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(cell)
        return real(study, cell, most)

    monkeypatch.setattr(batch_study.Study, "run", stopped)
    with pytest.raises(SystemExit):
        batch_study.main([*TINY, f"out={part}"])
    assert rows(part / "steps.csv") == runs[:2]
    monkeypatch.setattr(batch_study.Study, "run", real)
    batch_study.main([*TINY, f"out={part}"])
    for name in ("steps.csv", "lipschitz.csv", "batch_study.png"):
        assert (part / name).read_bytes() == (whole / name).read_bytes()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        batch_study.main([*TINY[:-1], "goal=0.2", f"out={part}"])
    assert "holds a study with other goal" in capsys.readouterr().err


def test_a_goal_that_is_reached_untrained_is_none(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        batch_study.main([*TINY[:-1], "goal=9", f"out={tmp_path}"])
    assert end.value.code == 2
    assert "goal=9: the loss of untrained networks is 0." in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "damaged", "sentence"),
    [
        ("steps.csv", b"batch_size,steps\n8,3\n", "does not have the columns batch_size, sparsity, rate, steps"),
        (
            "steps.csv",
            b"batch_size,sparsity,rate,steps\n8,x,0.1,3\n",
            "is damaged (could not convert string to float: 'x')",
        ),
        ("lipschitz.csv", b"\xff\xfe", "lipschitz.csv cannot be read"),
    ],
)
def test_damaged_results_end_in_a_sentence(tmp_path, capsys, name, damaged, sentence):
    batch_study._write(batch_study.parse_options(batch_study.BatchOptions, [*TINY, f"out={tmp_path}"]), [])
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(SystemExit) as end:
        batch_study.main([*TINY, f"out={tmp_path}"])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    assert sentence in error
    assert (tmp_path / name).read_bytes() == damaged


@pytest.mark.parametrize("argument", ["sparsities=0,1", "batch_sizes=8,x", "batch_sizes=2.5", "rates=", "rates=-1"])
def test_grids_that_are_none_end_in_a_sentence(tmp_path, capsys, argument):
    with pytest.raises(SystemExit) as end:
        batch_study.main([argument, f"out={tmp_path / 'out'}"])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {argument} cannot be used: write numbers")
    assert not (tmp_path / "out").exists()
