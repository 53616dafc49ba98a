"""Whole runs whose masks change: killed and resumed, what they report, what they remember, what they refuse."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_RUN, small
from run_results import kill_at_file_operations
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sparse_offline_rl import experiment
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.networks.state import all_grown
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint
from sparse_offline_rl.training.mask_changes import MaskChanges

RIGL = ["prune=rigl", "prune.every=10"]
LOTTERY = ["prune=lottery", "prune.levels=3"]


@pytest.mark.parametrize(
    ("engine", "overrides"),
    [
        ("sparse", ["prune=rigl", "prune.every=2", "prune.until=1.0", "updates=7", "checkpoint.every=2"]),
        ("sparse", ["prune=gradual", "prune.every=1", "updates=7", "checkpoint.every=2"]),
        ("sparse", ["prune=lottery", "prune.levels=2", "prune.rewind=1", "updates=8", "checkpoint.every=3"]),
        ("sparse", ["prune=obs", "prune.levels=2", "prune.batches=2", "updates=8", "checkpoint.every=3"]),
    ],
)
def test_a_kill_at_any_moment_changes_nothing(tmp_path, engine, overrides):
    """At file operations, and in the middle of changes: all but ``rigl`` begin dense and end sparse."""
    found = kill_at_file_operations(tmp_path, 3, *small("bcq"), *overrides)
    assert found["kinds"]["change"] > 5 and found["killed"] > 3 and found["engine"] == engine
    assert found["wrong"] == []


def mask_changes(*overrides):
    config = config_of([*TINY, *overrides])
    data = experiment.load_training_data(config)
    return MaskChanges(config, data.loaded.spaces, data.buffer)


def test_batches_of_one_change_are_kept_apart(tmp_path):
    """A sampler draws every batch into the same tensors, and the losses of a change look at theirs later."""
    masks, generator = mask_changes("prune=snfs", "prune.every=10"), torch.Generator().manual_seed(0)
    sample = masks._probe(0, all_grown(masks.start().state))
    first = sample(generator)
    before = {name: float(it.loss().detach()) for name, it in first.items()}
    second = {name: float(it.loss().detach()) for name, it in sample(generator).items()}
    assert before == {name: float(it.loss().detach()) for name, it in first.items()}
    assert all(second[name] != loss for name, loss in before.items())


@pytest.mark.parametrize(
    ("overrides", "update", "soft"),
    [
        (["prune=snip"], 0, True),  # what will be trained
        (["prune=rigl", "prune.every=10"], 10, True),  # what was trained until then
        (
            ["prune=gradual", "prune.score=snip", "prune.every=10", "prune.until=0.25"],
            10,
            False,
        ),  # it was trained with ReLU
        (["prune=obs", "prune.start=0.25", "prune.levels=1"], 10, False),
    ],
)
def test_weights_are_scored_in_the_function_that_was_trained(overrides, update, soft):
    """A soft phase begins at the update that finds the masks."""
    masks, losses = mask_changes(*overrides, "soft.until=0.5"), []
    assert masks.soft(update) is not None
    state = masks.start().state
    for asked in (update, masks.schedule.found + 1, masks.schedule.updates - 1):
        objectives = masks._probe(asked, state)(torch.Generator().manual_seed(0))
        losses.append(float(objectives["decoder"].loss().detach()))
    assert losses[1] != losses[2]  # the layers are soft in the one and ReLU in the other
    assert (losses[0] == losses[2]) == (not soft)


def test_the_pipeline_s_second_method_has_a_batch_of_its_own(refusal):
    masks = mask_changes("prune=pipeline", "prune.every=1", "prune.then.every=2", "prune.then.batch_size=7")
    assert [masks.schedule.batch_size(update) for update in (0, 20, 21, 30)] == [100, 100, 7, 7]
    command = [*TINY, "prune=pipeline", "prune.every=1", "prune.then.every=2", "prune.then.batch_size=3000"]
    assert "prune.then.batch_size=3000 is larger than the dataset" in refusal(*command)


def test_all_methods_train_on_the_same_batches(cli, tmp_path):
    """What a method draws for itself comes from a stream of its own, so the training's own ends where it does without the method."""
    methods = [["prune=snip"], RIGL, ["prune=gradual", "prune.every=10"], LOTTERY, ["prune=obs", "prune.batches=2"]]
    states = []
    for i, method in enumerate([["prune=none", "sparsity=0"], *methods]):
        status, _, err = cli(*TINY, *method, f"run_dir={tmp_path / str(i)}")
        assert status == 0, err
        states.append(load_checkpoint(checkpoint_path(tmp_path / str(i))).random_state)
    assert all(np.array_equal(state, states[0]) for state in states[1:])


