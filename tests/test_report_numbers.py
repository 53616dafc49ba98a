"""The numbers of a report against ones computed by hand, and the report made again from its own CSVs."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
import pytest
from report_studies import table
from run_folders import write_run

from sparse_offline_rl.cli import report as report_cli
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.reports.axes import Axes
from sparse_offline_rl.reports.compare import compare
from sparse_offline_rl.reports.curves import learning_curves
from sparse_offline_rl.reports.progress import Evaluation
from sparse_offline_rl.reports.statistics import (
    first_reaching,
    interquartile_mean,
    mean_interval,
    share_below_best,
    share_fallen,
)
from sparse_offline_rl.reports.store import read_runs, write_store
from sparse_offline_rl.reports.write import write_report


def evaluations(*means: float) -> list[Evaluation]:
    return [Evaluation(10 * i, 2.0 * i, mean) for i, mean in enumerate(means, start=1)]


def test_the_interquartile_mean_leaves_a_quarter_out_at_either_end():
    assert interquartile_mean([1, 2, 3, 4, 5, 6, 7, 1000]) == (3 + 4 + 5 + 6) / 4
    assert interquartile_mean([900, 2, 4, 3, 1]) == 3
    assert interquartile_mean([1, 2, 9]) == 4


def test_the_interval_is_that_of_all_resamples():
    """Of two or three values it reaches from end to end; of five all 5⁵ samples can be listed."""
    assert mean_interval([3.0]) is None
    assert mean_interval([4.0, 4.0, 4.0]) == (4, 4)
    assert mean_interval([1.0, 5.0]) == (1, 5)
    assert mean_interval([1.0, 2.0, 9.0]) == (1, 9)
    values = [3.0, 10.0, 11.0, 13.0, 30.0]
    means = [np.mean(sample) for sample in itertools.product(values, repeat=5)]
    assert mean_interval(values) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.3)
    assert mean_interval(values) == mean_interval(values)


def test_episodes_that_fell_have_less_than_half_of_the_median():
    assert share_fallen([100, 100, 90, 44, -5]) == 2 / 5
    assert share_fallen([100, 45, 45]) == 0
    assert share_fallen([-3, -2, -1]) is None
    assert share_fallen([]) is None


def test_time_below_half_of_the_best_counts_dips_and_not_the_start():
    assert share_below_best(evaluations(1, 2, 60, 100, 40, 70)) == 1 / 4
    assert share_below_best(evaluations(100)) == 0
    assert share_below_best(evaluations(-5, -1)) is None
    assert share_below_best([]) is None


def test_the_first_evaluation_that_is_good_enough_counts():
    found = first_reaching(evaluations(1, 90, 5, 100), 90)
    assert found is not None
    assert (found.update, found.seconds) == (20, 4.0)
    assert first_reaching(evaluations(1, 2), 3) is None


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Hopper, whose dataset's policy earns 320: three dense seeds, three of SNIP (one unfinished), one of GraSP that collapsed."""
    root = tmp_path_factory.mktemp("small")
    for seed, last in enumerate((300.0, 310.0, 350.0)):
        write_run(root / f"dense{seed}", prune="none", sparsity=0.0, seed=seed, returns=(290.0, 300.0, last))
    episodes = ((1.0, 3.0), (150.0, 450.0), (310.0, 290.0))
    write_run(root / "snip0", seed=0, returns=(2.0, 300.0, 300.0), episodes=episodes, densities=(0.3, 0.2, 0.2))
    write_run(
        root / "snip1", seed=1, returns=(305.0, 100.0, 200.0), episodes=((305.0, 305.0), (100.0, 100.0), (396.0, 4.0))
    )
    write_run(root / "snip2", seed=2, returns=(50.0,), finished=False)
    for seed, last in enumerate(((0.3, 0.5), (0.5, 0.1))):
        write_run(root / f"rigl{seed}", prune="rigl", seed=seed, moved=((0.1, 1.0), (0.2, 0.6), last))
    write_run(root / "grasp0", prune="grasp", returns=(1.0, 2.0, 3.0), collapsed=True)
    return root


