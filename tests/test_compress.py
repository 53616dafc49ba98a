"""``sparse-offline-rl compress``: which values stand for the weights, fine-tuning, and the command on a finished run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY
from helpers import pruned_agent, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import compressed_policy, forward, make_policy

from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.cli import compress as compress_cli
from sparse_offline_rl.cli import evaluate as evaluate_cli
from sparse_offline_rl.cli import export as export_cli
from sparse_offline_rl.compression.compact import compacted, live_weights
from sparse_offline_rl.compression.compress import SharedWeights, share, shared
from sparse_offline_rl.compression.finetune import LEARNING_RATE, finetune
from sparse_offline_rl.compression.quantize import kmeans, linear_levels
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.policy.content import PolicyLayer, PolicyNetwork
from sparse_offline_rl.policy.format import read_policy, write_policy
from sparse_offline_rl.policy.runtime import load_policy


def floats(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("values", "clusters", "centroids", "labels"),
    [
        ((0, 1, 2, 10, 11, 12), 2, (1, 11), (0, 0, 0, 1, 1, 1)),
        ((12, 0, 11, 1, 10, 2), 2, (1, 11), (1, 0, 1, 0, 1, 0)),
        ((0, 1, 2, 10, 11, 12), 3, (0.5, 2, 11), (0, 0, 1, 2, 2, 2)),  # nothing is nearest to 6, so it splits the first
        ((0, 6, 7, 8, 9, 10), 2, (0, 8), (0, 1, 1, 1, 1, 1)),  # begins at 0 and 10, with 6 beyond the middle
        ((0, 4, 9, 10), 2, (2, 9.5), (0, 0, 1, 1)),
        ((0, 4, 6, 16), 2, (10 / 3, 16), (0, 0, 0, 1)),
        ((5, 5, 5), 16, (5,), (0, 0, 0)),
        ((-2, 3), 256, (-2, 3), (0, 1)),
        ((0, 0.1, 0.2, 100), 4, (0, 0.1, 0.2, 100), (0, 1, 2, 3)),
    ],
)
def test_kmeans_by_hand(values, clusters, centroids, labels):
    found, places = kmeans(floats(*values), clusters)
    assert found.dtype == np.float32 and np.allclose(found, centroids, rtol=1e-6)
    assert places.tolist() == list(labels)


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=60), st.integers(2, 20))
def test_kmeans_gives_each_value_its_nearest_centroid(values, clusters):
    values = floats(*values)
    centroids, labels = kmeans(values, clusters)
    distances = np.abs(values[:, None].astype(float) - centroids)
    assert len(centroids) <= clusters and set(labels) == set(range(len(centroids)))
    assert np.all(distances[np.arange(len(values)), labels] <= distances.min(1) + 1e-5)
    means = [values[labels == i].mean(dtype=float) for i in range(len(centroids))]
    assert np.allclose(means, centroids, atol=1e-5)
    assert len(centroids) == min(clusters, len(np.unique(values)))


@pytest.mark.parametrize(
    ("values", "bits", "step"),
    [((-1, 1, 1), 2, 1), ((7, -3, 0), 4, 1), ((127, 1), 8, 1), ((0, 0), 8, 1), ((), 4, 1), ((32767, 5), 16, 1)],
)
def test_steps_by_hand(values, bits, step):
    levels = linear_levels(floats(*values), bits)
    assert levels.step == step
    assert levels.nearest(floats(*values)).tolist() == list(values)


def test_an_outlier_does_not_cost_all_others_their_precision():
    values = floats(8, *[1.0] * 100)  # the step 8 would make zeros of the hundred
    assert np.abs(linear_levels(values, 2).nearest(values) - 1).max() < 0.2


def network_by_hand():
    """Two inputs, three hidden units, of which the second reads nothing and nobody reads the third; one output."""
    first = floats([1, 2], [0, 0], [3, 0]).reshape(3, 2)
    last = floats(4, 5, 0).reshape(1, 3)
    return PolicyNetwork(
        "actor",
        (PolicyLayer("hidden0", first, first != 0, floats(0.5, 2, 1)),),
        (PolicyLayer("out", last, last != 0, floats(1)),),
    )


def test_idle_units_go_and_constants_are_folded():
    network = network_by_hand()
    live = live_weights(network)
    assert live["hidden0"].tolist() == [[True, True], [False, False], [False, False]]
    assert live["out"].tolist() == [[True, False, False]]
    small = compacted(network)
    assert small.hidden[0].weight.tolist() == [[1, 2]] and small.hidden[0].bias.tolist() == [0.5]
    assert small.heads[0].weight.tolist() == [[4]] and small.heads[0].bias.tolist() == [11]  # 1 + 5 · 2
    x = np.random.default_rng(0).normal(size=(20, 2))
    assert np.allclose(forward(small, x), forward(network, x))


@pytest.mark.parametrize("density", [0.0, 0.03, 0.1, 1.0])
def test_what_is_live_is_what_compaction_keeps(density):
    for network in make_policy("bcq", density).networks.values():
        live, small = live_weights(network), compacted(network)
        assert sum(int(mask.sum()) for mask in live.values()) == sum(layer.kept for layer in small.layers)
        x = np.random.default_rng(0).normal(size=(50, network.in_features))
        assert np.allclose(forward(small, x), forward(network, x), atol=1e-6)


@pytest.mark.parametrize("how", [{"clusters": 16}, {"clusters": 3}, {"bits": 4}, {"bits": 8}, {"bits": 16}], ids=str)
def test_compressed_policies_are_near_and_take_few_values(how):
    content = make_policy("bcq")
    small = compressed_policy("bcq", **how)
    most = how.get("clusters") or 2 ** how["bits"] - 1
    worst = {3: 1.0, 16: 0.2}.get(how.get("clusters"), {4: 0.2, 8: 0.01, 16: 2e-4}.get(how.get("bits")))
    for name, network in small.networks.items():
        assert all(len(np.unique(layer.weight[layer.mask])) <= most for layer in network.layers)
        assert all(layer.weight[layer.mask].all() for layer in network.layers)
        x = np.random.default_rng(0).normal(size=(50, network.in_features))
        expected = forward(content.networks[name], x)
        assert 0 < np.abs(forward(network, x) - expected).max() < worst


def test_several_heads_stay_apart():
    first = floats([1, 0], [0, 1]).reshape(2, 2)
    heads = [floats(1, 2).reshape(1, 2), floats(3, 0, 0, 4).reshape(2, 2)]
    network = PolicyNetwork(
        "actor",
        (PolicyLayer("hidden0", first, first != 0, floats(0, 0)),),
        tuple(PolicyLayer(f"head{i}", it, it != 0, np.zeros(len(it), np.float32)) for i, it in enumerate(heads)),
    )
    content = replace(make_policy("actor", state=2, action=3), networks={"actor": network})
    small = shared(content, share(content, 2)).networks["actor"]
    assert [head.weight.tolist() for head in small.heads] == [[[1, 2]], [[3, 0], [0, 4]]]
    assert [head.name for head in small.heads] == ["head0", "head1"]


def test_a_diverged_policy_is_refused():
    content = make_policy("actor", hidden=())
    content.networks["actor"].heads[0].bias[0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        share(content, 16)


def sharing_of(agent, clusters=4):
    """Clusters of all weights that acting has."""
    found = {}
    for name in agent.acting().networks:
        layers = {}
        for layer, it in agent.mlps()[name].layers().items():
            positions = np.flatnonzero(it.mask.numpy())
            centroids, labels = kmeans(it.weight.detach().numpy().flat[positions], clusters)
            layers[layer] = SharedWeights(positions, labels, centroids)
        found[name] = layers
    return found


@pytest.mark.parametrize("name", AGENTS)
def test_centroids_move_along_summed_gradients(name):
    agent, batch = pruned_agent(name), random_batch()
    sharing = sharing_of(agent)
    before = {key: vector.copy() for key, vector in agent.state().networks["actor"].vectors().items()}
    biases = [it.bias.detach().clone() for mlp in agent.mlps().values() for it in mlp.layers().values()]
    same = finetune(agent, sharing, lambda: batch, 0, torch.Generator())
    first = next(iter(sharing))
    objectives = agent.objectives(batch, torch.Generator().manual_seed(3))
    weights = {layer: agent.mlps()[first].layers()[layer].weight for layer in sharing[first]}
    gradients = dict(zip(weights, torch.autograd.grad(objectives[first].loss(), list(weights.values())), strict=True))
    after = finetune(agent, sharing, lambda: batch, 1, torch.Generator().manual_seed(3))
    for layer, clusters in sharing[first].items():
        assert np.array_equal(same[first][layer].centroids, clusters.centroids)
        for i, centroid in enumerate(clusters.centroids):
            members = clusters.positions[clusters.labels == i]
            summed = float(gradients[layer].flatten()[torch.from_numpy(members)].double().sum())
            moved = after[first][layer].centroids[i] - centroid
            if abs(summed) > 1e-4:  # Adam's first step has the size of its rate
                assert moved == pytest.approx(-LEARNING_RATE * np.sign(summed), rel=0.02)
            values = weights[layer].detach().flatten()[torch.from_numpy(members)]
            assert set(values.tolist()) == {float(after[first][layer].centroids[i])}
    unchanged = [it.bias.detach() for mlp in agent.mlps().values() for it in mlp.layers().values()]
    assert all(torch.equal(x, y) for x, y in zip(biases, unchanged, strict=True))
    assert np.array_equal(before["exp_avg"], agent.state().networks["actor"].exp_avg)


def test_a_network_without_live_weights_stays_as_it_is():
    """As BCQ's actor where magnitude pruning has cut it off."""
    agent, batch = pruned_agent("bcq"), random_batch()
    sharing = {**sharing_of(agent), "actor": {}}
    tuned = finetune(agent, sharing, lambda: batch, 2, torch.Generator().manual_seed(0))
    assert tuned.keys() == sharing.keys() and tuned["actor"] == {}
    moved = [
        not np.array_equal(it.centroids, sharing["decoder"][layer].centroids) for layer, it in tuned["decoder"].items()
    ]
    assert all(moved) and len(moved) == 3


