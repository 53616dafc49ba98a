"""By what runs are compared, and how experiments are named."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from report_studies import LONG, groups_of
from run_folders import write_run

from sparse_offline_rl.cli import report as report_cli
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.reports.axes import Axes, parse_where, short_names
from sparse_offline_rl.reports.compare import compare
from sparse_offline_rl.reports.runs import over_updates
from sparse_offline_rl.reports.store import read_runs, write_store
from sparse_offline_rl.reports.survivors import layer_survivors
from sparse_offline_rl.reports.tables import returns_table, time_table
from sparse_offline_rl.reports.time_to_policy import time_to_policy
from sparse_offline_rl.reports.topology import topology_table


def test_datasets_and_environments_get_the_shortest_names_that_differ():
    names = ["expert", "D4RL/point/maze-v1", *LONG[:2]]
    short = ["expert", "maze-v1", "mujoco/hopper_medium-v2", "d4rl-v2/hopper_medium-v2"]
    assert list(short_names(names).values()) == short
    assert list(short_names(["my.module:Point-v0", "Hopper-v5"]).values()) == ["Point-v0", "Hopper-v5"]
    same = ["a:X-v0", "b:X-v0"]
    assert list(short_names(same).values()) == same


def test_runs_of_other_settings_are_told_apart(tmp_path):
    for seed in (0, 1):  # the threads of the two differ too, which does not matter
        write_run(tmp_path / "network" / str(seed), seed=seed)
        write_run(tmp_path / "erk" / str(seed), seed=seed, scope="erk")
    groups = groups_of(tmp_path)
    assert [group.label for group in groups] == ["snip 95 %", "snip 95 % (prune.scope=erk)"]
    assert [len(group.runs) for group in groups] == [2, 2]


def test_what_a_method_has_by_itself_is_not_named(tmp_path):
    """RigL's own masks to begin with are random ones with ERK's shares; other methods have others."""
    write_run(tmp_path / "own", prune="rigl", scope="erk", score="random")
    write_run(tmp_path / "synflow", prune="rigl", score="synflow")
    assert [group.label for group in groups_of(tmp_path)] == [
        "rigl 95 %",
        "rigl 95 % (prune.scope=network, prune.score=synflow)",
    ]


def test_a_default_is_the_agent_s_own(tmp_path):
    """IQL scales rewards by default; a run from before that key there was does, too."""
    for name, agent in (("old", {}), ("usual", {"rewards": "return_range"}), ("raw", {"rewards": "raw"})):
        change_config(write_run(tmp_path / name, agent="iql", seed=len(name)), {"agent": agent})
    assert [(group.label, len(group.runs)) for group in groups_of(tmp_path)] == [
        *(("snip 95 %", 2), ("snip 95 % (agent.rewards=raw)", 1)),
    ]


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
        ("where=prune=none", "where=prune=none: none of the 1 runs is so; they have prune=snip."),
        (
            "where=env=hopper,prune=snip",
            "where=env=hopper,prune=snip: none of the 1 runs is so; they have env=Hopper-v5.",
        ),
        ("where=prune", "where=prune cannot be used: write key=value"),
        ("by=prune,,seed", "by=prune,,seed cannot be used: write keys with commas"),
        ("panels=", "panels= cannot be used: write keys with commas"),
        ("updates=0", "updates=0 cannot be used: give more than 0"),
        ("seconds=inf", "seconds=inf cannot be used: give a finite number"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_a_sentence(tmp_path, capsys, argument, sentence):
    write_run(tmp_path / "runs")
    with pytest.raises(SystemExit) as end:
        report_cli.main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}", argument])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")
    assert not (tmp_path / "out").exists()


def test_a_condition_that_none_meets_names_a_few_values(tmp_path):
    for seed in range(7):
        write_run(tmp_path / str(seed), seed=seed, sparsity=0.9 if seed else 0.95)
    runs, _ = read_runs(tmp_path)
    for where, sentence in (
        ((("seed", (9,)),), "they have seed=0|1|2|3|4|…."),
        ((("seed", (0,)), ("sparsity", (0.9,))), "leave a condition out."),
    ):
        with pytest.raises(UserError, match=r"none of the 7 runs is so") as error:
            compare(runs, Axes(where=where))
        assert str(error.value).endswith(sentence)


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


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("dataset.normalize", False, "dataset.normalize=false"),
        ("agent.actor_hidden", [5, 6], "agent.actor_hidden=[5,6]"),
        ("prune.revive", True, "prune.revive=true"),
        ("batch_size", 7, "batch_size=7"),
    ],
)
def test_labels_read_as_they_are_typed(tmp_path, key, value, text):
    write_run(tmp_path / "usual")
    folder = write_run(tmp_path / "other", seed=1)
    for run, given in (("usual", {"normalize": True}), ("other", {})):
        change_config(tmp_path / run, {"dataset": given, "prune": {"revive": False}, "batch_size": 100})
    section, _, name = key.rpartition(".")
    change_config(folder, {section: {name: value}} if section else {name: value})
    assert [group.variant for group in groups_of(tmp_path) if group.variant][-1:] == [text]
    places = [group.label for group in groups_of(tmp_path, Axes(x=key))]
    assert f"snip (sparsity=0.95), {text}" in places or f"snip, {text}" in places


def change_config(folder, changes) -> None:
    """Set keys of ``config.yaml``, those of a section one by one."""
    values = yaml.safe_load((folder / "config.yaml").read_text())
    for key, change in changes.items():
        values[key] = {**values[key], **change} if isinstance(change, dict) else change
    (folder / "config.yaml").write_text(yaml.safe_dump(values))


def test_a_run_from_before_a_key_there_is_has_its_default(tmp_path):
    write_run(tmp_path / "old", seed=0)
    for seed in (1, 2):
        change_config(write_run(tmp_path / f"new{seed}", seed=seed), {"agent": {"rewards": "raw", "candidates": 10}})
    assert [(group.label, len(group.runs)) for group in groups_of(tmp_path)] == [("snip 95 %", 3)]
    change_config(tmp_path / "new2", {"agent": {"rewards": "return_range"}})
    shutil.rmtree(tmp_path / "new1")
    labels = [(group.label, len(group.runs)) for group in groups_of(tmp_path)]
    assert labels == [("snip 95 %", 1), ("snip 95 % (agent.rewards=return_range)", 1)]
    write_run(tmp_path / "new1", seed=1)
    labels = [(group.label, len(group.runs)) for group in groups_of(tmp_path)]
    assert labels == [("snip 95 %", 2), ("snip 95 % (agent.rewards=return_range)", 1)]


def test_such_a_run_can_be_asked_for_and_drawn_by_that_key(tmp_path):
    write_run(tmp_path / "old", seed=0)
    change_config(write_run(tmp_path / "new", seed=1), {"init": "isometry", "agent": {"vae_hidden": [50, 60]}})
    runs, _ = read_runs(tmp_path)
    assert [run.name for run in Axes(where=(("init", ("default",)),)).select(runs)] == ["old"]
    assert [group.x for group in groups_of(tmp_path, Axes(x="init"))] == ["default", "isometry"]
    assert [run.name for run in Axes(where=parse_where("agent.vae_hidden=[50,60]|[7],seed=1")).select(runs)] == ["new"]
    assert Axes(x="pretrained").select(runs) == runs
    for key in ("prune.levels", "soft"):
        with pytest.raises(UserError, match=rf"{key}: no run has this key"):
            Axes(x=key).select(runs)


def test_where_environments_are_compared_each_has_the_policy_of_its_own_data(tmp_path):
    """Hopper's data return 320 and HalfCheetah's 3200: each agent is at 90 % of it, and no one line stands for both."""
    for env, last in (("hopper", 288.0), ("halfcheetah", 2880.0)):
        write_run(tmp_path / env, env=env, prune="none", sparsity=0.0, returns=(last / 2, last))
    study = compare(read_runs(tmp_path)[0], Axes(x="env", panels=("agent",)))
    (panel,) = study.panels
    assert panel.policy_return is None and len(panel.groups) == 2
    place = {column.name: i for i, column in enumerate(returns_table(study).columns)}
    assert [row[place["of the dataset's policy"]] for row in returns_table(study).rows] == pytest.approx([0.9, 0.9])
    times = time_table(study)
    assert [row[2:6] for row in times.rows] == [(3200.0, 1.0, 1.0, 0.0), (320.0, 1.0, 1.0, 0.0)]
    assert time_to_policy(study) is not None


def test_agents_with_networks_of_their_own_share_a_panel(tmp_path):
    """As IQL's value network, which the others lack; also where agents are not told apart at all."""
    write_run(tmp_path / "bcq", moved=((0.5, 0.5),) * 3)
    folder = write_run(tmp_path / "iql", agent="iql", moved=((0.4, 0.6),) * 3, returns=(1.0, 2.0, 3.0))
    summary = json.loads((folder / "summary.json").read_text())
    value = {"name": "value.hidden0", "kept": 10, "total": 170, "outputs": 10}
    summary["layers"] = [it for it in summary["layers"] if not it["name"].startswith("encoder")] + [value]
    (folder / "summary.json").write_text(json.dumps(summary))
    metrics = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(metrics.replace("/actor,", "/value,"))
    study = compare(read_runs(tmp_path)[0], Axes(panels=("env", "dataset")))
    (panel,) = study.panels
    assert {group.runs[0].value("agent") for group in panel.groups} == {"bcq", "iql"}
    assert layer_survivors(study) is not None
    assert [row[1:] for row in topology_table(study).rows] == [
        ("snip 95 % (agent=bcq)", "actor", 1.0, 0.5, 0.5),
        ("snip 95 % (agent=iql)", "value", 1.0, 0.6, 0.4),
    ]
    mixed = compare(read_runs(tmp_path)[0], Axes(by=("prune",), panels=("env", "dataset")))
    assert [row[2] for row in topology_table(mixed).rows] == ["actor", "value"]
    assert layer_survivors(mixed) is not None


