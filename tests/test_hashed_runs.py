"""Whole runs of hashed networks: what they report, store, and go on from."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import TINY, small
from run_results import kill_at_file_operations, trained

from sparse_offline_rl.networks.hashed import HashedMLP
from sparse_offline_rl.policy.format import read_policy
from sparse_offline_rl.policy.runtime import load_policy
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("hashed") / "run"
    return run_dir, trained(*TINY, "prune=hashed", "sparsity=0.95", f"run_dir={run_dir}")


def test_a_run_says_what_is_stored_and_that_all_weights_compute(finished):
    run_dir, said = finished
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["engine"] == "dense" and summary["nonzero_weights"] == summary["total_weights"]
    assert set(summary["sparsity_achieved"].values()) == {0.0} and summary["collapsed_layers"] == []
    totals = Counter()
    for layer in summary["layers"]:
        assert layer["kept"] == layer["total"]
        totals[layer["name"].split(".")[0], "total"] += layer["total"]
        totals[layer["name"].split(".")[0], "stored"] += layer["stored"]
    names = {name for name, _ in totals}
    assert all(totals[name, "stored"] == round(0.05 * totals[name, "total"]) for name in names)
    assert summary["stored_weights"] == sum(totals[name, "stored"] for name in names)
    assert f"{summary['total_weights']} share {summary['stored_weights']} values" in said
    assert "Weights, and values that they share" in said
    assert summary["act_flops"] == summary["act_dense_flops"] and summary["act_bytes"] < summary["act_dense_bytes"] / 5


def test_the_stored_policy_is_the_trained_one(finished):
    run_dir, _ = finished
    checkpoint, content = load_checkpoint(checkpoint_path(run_dir)), read_policy(run_dir / "policy" / "policy.sorl")
    assert (run_dir / "policy" / "policy.sorl").read_bytes()[8] == 5
    for name, network in content.networks.items():
        topology, layers = checkpoint.state.networks[name].topology, checkpoint.state.networks[name].layers()
        for layer in network.layers:
            assert layer.hashing == topology.hashes[layer.name]
            weight, bias = layers[layer.name]
            assert layer.weight.tobytes() == weight.tobytes() and layer.bias.tobytes() == bias.tobytes()


@pytest.mark.parametrize("name", ["td3bc", "iql"])
def test_a_loaded_policy_acts_as_torch_does(cli, tmp_path, name):
    run_dir = tmp_path / "run"
    overrides = [*small(name), "prune=hashed", "sparsity=0.9", "eval.episodes=1"]
    status, _, err = cli(*[it for it in TINY if not it.startswith("agent")], *overrides, f"run_dir={run_dir}")
    assert status == 0, err
    policy, state = load_policy(run_dir), load_checkpoint(checkpoint_path(run_dir)).state
    content = policy.content
    observations = np.random.default_rng(0).normal(size=(20, content.observation_dim)).astype(np.float32)
    mlp = HashedMLP(state.networks["actor"].topology, state.networks["actor"].values)
    with torch.no_grad():
        normalized = (observations - content.observation_mean) / content.observation_std
        wanted = mlp(torch.from_numpy(normalized)).tanh().numpy() * content.action_scale + content.action_center
    assert np.allclose(policy.act(observations), wanted, atol=1e-5)


def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    settings = [*small("td3bc"), "prune=hashed"]
    found = kill_at_file_operations(tmp_path, 4, *settings)
    assert found["killed"] > 2 and found["wrong"] == [] and found["engine"] == "dense"


def test_hashed_layers_may_be_soft_for_a_while(cli, tmp_path):
    policies = []
    for soft in ([], ["soft.until=0.5", "soft.skip=0.5"]):
        run_dir = tmp_path / f"run{len(soft)}"
        status, out, err = cli(*TINY, "prune=hashed", *soft, "updates=20", f"run_dir={run_dir}")
        assert status == 0, err
        assert ("hidden layers are soft" in out) == bool(soft)
        policies.append(load_checkpoint(checkpoint_path(run_dir)).state.networks["actor"].values)
    assert not np.array_equal(*policies)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["engine=sparse"], "engine=sparse computes with weights that survive, and with prune=hashed all weights do"),
        (["init=zero"], "init=zero gives each weight a value of its own"),
        (["init=isometry"], "init=isometry gives each weight a value of its own"),
        (["prune.score=snip"], "prune.score=snip is about which weights are pruned"),
        (["prune.rounds=3"], "prune.rounds=3 is about which weights are pruned"),
        (["prune.revive=true"], "prune.revive=true is about which weights are pruned"),
        (["prune.shuffle_layerwise=true"], "prune.shuffle_layerwise=true is about which weights are pruned"),
        (["prune.reinit=true"], "prune.reinit=true is about which weights are pruned"),
        (["prune.every=5"], "prune.every"),
        (["sparsity=0.9995"], "network actor: sparsity=0.9995 would leave 1 values for 3 layers, and each needs one"),
        (["prune.name=none", "sparsity=0"], "prune=none with prune.schedule=hashed"),
    ],
)
def test_what_cannot_be_is_one_sentence(refusal, overrides, sentence):
    assert sentence in refusal(*TINY, "prune=hashed", *overrides)
