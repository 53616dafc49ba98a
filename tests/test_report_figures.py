"""The figures of a report show what the runs hold."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from report_studies import HOPPER, LONG, d4rl_sweep, legend_of, panel_of, study_of, write_sweep
from run_folders import write_run

from sparse_offline_rl.reports.axes import Axes
from sparse_offline_rl.reports.curves import learning_curves
from sparse_offline_rl.reports.densities import layer_densities
from sparse_offline_rl.reports.drawing import WIDTH
from sparse_offline_rl.reports.memory import memory_use
from sparse_offline_rl.reports.over_axis import returns_over_axis, speed_over_axis
from sparse_offline_rl.reports.survivors import layer_survivors
from sparse_offline_rl.reports.time_to_policy import time_to_policy
from sparse_offline_rl.reports.topology import mask_movement
from sparse_offline_rl.reports.write import write_report

DRAWN = [
    *(returns_over_axis, speed_over_axis, time_to_policy, lambda it: learning_curves(it, "update")),
    *(layer_survivors, layer_densities, mask_movement, memory_use),
]


@pytest.fixture
def sweep(tmp_path):
    """As the name says."""
    return write_sweep(tmp_path / "runs")


def test_curves_show_the_mean_and_the_range_over_the_seeds(sweep):
    study = study_of(sweep, dense=True)
    ax = panel_of(learning_curves(study, "update"), HOPPER)
    line = next(line for line in ax.lines if len(line.get_xdata()) == 3)
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([10, 20, 30], [125, 225, 325])
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (100, 350)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_ylim()[0]) == ("updates", "return", 0)
    assert 320.0 in [line.get_ydata()[0] for line in ax.lines]
    timed = panel_of(learning_curves(study, "seconds"), HOPPER)
    line = next(line for line in timed.lines if len(line.get_xdata()) == 3)
    assert list(line.get_xdata()) == [2, 4, 6]  # 5 updates a second
    assert (timed.get_xlabel(), timed.get_xscale()) == ("seconds of training", "log")
    assert legend_of(learning_curves(study, "update")) == ["dense", "the dataset's policy"]


@pytest.mark.parametrize("count", [2, 12, 30])
def test_however_many_lines_all_are_between_the_places(tmp_path, count):
    for i in range(count):
        write_run(tmp_path / f"a{i}", prune=f"method_{i}", sparsity=0.95)
        write_run(tmp_path / f"b{i}", prune=f"method_{i}", sparsity=0.99)
    study = study_of(tmp_path)
    for ax, size in ((returns_over_axis(study).axes[0], 6), (memory_use(study).axes[1], 4)):
        lines = [line for line in ax.lines if line.get_markersize() == size and line.get_marker() in "os^D"]
        shown = [x for line in lines for x in line.get_xdata()]
        assert len(shown) == 2 * count
        assert ax.get_xlim() == (-0.5, 1.5)
        assert min(shown) > -0.45 and max(shown) < 1.45
        assert max(x for x in shown if x < 0.5) + 0.1 < min(x for x in shown if x > 0.5)


def test_returns_show_mean_interval_and_every_seed(sweep):
    figure = returns_over_axis(study_of(sweep))
    ax = panel_of(figure, HOPPER)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0 %", "50 %", "95 %"]
    means = {
        line.get_color(): list(line.get_ydata())
        for line in ax.lines
        if line.get_marker() == "o" and line.get_markersize() == 6
    }
    assert sorted(means.values()) == [
        [300.0],
        [325.0],
        [325.0, 325.0],
    ]  # grasp (one is unfinished), dense, snip at both
    dots = [value for line in ax.lines if line.get_markersize() == 3.5 for value in line.get_ydata()]
    assert sorted(dots) == [300.0] * 4 + [350.0] * 3
    hollow = [list(line.get_ydata()) for line in ax.lines if line.get_fillstyle() == "none"]
    assert hollow == [[250.0]]
    spans = [tuple(path.vertices[:, 1]) for it in ax.collections for path in it.get_paths()]
    assert spans == [(300.0, 350.0)] * 3
    assert [text.get_text() for text in ax.texts] == ["1/2"]
    names = ["dense", "grasp", "snip", "one seed", "one seed, unfinished", "a layer collapsed"]
    assert sorted(legend_of(figure)) == sorted([*names, "the dataset's policy", "dense agent's mean"])


def test_a_line_is_dotted_where_it_has_no_run_in_between(tmp_path):
    for prune, places in (("snip", (0.9, 0.95, 0.99)), ("grasp", (0.9, 0.99))):
        for sparsity in places:
            write_run(tmp_path / f"{prune}{sparsity}", prune=prune, sparsity=sparsity)
    figure = returns_over_axis(study_of(tmp_path))
    ax = panel_of(figure, HOPPER)
    (gap,) = (line for line in ax.lines if line.get_linewidth() == 1.2 and list(line.get_xdata()) != [0, 1])
    assert gap.get_xdata()[1] - gap.get_xdata()[0] == pytest.approx(2)
    lines = [list(line.get_ydata()) for line in ax.lines if len(line.get_ydata()) == 3]
    assert sorted(str(np.isnan(values).tolist()) for values in lines) == [
        "[False, False, False]",
        "[False, True, False]",
    ]
    assert "no run in between" in legend_of(figure)


def test_speed_is_that_of_the_finished_runs(sweep):
    ax = panel_of(speed_over_axis(study_of(sweep)), HOPPER)
    means = sorted(list(line.get_ydata()) for line in ax.lines if line.get_markersize() == 6)
    assert means == [[60.0], [210.0, 345.0], [345.0]]


def test_an_unfinished_run_counts_as_far_as_it_got(sweep):
    study = study_of(sweep, method="grasp", panel=HOPPER)
    (group,) = study.panels[0].groups
    assert (len(group.runs), len(group.finished)) == (2, 1)
    ax = panel_of(learning_curves(study, "update"), HOPPER)
    assert list(ax.lines[0].get_ydata()) == [125, 225, 300]
    (note,) = study.notes
    assert note == "hopper/grasp-0.95/seed1 is unfinished: 20 of 1000 updates, return 250.0 so far."


def marks_of(ax) -> dict[tuple[str, str], list[float]]:
    """Marker and its fill -> where such marks stand on the horizontal axis."""
    return {
        (line.get_marker(), line.get_fillstyle()): list(line.get_xdata()) for line in ax.lines if len(line.get_xdata())
    }


def test_runs_that_may_get_there_yet_do_not_stand_under_never(sweep):
    """GraSP's seed 0 ended at 300, over 90 and under 95 % of the policy's 320; its seed 1 is unfinished, with 250 so far."""
    study = study_of(sweep, panel=HOPPER, method="grasp")
    ax = panel_of(time_to_policy(study), HOPPER)
    texts = {text.get_text(): text.get_position()[0] for text in ax.texts}
    assert list(texts) == ["never", "not yet"]
    found = marks_of(ax)
    assert (found[("o", "none")], len(found[("x", "full")])) == ([6], 1)
    assert found[("x", "full")][0] < texts["never"] < found[(">", "full")][0] < texts["not yet"] < ax.get_xlim()[1]
    assert found[(">", "none")] == found[(">", "full")]


def test_seeds_that_never_got_there_stand_under_never(sweep):
    """The policy earns 320, of which 90 and 95 % are 288 and 304: seeds 0 end at 300, seeds 1 at 350 after 6 seconds."""
    ax = panel_of(time_to_policy(study_of(sweep, panel=HOPPER, method="snip", place="95 %")), HOPPER)
    found = marks_of(ax)
    assert found[("o", "none")] == [6, 6]
    assert found[("o", "full")] == [6]
    assert [x > 6 for x in found[("x", "full")]] == [True]
    assert ("x", "none") not in found


def test_survivors_show_counts_and_mark_empty_layers(sweep):
    figure = layer_survivors(study_of(sweep))
    assert [ax.get_title() for ax in figure.axes] == ["actor", "critic1", "encoder", "decoder"] * 2
    decoder = figure.axes[7]
    assert decoder.get_ylabel() == ""
    heights = sorted({round(bar.get_height()) for bar in decoder.patches})
    assert heights == [round(0.3 * 750 * 6), round(0.3 * 29 * 750), round(0.05 * 750 * 750)]
    encoder = figure.axes[6]
    assert [text.get_text() for text in encoder.texts] == ["0"]
    assert sorted(legend_of(figure)) == ["dense", "grasp 95 %", "snip 95 %"]


def test_the_second_critic_is_shown_where_it_differs(tmp_path):
    folder = write_run(tmp_path / "runs")
    summary = json.loads((folder / "summary.json").read_text())
    next(layer for layer in summary["layers"] if layer["name"] == "critic2.out")["kept"] = 1
    (folder / "summary.json").write_text(json.dumps(summary))
    titles = [ax.get_title() for ax in layer_survivors(study_of(tmp_path)).axes]
    assert titles == ["actor", "critic1", "critic2", "encoder", "decoder"]


def test_memory_is_drawn_against_sparsity(sweep):
    figure = memory_use(study_of(sweep, panel=HOPPER))
    policy, checkpoint = figure.axes
    assert legend_of(figure) == ["dense float32", "int64 COO", "int64 CSR", "grasp", "snip"]
    values = [list(line.get_ydata()) for line in policy.lines]
    assert [3.209, 1.609, 0.169] in [pytest.approx(it) for it in values]
    (dense, coo, csr) = values[:3]
    assert len(set(dense)) == 1
    assert all(a > b for a, b in zip(coo, csr, strict=True))
    assert policy.get_yscale() == checkpoint.get_yscale() == "log"


def test_densities_are_drawn_where_masks_change(tmp_path):
    write_run(tmp_path / "a", densities=(0.3, 0.2, 0.1))
    write_run(tmp_path / "b", seed=1)
    study = study_of(tmp_path)
    figure = layer_densities(study)
    (line,) = figure.axes[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([5, 15, 25], [0.3, 0.2, 0.1])
    assert (figure.axes[0].get_title(), legend_of(figure)) == ("actor", ["snip 95 %", "layer out"])
    assert layer_densities(study.only(lambda group: False)) is None


def test_movement_is_the_mean_of_networks_and_seeds_in_their_range(tmp_path):
    write_run(tmp_path / "a", prune="rigl", moved=((0.1, 1.0), (0.2, 0.8), (0.2, 0.8)))
    write_run(tmp_path / "b", prune="rigl", seed=1, moved=((0.1, 1.0), (0.4, 0.4), (0.5, 0.2)))
    write_run(tmp_path / "c")
    figure = mask_movement(study_of(tmp_path))
    first, ever = figure.axes
    assert (first.get_title(), legend_of(figure)) == ("share of the first mask's weights kept now", ["rigl 95 %"])
    # The first run's masks stay as they are after update 15.
    for ax, means, span in ((first, [1.0, 0.6, 0.5], (0.2, 1.0)), (ever, [0.1, 0.3, 0.35], (0.1, 0.5))):
        (line,) = ax.lines
        assert list(line.get_xdata()) == [5, 15, 25]
        assert list(line.get_ydata()) == pytest.approx(means)
        band = ax.collections[0].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == span
    assert mask_movement(study_of(tmp_path, method="snip")) is None


def test_lines_of_one_colour_have_other_markers_and_hatches(tmp_path):
    for i, prune in enumerate("abcdefgh"):
        write_run(tmp_path / prune, prune=prune, returns=(100.0 + i,))
    study = study_of(tmp_path)
    ax = panel_of(returns_over_axis(study), HOPPER)
    found = {float(line.get_ydata()[0]): line for line in ax.lines if line.get_markersize() == 6}
    first, last = found[100.0], found[107.0]
    assert first.get_color() == last.get_color()
    assert (first.get_marker(), last.get_marker()) == ("o", "s")
    bars = layer_survivors(study).axes[0].patches
    assert {bar.get_hatch() for bar in bars} == {"", "//"}


@pytest.mark.parametrize("draw", DRAWN)
def test_many_long_names_leave_room_for_the_axes(tmp_path, draw):
    """The figure grows with its legend: matplotlib warned that axes had no room left, which is an error here."""
    for i in range(22):
        name = f"a_method_with_a_long_name_{i}"
        write_run(tmp_path / name, prune=name, densities=(0.3, 0.2, 0.1), moved=((0.1, 1.0), (0.2, 0.8), (0.2, 0.8)))
    figure = draw(study_of(tmp_path))
    FigureCanvasAgg(figure).draw()
    boxes = [ax.get_window_extent() for ax in figure.axes]
    assert all(box.width > 0.25 * WIDTH * figure.dpi and box.height > figure.dpi for box in boxes)
    for it in figure.legends:
        assert it.get_window_extent().y1 <= min(box.y0 for box in boxes)


@pytest.mark.parametrize("draw", DRAWN)
@pytest.mark.parametrize("words", [1, 12])
def test_a_legend_stays_within_its_figure(tmp_path, draw, words):
    """Of one panel, with names that are wider than it, in words or without a space."""
    for i in range(9):
        name = f"{'method_of_a_name' * (3 if words == 1 else 1)} {'of many words' * (words - 1)} {i}"
        write_run(tmp_path / str(i), prune=name, densities=(0.3, 0.2, 0.1), moved=((0.1, 1.0), (0.2, 0.8), (0.2, 0.8)))
    figure = draw(study_of(tmp_path))
    FigureCanvasAgg(figure).draw()
    (box,) = (it.get_window_extent() for it in figure.legends)
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert 0 <= box.y0 < box.y1 <= min(ax.get_window_extent().y0 for ax in figure.axes)


def test_names_of_many_lines_leave_room_for_their_neighbours(tmp_path):
    for i in range(6):
        name = f"a_method_with_a_long_name_{i} of {'many words ' * (9 if i == 2 else 0)}"
        write_run(tmp_path / str(i), prune=name)
    figure = time_to_policy(study_of(tmp_path))
    FigureCanvasAgg(figure).draw()
    labels = [text.get_window_extent() for text in figure.axes[0].get_yticklabels()]
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(labels))


def test_a_part_of_a_study_keeps_the_colours_of_the_whole(sweep):
    study = study_of(sweep)
    (panel, _) = study.panels
    assert study.part([panel]).only(lambda group: group.method == "snip").colours() == study.colours()
    assert len(study.colours()) == 3


def test_a_narrow_logarithmic_axis_has_two_ticks(tmp_path):
    for sparsity in (0.8, 0.95):  # 300 and 345 updates a second
        write_run(tmp_path / str(sparsity), sparsity=sparsity)
    ax = panel_of(speed_over_axis(study_of(tmp_path)), HOPPER)
    assert ax.get_ylim() == pytest.approx((200, 500))


def test_bars_of_two_places_have_colours_of_their_own(tmp_path):
    """SNIP was at 95 % in one environment only."""
    for env, sparsity in (("hopper", 0.95), ("halfcheetah", 0.98)):
        write_run(tmp_path / env, env, sparsity=sparsity)
    study = study_of(tmp_path)
    for figure in (layer_survivors(study), learning_curves(study, "update")):
        names = zip(legend_of(figure), figure.legends[0].legend_handles, strict=True)
        colours = {
            name: str((getattr(it, "get_facecolor", None) or it.get_color)()) for name, it in names if "snip" in name
        }
        assert (len(colours), len(set(colours.values()))) == (2, 2)


def test_updates_are_written_in_thousands(tmp_path):
    ax = panel_of(learning_curves(study_of(write_run(tmp_path / "a").parent), "update"), HOPPER)
    assert ax.xaxis.get_major_formatter()(50_000) == "50k"


@pytest.mark.parametrize(
    "draw", [lambda it: learning_curves(it, "update"), layer_survivors, memory_use, returns_over_axis, time_to_policy]
)
def test_headings_stay_on_the_page_and_apart(tmp_path, draw):
    d4rl_sweep(tmp_path, LONG)
    figure = draw(study_of(tmp_path))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text() and artist.get_visible())
    boxes = {text: text.get_window_extent() for text in texts if text.get_text().startswith("bcq ·")}
    assert len(boxes) == 3
    for box in boxes.values():
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    for text, other in itertools.permutations(boxes, 2):
        assert not boxes[text].overlaps(boxes[other]), (text, other)


def test_no_figure_without_runs_for_it(tmp_path):
    write_run(tmp_path / "runs" / "a", prune="none", sparsity=0.0)
    write_run(tmp_path / "runs" / "b", finished=False, returns=())
    study = study_of(tmp_path)
    pruned = study.only(lambda group: not group.dense)
    for draw in (layer_survivors, memory_use, layer_densities):
        assert draw(study) is None
    for draw in (returns_over_axis, time_to_policy, speed_over_axis, lambda it: learning_curves(it, "seconds")):
        assert draw(pruned) is None
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    assert "memory.png" not in {path.name for path in report.files}
    table = (tmp_path / "out" / "returns.csv").read_text().splitlines()
    assert table[2].startswith('"bcq · Hopper-v5, expert",snip 95 %,0.0,,,')
    assert table[2].endswith("unfinished: seed 0 (after 0 updates)")


def test_of_many_experiments_curves_and_survivors_show_one_place(tmp_path):
    write_run(tmp_path / "dense", prune="none", sparsity=0.0)
    for prune in ("snip", "grasp", "random"):
        for sparsity in (0.9, 0.95, 0.98):
            write_run(tmp_path / f"{prune}{sparsity}", prune=prune, sparsity=sparsity)
    for at, shown in ((None, "95 %"), (0.98, "98 %")):
        study = study_of(tmp_path, Axes(at=at))
        wanted = [f"{prune} {shown}" for prune in ("grasp", "random", "snip")]
        assert legend_of(learning_curves(study, "update")) == ["dense", *wanted, "the dataset's policy"]
        assert sorted(legend_of(layer_survivors(study))) == ["dense", *wanted]
    write_run(tmp_path / "more", prune="snip", sparsity=0.99)
    assert study_of(tmp_path).only(lambda group: group.x != 0.95).usual_place() == 0.98
