"""Whole runs that learn masks: kills, what they report, and settings that cannot be."""

from __future__ import annotations

import json

import pytest
from conftest import TINY, TINY_RUN, small
from run_results import kill_at_file_operations

from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint

_REWIND = ["prune.after=rewind", "prune.rewind=1"]  # from a state that the memory holds until masks are found
_THEN = ["prune.then.start=0.7", "prune.then.until=0.9", "prune.then.every=1"]


@pytest.mark.parametrize(
    ("method", "more"),
    [("espn", []), ("l0", []), ("espn", _REWIND), ("pipeline", [*_THEN, *_REWIND])],
    ids=["espn", "l0", "espn-rewind", "pipeline-rewind"],
)
def test_a_killed_run_ends_with_the_same_bits(tmp_path, method, more):
    overrides = [
        f"prune={method}",
        "prune.start=0.2",
        "prune.until=0.7",
        "prune.every=1",
        "updates=8",
        "checkpoint.every=1",
    ]
    found = kill_at_file_operations(tmp_path, 3, *small("bcq"), *overrides, *more)
    assert found["kinds"]["change"] > 3 and found["killed"] > 3 and found["engine"] == "sparse"
    assert found["wrong"] == []


def test_a_run_reports_what_is_left_and_forgets_its_gates(cli, tmp_path):
    run_dir = tmp_path / "run"
    status, out, err = cli(*TINY, "prune=espn", "prune.every=1", f"run_dir={run_dir}")
    assert status == 0, err
    summary = json.loads((run_dir / "summary.json").read_text())
    header, *rows = [line.split(",") for line in (run_dir / "metrics.csv").read_text().splitlines()]
    column = [row[header.index("gates/left/decoder")] for row in rows]
    assert column == ["1.0", "", "", ""] and "gates/left/critic2" not in header  # at updates 10, 20, 30 and 40
    assert summary["gates/left/decoder"] == 1.0 and "network decoder: " in err and "raise prune.penalty" in err.lower()
    assert "masks are learned beside the weights" in out and "engine: sparse" in out
    memory = load_checkpoint(checkpoint_path(run_dir)).memory
    assert set(memory.numbers) == {f"{name}/left" for name in ("actor", "critic1", "encoder", "decoder")}


@pytest.mark.parametrize("method", ["espn", "slimming", "group_lasso"])
def test_networks_that_nothing_trains_are_pruned_by_size_and_without_a_warning(cli, tmp_path, method):
    command = [*TINY_RUN, *small("bc"), "agent.train_critic=false", f"prune={method}", "prune.every=1", "sparsity=0.5"]
    status, _, err = cli(*command, f"run_dir={tmp_path / 'run'}")
    assert status == 0, err
    assert "network decoder: " in err and "network actor: " not in err and "network critic1: " not in err
    kept = {
        it["name"]: it["kept"] / it["total"]
        for it in json.loads((tmp_path / "run" / "summary.json").read_text())["layers"]
    }
    assert kept["actor.hidden1"] < 0.6 and kept["actor.out"] > 0  # its units have the smaller weights from the start


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["prune=espn", "prune.learn=luck"], "prune.learn='luck' cannot be used: choose one of soft_mask"),
        (["prune=espn", "prune.start=0.5"], "prune.start=0.5 and prune.until=0.5 leave no time"),
        (["prune=espn", "prune.until=1.0"], "prune.until=1 leave no time"),
        (["prune=espn", "prune.rewind=3"], "prune.rewind=3 has no meaning with prune.after=finetune"),
        (["prune=espn", "prune.after=rewind", "prune.rewind=30"], "prune.rewind=30 must lie before"),
        (["prune=espn", "prune.score=snip"], "prune.score=snip has no meaning with prune.learn=soft_mask"),
        (["prune=slimming", "prune.scope=erk"], "prune.scope=erk has no meaning with prune.learn=unit_scale"),
        (["prune=espn", "prune.rounds=3"], "prune.rounds=3 is about masks found before training"),
        (["prune=espn", "sparsity=0"], "prune=espn with sparsity=0 would remove nothing"),
        (["prune=espn", "engine=sparse"], "engine=sparse cannot learn masks"),
        (["prune=espn", "prune.penalty=0", "prune.warmup=0.5"], "prune.warmup=0.5 has no meaning with prune.penalty=0"),
        (["prune=espn", "prune.gate_lr=0"], "prune.gate_lr=0 cannot be used"),
        (
            ["prune=espn", "prune.polarize=3"],
            "prune.polarize=3.0 has no meaning with prune.learn=soft_mask: leave it out.",
        ),
        (["prune=sensitivity", "prune.gate_lr=5"], "prune.gate_lr=5.0 has no meaning with prune.learn=sensitivity"),
        (["prune=espn", "prune.schedule=pipeline"], "so it comes with a method: take prune=pipeline and change"),
        (
            ["prune=snip", "prune.name=mine"],
            "prune.score=null stands for mine, which is no score: set prune.score to one of",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(refusal, overrides, sentence):
    assert sentence in refusal(*TINY, *overrides)