@pytest.fixture(scope="module")
def out(small, tmp_path_factory):
    """The report on it."""
    folder = tmp_path_factory.mktemp("out")
    write_report([small], folder)
    return folder


def test_the_tables_hold_what_is_computed_by_hand(out):
    returns = table(out / "returns.csv")
    assert list(returns) == ["dense", "grasp 95 %", "rigl 95 %", "snip 95 %"]
    dense, snip, grasp = returns["dense"], returns["snip 95 %"], returns["grasp 95 %"]
    assert [float(dense[key]) for key in ("seeds", "mean", "IQM", "95 % from", "to", "of dense")] == [
        3,
        320,
        320,
        300,
        350,
        1,
    ]
    assert [float(snip[key]) for key in ("seeds", "mean", "IQM", "95 % from", "to")] == [2, 250, 250, 200, 300]
    assert float(snip["of dense"]) == 250 / 320
    assert float(snip["of the dataset's policy"]) == 250 / 320
    # Last episodes of the finished seeds: 310, 290, 396, 4, with the median 300.
    assert float(snip["episodes fallen"]) == 1 / 4
    # Seed 0 has no dip, seed 1 one of three evaluations (100 against a best of 305), seed 2 has one evaluation.
    assert float(snip["time below half of best"]) == pytest.approx((0 + 1 / 3 + 0) / 3)
    assert snip["remarks"] == "unfinished: seed 2 (after 10 updates)"
    assert grasp["remarks"] == "missing: seed 1, 2; collapsed: encoder.mean, seed 0"
    assert (grasp["95 % from"], dense["remarks"]) == ("", "")


def test_the_table_of_times_has_updates_and_seconds(out):
    """90 % of 320 are 288 and 95 % 304; evaluations come every 10 updates, which take 2 seconds."""
    times = table(out / "time_to_policy.csv")
    keys = [f"{share}%: {what}" for share in (90, 95) for what in ("runs", "not yet", "updates", "seconds")]
    assert [float(times["dense"][key]) for key in keys] == [3, 0, 10, 2, 2, 0, 30, 6]
    assert [float(times["snip 95 %"][key]) for key in keys] == [2, 1, 15, 3, 1, 1, 10, 2]
    assert [times["grasp 95 %"][key] for key in keys] == ["0.0", "0.0", "", ""] * 2
    assert float(times["snip 95 %"]["runs"]) == 3


def test_experiments_are_compared_after_equal_updates_and_equal_seconds(out, tmp_path):
    """All runs have 30 updates in 6 seconds; then SNIP is made twice as fast and given 10 updates more, with a return of 800, and GraSP,
    five times slower, has its first evaluation after 10 seconds."""
    rows = table(out / "equal.csv")
    keys = ["updates", "return then", "seconds", "return by then", "updates in all", "seconds in all", "return"]
    assert [float(rows["dense"][key]) for key in keys] == [30, 320, 6, 320, 30, 6, 320]
    assert [float(rows["snip 95 %"][key]) for key in keys] == [30, 250, 6, 250, 30, 6, 250]
    for seed in (0, 1):
        write_run(tmp_path / f"dense{seed}", prune="none", sparsity=0.0, seed=seed, returns=(10.0, 20.0, 30.0))
        folder = write_run(tmp_path / f"snip{seed}", seed=seed, returns=(100.0, 200.0, 400.0 + 2 * seed, 800.0))
        metrics = folder / "metrics.csv"
        metrics.write_text(metrics.read_text().replace(",5.0,", ",10.0,"))
    write_run(tmp_path / "slow", prune="grasp", returns=(7.0, 8.0, 9.0))
    metrics = tmp_path / "slow" / "metrics.csv"
    metrics.write_text(metrics.read_text().replace(",5.0,", ",1.0,"))
    write_report([tmp_path], tmp_path / "out")
    rows = table(tmp_path / "out" / "equal.csv")
    assert [float(rows["snip 95 %"][key]) for key in keys] == [30, 401, 10, 800, 40, 4, 800]
    assert [float(rows["dense"][key]) for key in keys] == [30, 30, 10, 30, 30, 6, 30]
    assert [float(rows["grasp 95 %"][key]) for key in keys] == [30, 9, 10, 7, 30, 30, 9]
    write_report([tmp_path], tmp_path / "out", Axes(updates=20, seconds=3.5))
    rows = table(tmp_path / "out" / "equal.csv")
    assert [float(rows["snip 95 %"][key]) for key in keys] == [20, 200, 3.5, 401, 40, 4, 800]
    assert [float(rows["dense"][key]) for key in keys] == [20, 20, 3.5, 10, 30, 6, 30]
    assert [rows["grasp 95 %"][key] for key in ("return then", "return by then")] == ["8.0", ""]


