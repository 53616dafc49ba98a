"""The status of runs: done, running, failed, stopped, missing, damaged, and how long the rest takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import TINY
from run_folders import write_run
from safetensors.numpy import save_file

from sparse_offline_rl.cli import status as status_cli
from sparse_offline_rl.reports.status import Status, duration, seconds_to_go, status_of, statuses
from sparse_offline_rl.training import session
from sparse_offline_rl.training.run_lock import is_running, run_lock, store_failure

HOLDER = """
import sys, time
from pathlib import Path
from sparse_offline_rl.training.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def held():
    """Hold the lock of a run folder in a process of its own, until the test ends."""
    processes = []

    def hold(path):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in processes:
        process.kill()
        process.communicate()


def test_running_is_told_from_killed_by_the_lock(tmp_path, held):
    path = write_run(tmp_path / "run", finished=False)
    assert status_of(path).state == "stopped"
    process = held(path)
    found = status_of(path)
    # 30 of 1000 updates at 5 a second.
    assert (found.state, found.update, found.updates, found.last_return) == ("running", 30, 1000, 300.0)
    assert found.seconds_left == pytest.approx(970 / 5)
    process.kill()
    process.wait()
    assert status_of(path).state == "stopped"


def test_looking_at_a_run_leaves_it_alone(tmp_path):
    path = write_run(tmp_path / "run", finished=False)
    before = sorted(it.name for it in path.iterdir())
    assert not is_running(path)
    assert sorted(it.name for it in path.iterdir()) == before
    with run_lock(path):
        pass
    assert not is_running(path)


def test_failed_done_missing_and_damaged(tmp_path):
    failed, damaged = write_run(tmp_path / "failed", finished=False), write_run(tmp_path / "damaged")
    store_failure(failed, ValueError("it broke"))
    (damaged / "summary.json").write_text("{")
    paths = [failed, damaged, write_run(tmp_path / "done"), tmp_path / "missing"]
    found = statuses(paths)
    assert [it.state for it in found] == ["failed", "damaged", "done", "missing"]
    assert found[0].remark == "ValueError: it broke"
    assert "summary.json" in found[1].remark
    assert found[3].seconds_left is None  # summaries of these tests have no eval_seconds


def clock(folder, update, train, evaluation):
    """A checkpoint of which only the header is there, which says when it was written."""
    path = folder / "checkpoint" / "state.safetensors"
    path.parent.mkdir()
    progress = {"train_seconds": train, "eval_seconds": evaluation}
    header = json.dumps({"update": update, "progress": progress})
    save_file({"values": np.zeros(1, np.float32)}, path, metadata={"sparse_offline_rl": header})


def test_the_seconds_of_the_dense_run_that_others_go_on_from_count_once(tmp_path):
    dense = write_run(tmp_path / "dense", prune="none", sparsity=0.0)
    clock(dense, 20, train=100.0, evaluation=50.0)
    stopped, done = write_run(tmp_path / "stopped", finished=False), write_run(tmp_path / "done")
    for folder in (stopped, done):
        config = (folder / "config.yaml").read_text()
        (folder / "config.yaml").write_text(f"{config}pretrained: {dense}\n")
    clock(stopped, 30, train=130.0, evaluation=30.0)
    summary = json.loads((done / "summary.json").read_text())
    (done / "summary.json").write_text(json.dumps({**summary, "train_seconds": 190.0, "eval_seconds": 60.0}))
    found = statuses([stopped, done, tmp_path / "missing"])
    assert found[0].seconds_left == pytest.approx(970 * (160 - 150) / (30 - 20))
    assert found[1].seconds == found[2].seconds_left == pytest.approx(250 - 150)
    # Before its first checkpoint a run knows its training only: 30 updates at 5 a second, 20 of them in 5 seconds of the dense run's.
    (stopped / "checkpoint" / "state.safetensors").unlink()
    (dense / "checkpoint" / "state.safetensors").unlink()
    (dense / "checkpoint").rmdir()
    clock(dense, 20, train=5.0, evaluation=50.0)
    assert status_of(stopped).seconds_left == pytest.approx(970 * (30 / 5 - 5) / (30 - 20))
    (dense / "checkpoint" / "state.safetensors").unlink()  # then its share is not known
    assert status_of(done).seconds == pytest.approx(250)


