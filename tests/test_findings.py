"""The tables of the findings: what they say is what the CSVs hold, and is found as their texts say."""

from __future__ import annotations

import csv
import re
import shutil
import sys
from dataclasses import replace

import pytest
from conftest import ROOT
from run_folders import write_run

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.reports.store import read_runs

sys.path.insert(0, str(ROOT / "scripts"))
import findings
import findings_cells
import findings_tables


def test_the_pages_say_what_the_results_say(capsys):
    findings.main(["check=true"])
    assert capsys.readouterr().out == ""


def test_a_page_that_is_out_of_date_is_named_and_filled_anew(tmp_path, capsys):
    for page in findings.PAGES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    page = tmp_path / "README.md"
    right = page.read_text()
    changed = re.sub(
        r"(<!-- table from-scratch -->(?:.*\n)*?.*`synflow`.*\| )\d+ \|\n", r"\g<1>1234 |\n", right, count=1
    )
    assert "| 1234 |" in changed
    page.write_text(changed)
    with pytest.raises(SystemExit):
        findings.main([f"root={tmp_path}", "check=true"])
    assert f"{page}: not what results say" in capsys.readouterr().err
    assert page.read_text() == changed
    findings.main([f"root={tmp_path}"])
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_text() == right


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- table walk -->\n| |\n<!-- end -->\n", "walk: there is no such table; take one of study, "),
        ("<!-- table study -->\n| |\n\nText\n\n<!-- table study-bc -->\n| |\n<!-- end -->\n", "mend them"),
        ("<!-- table study -->\n| |\n", "mend them"),
        ("| |\n<!-- end -->\n", "mend them"),
        ("<!-- table from-scratch -->\n| a | `snap` | | | |\n<!-- end -->\n", "prune=snap: there is no such method"),
    ],
)
def test_pages_that_cannot_be_filled_are_left_and_named(tmp_path, text, said):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(UserError, match=said):
        findings.filled(page)
    with pytest.raises(UserError, match="cannot be read"):
        findings.filled(tmp_path / "no.md")


def test_each_table_stands_in_a_page():
    text = "".join((ROOT / page).read_text() for page in findings.PAGES)
    assert set(re.findall(r"<!-- table (\S+) -->", text)) == set(findings.TABLES)


@pytest.fixture
def part(tmp_path, monkeypatch):
    """Hopper, whose data's policy earns 320: SNIP has two seeds, and ERK's shares one; evaluations after 10, 20, 30 updates, 2 s each."""
    for seed, returns in enumerate(((10.0, 300.0, 340.0), (20.0, 200.0, 320.0))):
        write_run(tmp_path / f"snip{seed}", seed=seed, returns=returns)
    write_run(tmp_path / "erk", returns=(1.0, 160.0, 2.0), scope="erk")
    write_run(tmp_path / "dense", prune="none", sparsity=0.0, returns=(5.0, 310.0))
    write_run(tmp_path / "other", seed=7, sparsity=0.9, returns=(5.0, 6.0, 7.0))
    monkeypatch.setattr(findings_tables, "_store", lambda name: read_runs(tmp_path)[0])
    return findings_tables.Part(("made",), "bcq", "expert", 0.95, (10, 30))


def test_a_row_has_early_and_late_returns_seeds_share_of_dense_and_costs(part):
    """Policy files of made runs have 3.2 MB times the density and 9 kB."""
    table = findings_tables.by_environment(replace(part, sparsity=0.0, label="dense"), part)
    assert table("").splitlines()[3:] == [
        "| `snip` | 15 / 330 (2) | | | 106, –, – | 6 | 169 |",
        "| dense | 5 / 310 (1) | | | 100, –, – | 4 | 3209 |",
        "| `snip prune.scope=erk` | 1 / 2 (1) | | | 1, –, – | 6 | 169 |",
    ]


