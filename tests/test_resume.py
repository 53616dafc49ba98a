"""Killed at any moment, a run that is started again ends with the very same bits."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, small
from helpers import flat, pruned_agent
from run_results import assert_same, kill_at_file_operations, run_result

from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.engines import selection
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.training import session
from sparse_offline_rl.training.checkpoint import (
    Checkpoint,
    Progress,
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


def test_a_full_disk_at_the_first_metrics_is_a_sentence_and_nothing_else(tmp_path):
    """TensorBoard writes in a thread, whose traceback Python prints."""
    script = """
import resource, sys
from pathlib import Path
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.training.metrics import MetricsWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    writer = MetricsWriter(Path(sys.argv[1]), ["update", "loss"])
    for update in range(100):
        writer.write(update, {"loss": 1.0})
    writer.sync()
except UserError as error:
    print(error)
"""
    for room in (0, 500):
        command = [sys.executable, "-c", script, str(tmp_path / str(room)), str(room)]
        (tmp_path / str(room)).mkdir()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "metrics could not be written (File too large)" in done.stdout


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
        ("capture: true\n", "capture=false", "capture: stored True, now False"),
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


def a_checkpoint():
    agent = pruned_agent("iql", sparsity=0.6)
    progress = Progress(1.5, 0.5, {"eval/return_mean": 3.0}, 7, "abc", "9 rows", "dense", {"seed": 0})
    return Checkpoint(3, agent.state(), np.arange(5, dtype=np.uint8), progress)


def test_checkpoints_round_trip_and_share_equal_masks(tmp_path):
    path = tmp_path / "state.safetensors"
    saved = a_checkpoint()
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path)
    assert (loaded.update, loaded.progress) == (3, saved.progress)
    assert np.array_equal(loaded.random_state, saved.random_state)
    assert loaded.state.steps == saved.state.steps
    assert list(loaded.state.networks) == list(saved.state.networks)
    ours, theirs = flat(saved.state), flat(loaded.state)
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    for name, network in saved.state.networks.items():
        masks = loaded.state.networks[name].topology.layers
        assert all((masks[layer] == mask).all() for layer, mask in network.topology.layers.items())
    assert b'"mask/critic1/out"' in path.read_bytes() and b'"mask/critic2/out"' not in path.read_bytes()
    assert b"pickle" not in path.read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "header", "foreign", "empty", "safetensors"])
def test_a_damaged_checkpoint_is_named(cli, tmp_path, damage):
    run_dir = tmp_path / "run"
    assert cli(*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}")[0] == 0
    (run_dir / "summary.json").unlink()
    path = checkpoint_path(run_dir)
    data = path.read_bytes()
    if damage == "safetensors":
        from safetensors.torch import save_file

        save_file({"w": torch.zeros(2)}, path)
    else:
        damaged = {
            "truncated": data[: len(data) // 2],
            "flipped": data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
            "header": data.replace(b'update\\": 10', b'update\\": 11', 1),
            "foreign": b"hello" * 99,
            "empty": b"",
        }[damage]
        assert damaged != data
        path.write_bytes(damaged)
    kept = path.read_bytes()
    status, _, err = cli(*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}")
    assert status == 2
    assert str(path) in err
    assert "Traceback" not in err
    assert path.read_bytes() == kept


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from sparse_offline_rl.networks.state import AgentState
from sparse_offline_rl.training.checkpoint import Checkpoint, Progress, save_checkpoint
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.training.metrics import MetricsWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails as it does on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    state = AgentState({}, {}, {"a": np.zeros(10_000, np.float32)}, {})
    progress = Progress(0.0, 0.0, {}, 0, "", "", "dense", {})
    save_checkpoint(Path(sys.argv[1]), Checkpoint(4, state, np.zeros(1, np.uint8), progress))
except UserError as error:
    print(error)
"""


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, a_checkpoint())
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True)
    assert str(path) in done.stdout
    assert "make room" in done.stdout
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_metrics_on_a_full_disk_are_a_sentence(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path, ["update", "loss/vae"])
    writer.write(1, {"loss/vae": 1.0})

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        writer.sync()
    writer.close()


