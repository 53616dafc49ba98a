"""Reports: what run folders say, finished or not."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import run_folders
from conftest import TINY
from PIL import Image
from report_studies import HOPPER, LONG, d4rl_sweep, study_of, table, write_sweep
from run_folders import write_run

from sparse_offline_rl.cli import report as report_cli
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.policy.format import read_policy
from sparse_offline_rl.pruning.layer_reports import coo_bytes
from sparse_offline_rl.reports.axes import Axes
from sparse_offline_rl.reports.memory import COO, FORMATS, stored_as
from sparse_offline_rl.reports.page import html_page
from sparse_offline_rl.reports.store import read_runs
from sparse_offline_rl.reports.tables import returns_table
from sparse_offline_rl.reports.write import write_report


@pytest.fixture
def sweep(tmp_path):
    """As the name says."""
    return write_sweep(tmp_path / "runs")


def test_the_report_has_every_figure_and_table(sweep, tmp_path):
    report = write_report([sweep], tmp_path / "out")
    figures = [
        "returns",
        "overall",
        "time_to_policy",
        "curves_updates",
        "curves_seconds",
        "speed",
        "survivors",
        "memory",
    ]
    tables = ["returns", "overall", "equal", "time_to_policy", "cost", "flops", "memory", "collapsed", "survivors"]
    data = ["runs", "layers", "levels", "evaluations", "densities", "movement"]
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
    write_report([sweep], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    references = re.findall(r'(?:href="|url\()([^")]+)', page)
    assert references
    assert {reference for reference in references if not reference.startswith("#")} == set()
    assert {reference[1:] for reference in references} <= set(ids)
    assert not re.search(r"<(script|link|img|iframe)", page)
    assert page.count("<svg") == 8
    assert "currentColor" in page and "#1f2329" not in page[page.index("<svg") :]
    assert "prefers-color-scheme: dark" in page


def glance_of(root) -> str:
    """The first table of the page, with its remarks."""
    study = study_of(root)
    return html_page(study, "", (), [returns_table(study)], []).partition("<section")[2].partition("</section>")[0]


def test_the_glance_has_a_row_an_experiment_and_its_remarks_in_words(tmp_path):
    """A share of 300 / 320, of an experiment that lacks no seed against a dense one that lacks one; GraSP has not run on HalfCheetah."""
    for env, scale in (("hopper", 1), ("halfcheetah", 10)):
        write_run(tmp_path / env / "dense", env, prune="none", sparsity=0.0, returns=(320.0 * scale,))
        for seed in (0, 1):
            write_run(tmp_path / env / str(seed), env, seed=seed, returns=(300.0 * scale,))
    write_run(tmp_path / "grasp", prune="grasp", returns=(310.0,))
    write_run(tmp_path / "grasp2", prune="grasp", returns=(310.0,), seed=1, finished=False)
    glance = glance_of(tmp_path)
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', glance)
    assert [name for name, _ in rows] == ["grasp 95&nbsp;%", "snip 95&nbsp;%"]
    grasp, snip = (cells for _, cells in rows)
    assert grasp.startswith('<td class="none">no run</td><td><span class="good">96.9%</span>')
    assert '<span class="fair">93.8%</span><sup><a href="#glance-' in snip
    remarks = re.findall(r'<li id="glance-\d">(.*?)</li>', glance)
    assert "unfinished: seed 1 (after 10 updates); dense: missing: seed 1" in remarks
    assert "title=" not in glance


@pytest.mark.parametrize(("last", "kind"), [(300.0, "unsure"), (150.0, "poor")])
def test_a_share_of_a_dense_agent_that_fell_is_not_green(tmp_path, last, kind):
    """The dataset's policy earns 320, of which the dense agent has 200; half of it is as poor as half of any."""
    write_run(tmp_path / "dense", prune="none", sparsity=0.0, returns=(200.0,))
    write_run(tmp_path / "snip", returns=(last,))
    glance = glance_of(tmp_path)
    assert f'<span class="{kind}">{last / 200:.1%}</span><sup><a href="#glance-1">1</a></sup>' in glance
    assert '<li id="glance-1">dense: 62% of the dataset policy&#x27;s return</li>' in glance