def test_fine_tuning_lowers_the_loss():
    agent, batch = pruned_agent("bc"), random_batch(200)
    sharing = sharing_of(agent, 8)

    def loss(clusters):
        finetune(agent, clusters, lambda: batch, 0, torch.Generator())
        return agent.objectives(batch, torch.Generator().manual_seed(0))["decoder"].loss().item()

    tuned = finetune(agent, sharing, lambda: batch, 200, torch.Generator().manual_seed(1))
    assert loss(tuned) < 0.99 * loss(sharing)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    from sparse_offline_rl.cli import train

    folder = tmp_path_factory.mktemp("compress") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *TINY, f"run_dir={folder}"])
        train.main()
    return folder


@pytest.fixture
def command(capsys):
    def call(*arguments, of=compress_cli):
        status = 0
        try:
            of.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("how", "label"),
    [
        ([], "bits=8"),
        (["bits=4"], "bits=4"),
        (["bits=12"], "bits=12"),
        (["clusters=16"], "clusters=16 finetune=300"),
        (["clusters=4", "finetune=2"], "clusters=4 finetune=2"),
        (["clusters=4", "finetune=0"], "clusters=4 finetune=0"),
    ],
)
def test_a_finished_run_is_compressed_and_its_policy_kept(command, run_dir, tmp_path, how, label):
    original = run_dir / "policy" / "policy.sorl"
    before = original.read_bytes()
    status, out, err = command(f"run_dir={run_dir}", "episodes=2", *how)
    path = run_dir / "policy" / "compressed.sorl"
    assert (status, err) == (0, "")
    assert f"{original}, {len(before)} bytes" in out and f"{path}, {path.stat().st_size} bytes" in out
    assert "before" in out and "after, over 2 episodes" in out
    assert original.read_bytes() == before and path.stat().st_size < 0.8 * len(before)
    assert read_policy(path).metadata["compressed"] == label
    assert sorted(it.name for it in path.parent.iterdir()) == ["compressed.sorl", "policy.sorl"]

    status, out, _ = command(f"run_dir={path}", "episodes=2", f"out={tmp_path / 'e.json'}", of=evaluate_cli)
    assert status == 0 and len(json.loads((tmp_path / "e.json").read_text())["returns"]) == 2
    for to in ("onnx", "c", "dense"):
        assert command(f"run_dir={path}", f"to={to}", f"out={tmp_path}", of=export_cli)[0] == 0
    assert np.isfinite(load_policy(path).act(np.zeros(11, np.float32))).all()


