"""Experiments over all tasks: aggregates, intervals, order, and what is said of those that lack a task."""

from __future__ import annotations

import csv
import itertools

import numpy as np
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from report_studies import study_of
from run_folders import write_run

from sparse_offline_rl.reports.axes import Axes
from sparse_offline_rl.reports.drawing import WIDTH
from sparse_offline_rl.reports.overall import over_tasks, overall_ranking, overall_table
from sparse_offline_rl.reports.statistics import stratified_interval
from sparse_offline_rl.reports.write import write_report

HOPPER, CHEETAH = "Hopper-v5, expert", "HalfCheetah-v5, expert"


def write_runs(root, method, sparsity, returns):
    """Runs of a method: environment -> the last return of each seed; scores are a hundredth of returns."""
    for env, seeds in returns.items():
        for seed, last in enumerate(seeds):
            folder = write_run(root / env / f"{method}{seed}", env, "bcq", method, sparsity, seed, (1.0, last))
            values = yaml.safe_load((folder / "config.yaml").read_text())
            values["env"] |= {"reference_min_score": 0.0, "reference_max_score": 6400.0}
            (folder / "config.yaml").write_text(yaml.safe_dump(values))


@pytest.fixture
def runs(tmp_path):
    """Dense and SNIP on both environments, two seeds; RigL with one seed; GraSP on one environment."""
    root = tmp_path / "runs"
    write_runs(root, "none", 0.0, {"hopper": (1000, 3000), "halfcheetah": (5000, 9000)})
    write_runs(root, "snip", 0.95, {"hopper": (2000, 4000), "halfcheetah": (8000, 9000)})
    write_runs(root, "rigl", 0.95, {"hopper": (100,), "halfcheetah": (200,)})
    write_runs(root, "grasp", 0.95, {"hopper": (9999,)})
    return root


def test_the_table_holds_aggregates_computed_by_hand(runs, tmp_path):
    write_report([runs], tmp_path / "out")
    with (tmp_path / "out" / "overall.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["experiment"] for row in rows] == [
        "the dataset's policy",
        "snip 95 %",
        "dense",
        "rigl 95 %",
        "grasp 95 %",
    ]
    assert {row["over"] for row in rows} == {"bcq"}
    policy, snip, dense, rigl, grasp = rows
    # The policies earn 320 and 3200 of the 6400 that count as 100.
    assert [float(policy[key]) for key in (HOPPER, CHEETAH, "mean score")] == [5, 50, 27.5]
    # Scores 20, 40, 80, 90: the mean of the tasks' means 30 and 85, and the mean of the middle two.
    keys = (HOPPER, CHEETAH, "mean score", "IQM", "runs", "95 % from", "to")
    assert [float(snip[key]) for key in keys] == [30, 85, 57.5, 60, 4, 50, 65]
    assert [float(dense[key]) for key in keys] == [20, 70, 45, 40, 4, 30, 60]
    assert (float(snip["of dense"]), float(dense["of dense"])) == (1.5, 1)
    assert [float(rigl[key]) for key in keys[:5]] == [1, 2, 1.5, 1.5, 2]
    assert (rigl["95 % from"], rigl["to"]) == ("", "")
    assert (grasp["mean score"], grasp["IQM"], float(grasp[HOPPER]), grasp[CHEETAH]) == ("", "", 99.99, "")


def test_the_interval_draws_each_task_anew():
    """All resamples of two seeds in each of two tasks: 16, each oftener than one in forty, so the interval reaches to the ends."""
    samples = [[20.0, 40.0], [80.0, 90.0]]
    drawn = [[*a, *b] for a in itertools.product(samples[0], repeat=2) for b in itertools.product(samples[1], repeat=2)]
    means = [np.mean(sorted(values)[1:3]) for values in drawn]
    assert stratified_interval(samples) == (min(means), max(means))
    assert stratified_interval([[3.0, 3.0], [5.0, 5.0]]) == (4, 4)
    assert stratified_interval([[1.0, 2.0], [5.0]]) is None
    assert stratified_interval([]) is None


def test_the_ranking_shows_those_with_all_tasks(runs):
    figure = overall_ranking(study_of(runs))
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_yticklabels()] == ["snip 95 %", "dense", "rigl 95 %"]
    dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    assert dots == [60, 40, 1.5]
    bars = [list(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 5]
    assert bars == [[50, 65], [30, 60]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["the dataset's policy", "dense agent"]


@pytest.mark.parametrize("scores", [("snip",), ("a_score_with_a_long_name", "snip")])
def test_many_long_names_leave_room_for_the_axes(tmp_path, scores):
    """With two scores half of the names have three lines and are the upper half of the figure."""
    for env, score, i in itertools.product(("hopper", "halfcheetah"), scores, range(22)):
        returns = (400.0 if score != "snip" else 300.0,)
        folder = tmp_path / env / f"{score}{i}"
        write_run(folder, env, prune=f"a_method_with_a_long_name_{i}", returns=returns, score=score, shape=score)
    figure = overall_ranking(study_of(tmp_path))
    FigureCanvasAgg(figure).draw()
    (box,) = (ax.get_window_extent() for ax in figure.axes)
    assert box.width > 0.25 * WIDTH * figure.dpi
    labels = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(labels))
    assert min(label.x0 for label in labels) >= 0


def test_panels_of_one_task_have_nothing_to_be_taken_together(runs):
    study = study_of(runs, Axes(where=(("env.name", ("hopper",)),)))
    assert over_tasks(study) == []
    assert overall_table(study).rows == ()
    assert overall_ranking(study) is None


def test_agents_stand_apart_and_panels_without_a_task_are_no_tasks(runs):
    for env in ("hopper", "halfcheetah"):
        write_run(runs / "bc" / env, env, "bc", "none", 0.0)
    assert [(tasks.title, len(tasks.policy)) for tasks in over_tasks(study_of(runs))] == [("bc", 2), ("bcq", 2)]
    assert over_tasks(study_of(runs, Axes(panels=("agent", "prune")))) == []
    by_env = over_tasks(study_of(runs, Axes(panels=("env",))))
    assert [(tasks.title, sorted(tasks.policy)) for tasks in by_env] == [("all", ["HalfCheetah-v5", "Hopper-v5"])]


def test_without_references_there_is_no_score_of_the_policy(tmp_path):
    for env in ("hopper", "halfcheetah"):
        write_run(tmp_path / env, env)
    (tasks,) = over_tasks(study_of(tmp_path))
    assert tasks.policy_mean is None
    assert [row[1] for row in overall_table(study_of(tmp_path)).rows] == ["snip 95 %"]