def test_between_its_changes_a_run_has_what_the_last_one_left(tmp_path):
    """The first changes at 10 and 30, the second at 10 and 20; the third, unfinished, at 10 alone, and ends at 20."""
    moved = [((0.2, 1.0), (0.2, 1.0), (0.4, 0.5)), ((0.3, 0.9), (0.5, 0.8), (0.5, 0.8)), ((0.6, 0.6), (0.6, 0.6))]
    for seed, shares in enumerate(moved):
        densities = tuple(first for _, first in shares)
        write_run(
            tmp_path / str(seed),
            seed=seed,
            finished=seed < 2,
            moved=shares,
            densities=densities,
            returns=(1.0,) * len(shares),
        )
    runs, _ = read_runs(tmp_path)
    found = over_updates(runs, "movement")
    assert {update: [it["actor"].ever_kept for it in runs] for update, runs in found.items()} == {
        5: [0.2, 0.3, 0.6],
        15: [0.2, 0.5, 0.6],
        25: [0.4, 0.5],
    }
    assert [it["actor.out"] for it in over_updates(runs, "densities")[25]] == [0.5, 0.8]


def test_a_run_of_several_folders_is_brought_up_to_date_under_any_name(tmp_path):
    """Two experiments share a name, so the second has its folder before it; what a third folder has of it is the same run, further on."""
    write_run(tmp_path / "a" / "run", prune="snip")
    write_run(tmp_path / "b" / "run", prune="grasp", finished=False)
    write_run(tmp_path / "c" / "run", prune="grasp", returns=(1.0, 2.0, 3.0))
    runs, _ = read_runs(*(tmp_path / name for name in "abc"))
    assert [(run.value("prune"), run.summary is not None) for run in runs] == [("snip", True), ("grasp", True)]
    assert [run.name for run in runs] == ["run", (tmp_path / "b" / "run").as_posix()]
    assert runs[1].last_return == 3.0
    # The same from an earlier report, which has it under that name.
    write_store(read_runs(tmp_path / "a", tmp_path / "b")[0], tmp_path / "store")
    runs, _ = read_runs(tmp_path / "store", tmp_path / "b")
    assert [run.name for run in runs] == ["run", (tmp_path / "b" / "run").as_posix()]
    change_config(tmp_path / "b" / "run", {"prune": {"name": "random"}})
    runs, _ = read_runs(tmp_path / "store", tmp_path / "b")
    assert [run.value("prune") for run in runs] == ["snip", "grasp", "random"]


def test_labels_with_bars_stay_in_their_cell_of_a_markdown_table(tmp_path):
    folder = write_run(tmp_path / "run")
    change_config(folder, {"dataset": {"path": "a|b.hdf5"}})
    table = returns_table(compare(read_runs(tmp_path)[0], Axes()))
    assert "a\\|b" in table.markdown() and "a|b" in table.csv_rows()[1][0]