def test_the_same_command_gives_the_same_bytes(command, run_dir, tmp_path):
    for name in "ab":
        assert (
            command(f"run_dir={run_dir}", "clusters=16", "finetune=3", "episodes=0", f"out={tmp_path / name}")[0] == 0
        )
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_policy_file_alone_is_enough_without_fine_tuning(command, tmp_path):
    write_policy(tmp_path / "mine.sorl", make_policy())
    status, out, _ = command(f"run_dir={tmp_path / 'mine.sorl'}", "bits=4", "episodes=0")
    assert status == 0 and "return" not in out
    assert (tmp_path / "compressed.sorl").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["bits=1"], "bits=1 cannot be used"),
        (["bits=17"], "bits=17 cannot be used"),
        (["bits=8", "clusters=16"], "equal steps or share values"),
        (["bits=8", "finetune=0"], "finetune=0 trains shared values"),
        (["finetune=5"], "give clusters=… too"),
        (["clusters=1"], "clusters=1 cannot be used"),
        (["clusters=257"], "clusters=257 cannot be used"),
        (["finetune=-1"], "finetune=-1 cannot be used"),
        (["cluster=4"], "the closest is 'clusters'"),
        (["out={run}/policy/policy.sorl", "bits=4"], "which is kept"),
        (["out={run}/policy", "bits=4"], "is a folder"),
        (["out={run}/config.yaml/x", "bits=4", "episodes=0"], "could not be written"),
    ],
)
def test_mistakes_end_with_a_sentence(command, run_dir, arguments, sentence):
    status, out, err = command(f"run_dir={run_dir}", *(it.format(run=run_dir) for it in arguments))
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert sentence in err


