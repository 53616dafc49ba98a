"""Checkpoints whose digest fits and whose contents cannot be: each wrong claim is refused in one sentence, before anything is written."""

import json
import shutil

import numpy as np
import pytest
import safetensors
from conftest import TINY
from run_results import trained
from safetensors.numpy import save

from sparse_offline_rl.training import checkpoint as checkpoint_module
from sparse_offline_rl.training.checkpoint import checkpoint_path


def repaired(path, change):
    """The checkpoint with ``change(header, arrays)`` applied and a digest that fits."""
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["sparse_offline_rl"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    del header["sha256"]
    change(header, arrays)
    header["sha256"] = checkpoint_module._digest(header, arrays)
    path.write_bytes(save(arrays, metadata={"sparse_offline_rl": json.dumps(header)}))


def exchange(header, arrays):
    """Let the actor and a critic, whose shapes differ, be each other."""
    networks, (one, other) = header["networks"], ("actor", "critic1")
    networks[one], networks[other] = networks[other], networks[one]
    for kind in ("values", "exp_avg", "exp_avg_sq", "target"):
        keys = [f"network/{name}/{kind}" for name in (one, other)]
        arrays.update(zip(keys, [arrays[key] for key in reversed(keys)], strict=True))


WRONG = {
    "a negative update": lambda h, a: h.update(update=-1),
    "no update": lambda h, a: h.update(update=0),
    "update as text": lambda h, a: h.update(update="ten"),
    "update beyond the run": lambda h, a: h.update(update=999),
    "no random state": lambda h, a: a.pop("random_state"),
    "a random state of another kind": lambda h, a: a.update(random_state=np.zeros(3, np.float32)),
    "a random state of another length": lambda h, a: a.update(random_state=a["random_state"][:-8]),
    "no mask": lambda h, a: a.pop("mask/actor/hidden0"),
    "a mask of another shape": lambda h, a: h["networks"]["actor"][0].update(shape=[3, 3]),
    "a mask of a billion": lambda h, a: h["networks"]["actor"][0].update(shape=[2**20, 2**20]),
    "no network": lambda h, a: h["networks"].pop("actor"),
    "a network too many": lambda h, a: h["networks"].update(other=h["networks"]["actor"]),
    "two networks exchanged": exchange,
    "no networks": lambda h, a: h.update(networks=[]),
    "no moments": lambda h, a: a.pop("network/actor/exp_avg"),
    "moments of another length": lambda h, a: a.update({"network/actor/exp_avg": np.zeros(3, np.float32)}),
    "values in float64": lambda h, a: a.update({"network/actor/values": np.zeros(3)}),
    "no target": lambda h, a: a.pop("network/actor/target"),
    "a target too many": lambda h, a: a.update({"network/encoder/target": a["network/encoder/values"]}),
    "no steps": lambda h, a: h.update(steps={}),
    "steps as text": lambda h, a: h["steps"].update(actor="many"),
    "a linear layer that is none": lambda h, a: h["networks"]["actor"][0].update(linear="perhaps"),
    "a layer of the agent without its ReLU": lambda h, a: h["networks"]["actor"][0].update(linear=True),
    "a linear head": lambda h, a: h["networks"]["actor"][-1].update(linear=True),
    "a clock that runs backwards": lambda h, a: h["progress"].update(train_seconds=-1.0),
    "a clock without time": lambda h, a: h["progress"].update(train_seconds=None),
    "csv_bytes as text": lambda h, a: h["progress"].update(csv_bytes="all"),
    "csv_bytes beyond the file": lambda h, a: h["progress"].update(csv_bytes=10**9),
    "episodes_bytes as text": lambda h, a: h["progress"].update(episodes_bytes="all"),
    "episodes_bytes beyond the file": lambda h, a: h["progress"].update(episodes_bytes=10**9),
    "episodes_sha256 as a number": lambda h, a: h["progress"].update(episodes_sha256=3),
    "an engine of no name": lambda h, a: h["progress"].update(engine=None),
    "an engine that is none": lambda h, a: h["progress"].update(engine="steam"),
    "no configuration": lambda h, a: h["progress"].update(config=None),
    "an empty configuration": lambda h, a: h["progress"].update(config={}),
    "no progress": lambda h, a: h.update(progress=[]),
    "an evaluation as text": lambda h, a: h["progress"].update(evaluation={"eval/return_mean": "good"}),
    "no evaluation": lambda h, a: h["progress"].update(evaluation={}),
}


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A run folder without its summary."""
    run_dir = tmp_path_factory.mktemp("unfinished") / "run"
    trained(*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}")
    (run_dir / "summary.json").unlink()
    return run_dir


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_claims_of_a_checkpoint_are_a_sentence(cli, tmp_path, unfinished, wrong):
    run_dir = tmp_path / "run"
    shutil.copytree(unfinished, run_dir)
    path = checkpoint_path(run_dir)
    repaired(path, WRONG[wrong])
    status, _, err = cli(*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}")
    assert status == 2, err
    assert len([line for line in err.splitlines() if line]) == 1 and err.startswith("error: "), err
    assert str(run_dir) in err


def test_a_checkpoint_of_before_episodes_were_kept_goes_on(cli, tmp_path, unfinished):
    run_dir = tmp_path / "run"
    shutil.copytree(unfinished, run_dir)
    (run_dir / "episodes.csv").unlink()
    repaired(
        checkpoint_path(run_dir), lambda h, a: [h["progress"].pop(f"episodes_{key}") for key in ("bytes", "sha256")]
    )
    status, _, err = cli(*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}")
    assert status == 0, err
    assert (run_dir / "episodes.csv").read_text() == "update,return_0\n"


def test_episodes_of_another_run_are_refused(cli, tmp_path, unfinished):
    run_dir = tmp_path / "run"
    shutil.copytree(unfinished, run_dir)
    path = run_dir / "episodes.csv"
    path.write_text(path.read_text().replace("10,", "10,9"))
    status, _, err = cli(*TINY, "updates=10", "eval.every=10", f"run_dir={run_dir}")
    assert status == 2
    assert f"{path} is not what this run had written" in err