def test_keys_that_are_not_the_method_s_own_are_named_and_other_experiments_left_out(part, tmp_path):
    write_run(tmp_path / "shuffled", returns=(1.0, 2.0, 3.0), shuffle_layerwise=True, rounds=5)
    raw = write_run(tmp_path / "raw", seed=5, returns=(1.0, 2.0, 3.0)) / "config.yaml"
    raw.write_text(raw.read_text().replace("dataset:\n", "dataset:\n  normalize: false\n"))
    assert [(row.method, len(row.cells["hopper"])) for row in findings_tables.rows_of([part])] == [
        *(("snip", 2), ("snip prune.rounds=5 prune.shuffle_layerwise=true", 1), ("snip prune.scope=erk", 1)),
    ]
    with pytest.raises(ValueError, match="several rows"):
        findings_tables.last_columns(part, replace(part, updates=(10, 20)))("")


def test_last_columns_fill_the_rows_whose_method_has_runs(part):
    body = "| when | `prune=` | what | seeds | kept, % | s |\n|---|---|---|---:|---:|---:|\n"
    rows = "| before | **`snip`** | a \\| b | x | y | z |\n| | `grasp` | more | x | y | z |\n"
    assert findings_tables.last_columns(part)(body + rows) == body + (
        "| before | **`snip`** | a \\| b | 2 | 103, –, – | 6 |\n| | `grasp` | more | – | – | – |\n"
    )


def test_runs_with_other_settings_belong_to_the_part_that_names_them(part, tmp_path):
    """Also where the others are from before the key there was, as SNIP's own runs here."""
    path = write_run(tmp_path / "falling", returns=(1.0, 2.0, 160.0)) / "config.yaml"
    path.write_text(path.read_text().replace("agent:\n", "agent:\n  lr_decay: 50\n"))
    special = replace(part, special=(("agent.lr_decay", 50),))
    assert [(row.method, len(row.cells["hopper"])) for row in findings_tables.rows_of([part, special])] == [
        *(("snip", 2), ("snip agent.lr_decay=50", 1), ("snip prune.scope=erk", 1)),
    ]
    row = "| a | `snip agent.lr_decay=50` | b | x | y | z |\n"
    assert findings_tables.last_columns(part, special)(row).endswith("| 1 | 50, –, – | 6 |\n")


def test_seconds_of_the_runs_that_others_go_on_from_do_not_count(part, tmp_path):
    """SNIP's seeds take 6 s, of which 4 s are those of the dense run that they go on from; ERK's run begins anew."""
    write_run(tmp_path / "dense1", seed=1, prune="none", sparsity=0.0, returns=(5.0, 310.0))
    for name, folder in (("snip0", "dense"), ("snip1", "dense1"), ("erk", "null")):
        path = tmp_path / name / "config.yaml"
        path.write_text(path.read_text() + f"pretrained: {folder}\n")
    rows = findings_tables.rows_of([replace(part, begun=replace(part, sparsity=0.0, updates=(20,)))])
    assert [f"{row.seconds:.0f}" for row in rows] == ["2", "6"]


def test_shares_of_the_dense_return_stand_over_sparsity(part):
    """Hopper: dense 310, SNIP 340 and 320 at 95 % and, after 20 updates, 6 at 90 %; neither GraSP nor 99 % has runs."""
    methods, sparsities = {"snip": "SNIP", "grasp": "GraSP"}, {0.9: 20, 0.95: 30, 0.99: 30}
    table = findings_tables.over_sparsity("kept", {"BCQ": part}, methods, sparsities)
    assert table("") == (
        "| kept | dense | 90 % | 95 % | expert |\n|---|---:|---:|---:|---:|\n"
        "| BCQ, Hopper, SNIP | 310 | 1.9 % | 106.5 % | 320 |\n"
    )