def test_a_checkpoint_of_another_run_is_refused(cli, tmp_path):
    """Seed 1's checkpoint and metrics in seed 0's folder."""
    folders = [tmp_path / f"seed{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        assert cli(*TINY, "updates=10", "eval.every=10", f"seed={seed}", f"run_dir={folder}")[0] == 0
    (folders[0] / "summary.json").unlink()
    for file in ("checkpoint/state.safetensors", "metrics.csv"):
        (folders[0] / file).write_bytes((folders[1] / file).read_bytes())
    status, _, err = cli(*TINY, "updates=10", "eval.every=10", "seed=0", f"run_dir={folders[0]}")
    assert status == 2
    assert "state.safetensors is of a run of another configuration (seed: stored 1, now 0)" in err


def test_metrics_of_another_run_are_refused(cli, tmp_path):
    run_dir = tmp_path / "run"
    command = [*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}"]
    assert cli(*command)[0] == 0
    (run_dir / "summary.json").unlink()
    metrics = run_dir / "metrics.csv"
    metrics.write_bytes(metrics.read_bytes().replace(b"10,", b"11,", 1))
    status, _, err = cli(*command)
    assert status == 2
    assert f"{metrics} is not what this run had written up to its checkpoint" in err


def test_a_run_goes_on_only_on_the_engine_that_it_began_on(cli, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    command = [*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}"]
    assert cli(*command)[0] == 0
    (run_dir / "summary.json").unlink()
    monkeypatch.setattr(selection, "engine_factory", lambda: None)
    status, _, err = cli(*command)
    assert status == 2
    assert "this run began on the sparse engine and would go on with the dense one" in err


@pytest.mark.parametrize("lost", ["summary.json", "policy/policy.sorl"])
def test_a_complete_run_that_lost_a_file_is_made_complete_again(cli, tmp_path, lost):
    run_dir = tmp_path / "run"
    command = [*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}"]
    assert cli(*command)[0] == 0
    before = (run_dir / lost).read_bytes()
    (run_dir / lost).unlink()
    status, out, err = cli(*command)
    assert status == 0, err
    assert "finished: " in out
    assert (run_dir / lost).read_bytes() == before


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"agent": 3}', "nothing"])
def test_a_damaged_summary_is_named(cli, tmp_path, text):
    run_dir = tmp_path / "run"
    command = [*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}"]
    assert cli(*command)[0] == 0
    (run_dir / "summary.json").write_text(text)
    status, _, err = cli(*command)
    assert status == 2
    assert str(run_dir / "summary.json") in err and "Traceback" not in err


def test_an_evaluation_that_is_not_finite_is_a_diverged_run(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "evaluate", lambda *_: np.array([1.0, np.nan]))
    status, _, err = cli(*TINY, "updates=10", "eval.every=10", "eval.episodes=2", f"run_dir={tmp_path / 'run'}")
    assert status == 2
    assert "training diverged: eval/return_mean is not finite after update 10" in err
    assert not (tmp_path / "run" / "policy" / "policy.sorl").exists()


def test_a_lost_metrics_file_is_named(cli, tmp_path):
    run_dir = tmp_path / "run"
    command = [*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}"]
    assert cli(*command)[0] == 0
    (run_dir / "summary.json").unlink()
    (run_dir / "metrics.csv").unlink()
    status, _, err = cli(*command)
    assert status == 2
    assert str(run_dir / "metrics.csv") in err
    (run_dir / "metrics.csv").write_text("update\n")
    assert cli(*command)[0] == 2


def test_other_data_under_the_same_name_is_refused(cli, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    command = [*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}"]
    assert cli(*command)[0] == 0
    (run_dir / "summary.json").unlink()
    original = Normalization.fit
    monkeypatch.setattr(Normalization, "fit", lambda observations: original(observations + 1))
    status, _, err = cli(*command)
    assert status == 2
    assert "trained on other data" in err


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
    """With checkpoints, rows and evaluations that fall on different updates."""
    settings = [*small(agent), f"engine={engine}", "updates=30", "checkpoint.every=7", "eval.every=15", "log.every=5"]
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