def test_a_seed_that_was_slowed_by_other_work_changes_no_time(tmp_path):
    """Three seeds of 30 updates in 6 seconds, one of which took ten times as long."""
    for seed in range(3):
        folder = write_run(tmp_path / "runs" / str(seed), seed=seed, returns=(100.0, 200.0 + seed, 300.0))
    metrics, summary = folder / "metrics.csv", folder / "summary.json"
    metrics.write_text(metrics.read_text().replace(",5.0,", ",0.5,"))
    facts = json.loads(summary.read_text())
    usual = facts["updates_per_second"], facts["train_seconds"]
    summary.write_text(json.dumps(facts | {"updates_per_second": usual[0] / 10, "train_seconds": 10 * usual[1]}))
    write_report([tmp_path / "runs"], tmp_path / "out", Axes(seconds=5.0))
    cost, equal = (table(tmp_path / "out" / f"{name}.csv")["snip 95 %"] for name in ("cost", "equal"))
    assert [float(cost[key]) for key in ("updates/s", "training s")] == list(usual)
    assert [float(equal[key]) for key in ("return by then", "seconds in all")] == [201, 6]
    figure = learning_curves(compare(read_runs(tmp_path / "runs")[0], Axes()), "seconds")
    assert [2, 4, 6] in [list(line.get_xdata()) for line in figure.axes[0].lines]


def test_speed_and_size_are_those_of_the_summaries(out):
    cost = table(out / "cost.csv")["snip 95 %"]
    assert float(cost["updates/s"]) == 345
    assert float(cost["times dense"]) == 345 / 60
    assert float(cost["policy file, kB"]) == pytest.approx(169)
    assert float(cost["smaller than dense"]) == pytest.approx(3400 / 169)
    # decoder 29-750-750-6, actor and critic1 23-400-300-6 and -1: hidden1 keeps 5 %, the other layers 30 %.
    kept = round(0.3 * 29 * 750) + round(0.05 * 750 * 750) + round(0.3 * 750 * 6)
    kept += 2 * (round(0.3 * 23 * 400) + round(0.05 * 400 * 300)) + round(0.3 * 300 * 6) + round(0.3 * 300)
    outputs = (750 + 750 + 6) + 2 * (400 + 300) + 6 + 1
    assert float(cost["int64 COO, kB"]) == pytest.approx((20 * kept + 12 * outputs) / 1e3)
    assert float(cost["int64 CSR, kB"]) == pytest.approx((12 * kept + 8 * (outputs + 9) + 4 * outputs) / 1e3)


def test_flops_and_bytes_stand_beside_those_of_the_dense_agent(out):
    row = table(out / "flops.csv")["snip 95 %"]
    keys = ["act, kFLOP", "dense act, kFLOP", "act: FLOPs of dense", "act, kB", "dense act, kB"]
    assert [float(row[key]) for key in keys] == pytest.approx([200, 4000, 0.05, 170, 3400])
    keys = ["update, MFLOP", "dense update, MFLOP", "update: FLOPs of dense", "update, kB", "dense update, kB"]
    assert [float(row[key]) for key in keys] == pytest.approx([100, 2000, 0.05, 1000, 20000])


def test_runs_from_before_flops_were_counted_are_in_all_other_tables(tmp_path):
    folder = write_run(tmp_path / "runs" / "old")
    facts = json.loads((folder / "summary.json").read_text())
    old = {key: value for key, value in facts.items() if not key.startswith(("act_", "update_"))}
    (folder / "summary.json").write_text(json.dumps(old))
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    assert (report.runs, report.finished, report.notes) == (1, 1, [])
    names = {path.name for path in report.files}
    assert "flops.csv" not in names and "cost.csv" in names