def table(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_rewired_run_reports_how_its_masks_moved(cli, tmp_path):
    run_dir = tmp_path / "run"
    status, _, err = cli(*TINY, *RIGL, "prune.fraction=0.5", f"run_dir={run_dir}")
    assert status == 0, err
    summary, rows = json.loads((run_dir / "summary.json").read_text()), table(run_dir)
    networks = ["actor", "critic1", "critic2", "encoder", "decoder"]
    for name in networks:
        ever = [float(row[f"masks/ever_kept/{name}"]) for row in rows]
        first = [float(row[f"masks/first_kept/{name}"]) for row in rows]
        assert [int(row["update"]) for row in rows] == [10, 20, 30, 40]
        assert 0.2 < ever[0] <= ever[1] <= ever[2] == ever[3] < 0.5  # until 75 %: updates 10, 20, 30
        assert all(0.2 < share < 1 for share in first) and first[2] == first[3]
        assert summary[f"masks/ever_kept/{name}"] == ever[-1] and summary[f"masks/first_kept/{name}"] == first[-1]
        assert summary["sparsity_achieved"][name] == pytest.approx(0.8, abs=1e-3)
    assert summary["levels"] == []
    board = EventAccumulator(str(run_dir)).Reload()
    assert [point.step for point in board.Scalars("masks/ever_kept/actor")] == [10, 20, 30, 40]


def test_levels_are_reported_each_with_its_own_result(cli, tmp_path):
    run_dir = tmp_path / "run"
    status, out, err = cli(*TINY, *LOTTERY, "eval.every=40", f"run_dir={run_dir}")
    assert status == 0, err
    summary = json.loads((run_dir / "summary.json").read_text())
    assert [it["update"] for it in summary["levels"]] == [10, 20, 30]
    assert [it["sparsity"] for it in summary["levels"]] == pytest.approx(
        [0, 1 - 0.2 ** (1 / 3), 1 - 0.2 ** (2 / 3)], abs=1e-3
    )
    assert [row["update"] for row in table(run_dir) if row["eval/return_mean"]] == ["10", "20", "30", "40"]
    assert [float(row["eval/return_mean"]) for row in table(run_dir)][:3] == [
        it["return_mean"] for it in summary["levels"]
    ]
    assert "engine: dense" in out and "engine: sparse" in out
    memory = load_checkpoint(checkpoint_path(run_dir)).memory
    assert memory.rewind is not None and memory.rewind.density == 1


def test_levels_are_evaluated_only_where_it_is_due_if_asked_so_and_train_the_same(cli, tmp_path):
    always, seldom = tmp_path / "always", tmp_path / "seldom"
    for run_dir, options in ((always, []), (seldom, ["eval.levels=false"])):
        status, _, err = cli(*TINY, *LOTTERY, "eval.every=20", *options, f"run_dir={run_dir}")
        assert status == 0, err
    rows = table(seldom)
    assert [row["update"] for row in rows if row["eval/return_mean"]] == ["20", "40"]
    levels, all_levels = (json.loads((it / "summary.json").read_text())["levels"] for it in (seldom, always))
    assert [sorted(it) for it in levels] == [
        ["sparsity", "update"],
        ["return_mean", "return_std", "sparsity", "update"],
        ["sparsity", "update"],
    ]
    # What was due at update 20 was evaluated before the survivors went back, as it always is.
    assert levels[1] == all_levels[1] and levels[1]["return_mean"] == float(rows[1]["eval/return_mean"])
    states = [load_checkpoint(checkpoint_path(it)).state for it in (always, seldom)]
    assert all(np.array_equal(states[1].networks[name].values, it.values) for name, it in states[0].networks.items())


@pytest.mark.parametrize("method", ["once", "retain"])
def test_what_is_never_gone_back_to_is_not_kept(cli, tmp_path, method):
    run_dir = tmp_path / "run"
    options = ["prune=snip"] if method == "once" else ["prune=iterative_magnitude", "prune.levels=3"]
    assert cli(*TINY, *options, f"run_dir={run_dir}")[0] == 0
    memory = load_checkpoint(checkpoint_path(run_dir)).memory
    assert memory.rewind is None and (method == "retain") == bool(memory.masks)


@pytest.mark.parametrize("key", ["agent.twin=copy", "init=isometry"])
def test_tickets_go_back_to_what_training_began_with(cli, tmp_path, key):
    """Not to the weights before twins were copied and before the initialisation had its way."""
    run_dir = tmp_path / "run"
    assert cli(*TINY, *LOTTERY, key, "updates=40", f"run_dir={run_dir}")[0] == 0
    rewind = load_checkpoint(checkpoint_path(run_dir)).memory.rewind
    critics = [rewind.networks[name] for name in ("critic1", "critic2")]
    if key == "agent.twin=copy":
        assert (critics[0].values == critics[1].values).all()
    else:
        weights = [matrix for network in critics for matrix in network.topology.unpack(network.values)[0:4:2]]
        for matrix in weights:  # its columns or rows, whichever are fewer, are orthonormal
            small = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
            assert abs(small - np.eye(len(small))).max() < 1e-2


@pytest.mark.parametrize(
    "method",
    [["prune=set", "prune.every=5"], ["prune=deepr", "prune.every=5"], ["prune=l0", "prune.until=0.75"], [*RIGL]],
)
def test_copies_stay_copies_when_masks_change(cli, tmp_path, method):
    """Grown values, DeepR's noise and that of gates are drawn for each network."""
    run_dir = tmp_path / "run"
    command = [*TINY_RUN, "agent=td3bc", *small("td3bc"), "agent.twin=copy", *method, "updates=20"]
    status, _, err = cli(*command, f"run_dir={run_dir}")
    assert status == 0, err
    first, second = (load_checkpoint(checkpoint_path(run_dir)).state.networks[name] for name in ("critic1", "critic2"))
    for name, vector in first.vectors().items():
        assert np.array_equal(vector, second.vectors()[name]), name


def test_critics_that_begin_equal_are_said(cli, tmp_path):
    command = [*TINY, "prune=none", "sparsity=0", "init=zero", "updates=2", "eval.every=2"]
    assert "both critics start with the same weights" in cli(*command, f"run_dir={tmp_path / 'zero'}")[2]
    assert "the same weights" not in cli(*command, "agent.twin=copy", f"run_dir={tmp_path / 'copies'}")[2]


@pytest.mark.parametrize(("method", "learns"), [("lottery", True), ("iterative_magnitude", False)])
def test_tickets_go_back_to_the_first_learning_rates(cli, tmp_path, method, learns):
    """Rates are 0 when the first of two levels ends: what goes back to the first weights learns in the second, what stays trained does not."""
    found = []
    for updates in (21, 40):
        run_dir = tmp_path / str(updates)
        settings = [f"prune={method}", "prune.levels=1", "prune.every=20", "agent.lr_decay=20", f"updates={updates}"]
        status, _, err = cli(*TINY, *settings, f"run_dir={run_dir}")
        assert status == 0, err
        found.append(load_checkpoint(checkpoint_path(run_dir)).state.networks)
    for name, network in found[0].items():
        assert np.array_equal(network.values, found[1][name].values) != learns


def test_a_collapse_while_training_is_said_once(cli, tmp_path):
    run_dir = tmp_path / "run"
    status, _, err = cli(*TINY, "prune=gradual", "prune.every=10", "sparsity=0.995", f"run_dir={run_dir}")
    assert status == 0, err
    summary = json.loads((run_dir / "summary.json").read_text())
    warned = [line.split()[2] for line in err.splitlines() if "has collapsed" in line]
    assert warned and len(warned) == len(set(warned)) and set(warned) >= set(summary["collapsed_layers"])


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["prune=pipeline", "prune.then=null"], "stands for several keys; give each its value, e.g. prune.then.batch"),
        (
            ["prune=snip", "prune.grow=random"],
            "'prune.grow'; it goes with prune=deepr, prune=dsr, prune=rigl, prune=set or",
        ),
        (["prune=gradual", "prune.every=10", "prune.levels=2"], "there is no key 'prune.levels'"),
        (["prune=snip", "prune.schedule=weekly"], "prune.schedule=weekly: no method has this schedule"),
        (
            ["prune=gradual", "prune.schedule=rewire"],
            "take prune=deepr, prune=dsr, prune=rigl, prune=set or prune=snfs and",
        ),
        ([*RIGL, "prune.batches=7"], "prune.batches=7 has no meaning with prune.grow=gradient: leave it out."),
        ([*RIGL, "prune.threshold=9"], "prune.threshold=9.0 has no meaning with prune.drop=magnitude: leave it out."),
        (
            ["prune=deepr", "prune.every=10", "prune.fraction=0.9"],
            "prune.fraction=0.9 has no meaning with prune.drop=sign",
        ),
        (
            ["prune=lottery", "prune.levels=2", "prune.fraction=0.9"],
            "prune.fraction=0.9 has no meaning with prune.levels=2",
        ),
        (
            ["prune=gradual", "prune.every=10", "init=sparse"],
            "init=sparse scales the initial weights of survivors, and with",
        ),
        (
            [*RIGL, "eval.levels=false"],
            "eval.levels=false is about levels, each trained and then pruned, and prune=rigl has none",
        ),
        (
            ["prune=none", "sparsity=0", "init=sparse"],
            "init=sparse scales the initial weights of survivors, and prune=none",
        ),
        (["prune=snip", "prune.reinit=true", "init=zero"], "prune.reinit=true draws initial weights anew"),
        (["prune=lottery", "prune.ticket=reinit", "init=isometry"], "in place of those of init=isometry"),
        (["prune=snip", "prune.score=luck"], "prune.score='luck' cannot be used"),
        ([*RIGL, "prune.fraction=0"], "prune.fraction=0 cannot be used"),
        ([*RIGL, "prune.fraction=0.0001"], "prune.fraction=0.0001 leaves the masks as they are: no layer keeps more"),
        ([*RIGL, "prune.fraction=1.1"], "prune.fraction=1.1 cannot be used"),
        ([*RIGL, "prune.until=2"], "prune.until=2 cannot be used"),
        ([*RIGL, "sparsity=0"], "prune=rigl with sparsity=0 would remove nothing"),
        ([*RIGL, "prune.batch_size=3000"], "prune.batch_size=3000 is larger than the dataset"),
        (["prune=rigl"], "prune.every=1000 leaves the masks as they are"),
        (["prune=snip", "prune.rounds=0"], "prune.rounds=0 cannot be used"),
        (["prune=lottery", "prune.levels=0"], "prune.levels=0 cannot be used"),
        (["prune=lottery", "prune.levels=40"], "40 levels of 1 updates leave nothing of updates=40"),
        (["prune=gradual", "prune.every=10", "sparsity=0.9999"], "network actor: sparsity=0.9999 would leave fewer"),
        (["prune=lottery", "prune.levels=2", "sparsity=0.9999"], "network actor: sparsity=0.9999 would leave fewer"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_written(refusal, overrides, sentence):
    assert sentence in refusal(*TINY, *overrides)