def test_settings_stand_over_pruners(part, tmp_path):
    """Of Hopper; the run on raw observations is in no other row, nor the one with two equal critics."""
    for name, normalize, twin, late in (("raw", "false", "copy_mask", 50.0), ("equal", "true", "copy", 60.0)):
        path = write_run(tmp_path / name, returns=(1.0, 2.0, late)) / "config.yaml"
        text = path.read_text().replace("dataset:\n", f"dataset:\n  normalize: {normalize}\n")
        path.write_text(text.replace("agent:\n", f"agent:\n  twin: {twin}\n"))
    settings = (
        findings_tables.Setting("usual"),
        findings_tables.Setting("raw", special=(("dataset.normalize", False),)),
        findings_tables.Setting("ERK", "prune.scope=erk"),
        findings_tables.Setting("equal critics", special=(("agent.twin", "copy"),)),
    )
    table = findings_tables.by_setting(part, settings, {"snip": "SNIP", "grasp": "GraSP", "none": "dense"})
    assert table("").splitlines()[2:] == [
        "| usual | 330, –, – (2) | | 310, –, – (1) |",
        "| raw | 50, –, – (1) | | |",
        "| ERK | 2, –, – (1) | | |",
        "| equal critics | 60, –, – (1) | | |",
    ]
    ways = {"snip prune.scope=erk": "SNIP"}  # a setting with another scope takes its place
    assert findings_tables.by_setting(part, (findings_tables.Setting("ERK", "prune.scope=erk"),), ways)("").endswith(
        "| ERK | 2, –, – (1) |\n"
    )


def test_after_equal_seconds_the_clock_is_the_quickest_method_s(part, tmp_path, monkeypatch):
    """SNIP's runs take 6 s; GraSP's makes half as many updates a second, so that it had one evaluation by then."""
    monkeypatch.setattr(findings_tables, "ENVS", {"hopper": "Hopper"})
    slow = write_run(tmp_path / "slow", prune="grasp", returns=(7.0, 8.0, 9.0)) / "metrics.csv"
    slow.write_text(slow.read_text().replace(",5.0,", ",2.5,"))
    assert findings_tables.after_equal_seconds(part, ("snip", "grasp"))("") == (
        "| return after equal seconds | Hopper, 6 s |\n|---|---:|\n| `snip` | 330 |\n| `grasp` | 7 |\n| `snip prune.scope=erk` | 2 |\n"
    )


def test_a_table_of_cells_says_of_each_what_it_is_about(part):
    """SNIP's seeds return 340 and 320, of 320 of the policy and 310 of the dense agent; ERK's returns 160, then 2. Evaluations are 2 s apart."""
    snip, erk = (replace(part, methods=(method,)) for method in ("snip", "snip prune.scope=erk"))
    dense = replace(part, sparsity=0.0, methods=("none",))
    rows = {
        "return": [findings_cells.returns(it, "hopper") for it in (dense, snip, erk)],
        "data": [findings_cells.of_the_data(it, "hopper") for it in (dense, snip, erk)],
        "walker": [findings_cells.returns(it, "walker2d") for it in (dense, snip, erk)],
        "share": [findings_cells.share(it, "hopper") for it in (dense, snip, erk)],
        "best": [findings_cells.best(it, "hopper") for it in (dense, snip, erk)],
        "seeds": [findings_cells.each_seed(it, "hopper") for it in (dense, snip, erk)],
        "seconds": [findings_cells.seconds(it, "hopper") for it in (dense, snip, erk)],
        "of one": [
            findings_cells.text("x"),
            findings_cells.seconds(snip, "hopper", remark=" (alone)"),
            findings_cells.text(""),
        ],
        "kB": [findings_cells.kilobytes(it) for it in (dense, snip, replace(part, sparsity=0.5, methods=("snip",)))],
        "all": [findings_cells.all_seconds(*its) for its in ((dense,), (snip, dense), (replace(snip, agent="bc"),))],
        "there": [findings_cells.all_seconds(snip, env=env) for env in ("hopper", "walker2d", "hopper")],
        "after 20": [findings_cells.mean_at(it, "hopper", 20) for it in (dense, snip, erk)],
        "after 30": [findings_cells.mean_at(it, "hopper", 30) for it in (dense, snip, erk)],
        "mean": [findings_cells.mean_of_all(it, "hopper") for it in (dense, snip, erk)],
        "both": [
            findings_cells.joined(*(findings_cells.seeds(it, "hopper") for it in its))
            for its in ((dense, snip), (erk,), ())
        ],
        "crossing": [findings_cells.first_crossing(it, "hopper") for it in (dense, snip, erk)],
    }
    assert findings_cells.of_cells(("", "dense", "SNIP", "ERK"), rows)("").splitlines() == [
        "| | dense | SNIP | ERK |",
        "|---|---:|---:|---:|",
        "| return | 5 / 310 (1) | 15 / 330 (2) | 1 / 2 (1) |",
        "| data | 320 | 320 | 320 |",
        "| walker | | | |",
        "| share | 100.0 % | 106.5 % | 0.6 % |",
        "| best | 310 | 330 | 160 |",
        "| seeds | 310 (100 %) | 340, 320 (106 %) | 2 (1 %) |",
        "| seconds | 4 | 6 | 6 |",
        "| of one | x | 6 (alone) | |",
        "| kB | 3209 | 169 | |",
        "| all | 4 | 4 to 6 | |",
        "| there | 6 | | 6 |",
        "| after 20 | 310 | 250 | 160 |",
        "| after 30 | | 330 | 2 |",
        "| mean | 158 | 198 | 54 |",
        "| both | 1 / 2 | 1 | |",
        "| crossing | 4.0 (20) | 6.0 (30) | not within 30 |",
    ]
    with pytest.raises(ValueError, match="several methods"):
        findings_cells.returns(part, "hopper")()


