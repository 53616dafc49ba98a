"""Reports: what run folders say, finished or not."""

from __future__ import annotations

import itertools
import json

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
from sparse_offline_rl.reports.curves import learning_curves
from sparse_offline_rl.reports.groups import group_runs
from sparse_offline_rl.reports.memory import memory_use, policy_coo_bytes
from sparse_offline_rl.reports.runs import read_runs, short_panels
from sparse_offline_rl.reports.survivors import layer_survivors
from sparse_offline_rl.reports.tables import returns_table
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


def groups_of(root):
    return group_runs(read_runs(root)[0])[0]


def one(groups, **wanted):
    (found,) = (group for group in groups if all(getattr(group, key) == value for key, value in wanted.items()))
    return found


def curves_of(figure: Figure) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Panel -> colour of a line with more than two points -> its points."""
    return {
        ax.get_title(): {
            line.get_color(): (list(line.get_xdata()), list(line.get_ydata()))
            for line in ax.lines
            if len(line.get_xdata()) > 2
        }
        for ax in figure.axes
    }


def test_the_report_has_every_figure_and_table(sweep, tmp_path):
    report = write_report(sweep, tmp_path / "out")
    assert [path.name for path in report.files] == ["report.md", "learning_curves.png", "survivors.png", "memory.png"]
    assert (report.runs, report.finished) == (16, 15)
    for path in report.files[1:]:
        with Image.open(path) as image:
            assert min(image.size) > 300
            assert np.asarray(image.convert("L")).std() > 10
    page = report.files[0].read_text()
    assert all(f"- {note}\n" in page for note in report.notes)
    for word in ("16 runs, 15 finished", "bcq on Hopper-v5, expert", "grasp 95 %", "(memory.png)", "unfinished"):
        assert word in page
    assert "bcq grasp 95 %: layer encoder.mean has collapsed (seeds 0)" in page
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in report.files)


def test_the_table_has_mean_and_sample_deviation_of_the_finished_seeds(sweep):
    table = returns_table(groups_of(sweep))
    hopper = table[table.index("Hopper-v5") :]
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in hopper.splitlines())
        if len(cells) > 2
    }
    assert rows["dense"][:4] == ["2", "325.0 ± 35.4", "3.2 ± 0.4", "100.00%"]
    assert rows["grasp 95 %"][:3] == ["1", "300.0", "3.0"]
    assert rows["snip 50 %"][4:] == ["1.609 MB", "2.1 times", "210"]
    assert list(rows) == ["pruning", "---", "dense", "grasp 95 %", "snip 50 %", "snip 95 %"]


def test_curves_show_the_mean_and_the_range_over_the_seeds(sweep):
    groups = [group for group in groups_of(sweep) if group.prune == "none"]
    figure = learning_curves(groups)
    (line,) = curves_of(figure)["bcq on Hopper-v5, expert"].values()
    assert line == ([10, 20, 30], [125, 225, 325])
    (ax,) = (ax for ax in figure.axes if "Hopper" in ax.get_title())
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (100, 350)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("updates", "return")
    assert 3234.3 in [line.get_ydata()[0] for line in ax.lines]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["dense", "expert (score 100)"]


def test_an_unfinished_run_counts_as_far_as_it_got(sweep):
    group = one(groups_of(sweep), prune="grasp", panel="Hopper-v5, expert")
    assert (len(group.runs), len(group.finished)) == (2, 1)
    (line,) = curves_of(learning_curves([group]))["bcq on Hopper-v5, expert"].values()
    assert line == ([10, 20, 30], [125, 225, 300])
    (note,) = read_runs(sweep)[1]
    assert "grasp-0.95/seed1 is unfinished: 20 of 1000 updates, return 250.0 so far" in note


def test_survivors_show_counts_and_mark_empty_layers(sweep):
    figure = layer_survivors(groups_of(sweep))
    assert [ax.get_title() for ax in figure.axes] == ["actor", "critic1", "encoder", "decoder"] * 2
    decoder = figure.axes[7]
    assert decoder.get_ylabel() == ""
    heights = sorted({round(bar.get_height()) for bar in decoder.patches})
    assert heights == [round(0.3 * 750 * 6), round(0.3 * 29 * 750), round(0.05 * 750 * 750)]
    encoder = figure.axes[6]
    assert [text.get_text() for text in encoder.texts] == ["0"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["dense", "grasp 95 %", "snip 95 %"]


def test_the_second_critic_is_shown_where_it_differs(tmp_path):
    folder = write_run(tmp_path / "runs")
    summary = json.loads((folder / "summary.json").read_text())
    next(layer for layer in summary["layers"] if layer["name"] == "critic2.out")["kept"] = 1
    (folder / "summary.json").write_text(json.dumps(summary))
    titles = [ax.get_title() for ax in layer_survivors(groups_of(tmp_path)).axes]
    assert titles == ["actor", "critic1", "critic2", "encoder", "decoder"]


def test_memory_is_drawn_against_sparsity(sweep):
    policy, checkpoint = memory_use([g for g in groups_of(sweep) if "Hopper" in g.panel]).axes
    lines = {line.get_label(): line for line in policy.lines}
    assert set(lines) == {"dense float32", "int64 COO (paper)", "policy file, snip", "policy file, grasp"}
    assert list(lines["policy file, snip"].get_xdata()) == [0.0, 0.5, 0.95]
    assert lines["policy file, snip"].get_ydata() == pytest.approx([3.209, 1.609, 0.169])
    assert lines["dense float32"].get_ydata()[0] == 3.4
    assert policy.get_yscale() == checkpoint.get_yscale() == "log"


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


def test_datasets_get_the_shortest_names_that_differ():
    panels = [
        "Hopper-v5, expert",
        "my.module:Point-v0, D4RL/point/maze-v1",
        *(f"Hopper-v5, {path}" for path in LONG[:2]),
    ]
    assert list(short_panels(panels).values()) == [
        "Hopper-v5, expert",
        "Point-v0, maze-v1",
        "Hopper-v5, mujoco/hopper_medium-v2",
        "Hopper-v5, d4rl-v2/hopper_medium-v2",
    ]
    same = ["a:X-v0, /d/e.hdf5", "b:X-v0, /d/e.hdf5"]
    assert list(short_panels(same).values()) == same


@pytest.mark.parametrize("draw", [learning_curves, layer_survivors, memory_use])
def test_headings_stay_on_the_page_and_apart(tmp_path, draw):
    d4rl_sweep(tmp_path, LONG)
    figure = draw(groups_of(tmp_path))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = figure.findobj(lambda artist: isinstance(artist, Text) and artist.get_text() and artist.get_visible())
    boxes = {text: text.get_window_extent() for text in texts if text.get_text().startswith("bcq on")}
    assert len(boxes) == 3
    for box in boxes.values():
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1
    for text, other in itertools.permutations(boxes, 2):
        assert not boxes[text].overlaps(boxes[other]), (text, other)


def test_many_panels_get_a_figure_each(tmp_path):
    d4rl_sweep(tmp_path / "runs", [*LONG, "a.hdf5"])
    report = write_report(tmp_path / "runs", tmp_path / "out")
    names = [f"{figure}-{number}.png" for figure in ("survivors", "memory") for number in range(1, 5)]
    assert [path.name for path in report.files] == ["report.md", "learning_curves.png", *names]
    page = report.files[0].read_text()
    assert f"- Hopper-v5, mujoco/hopper_medium-v2: Hopper-v5, {LONG[0]}\n" in page
    assert page.count("## Bytes on disk: bcq on Hopper-v5, ") == 4


def test_no_figure_without_runs_for_it(tmp_path):
    write_run(tmp_path / "runs" / "a", prune="none", sparsity=0.0)
    write_run(tmp_path / "runs" / "b", finished=False, returns=())
    groups = groups_of(tmp_path)
    assert layer_survivors(groups) is None
    assert memory_use(groups) is None
    assert learning_curves([one(groups, prune="snip")]) is None
    files = write_report(tmp_path / "runs", tmp_path / "out").files
    assert [path.name for path in files] == ["report.md", "learning_curves.png"]


def test_runs_of_other_settings_are_told_apart(tmp_path):
    for seed in (0, 1):  # the threads of the two differ too, which does not matter
        write_run(tmp_path / "network" / str(seed), seed=seed)
        write_run(tmp_path / "erk" / str(seed), seed=seed, scope="erk")
    groups = groups_of(tmp_path)
    assert [group.label for group in groups] == [
        "bcq snip 95 % (prune.scope=erk)",
        "bcq snip 95 % (prune.scope=network)",
    ]
    assert [len(group.runs) for group in groups] == [2, 2]


def test_the_same_run_twice_counts_once(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    (group,), (note,) = group_runs(read_runs(tmp_path)[0])
    assert len(group.runs) == 1
    assert f"{tmp_path / 'b'} is left out" in note


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
    assert [run.path.name for run in runs] == ["good"]
    assert note.startswith(f"{tmp_path / 'bad'} is left out")
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
    assert sorted(run.returns) == [20, 40]
    content: PolicyContent = read_policy(run_dir / "policy" / "policy.sorl")
    layers = [layer for network in content.networks.values() for layer in network.layers]
    assert policy_coo_bytes(run) == coo_bytes(sum(x.kept for x in layers), sum(len(x.bias) for x in layers))
