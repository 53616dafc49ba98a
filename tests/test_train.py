"""The main job from the command line to the run folder."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_RUN, small
from helpers import flat, needs_two_threads, small_agent
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparse_offline_rl import load_policy
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.cores import processor_name
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint
from sparse_offline_rl.training.session import Session

SUMMARY_KEYS = {
    *(
        "agent",
        "prune",
        "sparsity",
        "env",
        "dataset",
        "seed",
        "updates",
        "return_mean",
        "return_std",
        "normalized_score",
    ),
    *("sparsity_achieved", "nonzero_weights", "total_weights", "layers", "collapsed_layers", "checkpoint_bytes"),
    *(
        "policy_networks",
        "policy_bytes",
        "policy_dense_bytes",
        "updates_per_second",
        "train_seconds",
        "eval_seconds",
        "engine",
        "machine",
        "versions",
        "dataset_return_mean",
        "reference_min_score",
        "reference_max_score",
    ),
    *(f"{what}_{kind}" for what in ("act", "update") for kind in ("flops", "dense_flops", "bytes", "dense_bytes")),
}


def rows(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("agent", sorted(AGENTS))
def test_a_run_leaves_a_whole_folder(cli, tmp_path, agent, engine):
    run_dir = tmp_path / "run"
    status, out, err = cli(*TINY_RUN, *small(agent), f"engine={engine}", f"run_dir={run_dir}")
    assert status == 0, err
    assert "Weights after pruning" in out
    assert ("hidden units are computed" in out) == (engine == "dense")
    assert f"tensorboard --logdir {run_dir}" in out

    summary = json.loads((run_dir / "summary.json").read_text())
    assert set(summary) == SUMMARY_KEYS
    assert summary["engine"] == engine
    assert summary["machine"] == {"processor": processor_name(), "logical_cores": os.cpu_count()}
    made = small_agent(agent)
    assert set(summary["sparsity_achieved"]) == set(made.mlps())
    assert summary["policy_networks"] == list(made.acting().networks)
    for name, achieved in summary["sparsity_achieved"].items():
        total = sum(layer["total"] for layer in summary["layers"] if layer["name"].startswith(name))
        assert achieved == 1 - round(0.2 * total) / total
    assert summary["nonzero_weights"] == sum(layer["kept"] for layer in summary["layers"])
    assert summary["checkpoint_bytes"] == checkpoint_path(run_dir).stat().st_size

    table = rows(run_dir)
    assert [int(row["update"]) for row in table] == [10, 20, 30, 40]
    assert [bool(row["eval/return_mean"]) for row in table] == [False, True, False, True]
    assert float(table[-1]["eval/return_mean"]) == summary["return_mean"]
    with (run_dir / "episodes.csv").open() as file:
        episodes = list(csv.DictReader(file))
    assert [int(row["update"]) for row in episodes] == [20, 40]
    assert float(episodes[-1]["return_0"]) == pytest.approx(summary["return_mean"], rel=1e-6)
    assert 0 < summary["act_flops"] < summary["act_dense_flops"] < summary["update_dense_flops"]
    assert summary["act_dense_bytes"] == summary["policy_dense_bytes"]
    assert summary["dataset_return_mean"] == pytest.approx(3456, abs=100)  # two episodes of the bundled expert

    board = EventAccumulator(str(run_dir)).Reload()
    logged = {name for row in table for name, value in row.items() if value}
    assert set(board.Tags()["scalars"]) == logged - {"update"}
    assert logged & set(made.METRICS)
    for name in logged & set(made.METRICS):
        points = [(point.step, point.value) for point in board.Scalars(name)]
        assert points == [(int(row["update"]), pytest.approx(float(row[name]))) for row in table if row[name]]

    policy = load_policy(run_dir)
    assert policy.act(np.zeros(11)).shape == (3,)


def test_a_metric_that_the_agent_does_not_name_is_named(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(AGENTS["td3bc"], "METRICS", ("loss/critic", "loss/actor", "q/q1", "q/q2", "q/target"))
    with pytest.raises(
        ValueError, match=r"TD3BC\.update returns \['actor/imitation'\], which TD3BC\.METRICS must name"
    ):
        cli(*TINY_RUN, *small("td3bc"), f"run_dir={tmp_path / 'run'}")


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_learning_happens(cli, tmp_path, engine):
    run_dir = tmp_path / "run"
    assert cli(*TINY, "updates=300", "eval.every=300", f"engine={engine}", f"run_dir={run_dir}")[0] == 0
    losses = [float(row["vae/reconstruction"]) for row in rows(run_dir)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert np.isfinite(losses).all()


def test_same_seed_same_bits_other_seed_other_bits(cli, tmp_path):
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cli(*TINY, "updates=20", f"seed={seed}", f"run_dir={tmp_path / name}")[0] == 0
        found.append(flat(load_checkpoint(checkpoint_path(tmp_path / name)).state))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])
    assert not torch.equal(found[0]["values/decoder"], found[2]["values/decoder"])


def test_evaluation_does_not_disturb_training(cli, tmp_path):
    found = []
    for name, every in (("a", 10), ("b", 20)):
        assert cli(*TINY, "updates=20", f"eval.every={every}", f"run_dir={tmp_path / name}")[0] == 0
        found.append(flat(load_checkpoint(checkpoint_path(tmp_path / name)).state))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_a_second_start_reports_the_run_as_complete(cli, tmp_path):
    command = [*TINY, "updates=20", f"run_dir={tmp_path / 'run'}"]
    assert cli(*command)[0] == 0
    before = {p: p.read_bytes() for p in sorted((tmp_path / "run").rglob("*")) if p.is_file()}
    status, out, _ = cli(*command)
    assert status == 0
    assert "already complete" in out
    assert before == {p: p.read_bytes() for p in sorted((tmp_path / "run").rglob("*")) if p.is_file()}


def test_a_run_from_before_machines_were_noted_is_complete(cli, tmp_path):
    command = [*TINY, "updates=20", f"run_dir={tmp_path / 'run'}"]
    assert cli(*command)[0] == 0
    path = tmp_path / "run" / "summary.json"
    path.write_text(json.dumps({key: it for key, it in json.loads(path.read_text()).items() if key != "machine"}))
    status, out, _ = cli(*command)
    assert status == 0 and "already complete" in out


def test_a_folder_of_another_configuration_is_refused(cli, tmp_path):
    command = [*TINY, "updates=20", f"run_dir={tmp_path / 'run'}"]
    assert cli(*command)[0] == 0
    status, _, err = cli(*command, "sparsity=0.5", "seed=3")
    assert status == 2
    assert "sparsity: stored 0.8, now 0.5" in err
    assert "seed: stored 0, now 3" in err


@pytest.mark.parametrize(
    "options", [["prune=none", "sparsity=0"], ["prune=grasp"], ["prune=magnitude"], ["prune=random"]]
)
def test_every_pruner_trains(cli, tmp_path, options):
    status, _, err = cli(*TINY, "updates=20", *options, f"run_dir={tmp_path / 'run'}")
    assert status == 0, err


@pytest.mark.parametrize(
    "options",
    [
        ["prune.scope=layer"],
        ["prune.scope=erk"],
        ["prune.shuffle_layerwise=true"],
        ["prune.reinit=true"],
        ["agent.twin=copy"],
        ["agent.twin=independent"],
        ["dataset.normalize=false"],
        ["sparsity=0.99"],
        pytest.param(["threads=2"], marks=needs_two_threads),
    ],
)
def test_every_option_trains(cli, tmp_path, options):
    status, _, err = cli(*TINY, "updates=20", *options, f"run_dir={tmp_path / 'run'}")
    assert status == 0, err


def test_a_collapsed_network_is_reported_loudly_and_trains(cli, tmp_path):
    status, out, err = cli(*TINY, "updates=20", "sparsity=0.999", "prune=magnitude", f"run_dir={tmp_path / 'run'}")
    assert status == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["collapsed_layers"]
    for name in summary["collapsed_layers"]:
        assert f"layer {name} has collapsed" in err
    assert "Weights after pruning" in out


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["prune=gradual", "prune.every=4", "sparsity=0.999"], 28),
        (["prune=lottery", "sparsity=0.4"], 30),
        (["prune=obs"], 36),
        (["prune=espn", "prune.every=1"], 20),
    ],
    ids=["gradual", "lottery", "obs", "espn"],
)
def test_what_begins_dense_shows_its_layers_once_when_they_are_found(cli, tmp_path, monkeypatch, options, found):
    command = [*TINY, *options, "eval.every=40", f"run_dir={tmp_path / 'run'}"]
    evaluate = Session._evaluate

    def evaluate_early(run, update):
        if update == 40:
            raise UserError("it is late")
        return evaluate(run, update)

    with monkeypatch.context() as broken:
        broken.setattr(Session, "_evaluate", evaluate_early)
        status, out, err = cli(*command)
    assert status == 2 and "it is late" in err
    assert f"pruning: training begins dense, and networks have their final sparsity after update {found}\n" in out
    assert out.count("Weights after pruning") == 1 and out.index("engine: dense") < out.index("Weights after pruning")
    said = [line for line in err.splitlines() if "has collapsed" in line]
    assert len(said) == len(set(said)) and bool(said) == ("sparsity=0.999" in options)
    status, out, err = cli(*command)  # goes on from update 30
    assert status == 0, err
    assert out.count("Weights after pruning") == (found > 30) and "begins dense" not in out


def test_a_sweep_runs_and_then_says_that_all_is_complete(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep = ["-m", *TINY_RUN, "agent=bc,bcq", "agent.vae_hidden=[48,48]", "updates=10", "eval.every=10", "seed=0,1"]
    status, out, err = cli(*sweep)
    assert status == 0, err
    assert out.count("finished: ") == 4
    status, out, _ = cli(*sweep)
    assert status == 0
    assert out.count("already complete: ") == 4
    assert len(list(tmp_path.glob("runs/*/*/*/*/summary.json"))) == 4


def test_redrawn_weights_differ_between_layers(cli, tmp_path):
    """The control keeps the masks and draws new weights; no two layers may get the same numbers."""
    assert cli(*TINY, "updates=10", "prune.reinit=true", f"run_dir={tmp_path / 'a'}")[0] == 0
    assert cli(*TINY, "updates=10", f"run_dir={tmp_path / 'b'}")[0] == 0
    left, right = (load_checkpoint(checkpoint_path(tmp_path / name)) for name in "ab")
    for name, network in right.state.networks.items():
        masks = left.state.networks[name].topology.layers
        assert all((masks[layer] == mask).all() for layer, mask in network.topology.layers.items())
    assert not torch.equal(flat(left.state)["values/encoder"], flat(right.state)["values/encoder"])
    encoder = small_agent().mlps()["encoder"].layers()
    draws = torch.Generator().manual_seed(0)
    for layer in encoder.values():
        layer.reset_parameters(draws)
    assert not torch.equal(encoder["mean"].weight, encoder["log_std"].weight)


def test_a_dense_baseline_keeps_two_different_critics(cli, tmp_path):
    dense = ["prune=none", "sparsity=0", "agent.twin=copy"]
    assert cli(*TINY, *dense, "updates=10", f"run_dir={tmp_path / 'run'}")[0] == 0
    tensors = flat(load_checkpoint(checkpoint_path(tmp_path / "run")).state)
    assert not torch.equal(tensors["values/critic1"], tensors["values/critic2"])


@pytest.mark.parametrize("engine", ["dense", "sparse"])
def test_a_run_does_not_import_torchs_compiler(tmp_path, engine):
    """It takes seconds and memory at every start, and innocent calls of torch import it."""
    script = (
        "import sys\nfrom sparse_offline_rl.cli.train import main\nmain()\n"
        "assert not {'torch._dynamo', 'torch._inductor'} & set(sys.modules)"
    )
    arguments = [*TINY, "updates=10", "eval.every=10", f"engine={engine}", f"run_dir={tmp_path / 'run'}"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
