"""What a run says of files that are damaged, lost, of another run, or that a full disk cut short."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TINY
from helpers import flat, pruned_agent

from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.training.checkpoint import (
    Checkpoint,
    Progress,
    checkpoint_path,
    load_checkpoint,
    save_checkpoint,
)
from sparse_offline_rl.training.metrics import MetricsWriter


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
