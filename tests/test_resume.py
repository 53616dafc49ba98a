"""Killed at any moment, a run that is started again ends with the very same bits."""

import random
import signal
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, small
from helpers import flat
from run_results import assert_same, kill_at_file_operations, run_result

from sparse_offline_rl.engines import selection
from sparse_offline_rl.training import session
from sparse_offline_rl.training.checkpoint import (
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
)
from sparse_offline_rl.training.metrics import MetricsWriter
from sparse_offline_rl.training.process import stop_on_signal
from sparse_offline_rl.training.run_folder import RunFolder

OFTEN = ["updates=400", "checkpoint.every=7", "eval.every=100", "log.every=10"]


LONG = [*TINY, *OFTEN]


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


def test_kill_9_at_several_moments_changes_nothing(spawn, cli, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert cli(*LONG, f"run_dir={whole}")[0] == 0
    # Moments: before the first checkpoint; after some; while a checkpoint is being written; in the first evaluation.
    moments = [
        lambda: (broken / "metrics.csv").exists(),
        lambda: checkpoint_path(broken).exists(),
        lambda: any((broken / "checkpoint").glob(".*.tmp")),
        lambda: (broken / "metrics.csv").exists() and (broken / "metrics.csv").read_text().count("\n") > 9,
    ]
    for reached in moments:
        process = spawn(*LONG, f"run_dir={broken}")
        wait_for(reached, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (broken / "summary.json").exists() or process.returncode == 0
    assert cli(*LONG, f"run_dir={broken}")[0] == 0
    assert_same(run_result(whole), run_result(broken))
    assert not list(broken.rglob(".*.tmp"))


@pytest.mark.parametrize(
    "method",
    [
        ["prune=rigl", "prune.every=10"],
        ["prune=gradual", "prune.every=10"],
        ["prune=lottery", "prune.levels=4", "prune.rewind=5", "eval.levels=false"],
    ],
    ids=lambda method: method[0],
)
def test_kill_9_at_random_moments_of_changing_masks_changes_nothing(spawn, cli, tmp_path, method):
    """Twice, in the first second of training, while masks change and checkpoints are written."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command, state = [*LONG, "updates=150", "eval.every=150", *method], checkpoint_path(broken)
    assert cli(*command, f"run_dir={whole}")[0] == 0
    begun = False
    for _ in range(2):
        seconds = random.SystemRandom().uniform(0, 0.7)
        before, process = time.time(), spawn(*command, f"run_dir={broken}")
        wait_for(lambda since=before: state.exists() and state.stat().st_mtime > since, process)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        begun = begun or process.returncode == -signal.SIGKILL
        print(f"killed {seconds} s after its first checkpoint")
    assert begun
    assert cli(*command, f"run_dir={broken}")[0] == 0
    assert_same(run_result(whole), run_result(broken))


def test_ctrl_c_saves_and_says_how_to_go_on(spawn, cli, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [*LONG, "checkpoint.every=100000", "updates=1500", "eval.every=1500"]
    process = spawn(*command, f"run_dir={broken}")
    wait_for(lambda: (broken / "metrics.csv").exists() and (broken / "metrics.csv").stat().st_size > 0, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command to go on" in out
    assert 0 < load_checkpoint(checkpoint_path(broken)).update < 1500
    assert cli(*command, f"run_dir={broken}")[0] == 0
    assert cli(*command, f"run_dir={whole}")[0] == 0
    assert_same(run_result(whole), run_result(broken))


def test_ctrl_c_after_the_last_update_ends_a_sweep_behind_its_run(cli, tmp_path, monkeypatch):
    finish_folder = RunFolder.finish

    def finish_late(folder, summary):
        finish_folder(folder, summary)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(RunFolder, "finish", finish_late)
    status, out, _ = cli("-m", *TINY, "updates=10", "eval.every=10", "seed=0,1")
    assert status == 130
    assert out.count("finished: ") == 1


def test_a_signal_that_is_ignored_stays_so():
    """As Ctrl-C is in what a shell script starts in the background."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_on_signal() as stopped:
            signal.raise_signal(signal.SIGINT)
            assert not stopped()
    finally:
        signal.signal(signal.SIGINT, handler)


def test_engines_read_each_others_checkpoints(cli, tmp_path):
    """A checkpoint holds nothing of its engine: the sparse engine goes on from the dense one's, and the other way round."""
    finals = {}
    for first, second in (("dense", "sparse"), ("sparse", "dense"), ("dense", "dense")):
        run_dir = tmp_path / f"{first}-{second}"
        assert cli(*TINY, "updates=10", "eval.every=10", f"engine={first}", f"run_dir={run_dir}")[0] == 0
        (run_dir / "summary.json").unlink()
        config, path = run_dir / "config.yaml", checkpoint_path(run_dir)
        config.write_text(
            config.read_text().replace(f"engine: {first}", f"engine: {second}").replace("updates: 10", "updates: 20")
        )
        saved = load_checkpoint(path)
        values = {**saved.progress.config, "engine": second, "updates": 20}
        save_checkpoint(path, replace(saved, progress=replace(saved.progress, engine=second, config=values)))
        status, _, err = cli(*TINY, "updates=20", "eval.every=10", f"engine={second}", f"run_dir={run_dir}")
        assert status == 0, err
        finals[first, second] = flat(load_checkpoint(checkpoint_path(run_dir)).state)
    reference = finals["dense", "dense"]
    for tensors in finals.values():
        for name in ("values/actor", "values/critic1", "values/encoder", "values/decoder", "target/critic2"):
            torch.testing.assert_close(tensors[name], reference[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("line", "override", "difference"),
    [
        ("capture: true\n", "capture=false", "capture: stored true, now false"),
        ("  rewards: raw\n", "agent.rewards=return_range", "agent.rewards: stored raw, now return_range"),
    ],
)
def test_a_key_younger_than_the_run_has_its_default_there(cli, tmp_path, line, override, difference):
    run_dir = tmp_path / "run"
    assert cli(*TINY, f"run_dir={run_dir}")[0] == 0
    config = run_dir / "config.yaml"
    assert line in config.read_text()
    config.write_text(config.read_text().replace(line, ""))
    assert "already complete" in cli(*TINY, f"run_dir={run_dir}")[1]
    status, _, err = cli(*TINY, override, f"run_dir={run_dir}")
    assert status == 2
    assert difference in err


def test_a_run_goes_on_only_on_the_engine_that_it_began_on(cli, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    command = [*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}"]
    assert cli(*command)[0] == 0
    (run_dir / "summary.json").unlink()
    monkeypatch.setattr(selection, "engine_factory", lambda: None)
    status, _, err = cli(*command)
    assert status == 2
    assert "this run stands on the sparse engine and would go on with the dense one" in err


def test_an_evaluation_that_is_not_finite_is_a_diverged_run(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "evaluate", lambda *_: np.array([1.0, np.nan]))
    status, _, err = cli(*TINY, "updates=10", "eval.every=10", "eval.episodes=2", f"run_dir={tmp_path / 'run'}")
    assert status == 2
    assert "training diverged: eval/return_mean is not finite after update 10" in err
    assert not (tmp_path / "run" / "policy" / "policy.sorl").exists()


def test_a_killed_start_leaves_no_foreign_folder_and_no_leftovers(cli, tmp_path):
    run_dir = tmp_path / "run"
    (run_dir / "checkpoint").mkdir(parents=True)
    for name in (".config.yaml.99.tmp", "checkpoint/.state.safetensors.99.tmp"):
        (run_dir / name).write_bytes(b"half")
    (run_dir / "checkpoint").rename(tmp_path / "aside")
    assert cli(*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}")[0] == 0
    assert not list(run_dir.rglob(".*.tmp"))


def test_a_diverged_run_says_so(cli, tmp_path):
    status, _, err = cli(*TINY, "agent.vae_lr=1e30", "updates=20", f"run_dir={tmp_path / 'run'}")
    assert status == 2
    assert "training diverged" in err


def test_two_processes_do_not_share_a_run_folder(spawn, cli, tmp_path):
    command = [*LONG, "updates=100000", f"run_dir={tmp_path / 'run'}"]
    process = spawn(*command)
    wait_for(lambda: checkpoint_path(tmp_path / "run").exists(), process)
    status, _, err = cli(*command)
    assert status == 2
    assert "being written by another process" in err or "changed by another process" in err
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_kill_at_any_file_operation_changes_nothing(tmp_path):
    """A sample of the kill points of a tiny run; CONTRIBUTING.md says how to try all."""
    found = kill_at_file_operations(tmp_path, 25)
    assert set(found["kinds"]) >= {"open", "write", "half", "os.fsync", "close", "os.rename", "os.remove", "os.mkdir"}
    assert found["killed"] > 20
    assert found["wrong"] == []


@pytest.mark.parametrize(("agent", "engine"), [("bcq", "dense"), ("td3bc", "sparse"), ("iql", "sparse")])
def test_a_kill_changes_nothing_for_any_agent(tmp_path, agent, engine):
    """With checkpoints, rows and evaluations that fall on different updates, and learning rates that fall."""
    settings = [*small(agent), f"engine={engine}", "updates=30", "checkpoint.every=7", "eval.every=15", "log.every=5"]
    settings.append("agent.lr_decay=30")
    found = kill_at_file_operations(tmp_path, 6, *settings)
    assert found["killed"] > 4
    assert found["wrong"] == []


def test_a_session_has_an_event_file_that_is_read_after_all_others(tmp_path):
    """Two in one second: their names go on with the numbers of the processes, in no order that means anything."""
    before = tmp_path / f"events.out.tfevents.{int(time.time()):010d}.zzz.99999.0"
    before.write_bytes(b"")
    with closing(MetricsWriter(tmp_path, ["update", "loss/vae"])) as metrics:
        metrics.write(1, {"loss/vae": 1.0})
    assert sorted(tmp_path.glob("events.*"))[0] == before and len(list(tmp_path.glob("events.*"))) == 2
