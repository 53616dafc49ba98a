"""Whatever a user gets wrong ends in one sentence that names it, with nothing written."""

import json
from types import SimpleNamespace

import pytest
from conftest import TINY
from hydra.core.plugins import Plugins

from sparse_offline_rl.cli import train as train_cli

CASES = {
    "sparsity=1": (["sparsity=1"], ["sparsity=1", "less than 1"]),
    "sparsity<0": (["sparsity=-0.1"], ["sparsity=-0.1", "at least 0"]),
    "sparsity text": (["sparsity=high"], ["sparsity='high'", "sparsity=0.95"]),
    "sparsity nan": (["sparsity=nan"], ["sparsity=nan"]),
    "prune=none with sparsity": (["prune=none"], ["sparsity=0.8", "prune=none", "snip"]),
    "prune without sparsity": (["sparsity=0"], ["prune=snip", "sparsity=0"]),
    "fewer than one weight": (["sparsity=0.99999"], ["sparsity=0.99999", "fewer than one", "at most"]),
    "unknown group choice": (["agent=bcc"], ["agent=bcc", "'bc'"]),
    "unknown pruner": (["prune=grapsp"], ["prune=grapsp", "'grasp'"]),
    "unknown key": (["sparsty=0.5"], ["sparsty", "'sparsity'"]),
    "unknown nested key": (["eval.evry=5"], ["eval.evry", "'eval.every'"]),
    "added key": (["+foo=1"], ["foo"]),
    "not key=value": (["fast"], ["'fast'", "key=value"]),
    "zero updates": (["updates=0"], ["updates=0 cannot be used: give at least 1."]),
    "updates as text": (["updates=many"], ["updates='many' cannot be used: give a whole number."]),
    "no number": (["updates=null"], ["updates=null cannot be used: give a whole number."]),
    "an exponent": (["updates=1e6"], ["updates=1000000.0 cannot be used: give a whole number, written 1000000."]),
    "half an update": (["updates=1.5"], ["updates=1.5 cannot be used: give a whole number."]),
    "letters that changed places": (["agent=bqc"], ["agent=bqc: there is no such agent; the closest is 'bcq'."]),
    "a device that is none": (["device=gpu"], ["device='gpu' cannot be used: choose 'cpu' or 'cuda'."]),
    "more than all": (["agent.discount=2"], ["agent.discount=2 cannot be used: give at most 1."]),
    "no episodes": (["eval.episodes=0"], ["eval.episodes=0 cannot be used: give at least 1."]),
    "a number for a list": (
        ["agent.vae_hidden=256"],
        ["agent.vae_hidden=256 cannot be used: give a list, e.g. [256,256]."],
    ),
    "an entry of a list": (["agent.vae_hidden=[750,0]"], ["agent.vae_hidden: entry 2, 0, cannot be used"]),
    "a key of a section of another method": (
        ["prune.then.every=5"],
        ["there is no key 'prune.then.every'", "it goes with prune=pipeline"],
    ),
    "a truth value for a list": (["agent.vae_hidden=true"], ["agent.vae_hidden=true cannot be used"]),
    "batch larger than the data": (["batch_size=5000"], ["5000", "2000"]),
    "pruning batch larger than the data": (["prune.batch_size=5000"], ["5000", "2000"]),
    "unknown environment": (["env.id=Hoper-v5"], ["Hoper-v5", "Hopper"]),
    "discrete actions": (["dataset=minari", "dataset.id=none/none-v0"], ["none/none-v0"]),
    "no dataset id": (["dataset=minari"], ["dataset.id"]),
    "no dataset path": (["dataset=d4rl"], ["dataset.path"]),
    "an id without Minari": (["dataset.id=my/data-v0"], ["dataset.id=my/data-v0", "set dataset=minari"]),
    "a path with Minari": (["dataset=minari", "dataset.path=x.hdf5"], ["dataset.path=x.hdf5", "set dataset=d4rl"]),
    "a seed of data that are there": (
        ["dataset=minari", "dataset.seed=1"],
        ["dataset.seed=1", "set dataset=expert or"],
    ),
    "too many candidates": (
        ["agent=bcq", "agent.acting_candidates=10000000"],
        ["agent=bcq cannot be kept as a policy file", "10000000 candidates", "agent.acting_candidates"],
    ),
    "missing file": (["dataset=d4rl", "dataset.path=/nowhere/x.hdf5"], ["/nowhere/x.hdf5"]),
    "no cuda": (["device=cuda"], ["device=cuda", "device=cpu"]),
    "unknown device": (["device=tpu"], ["device='tpu'", "'cpu'"]),
    "unknown engine": (["engine=fast"], ["engine='fast'", "'sparse'"]),
    "too many threads": (["threads=4096"], ["threads=4096", "between 1 and"]),
    "far too many threads": (["threads=100000", "engine=dense"], ["threads=100000", "cores"]),
    "a value that stands for none": (["run_dir=???"], ["run_dir=???", "missing"]),
    "a nested value that stands for none": (["env.id=???"], ["env.id=???", "missing"]),
    "a sweep without -m": (["agent=bc,bcq"], ["agent=bc,bcq", "add -m"]),
    "a broken interpolation": (["run_dir=runs/${nothing}"], ["nothing"]),
    "infinite hyper-parameter": (["agent.kl_weight=inf"], ["agent.kl_weight=inf", "finite"]),
    "half a reference": (["env.reference_min_score=null"], ["env.reference_min_score=None", "both be null"]),
    "references upside down": (["env.reference_min_score=9999"], ["env.reference_min_score=9999", "below"]),
    "unknown launcher": (["hydra/launcher=nope"], ["nope"]),
    "empty hidden": (["agent.actor_hidden=[]"], ["agent.actor_hidden"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_written(cli, tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides, words = CASES[case]
    status, out, err = cli(*TINY, *overrides)
    assert status == 2
    lines = [line for line in err.splitlines() if line]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], (word, lines[0])
    assert "Traceback" not in err + out
    assert list(tmp_path.rglob("*")) == []


def test_a_foreign_folder_is_left_alone(cli, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    status, _, err = cli(*TINY, f"run_dir={tmp_path}")
    assert status == 2
    assert "not a run folder" in err
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


SWEEP = ["-m", *TINY, "updates=10", "eval.every=10", "sparsity=0.5,0.99999,0.8,1.5"]


def names_the_failed_jobs(err: str) -> bool:
    """Each when it fails, and all at the end."""
    *_, count, first, second = err.splitlines()
    assert count == "error: 2 of 4 jobs failed:"
    assert first.startswith("  [sparsity=0.99999] network actor: sparsity=0.99999 would leave")
    assert second.startswith("  [sparsity=1.5] sparsity=1.5 cannot be used")
    return "Traceback" not in err and err.count("fewer than one") == err.count("sparsity=1.5 cannot be used") == 2


def test_a_bad_job_in_a_sweep_is_named_and_the_others_run(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = cli(*SWEEP)
    assert status == 2
    assert names_the_failed_jobs(err)
    assert out.count("finished: ") == 2


def test_a_broken_interpolation_in_a_sweep_is_one_sentence_a_job(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = cli("-m", *TINY, "seed=0,1", "run_dir=runs/${nothing}/${seed}")
    assert status == 2 and "Traceback" not in err and err.count("Interpolation key 'nothing' not found") == 4
    assert not list(tmp_path.rglob("config.yaml"))


def test_networks_that_no_file_can_hold_are_refused_before_training(cli, tmp_path, monkeypatch):
    run = [*TINY, "updates=2", "eval.every=2", f"run_dir={tmp_path / 'run'}"]
    monkeypatch.setattr("sparse_offline_rl.experiment.MAX_POSITIONS", 5000)
    status, _, err = cli(*run)
    assert status == 2 and "a layer of 2304 weights and a policy of " in err and "fewer hidden units" in err
    assert not (tmp_path / "run").exists()
    # The networks of the agent may have more weights together than a layer, or the policy, may.
    monkeypatch.setattr("sparse_offline_rl.experiment.MAX_POSITIONS", 9000)
    assert cli(*run)[0] == 0
    totals = [layer["total"] for layer in json.loads((tmp_path / "run" / "summary.json").read_text())["layers"]]
    assert sum(totals) > 9000


def test_a_bad_job_in_another_process_is_named_and_the_others_run(spawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    process = spawn(*SWEEP, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert names_the_failed_jobs(err)
    assert out.count("finished: ") == 2
    assert len(list(tmp_path.glob("runs/*/*/*/*/summary.json"))) == 2


def test_a_fault_of_the_program_ends_one_job_and_not_the_sweep(cli, tmp_path, monkeypatch):
    run, started = train_cli.run, []

    def faulty(config):
        started.append(config.seed)
        return run(config) if config.seed else 1 / 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_cli, "run", faulty)
    status, out, err = cli("-m", *TINY, "updates=10", "eval.every=10", "seed=0,1")
    assert (status, started) == (2, [0, 1])
    assert "Traceback" in err
    assert err.splitlines()[-1] == "  [seed=0] it ended in ZeroDivisionError: division by zero"
    assert out.count("finished: ") == 1
    with pytest.raises(ZeroDivisionError):
        cli(*TINY)


def test_a_launcher_that_fails_ends_the_sweep_with_a_sentence(cli, monkeypatch):
    """As joblib's does when the system ends a worker because memory runs out."""

    def launch(*_: object, **__: object) -> None:
        raise RuntimeError("A worker process was\nkilled")

    faulty = SimpleNamespace(launch=launch)
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda *_, **__: faulty)
    status, out, err = cli("-m", *TINY, "seed=0,1")
    assert (status, out) == (2, "")
    assert err == "error: Hydra ended in RuntimeError: A worker process was killed\n"
