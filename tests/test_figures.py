"""The committed figures: drawn from the data that are committed, and named where they are not."""

from __future__ import annotations

import shutil
import sys

import pytest
from conftest import ROOT
from run_folders import write_run

sys.path.insert(0, str(ROOT / "scripts"))
import figures


def test_the_figures_are_drawn_from_what_the_results_hold(capsys):
    figures.main(["check=true"])
    assert capsys.readouterr().out == "all figures are drawn from what results hold\n"


def test_figures_whose_data_have_changed_are_named_and_drawn_anew(tmp_path, monkeypatch, capsys):
    runs = tmp_path / "results" / "made"
    report = figures.Report(("results/made",), "prune=snip", (("curves_updates.png", "results/curves.png"),))
    monkeypatch.setattr(figures, "REPORTS", (report,))
    figure, arguments = tmp_path / "results" / "curves.png", [f"root={tmp_path}"]
    for returns in ((1.0, 2.0), (2.0, 1.0)):
        shutil.rmtree(runs, ignore_errors=True)
        write_run(runs / "snip", returns=returns)
        with pytest.raises(SystemExit, match="2"):
            figures.main([*arguments, "check=true"])
        assert "results/curves.png: not drawn from what results hold now" in capsys.readouterr().err
        figures.main(arguments)
        assert capsys.readouterr().out == "results/curves.png\n" and figure.read_bytes().startswith(b"\x89PNG")
        figures.main([*arguments, "check=true"])
        assert capsys.readouterr().out == "all figures are drawn from what results hold\n"


def test_another_folder_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        figures.main([f"root={tmp_path}"])
    assert "is no folder: give root= the folder of a clone." in capsys.readouterr().err