def test_cells_of_studies_take_their_numbers_from_the_files_of_these(tmp_path, monkeypatch):
    monkeypatch.setattr(findings_cells, "ROOT", tmp_path)
    (tmp_path / "results/study/time").mkdir(parents=True)
    lines = [
        "bcq,hopper,1000,20,0,100,5.25,94.9,100.0",
        "bcq,hopper,1000,20,0,200,10.5,95.0,100.0",
        "bcq,hopper,1000,20,0,300,15.75,99.0,100.0",
        "bcq,hopper,1000,20,1,100,1.0,99.0,100.0",
        "bc,hopper,1000,20,0,100,1.0,50.0,100.0",
    ]
    columns = ",".join(findings_cells.plain_torch_study.COLUMNS)
    (tmp_path / "results/study/time/plain_torch.csv").write_text("\n".join([columns, *lines, ""]))
    cells = [findings_cells.plain_torch_crossing(agent, "hopper")() for agent in ("bcq", "bc", "iql")]
    assert cells == ["10.5 (200)", "not within 100", ""]
    columns = ",".join(findings_cells.acting_study.COLUMNS)
    lines = [
        f"a/seed{seed},{way},20,1,{mean},0,0,0,0" for seed in (0, 1) for way, mean in (("whole", seed), ("neither", 9))
    ]
    (tmp_path / "results/study/acting.csv").write_text(
        "\n".join([columns, *lines, "b/seed0,whole,20,1,70,0,0,0,0", ""])
    )
    played = [("a/*", "whole"), ("a/seed1*", "whole"), ("a/*", "neither"), ("*", "whole"), ("c*", "whole")]
    assert [findings_cells.played(*it)() for it in played] == ["0", "1", "9", "24", ""]


def test_a_share_needs_a_dense_run(part, tmp_path):
    shutil.rmtree(tmp_path / "dense")
    snip = replace(part, methods=("snip",))
    with pytest.raises(UserError, match="no dense run on Hopper to compare with"):
        findings_cells.share(snip, "hopper")()


def test_runs_are_named_by_places_within_the_results():
    stores = sorted((ROOT / "results").rglob("runs.csv"))
    assert len(stores) > 10
    for path in stores:
        with path.open() as file:
            assert not [row["run"] for row in csv.DictReader(file) if row["run"].startswith(("/", "."))], path
