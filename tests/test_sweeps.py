"""Sweeps of several grids, and on each launcher: what failed is named, what was killed is finished by the same command."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest
from command_lines import checked
from conftest import ROOT, TINY
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sparse_offline_rl.cli.configs import hydra_app, parse_flags
from sparse_offline_rl.cli.grids import grid_jobs, planned_jobs, run_folders
from sparse_offline_rl.config import config_dir
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.experiment import read_config
from sparse_offline_rl.pruning.registry import mask_schedule

SWEEPS = {
    "paper_figure1": 330,
    "paper_figure2": 330,
    "study": 360,
    "study_time": 135,
    "study_long": 12,
    "study_beyond": 117,
    "study_unperturbed": 24,
    "study_rates": 222,
    "masks_after": 405,
    "masks_after_bcq": 756,
    "study_options": 234,
    "study_data": 540,
    "study_agents": 324,
    "study_wide": 144,
    "masks": 1368,
}
RUN_DIR = "runs/${agent.name}/${prune.name}-${prune.scope}-${sparsity}/seed${seed}"
PARAMS = {"seed": "0,1", "grid.a": "prune=none", "grid.b": "prune=snip,grasp sparsity=0.5,0.9"}


def jobs_of(experiment: str, *given: str) -> list[list[str]]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}"], return_hydra_config=True)
    values = OmegaConf.to_container(config, resolve=False)
    return grid_jobs(values["hydra"]["sweeper"]["params"], [f"experiment={experiment}", *given], values["run_dir"])


def test_a_sweep_has_the_jobs_of_all_its_grids():
    jobs = grid_jobs(PARAMS, ["agent=bc"], RUN_DIR)
    assert len(jobs) == 2 + 2 * 4
    assert jobs[0] == ["seed=0", "agent=bc", "prune=none"]
    assert jobs[-1] == ["seed=1", "agent=bc", "prune=grasp", "sparsity=0.9"]


@pytest.mark.parametrize(
    ("given", "count", "first"),
    [
        (["prune=snip"], 4, ["seed=0", "prune=snip", "sparsity=0.5"]),
        (["prune=none,snip", "seed=3"], 3, ["seed=3", "prune=none"]),
        (["sparsity=0.9"], 6, ["seed=0", "sparsity=0.9", "prune=none"]),
        (["updates=7"], 10, ["seed=0", "prune=none", "updates=7"]),
        (["prune=random"], 6, ["seed=0", "prune=random"]),
    ],
)
def test_overrides_pick_grids_or_change_them(given, count, first):
    jobs = grid_jobs(PARAMS, given, RUN_DIR)
    assert len(jobs) == count
    assert sorted(jobs[0]) == sorted(first)


def test_a_grid_that_is_given_a_key_leaves_out_what_another_has_with_more():
    """They would share a folder: ``lottery`` with ERK's shares is the second grid's, which says how often it prunes."""
    params = {"grid.a": "prune=lottery,force", "grid.b": "prune=lottery prune.scope=erk prune.every=500"}
    assert grid_jobs(params, ["prune.scope=erk"], RUN_DIR) == [
        ["prune.scope=erk", "prune=force"],
        ["prune=lottery", "prune.scope=erk", "prune.every=500"],
    ]
    counts = [len(grid_jobs(params, given, RUN_DIR)) for given in (["prune.scope=layer"], ["prune=lottery"], [])]
    assert counts == [2, 2, 3]
    # One threshold for the network is another experiment, with a folder of its own.
    assert ["prune.every=500", "prune=lottery"] in grid_jobs(params, ["prune.every=500"], RUN_DIR)


def test_overrides_that_leave_no_grid_are_a_sentence():
    with pytest.raises(UserError, match=r"prune=none sparsity=0\.5: no grid"):
        grid_jobs(
            {"grid.a": "prune=none sparsity=0", "grid.b": "prune=snip sparsity=0.5"},
            ["prune=none", "sparsity=0.5"],
            RUN_DIR,
        )


def test_values_of_which_a_sweep_has_some_are_a_sentence():
    with pytest.raises(
        UserError, match=r"sparsity=0\.97: no grid of this sweep has it, and there is one with the other"
    ):
        grid_jobs(PARAMS, ["prune=snip", "sparsity=0.9,0.97"], RUN_DIR)


@pytest.mark.parametrize(("experiment", "count"), SWEEPS.items())
def test_every_job_of_the_sweeps_composes_to_a_run_of_its_own(experiment, count):
    jobs = jobs_of(experiment)
    assert len(jobs) == count
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        first = {tuple(text for text in job if not text.startswith(("seed=", "env="))): job for job in jobs}
        configs = [read_config(OmegaConf.to_container(compose("train", job), resolve=True)) for job in first.values()]
    assert len({config.run_dir for config in configs}) == len(first)
    dense = [config.prune.name == "none" for config in configs]
    assert dense[0] or not any(dense), "the longest runs come first"


@pytest.mark.parametrize("experiment", ["masks_after", "masks_after_bcq"])
def test_all_masks_change_where_the_dense_runs_end(experiment):
    """Else dense updates would be done again in each run, and methods would not have equally many after."""
    jobs = jobs_of(experiment, "env=hopper", "seed=0")
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        configs = [read_config(OmegaConf.to_container(compose("train", job), resolve=True)) for job in jobs]
    (length,) = {config.updates for config in configs if config.pretrained is None}
    firsts = set()
    for config in configs:
        if config.prune.name != "none":
            schedule = mask_schedule(config.prune, config.sparsity, config.updates)
            firsts.add(next(update for update in range(config.updates) if schedule.due(update)))
    assert firsts == {length}


def test_the_sweeps_of_the_readme_have_as_many_jobs_as_it_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("\n### Sweeps and reports\n")[1]
    lines = re.findall(r"^    python train\.py (-m .*?|experiment=.*?)\s+#(.*)$", text, re.MULTILINE)
    assert len(lines) == 3
    found = []
    for command, _ in lines:
        with checked(*command.split()) as (app, flags, _):
            found.append(len(planned_jobs(app, flags)))
    assert found == [16, 330, 60]
    assert "330 runs" in lines[1][1] and "60 of the 360 runs" in lines[2][1]


def test_the_figures_of_the_paper_share_their_dense_runs():
    firsts = [jobs_of(experiment)[0] for experiment in ("paper_figure1", "paper_figure2")]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        found = [read_config(OmegaConf.to_container(compose("train", job), resolve=True)) for job in firsts]
    assert found[0] == found[1]
    assert (found[0].agent.twin, found[0].dataset.normalize, found[0].updates) == ("copy", False, 1_000_000)


LAUNCHERS = {
    "joblib": ["hydra/launcher=joblib"],
    "ray": ["hydra/launcher=ray"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_on_every_launcher_names_what_failed_and_finishes_what_was_left(spawn, tmp_path, monkeypatch, launcher):
    """Two runs of which one fails; then the same command, once the reason is gone, does that one alone."""
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "runs" / "s" / "1"
    broken.mkdir(parents=True)
    (broken / "foreign").write_text("")
    command = ["-m", *TINY, "updates=10", "eval.every=10", "seed=0,1", "run_dir=runs/s/${seed}", *LAUNCHERS[launcher]]
    process = spawn(*command)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert "1 of 2 jobs failed:" in err
    assert "[seed=1] run_dir=runs/s/1 exists and is not a run folder" in err.split("jobs failed:")[1]
    done = tmp_path / "runs" / "s" / "0" / "summary.json"
    written = done.stat().st_mtime_ns
    (broken / "foreign").unlink()
    process = spawn(*command)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, out + err
    assert (broken / "summary.json").exists()
    assert done.stat().st_mtime_ns == written


def test_a_sweep_that_was_killed_is_finished_by_the_same_command(tmp_path):
    """Killed with all its processes in the middle of its second run, with the first complete."""
    small = [
        text for text in TINY if not text.startswith(("prune=", "sparsity=", "updates=", "eval.every=", "checkpoint."))
    ]
    chosen = ["experiment=study", "prune=none,snip", "sparsity=0.0,0.95", "seed=0", "run_dir=runs/${prune.name}"]
    timing = ["updates=400", "eval.every=100", "checkpoint.every=10"]
    command = [sys.executable, str(ROOT / "train.py"), *small, *chosen, *timing]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    checkpoint, end = tmp_path / "runs" / "snip" / "checkpoint" / "state.safetensors", time.monotonic() + 240
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "runs" / "none" / "summary.json").exists()
    assert not (tmp_path / "runs" / "snip" / "summary.json").exists()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already complete: ") == 1
    assert done.stdout.count("finished: ") == 1


def planned_folders(*overrides: str) -> list[str]:
    with checked("-m", *overrides) as (app, flags, _):
        return [str(folder) for folder in run_folders(app, flags)]


def test_what_the_command_line_sweeps_over_is_in_the_folders():
    """Keys that the default ``run_dir`` has stand there once; of a group it is the name."""
    assert planned_folders("prune=rigl,set", "prune.score=snip,random", "sparsity=0.9", "prune.every=500") == [
        f"runs/bcq/halfcheetah-expert/{method}-0.9-prune.score={score}/seed0"
        for method in ("rigl", "set")
        for score in ("snip", "random")
    ]
    folders = planned_folders("experiment=study_wide", "agent=bc", "env=hopper", "agent.critic_lr=0.1,0.2", "seed=0")
    assert len(set(folders)) == len(folders) > 2 and all("-agent.critic_lr=0." in folder for folder in folders)


def test_planned_folders_are_those_that_the_jobs_have():
    """Jobs share a composition; the first of each key's values must not stay in it."""
    overrides = ["agent=bc,td3bc", "dataset=expert,minari", "agent.critic_lr=1e-3,0.0005", "dataset.id=null,a/b-v0"]
    where = "run_dir=${env.name}-${dataset.name}-${dataset.id}/${agent.name}-${agent.critic_lr}-${agent.actor_hidden}"
    flags = parse_flags(["-m", *overrides, "agent.actor_hidden=[5,6],[7]", where])
    with hydra_app(flags) as app:
        jobs = planned_jobs(app, flags)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        folders = [str(compose("train", job).run_dir) for job in jobs]
    assert len(set(folders)) == len(jobs) == 32
    assert planned_folders(*flags.overrides) == folders