def test_tables_say_how_far_masks_moved_and_which_layers_collapsed(out):
    (row,) = table(out / "topology.csv").values()
    assert (row["experiment"], row["network"], row["runs"]) == ("rigl 95 %", "actor", "2.0")
    assert [float(row[key]) for key in ("first mask kept", "positions ever kept")] == pytest.approx([0.3, 0.4])
    rows = table(out / "collapsed.csv")
    found = {name: (row["finished runs"], row["collapsed"], row["layers"]) for name, row in rows.items()}
    assert found == {
        "grasp 95 %": ("1.0", "1.0", "encoder.mean (seed 0)"),
        "rigl 95 %": ("2.0", "0.0", ""),
        "snip 95 %": ("2.0", "0.0", ""),
    }


def test_a_report_of_before_masks_could_move_can_be_made_again(small, tmp_path):
    write_store(read_runs(small)[0], tmp_path / "data")
    (tmp_path / "data" / "movement.csv").unlink()
    runs, notes = read_runs(tmp_path / "data")
    assert (len(runs), notes, {len(run.movement) for run in runs}) == (9, [], {0})


def test_memory_stands_beside_the_paper_s_table(out):
    with (out / "memory.csv").open() as file:
        rows = {(row["from"], row["method"]): row for row in csv.DictReader(file)}
    assert float(rows["the paper", "dense"]["VAE, MB"]) == 4.7621
    assert float(rows["the paper", "snip 95 %, sparse indexing"]["actor, MB"]) == 0.14297
    panel = "bcq · Hopper-v5, expert"
    weights, biases = 23 * 400 + 400 * 300 + 300 * 6, 400 + 300 + 6
    assert float(rows[panel, "dense"]["actor, MB"]) == pytest.approx(4 * (weights + biases) / 1e6)
    assert float(rows[panel, "dense in sparse indexing"]["actor, MB"]) == pytest.approx(
        (20 * weights + 12 * biases) / 1e6
    )
    assert float(rows[panel, "snip 95 %, our file"]["policy file, MB"]) == pytest.approx(0.169)


def test_the_survivors_table_has_mean_and_deviation(out):
    with (out / "survivors.csv").open() as file:
        rows = {(row["experiment"], row["layer"]): row for row in csv.DictReader(file)}
    row = rows["snip 95 %", "actor.out"]
    assert [float(row[key]) for key in ("left", "std", "dense")] == [540, 0, 1800]
    assert float(rows["grasp 95 %", "encoder.mean"]["left"]) == 0


def test_the_report_can_be_made_again_from_its_csvs(out, tmp_path, capsys):
    report_cli.main([f"runs={out / 'data'}", f"out={tmp_path}"])
    assert "9 runs, 8 finished" in capsys.readouterr().out
    first, second = ({path.relative_to(it): path.read_bytes() for path in it.rglob("*.*")} for it in (out, tmp_path))
    assert len(first) > 20
    assert first == second


def test_the_csvs_hold_the_runs(small, tmp_path):
    runs, _ = read_runs(small)
    write_store(runs, tmp_path / "data")
    again, _ = read_runs(tmp_path / "data")
    assert [(run.name, run.settings, run.evaluations, run.update, run.densities, run.movement) for run in again] == [
        (run.name, run.settings, run.evaluations, run.update, run.densities, run.movement) for run in runs
    ]
    assert runs[-3].densities == {5: {"actor.out": 0.3}, 15: {"actor.out": 0.2}}


def test_the_csvs_say_on_which_machines_runs_were_done(tmp_path):
    machine = {"processor": "Abacus 2", "logical_cores": 10}
    for name in ("before", "noted"):
        write_run(tmp_path / "runs" / name)
    path = tmp_path / "runs" / "noted" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "machine": machine}))
    write_store(read_runs(tmp_path / "runs")[0], tmp_path / "data")
    found = {run.name: (run.summary or {}).get("machine") for run in read_runs(tmp_path / "data")[0]}
    assert found == {"before": None, "noted": machine}