def test_many_panels_get_several_figures(tmp_path):
    d4rl_sweep(tmp_path / "runs", [*LONG, "a.hdf5"])
    report = write_report([tmp_path / "runs"], tmp_path / "out")
    names = {path.name for path in report.files}
    assert {f"{figure}-{page}.svg" for figure in ("survivors", "memory") for page in (1, 2)} < names
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Bytes on disk (the paper's Figure 4), page 2" in page


def test_only_files_of_an_earlier_report_are_removed(tmp_path, capsys):
    """First of two pages of panels with all tasks, then of one dense run."""
    d4rl_sweep(tmp_path / "many", [*LONG, "a.hdf5"])
    write_run(tmp_path / "one", prune="none", sparsity=0.0)
    out = tmp_path / "out"
    own = [out / name for name in ("notes.txt", "survivors-x.png", "memory-1.pdf", "speeds.csv")]
    write_report([tmp_path / "many"], out)
    before = {path.name for path in out.iterdir()}
    for path in own:
        path.write_text("mine")
    report_cli.main([f"runs={tmp_path / 'one'}", f"out={out}"])
    printed = capsys.readouterr().out
    assert "removed, of an earlier report: " in printed and "survivors-2.svg" in printed
    found = {path.name for path in out.iterdir()}
    assert not {"survivors-1.png", "memory-2.svg", "overall.csv", "collapsed.csv"} & found
    write_report([tmp_path / "one"], tmp_path / "fresh")
    assert found == {path.name for path in (*own, *(tmp_path / "fresh").iterdir())}
    assert {"survivors-1.png", "overall.csv"} < before


def test_a_folder_without_a_report_keeps_its_files(tmp_path):
    write_run(tmp_path / "one", prune="none", sparsity=0.0)
    out = tmp_path / "out"
    out.mkdir()
    for name in ("overall.csv", "report.md", "survivors.png"):
        (out / name).write_text("mine")
    assert write_report([tmp_path / "one"], out).removed == []
    assert [(out / name).read_text() for name in ("overall.csv", "survivors.png")] == ["mine", "mine"]


def test_only_over_sparsity_figures_are_the_paper_s(sweep, tmp_path):
    write_report([sweep], tmp_path / "out", Axes(x="prune.scope"))
    page = (tmp_path / "out" / "report.md").read_text()
    assert "## Return over prune.scope\n" in page
    assert "the paper's Figure" not in page.partition("## Table")[0]


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


def test_levels_have_a_row_each_and_are_in_the_csvs(tmp_path):
    """Two seeds of three levels; the second level of one seed, and the first of both, were not evaluated."""
    for seed, returns in enumerate(((None, 40.0), (None, None))):
        folder = write_run(tmp_path / "runs" / str(seed), prune="lottery", seed=seed, returns=(1.0, 100.0 * (1 + seed)))
        facts = json.loads((folder / "summary.json").read_text())
        levels = [{"update": 300 * (i + 1), "sparsity": 0.5 * i, "return_mean": it} for i, it in enumerate(returns)]
        facts["levels"] = [{key: value for key, value in it.items() if value is not None} for it in levels]
        (folder / "summary.json").write_text(json.dumps(facts))
    write_run(tmp_path / "runs" / "snip")
    write_report([tmp_path / "runs"], tmp_path / "out")
    write_report([tmp_path / "out" / "data"], tmp_path / "again")
    text = (tmp_path / "out" / "levels.csv").read_text()
    assert text == (tmp_path / "again" / "levels.csv").read_text()
    facts = json.loads((tmp_path / "runs" / "0" / "summary.json").read_text())
    last = 1 - facts["nonzero_weights"] / facts["total_weights"]
    panel = "bcq · Hopper-v5, expert"
    assert [line.rsplit(",", 6)[-6:] for line in text.splitlines()[1:]] == [
        ["lottery 95 %", "1", "300", "0.0", "0.0", ""],
        ["lottery 95 %", "2", "600", "0.5", "1.0", "40.0"],
        ["lottery 95 %", "3", "1000", repr(last), "2.0", "150.0"],
    ]
    assert (
        text.count(panel) == 3
        and f"| lottery 95 % | 3 | 1000 | {last:.2%} | 2 | 150.0 |" in (tmp_path / "out" / "report.md").read_text()
    )
    (tmp_path / "out" / "data" / "levels.csv").unlink()
    runs, notes = read_runs(tmp_path / "out" / "data")
    assert (len(runs), notes) == (3, []) and not any("levels" in (run.summary or {}) for run in runs)


def test_a_run_that_failed_is_said_to_have_failed_and_of_what(tmp_path):
    for seed in (0, 1, 2):
        folder = write_run(tmp_path / "runs" / str(seed), seed=seed, returns=(1.0, 2.0))
        if seed:
            (folder / "summary.json").unlink()
        if seed != 1:  # what the first attempt of a run failed of, which has ended since, is no matter
            (folder / "failure.txt").write_text("UserError: training diverged\n")
    write_report([tmp_path / "runs"], tmp_path / "out")
    write_report([tmp_path / "out" / "data"], tmp_path / "again")
    for out in (tmp_path / "out", tmp_path / "again"):
        (row,) = table(out / "returns.csv").values()
        assert row["remarks"] == "failed: seed 2 (after 20 updates); unfinished: seed 1 (after 20 updates)"
        text = (out / "report.md").read_text()
        assert "2 failed after 20 of 1000 updates, return 2.0 so far: UserError: training diverged" in text
        assert "1 is unfinished: 20 of 1000 updates" in text and "0 failed" not in text