@pytest.mark.parametrize(
    "overrides",
    [
        ["agent=bc,bcq", "prune=snip", "sparsity=0.9,0.95", "seed=0,1"],
        ["prune.score=snip,random", "prune=rigl", "sparsity=0.9", "run_dir=mine/${prune.score}"],
        [
            "experiment=study,study_long",
            "agent=bc",
            "env=halfcheetah",
            "prune=none,snip",
            "sparsity=0.0,0.99",
            "seed=0,1",
        ],
    ],
)
def test_folders_that_tell_the_jobs_apart_stay_as_they_are(overrides):
    assert not any("=" in folder for folder in planned_folders(*overrides))


def test_a_folder_without_a_parent_is_told_apart_too(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nrun_dir: here\n")
    assert planned_folders("--config-dir", str(tmp_path), "experiment=mine", "threads=1,2") == [
        "here-threads=1",
        "here-threads=2",
    ]


def test_a_glob_stands_for_choices():
    assert (
        len(planned_folders("prune='rigl'", "prune.every=10,20", "sparsity=0.9")) == 2
    )  # quotes are no part of a choice
    assert planned_folders("prune=glob(sn*)", "sparsity=0.9") == [
        f"runs/bcq/halfcheetah-expert/{method}-0.9/seed0" for method in ("snfs", "snip")
    ]


def test_a_key_of_a_grid_that_the_chosen_agent_lacks_is_one_sentence():
    with pytest.raises(
        UserError, match=r"agent.train_critic=False.*there is no key 'agent.train_critic' with agent=iql"
    ):
        planned_folders("experiment=study", "agent=iql", "env=hopper", "seed=0")


def test_the_flag_of_a_sweep_may_stand_anywhere():
    assert parse_flags(["env=hopper", "-m", "prune=snip,grasp"]).overrides == ["env=hopper", "prune=snip,grasp"]


def test_a_key_that_some_choices_lack_is_one_sentence():
    with pytest.raises(UserError, match=r"prune.every=10: there is no key 'prune.every' with prune=snip; make a sweep"):
        planned_folders("prune=rigl,snip", "prune.every=10", "sparsity=0.9")