def test_the_time_to_go_is_that_of_the_runs_that_are_left(tmp_path):
    def status(state, seconds):
        return Status(tmp_path, state, seconds_left=seconds)

    assert seconds_to_go([status("done", 0.0), status("stopped", 30.0), status("missing", 10.0)]) == 40
    assert seconds_to_go([status("running", 30.0), status("running", 10.0), status("missing", 40.0)]) == 40
    assert seconds_to_go([status("running", 100.0), status("running", 10.0)]) == 100
    assert seconds_to_go([status("running", 100.0), status("missing", None)]) is None
    assert [duration(it) for it in (3, 600, 9000)] == ["3 s", "10 min", "2.5 h"]


def test_a_run_that_fails_says_so_until_it_is_started_again(cli, tmp_path, monkeypatch, capsys):
    run_dir = tmp_path / "runs" / "one"
    command = [*TINY, "updates=20", "eval.every=10", f"run_dir={run_dir}"]
    with monkeypatch.context() as broken:
        broken.setattr(session, "evaluate", lambda *_: np.array([np.nan]))
        assert cli(*command)[0] == 2
    status_cli.main([f"runs={tmp_path / 'runs'}"])
    out = capsys.readouterr().out
    assert f"failed   {run_dir}, 0 of 20 updates" in out
    assert "UserError: training diverged: eval/return_mean is not finite after update 10" in out
    assert cli(*command)[0] == 0
    assert not (run_dir / "failure.txt").exists()
    status_cli.main([f"runs={tmp_path / 'runs'}"])
    assert capsys.readouterr().out == "1 runs: 1 done\n"
    sweep = " ".join([*TINY, "updates=20", "eval.every=10", f"run_dir={tmp_path}/runs/${{seed}}", "seed=0,1"])
    (tmp_path / "runs" / "one").rename(tmp_path / "runs" / "0")
    status_cli.main([f"sweep={sweep}"])
    out = capsys.readouterr().out
    assert f"missing  {tmp_path / 'runs' / '1'}\n2 runs: 1 done, 1 missing\ntime to go: " in out
    assert " s with 1 at a time" in out


def test_a_run_whose_folder_was_removed_meanwhile_can_be_started_again(cli, tmp_path, monkeypatch):
    run_dir = tmp_path / "one"
    command = [*TINY, "updates=20", "eval.every=10", f"run_dir={run_dir}"]

    def removed(*_):
        shutil.rmtree(run_dir)
        return np.array([np.nan])

    with monkeypatch.context() as broken:
        broken.setattr(session, "evaluate", removed)
        assert cli(*command)[0] == 2
    assert [path.name for path in run_dir.iterdir() if not path.name.startswith(".")] == ["failure.txt"]
    assert cli(*command)[0] == 0
    assert (run_dir / "summary.json").exists()


def test_a_big_sweep_is_told_in_few_lines(tmp_path, capsys):
    runs = tmp_path / "runs"
    for name, error in {"a": "it broke", "b": "it broke", "c": "the disk is full"}.items():
        store_failure(write_run(runs / name, finished=False), ValueError(error))
    write_run(runs / "d", finished=False)
    write_run(runs / "e")
    rest = [f"f{number:02}" for number in range(15)]
    for names, lines in ((rest, 19), ([*rest, "g"], 5)):  # 20 runs, then 21
        values = ",".join(["a", "b", "c", "d", "e", *names])
        sweep = ["env=hopper", f"run_dir={runs}/${{dataset.path}}", f"dataset.path={values}"]
        status_cli.main([f"sweep={' '.join(sweep)}"])
        *head, counts, left = capsys.readouterr().out.splitlines()
        assert len(head) == lines and left == "time to go: not known yet"
    assert head == [
        f"failed   {runs}/a, 30 of 1000 updates, return 300.0, ValueError: it broke, and 1 more like it",
        f"failed   {runs}/c, 30 of 1000 updates, return 300.0, ValueError: the disk is full",
        f"stopped  {runs}/d, 30 of 1000 updates, return 300.0",
        f"missing  {runs}/f00, and 15 more like it",
        "all=true has a line for every run.",
    ]
    assert counts == "21 runs: 1 done, 3 failed, 1 stopped, 16 missing"
    status_cli.main([f"sweep={' '.join(sweep)}", "all=true"])
    *lines, counts, _ = capsys.readouterr().out.splitlines()
    assert len(lines) == 21 and f"done     {runs}/e, 1000 of 1000 updates, return 300.0" in lines


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("runs=nowhere", "runs=nowhere holds no run"),
        ("sweep=spasity=0.1", "there is no key 'spasity'"),
        ("sweep=experiment='study", "No closing quotation"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(capsys, argument, sentence):
    with pytest.raises(SystemExit) as end:
        status_cli.main([argument])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err
