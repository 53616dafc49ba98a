"""The study of Jacobians before training: its CSV says what the networks of such a run have, and its figure is there."""

from __future__ import annotations

import csv
import sys

import numpy as np
import pytest
from conftest import ROOT, TINY_RUN, small

from sparse_offline_rl.networks.jacobian import singular_values
from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint

sys.path.insert(0, str(ROOT / "scripts"))
import jacobian_study

OPTIONS = ["env=hopper", "agent=td3bc", "size=1000"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jacobian_study, "PRUNERS", ("random", "snip"))
        patch.setattr(jacobian_study, "SPARSITIES", (0.0, 0.9))
        patch.setattr(jacobian_study, "INITS", ("default", "isometry"))
        patch.setattr(sys, "argv", ["jacobian_study.py", *OPTIONS, f"out={folder}"])
        jacobian_study.main()
    with (folder / "jacobian.csv").open() as file:
        return folder, list(csv.DictReader(file))


def test_each_combination_is_a_row_and_isometry_brings_the_values_nearer_to_one(study):
    folder, rows = study
    keys = {(row["network"], row["pruner"], float(row["sparsity"]), row["init"]) for row in rows}
    assert len(keys) == len(rows) == 3 * 2 * 2 * 2
    assert (folder / "jacobian.png").read_bytes().startswith(b"\x89PNG")

    def mean(init: str, pruner: str) -> float:
        (row,) = (
            r for r in rows if (r["network"], r["init"], r["pruner"], r["sparsity"]) == ("actor", init, pruner, "0.9")
        )
        return float(row["mean"])

    assert mean("default", "random") < 0.01 < mean("isometry", "random") < 1.5
    assert mean("default", "snip") > mean("default", "random")


def test_a_row_is_what_a_run_of_these_keys_begins_with(study, cli, tmp_path):
    _, rows = study
    sizes = [text for text in small("td3bc") if text.startswith("agent=")]  # the networks as they are
    keys = [
        text
        for text in TINY_RUN
        if text.partition("=")[0] not in ("prune", "sparsity", "updates", "dataset.size", "batch_size")
    ]
    run_dir = tmp_path / "run"
    command = [
        *keys,
        *sizes,
        "dataset.size=1000",
        "prune=snip",
        "sparsity=0.9",
        "updates=1",
        "agent.actor_lr=1e-20",
        "agent.critic_lr=1e-20",
    ]
    status, _, err = cli(*command, "eval.episodes=1", f"run_dir={run_dir}")
    assert status == 0, err
    network: NetworkState = load_checkpoint(checkpoint_path(run_dir)).state.networks["actor"]
    inputs = np.random.default_rng(0).standard_normal((200, network.topology.in_features)).astype(np.float32)
    (row,) = (
        r for r in rows if (r["network"], r["pruner"], r["sparsity"], r["init"]) == ("actor", "snip", "0.9", "default")
    )
    assert float(row["mean"]) == pytest.approx(float(singular_values(network, inputs).mean()), rel=1e-5)