def test_runs_of_several_folders_are_taken_together(small, tmp_path, capsys):
    """Of a run that both hold, the one that got further counts: here snip2 is finished since the CSVs were written, and snip1 began anew."""
    write_store(read_runs(small)[0], tmp_path / "data")
    write_run(tmp_path / "new" / "snip1", seed=1, returns=(1.0,), finished=False)
    write_run(tmp_path / "new" / "snip2", seed=2, returns=(1.0, 2.0, 330.0), episodes=((1.0,), (2.0,), (330.0,)))
    write_run(tmp_path / "new" / "snip3", seed=3, returns=(1.0, 2.0, 340.0))
    report_cli.main([f"runs={tmp_path / 'data'}, {tmp_path / 'new'}", f"out={tmp_path / 'out'}"])
    assert "10 runs, 10 finished" in capsys.readouterr().out
    found = {run.name: run.last_return for run in read_runs(tmp_path / "out" / "data")[0]}
    snip = {name: last for name, last in found.items() if name.startswith("snip")}
    assert snip == {"snip0": 300, "snip1": 200, "snip2": 330, "snip3": 340}


def test_other_experiments_of_one_name_get_their_folder_before_it(small, tmp_path):
    write_run(tmp_path / "other" / "snip1", seed=1, sparsity=0.9, returns=(1.0,))
    runs, _ = read_runs(small, tmp_path / "other")
    found = {run.name: run.settings["sparsity"] for run in runs}
    assert len(found) == 10
    assert (found["snip1"], found[f"{tmp_path / 'other' / 'snip1'}"]) == (0.95, 0.9)


def test_one_run_under_two_names_counts_once(small, tmp_path):
    """Whatever its lines are made by."""
    write_run(tmp_path / "again", seed=1, returns=(305.0, 100.0, 200.0))
    runs, _ = read_runs(small, tmp_path)
    for axes in (Axes(), Axes(by=("prune",))):
        study = compare(runs, axes)
        assert "again is left out: snip1 is the same experiment with the same seed." in study.notes


def test_runs_that_differ_only_in_what_their_panel_shows_count_once(small, tmp_path):
    """Versions of this code that knew an environment by other reference scores, say."""
    config = write_run(tmp_path / "again", seed=1, returns=(305.0, 100.0, 200.0)) / "config.yaml"
    config.write_text(config.read_text().replace("reference_max_score: 3234.3", "reference_max_score: 3000.0"))
    study = compare(read_runs(small, tmp_path)[0], Axes())
    assert "again is left out: snip1 is the same experiment with the same seed." in study.notes


def test_folders_that_cannot_be_read_together_are_a_sentence(small, tmp_path, capsys):
    write_run(tmp_path / "a,b" / "one", returns=(1.0,))
    report_cli.main([f"runs={tmp_path / 'a,b'}", f"out={tmp_path / 'out'}"])
    for runs, said in ((f"{small},", "write folders with commas"), (f"{small},{tmp_path / 'no'}", "there is no such")):
        with pytest.raises(SystemExit):
            report_cli.main([f"runs={runs}", f"out={tmp_path / 'out'}"])
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("runs.csv", "snip1,", "snip0,"),
        ("runs.csv", "run,", "walk,"),
        ("evaluations.csv", "run,", "walk,"),
        ("layers.csv", None, None),
    ],
)
def test_csvs_that_cannot_be_read_are_named(small, tmp_path, name, old, new):
    write_store(read_runs(small)[0], tmp_path / "data")
    path = tmp_path / "data" / name
    if old is None:
        path.unlink()
    else:
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UserError, match=f"{name} cannot be read"):
        read_runs(tmp_path / "data")


def test_a_run_whose_rows_are_damaged_is_named_and_left_out(small, tmp_path):
    write_store(read_runs(small)[0], tmp_path / "data")
    path = tmp_path / "data" / "evaluations.csv"
    path.write_text(path.read_text().replace("snip1,10", "snip1,ten"))
    runs, notes = read_runs(tmp_path / "data")
    assert len(runs) == 8
    assert notes[0].startswith("snip1 in ")
