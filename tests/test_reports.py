"""Reports: what run folders say, finished or not."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
import run_folders
import yaml
from conftest import TINY
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from run_folders import write_run

from sparse_offline_rl.cli import report as report_cli
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.policy.format import read_policy
from sparse_offline_rl.pruning.layer_reports import coo_bytes
from sparse_offline_rl.reports.axes import Axes, short_names
from sparse_offline_rl.reports.compare import compare
from sparse_offline_rl.reports.curves import learning_curves
from sparse_offline_rl.reports.densities import layer_densities
from sparse_offline_rl.reports.memory import COO, FORMATS, memory_use, stored_as
from sparse_offline_rl.reports.over_axis import returns_over_axis, speed_over_axis
from sparse_offline_rl.reports.page import html_page
from sparse_offline_rl.reports.store import read_runs
from sparse_offline_rl.reports.survivors import layer_survivors
from sparse_offline_rl.reports.tables import returns_table
from sparse_offline_rl.reports.time_to_policy import time_to_policy
from sparse_offline_rl.reports.write import write_report


@pytest.fixture
def sweep(tmp_path):
    """Two environments; dense, SNIP at two sparsities, GraSP; two seeds, of which one GraSP run is unfinished."""
    root = tmp_path / "runs"
    for env, scale in (("hopper", 1), ("halfcheetah", 10)):
        for prune, sparsity in (("none", 0.0), ("snip", 0.5), ("snip", 0.95), ("grasp", 0.95)):
            for seed in (0, 1):
                curve = tuple(scale * (100.0 * i + 50 * seed) for i in range(1, 4))
                unfinished = (env, prune, seed) == ("hopper", "grasp", 1)
                folder = root / env / f"{prune}-{sparsity}" / f"seed{seed}"
                returns = curve[:2] if unfinished else curve
                collapsed = prune == "grasp" and env == "hopper"
                write_run(folder, env, "bcq", prune, sparsity, seed, returns, not unfinished, collapsed)
    return root


def study_of(root, axes=Axes(), **wanted):  # noqa: B008  (it is frozen)
    """The study of the runs below a folder, of the groups with these attributes."""
    study = compare(read_runs(root)[0], axes)
    return study.only(lambda group: all(getattr(group, key) == value for key, value in wanted.items()))


def groups_of(root, axes=Axes(), **wanted):  # noqa: B008
    return [group for panel in study_of(root, axes, **wanted).panels for group in panel.groups]


def panel_of(figure: Figure, title: str):
    (ax,) = (ax for ax in figure.axes if ax.get_title() == title)
    return ax


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


HOPPER, CHEETAH = "bcq · Hopper-v5, expert", "bcq · HalfCheetah-v5, expert"


def test_the_report_has_every_figure_and_table(sweep, tmp_path):
    report = write_report(sweep, tmp_path / "out")
    figures = ["returns", "time_to_policy", "curves_updates", "curves_seconds", "speed", "survivors", "memory"]
    tables = ["returns", "time_to_policy", "cost", "flops", "memory", "survivors"]
    data = ["runs", "layers", "evaluations", "densities"]
    wanted = {"report.html", "report.md", *(f"{name}.{kind}" for name in figures for kind in ("png", "svg"))}
    wanted |= {f"{name}.csv" for name in tables} | {f"data/{name}.csv" for name in data}
    files = {path.relative_to(tmp_path / "out").as_posix() for path in report.files}
    assert files == wanted
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")} == wanted
    assert (report.runs, report.finished) == (16, 15)
    for name in figures:
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert min(image.size) > 200
            assert np.asarray(image.convert("L")).std() > 10
    page = (tmp_path / "out" / "report.md").read_text()
    assert all(f"- {note}\n" in page for note in report.notes)
    for word in ("16 runs, 15 finished", HOPPER, "grasp 95 %", "(memory.png)", "unfinished"):
        assert word in page
    assert "unfinished: seed 1 (after 20 updates); collapsed: encoder.mean, seed 0" in page


def test_the_page_stands_alone(sweep, tmp_path):
    """It loads nothing, its ids are unique, every reference in it is one of them, and its drawings have its colours."""
    write_report(sweep, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="|url\()([^")]+)', page)
    assert references
    assert {reference for reference in references if not reference.startswith("#")} == set()
    assert {reference[1:] for reference in references} <= set(ids)
    assert not re.search(r"<(script|link|img|iframe)", page)
    assert page.count("<svg") == 7
    assert "currentColor" in page and "#1f2329" not in page[page.index("<svg") :]
    assert "prefers-color-scheme: dark" in page


def test_the_glance_marks_what_it_cannot_be_sure_of(tmp_path):
    """A share of 300 / 320, of an experiment that lacks no seed against a dense one that lacks one."""
    write_run(tmp_path / "runs" / "dense", prune="none", sparsity=0.0, returns=(320.0,))
    for seed in (0, 1):
        write_run(tmp_path / "runs" / str(seed), seed=seed)
    page = html_page(study_of(tmp_path), "", (), [returns_table(study_of(tmp_path))], [])
    assert '<td class="fair">93.8% <span class="mark" title="dense: missing: seed 1">' in page
    assert "missing: seed 1" in page.partition("Table of returns")[2]


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


def test_seeds_that_never_got_there_stand_under_never(sweep):
    """The policy earns 320, of which 90 and 95 % are 288 and 304: seeds 0 end at 300, seeds 1 at 350 after 6 seconds."""
    ax = panel_of(time_to_policy(study_of(sweep, panel=HOPPER, method="snip", place="95 %")), HOPPER)
    found = {
        (line.get_marker(), line.get_fillstyle()): list(line.get_xdata()) for line in ax.lines if len(line.get_xdata())
    }
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
    (line,) = layer_densities(study).axes[0].lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([5, 15, 25], [0.3, 0.2, 0.1])
    assert layer_densities(study.only(lambda group: False)) is None


def d4rl_sweep(root, paths):
    """SNIP and GraSP on each of some D4RL files."""
    for number, path in enumerate(paths):
        for prune in ("snip", "grasp"):
            folder = write_run(root / f"{number}-{prune}", prune=prune)
            values = yaml.safe_load((folder / "config.yaml").read_text())
            values["dataset"] = {"name": "d4rl", "id": None, "path": path}
            (folder / "config.yaml").write_text(yaml.safe_dump(values))


LONG = [
    "/home/someone/projects/offline-rl/datasets/d4rl/mujoco/hopper_medium-v2.hdf5",
    "/mnt/storage/a/long/path/to/shared/datasets/d4rl-v2/hopper_medium-v2.hdf5",
    f"/scratch/{'_'.join(['hopper'] * 20)}-v2.hdf5",
]


def test_datasets_and_environments_get_the_shortest_names_that_differ():
    names = ["expert", "D4RL/point/maze-v1", *LONG[:2]]
    short = ["expert", "maze-v1", "mujoco/hopper_medium-v2", "d4rl-v2/hopper_medium-v2"]
    assert list(short_names(names).values()) == short
    assert list(short_names(["my.module:Point-v0", "Hopper-v5"]).values()) == ["Point-v0", "Hopper-v5"]
    same = ["a:X-v0", "b:X-v0"]
    assert list(short_names(same).values()) == same


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


def test_many_panels_get_several_figures(tmp_path):
    d4rl_sweep(tmp_path / "runs", [*LONG, "a.hdf5"])
    report = write_report(tmp_path / "runs", tmp_path / "out")
    names = {path.name for path in report.files}
    assert {f"{figure}-{page}.svg" for figure in ("survivors", "memory") for page in (1, 2)} < names
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Bytes on disk (the paper's Figure 4), page 2" in page


def test_no_figure_without_runs_for_it(tmp_path):
    write_run(tmp_path / "runs" / "a", prune="none", sparsity=0.0)
    write_run(tmp_path / "runs" / "b", finished=False, returns=())
    study = study_of(tmp_path)
    pruned = study.only(lambda group: not group.dense)
    for draw in (layer_survivors, memory_use, layer_densities):
        assert draw(study) is None
    for draw in (returns_over_axis, time_to_policy, speed_over_axis, lambda it: learning_curves(it, "seconds")):
        assert draw(pruned) is None
    report = write_report(tmp_path / "runs", tmp_path / "out")
    assert "memory.png" not in {path.name for path in report.files}
    table = (tmp_path / "out" / "returns.csv").read_text().splitlines()
    assert table[2].startswith('"bcq · Hopper-v5, expert",snip 95 %,0.0,,,')
    assert table[2].endswith("unfinished: seed 0 (after 0 updates)")


def test_runs_of_other_settings_are_told_apart(tmp_path):
    for seed in (0, 1):  # the threads of the two differ too, which does not matter
        write_run(tmp_path / "network" / str(seed), seed=seed)
        write_run(tmp_path / "erk" / str(seed), seed=seed, scope="erk")
    groups = groups_of(tmp_path)
    assert [group.label for group in groups] == ["snip 95 %", "snip 95 % (prune.scope=erk)"]
    assert [len(group.runs) for group in groups] == [2, 2]


def test_any_key_can_be_the_axis_the_line_or_the_panel(tmp_path):
    for scope in ("network", "erk"):
        for prune in ("snip", "grasp"):
            for sparsity in (0.9, 0.95):
                write_run(tmp_path / f"{scope}{prune}{sparsity}", prune=prune, sparsity=sparsity, scope=scope)
    groups = groups_of(tmp_path, Axes(x="prune.scope"))
    assert [group.label for group in groups][:3] == [
        "grasp (sparsity=0.9), prune.scope=erk",
        "grasp (sparsity=0.9), prune.scope=network",
        "grasp (sparsity=0.95), prune.scope=erk",
    ]
    groups = groups_of(tmp_path, Axes(x="prune", by=("sparsity",), panels=("prune.scope",)))
    assert [(group.panel, group.line, group.x) for group in groups][:3] == [
        ("prune.scope=erk", "sparsity=0.9", "grasp"),
        ("prune.scope=erk", "sparsity=0.9", "snip"),
        ("prune.scope=erk", "sparsity=0.95", "grasp"),
    ]
    groups = groups_of(tmp_path, Axes(where=(("prune", ("snip",)), ("sparsity", (0.9, 0.8)))))
    assert [group.label for group in groups] == ["snip 90 %", "snip 90 % (prune.scope=erk)"]
    mixed = compare(read_runs(tmp_path)[0], Axes(by=("prune",)))
    assert [len(group.runs) for panel in mixed.panels for group in panel.groups] == [2] * 4
    assert mixed.notes[0] == "bcq · Hopper-v5, expert, grasp 90 %: runs that differ in prune.scope are taken together."


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("x=prune.scop", "prune.scop: no run has this key"),
        ("at=0.9", "at=0.9: no run has sparsity=0.9"),
        ("at=[", "at=[ cannot be used: [ is no value"),
        ("where=prune=none", "where=prune=none: none of the 1 runs is so"),
        ("where=prune", "where=prune cannot be used: write key=value"),
        ("by=prune,,seed", "by=prune,,seed cannot be used: write keys with commas"),
        ("panels=", "panels= cannot be used: write keys with commas"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_a_sentence(tmp_path, capsys, argument, sentence):
    write_run(tmp_path / "runs")
    with pytest.raises(SystemExit) as end:
        report_cli.main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", argument])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")
    assert not (tmp_path / "out").exists()


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


def test_the_expert_line_of_older_runs_is_the_bundled_policy_s(tmp_path):
    folder = write_run(tmp_path / "runs", finished=False)
    (run,), _ = read_runs(tmp_path)
    assert run.policy_return == 3456.0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["dataset"] = {"name": "d4rl", "id": None, "path": "a.hdf5"}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (run,), _ = read_runs(tmp_path)
    assert run.policy_return is None


def test_the_same_run_twice_counts_once(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    study = compare(read_runs(tmp_path)[0], Axes())
    assert [len(group.runs) for panel in study.panels for group in panel.groups] == [1]
    assert study.notes == ("b is left out: a is the same experiment with the same seed.",)


def changed_summary(**changes: object) -> bytes:
    """A summary of which some values are others, or missing where they are None."""
    values = {**run_folders.summary("hopper", "bcq", 0.95, 300.0), **changes}
    return json.dumps({key: value for key, value in values.items() if value is not None}).encode()


DAMAGE = {
    "config.yaml": [b"a: [", b"- 1", b"agent: {name: bcq}", b"\x00", b"\xff\xfe\xfa", b"[" * 2000],
    "summary.json": [
        *(b"{", b"", b"{}", b"[]", b"null", b"3", b"\xff\xfe"),
        changed_summary(layers=None),
        changed_summary(layers=[{"name": "decoder", "kept": 1, "total": 2}]),
        changed_summary(layers={"decoder.out": 3}),
        changed_summary(policy_bytes=0),
        changed_summary(updates_per_second="fast"),
        changed_summary(collapsed_layers=3),
    ],
    "metrics.csv": [
        b"update,loss\n10,0.5\n",
        b"update,eval/return_mean\nten,3\n",
        b"update,eval/return_mean\n10,\xff\xfe\n",
        b"update,eval/return_mean\n10," + b"3" * 200_000 + b"\n",
    ],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in DAMAGE for content in DAMAGE[name]])
def test_a_damaged_folder_is_named_and_left_out(tmp_path, name, content):
    write_run(tmp_path / "good")
    (write_run(tmp_path / "bad", seed=1) / name).write_bytes(content)
    runs, (note,) = read_runs(tmp_path)
    assert [run.name for run in runs] == ["good"]
    assert note.startswith("bad is left out")
    assert len(note.splitlines()) == 1


def test_a_row_that_is_being_written_is_passed_over(tmp_path):
    folder = write_run(tmp_path / "run", finished=False)
    with (folder / "metrics.csv").open("a") as file:
        file.write("35,0.5")
    (run,), _ = read_runs(tmp_path)
    assert (run.update, run.last_return) == (30, 300)
    (folder / "metrics.csv").unlink()
    (run,), _ = read_runs(tmp_path)
    assert (run.update, run.last_return) == (0, None)


def test_the_command_tells_its_keys(capsys):
    with pytest.raises(SystemExit) as end:
        report_cli.main(["--help"])
    assert end.value.code == 0
    assert "runs=" in capsys.readouterr().out


@pytest.mark.parametrize("missing", [True, False])
def test_nothing_to_report_on_ends_in_a_sentence(tmp_path, capsys, missing):
    folder = tmp_path / "runs"
    if not missing:
        folder.mkdir()
    with pytest.raises(SystemExit) as end:
        report_cli.main([f"runs={folder}", f"out={tmp_path / 'out'}"])
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: runs={folder}")
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_damaged_runs_only_says_what_is_wrong(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"holds no run: .*damaged"):
        read_runs(tmp_path)


def test_a_real_run_can_be_reported(cli, tmp_path, capsys):
    run_dir = tmp_path / "runs" / "one"
    assert cli(*TINY, f"run_dir={run_dir}")[0] == 0
    report_cli.main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"])
    out = capsys.readouterr().out
    assert "1 runs, 1 finished" in out
    assert f"{tmp_path / 'out' / 'memory.png'}" in out
    (run,), _ = read_runs(tmp_path)
    assert [it.update for it in run.evaluations] == [20, 40]
    assert all(len(it.returns) == 1 and it.returns[0] == pytest.approx(it.mean, rel=1e-6) for it in run.evaluations)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert run.evaluations[-1].seconds == pytest.approx(summary["train_seconds"], rel=1e-6)
    content: PolicyContent = read_policy(run_dir / "policy" / "policy.sorl")
    layers = [layer for network in content.networks.values() for layer in network.layers]
    assert stored_as(run, FORMATS[COO]) == coo_bytes(sum(x.kept for x in layers), sum(len(x.bias) for x in layers))
