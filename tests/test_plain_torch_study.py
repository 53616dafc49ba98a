"""The study of the usual torch code: it learns from the dataset, and its file says what it found."""

from __future__ import annotations

import csv
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import plain_torch_study
from plain_torch_study import COLUMNS, PlainTorchOptions

TINY = ["env=hopper", "size=1000", "updates=5", "every=3", "episodes=2"]


def rows_of(path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def study(*arguments: str) -> None:
    plain_torch_study.main([*TINY, *arguments])


def test_each_evaluation_is_a_row_and_known_cells_are_not_trained_again(tmp_path, monkeypatch):
    out = tmp_path / "plain.csv"
    study("agent=bc", f"out={out}")
    study("agent=bcq", f"out={out}")
    rows = rows_of(out)
    assert [(row["agent"], row["update"]) for row in rows] == [("bc", "3"), ("bc", "5"), ("bcq", "3"), ("bcq", "5")]
    assert all(0 < float(row["return_mean"]) < 4000 for row in rows)
    for early, late in (rows[:2], rows[2:]):
        assert 0 < float(early["train_seconds"]) < float(late["train_seconds"])
    assert len({row["dataset_return_mean"] for row in rows}) == 1 and float(rows[0]["dataset_return_mean"]) > 3000
    monkeypatch.setattr(plain_torch_study, "learn", lambda options: pytest.fail("trained again"))
    before = out.read_bytes()
    study("agent=bc", f"out={out}")
    assert out.read_bytes() == before


def returns(**options) -> list[float]:
    chosen = {"agent": "bc", "size": 1000, "updates": 5, "every": 3, "episodes": 2} | options
    return [float(row["return_mean"]) for row in plain_torch_study.learn(PlainTorchOptions(**chosen))]


def test_the_same_seed_learns_the_same_and_another_seed_another():
    first = returns(seed=1)
    assert first == returns(seed=1) and first != returns(seed=2)


def test_it_learns_what_the_data_hold():
    chosen = {"size": 10_000, "episodes": 4}
    assert returns(updates=120, every=120, **chosen)[-1] > 2 * returns(updates=3, **chosen)[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["agent=iql"], "agent=iql"),
        (["updates=0"], "updates=0"),
        (["size=10"], "size=10"),
        (["env=pendulum"], "pendulum"),
        (["step=3"], "there is no key 'step'"),
    ],
)
def test_bad_arguments_get_one_sentence(tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit):
        study(*arguments, f"out={tmp_path / 'plain.csv'}")
    err = capsys.readouterr().err
    assert said in err and len(err.strip().splitlines()) == 1
    assert not (tmp_path / "plain.csv").exists()


def test_a_file_of_something_else_is_left_as_it_is(tmp_path, capsys):
    out = tmp_path / "plain.csv"
    out.write_text(",".join(COLUMNS[:-1]) + "\n")
    with pytest.raises(SystemExit):
        study("agent=bc", f"out={out}")
    assert "give another name with out=" in capsys.readouterr().err
    assert out.read_text() == ",".join(COLUMNS[:-1]) + "\n"