def _unfinished(folder):
    (folder / "summary.json").unlink()


def _without_checkpoint(folder):
    shutil.rmtree(folder / "checkpoint")


def _other_policy(folder):
    content = read_policy(folder / "policy" / "policy.sorl")
    content.networks["actor"].hidden[0].bias[0] += 1
    write_policy(folder / "policy" / "policy.sorl", content)


def _other_data(folder):
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("size: 2000", "size: 1900"))


def _no_run(folder):
    (folder / "config.yaml").unlink()


def _nothing(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_unfinished, "is not finished"),
        (_without_checkpoint, "is not finished"),
        (_other_policy, "is not that of its checkpoint"),
        (_other_data, "was trained on other data"),
        (_no_run, "is no run folder, whose dataset fine-tuning needs"),
        (_nothing, "there is no"),
    ],
)
def test_runs_that_cannot_be_fine_tuned_end_with_a_sentence(command, run_dir, tmp_path, monkeypatch, damage, sentence):
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder, ignore=shutil.ignore_patterns("compressed.sorl"))
    damage(folder)
    played: list[object] = []
    monkeypatch.setattr(compress_cli, "_returns", lambda *of: played.append(of))
    status, _, err = command(f"run_dir={folder}", "episodes=10", "clusters=4", "finetune=1")
    assert status == 2 and sentence in err and err.count("\n") == 1
    assert not played  # hundreds of episodes before it is said would be minutes lost
    assert not (folder / "policy" / "compressed.sorl").exists()
