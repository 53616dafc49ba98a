"""Runs that go on from a dense run: the same bits as all updates in one run, at the price of the last ones."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from conftest import TINY, TINY_RUN, small
from run_results import assert_same, kill_at_file_operations, run_result, trained

from sparse_offline_rl.reports.runs import read_run
from sparse_offline_rl.training.mask_changes import MaskChanges

LOGGED = ["log.every=4", "eval.every=8", "eval.episodes=2"]


def train(agent: str, run_dir, *more: str) -> list[str]:
    return [*TINY_RUN, *small(agent), *LOGGED, *more, f"run_dir={run_dir}"]


def done(cli, arguments):
    status, _, err = cli(*arguments)
    assert status == 0, err


@pytest.fixture(scope="module")
def dense_run(tmp_path_factory):
    """A dense BCQ run of 16 updates."""
    run_dir = tmp_path_factory.mktemp("pretrained") / "dense"
    trained(*train("bcq", run_dir, "prune=none", "sparsity=0", "updates=16"))
    return run_dir


METHODS = {
    "after_training": ["updates=32"],  # changes at 16, where the dense run ends
    "obs": ["updates=32", "prune.batches=2", "prune.levels=2", "prune.batch_size=32"],
    "kron_obd": ["updates=40", "prune.start=0.6", "prune.batches=2", "prune.levels=1", "prune.batch_size=32"],  # at 24
    "gradual": ["updates=40", "prune.every=8", "prune.start=0.4"],  # 16, 24
    "lottery": ["updates=40", "prune.levels=1"],  # goes back to the first weights
    "l0": ["updates=40", "prune.start=0.4", "prune.until=0.6", "prune.batch_size=32"],  # gates from 16 to 24
    "none": ["updates=24", "sparsity=0"],
}


@pytest.mark.parametrize("method", METHODS)
def test_going_on_gives_the_bits_of_one_run(cli, tmp_path, dense_run, method):
    whole, later = tmp_path / "whole", tmp_path / "later"
    settings = [f"prune={method}", *METHODS[method]]
    done(cli, train("bcq", whole, *settings))
    done(cli, train("bcq", later, *settings, f"pretrained={dense_run}"))
    assert_same(run_result(later), run_result(whole))


@pytest.mark.parametrize("method", ["obs", "lottery"])
def test_learning_rates_that_fall_go_on_falling(cli, tmp_path, method):
    dense, whole, later, constant = (tmp_path / name for name in ("dense", "whole", "later", "constant"))
    falling = "agent.lr_decay=40"
    done(cli, train("bcq", dense, "prune=none", "sparsity=0", "updates=16", falling))
    settings = [f"prune={method}", *METHODS[method]]
    done(cli, train("bcq", whole, *settings, falling))
    done(cli, train("bcq", later, *settings, falling, f"pretrained={dense}"))
    assert_same(run_result(later), run_result(whole))
    done(cli, train("bcq", constant, *settings))
    with pytest.raises(AssertionError):
        assert_same(run_result(constant), run_result(whole))


@pytest.mark.parametrize("method", ["gradual", "none", "after_training"])
def test_a_dense_run_may_end_where_this_one_neither_logs_nor_evaluates(cli, tmp_path, method):
    dense, whole, later = (tmp_path / name for name in ("dense", "whole", "later"))
    done(cli, train("bc", dense, "prune=none", "sparsity=0", "updates=14"))
    settings = [f"prune={method}", *METHODS[method], *(["updates=28"] if method == "after_training" else [])]
    done(cli, train("bc", whole, *settings))
    done(cli, train("bc", later, *settings, f"pretrained={dense}"))
    assert_same(run_result(later), run_result(whole))


def test_more_updates_of_a_dense_run_are_another_run_that_goes_on_from_it(cli, tmp_path, dense_run):
    hint = f"or choose another run_dir and pretrained={dense_run} to go on from it.\n"
    status, _, err = cli(*train("bcq", dense_run, "prune=none", "sparsity=0", "updates=24"))
    assert status == 2 and "(updates: stored 16, now 24)" in err and err.endswith(hint)
    for others in (["updates=8"], ["updates=24", "seed=1"], ["updates=24", "prune=snip", "sparsity=0.5"]):
        assert cli(*train("bcq", dense_run, "prune=none", "sparsity=0", *others))[2].endswith(
            "or choose another run_dir.\n"
        )


def test_a_change_where_the_dense_run_ends_is_in_the_seconds(cli, tmp_path, dense_run, monkeypatch):
    slow, change = 0.5, MaskChanges.change

    def slowly(*given):
        time.sleep(slow)
        return change(*given)

    monkeypatch.setattr(MaskChanges, "change", slowly)
    later = tmp_path / "later"
    done(cli, train("bcq", later, "prune=after_training", "updates=32", f"pretrained={dense_run}"))
    seconds = [json.loads((it / "summary.json").read_text())["train_seconds"] for it in (dense_run, later)]
    assert seconds[1] - seconds[0] > slow
    first = next(it.seconds for it in read_run(later, "run").evaluations if it.update == 16)
    assert first - seconds[0] > 0.9 * slow


def test_the_seconds_are_those_of_both(cli, tmp_path, dense_run):
    later = tmp_path / "later"
    done(cli, train("bcq", later, "prune=after_training", "updates=32", f"pretrained={dense_run}"))
    run, dense = (read_run(it, "run") for it in (later, dense_run))
    assert [it.update for it in run.evaluations] == [8, 16, 24, 32]
    assert run.evaluations[0].seconds == dense.evaluations[0].seconds < dense.evaluations[1].seconds
    seconds = [json.loads((it / "summary.json").read_text())["train_seconds"] for it in (dense_run, later)]
    assert 0 < seconds[0] < seconds[1]


def test_a_run_killed_anywhere_ends_with_the_same_bits(cli, tmp_path):
    dense = tmp_path / "dense"
    short = ["eval.every=2", "eval.episodes=2", "checkpoint.every=1", "log.every=1"]
    done(cli, [*TINY, *short, "prune=none", "sparsity=0", "updates=2", f"run_dir={dense}"])
    overrides = [*small("bcq"), "prune=after_training", "updates=4", f"pretrained={dense}"]
    found = kill_at_file_operations(tmp_path, 12, *overrides)
    assert found["killed"] > 8 and found["wrong"] == [] and found["engine"] == "sparse"


def test_a_finished_run_no_longer_needs_the_dense_one(cli, tmp_path):
    dense, later = tmp_path / "dense", tmp_path / "later"
    done(cli, train("bc", dense, "prune=none", "sparsity=0", "updates=8"))
    settings = ["prune=after_training", "updates=16", f"pretrained={dense}"]
    done(cli, train("bc", later, *settings))
    for path in sorted(dense.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    status, out, _ = cli(*train("bc", later, *settings))
    assert status == 0 and "already complete" in out


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["pretrained=/nowhere"], "pretrained=/nowhere is no finished run: give the folder of one."),
        (["pretrained="], "pretrained='' cannot be used"),
        ([f"pretrained=/{'x' * 300}"], "cannot be read (File name too long): give the folder of a finished run."),
        (["engine=sparse"], "ended on the dense engine, and this run would begin on the sparse one"),
        (["seed=1"], "is a run of another configuration (seed: stored 0, now 1): give this run the same, or choose"),
        (["eval.episodes=3"], "is a run of another configuration (eval.episodes: stored 2, now 3)"),
        (["agent.lr_decay=32"], "is a run of another configuration (agent.lr_decay: stored null, now 32)"),
        (["dataset.size=1500"], "was trained on other data than this run: choose a run of the same dataset."),
        (["updates=16"], "has done 16 updates, which count as this run's first, and updates=16 leaves none: raise"),
        (["prune=snip"], "prune=snip prunes before the first update, and "),
        (["prune=gradual", "prune.every=8"], "prune=gradual does something of its own after update 8, and "),
        (["prune=lottery", "prune.levels=1", "prune.rewind=4"], "does something of its own after update 4, and "),
        (["prune=none", "sparsity=0", "soft.until=0.2"], "soft.until=0.2 would have made the layers of pretrained="),
    ],
)
def test_a_run_that_this_one_cannot_go_on_from_is_one_sentence(refusal, dense_run, more, sentence):
    arguments = [*TINY, *LOGGED, "prune=after_training", "updates=32", f"pretrained={dense_run}", *more]
    assert sentence in refusal(*arguments)


def test_pruned_and_soft_runs_and_another_agent_are_refused(cli, refusal, tmp_path, dense_run):
    pruned = tmp_path / "pruned"
    done(cli, train("bcq", pruned, "updates=8"))
    asked = ["prune=after_training", "updates=32"]
    soft = tmp_path / "soft"
    done(cli, train("bcq", soft, "prune=none", "sparsity=0", "soft.until=0.5", "updates=8"))
    assert "had soft layers (soft.until=0.5): give the folder of a run without." in refusal(
        *TINY, *LOGGED, *asked, f"pretrained={soft}"
    )
    assert "was pruned (prune=snip): give the folder of a run with prune=none." in refusal(
        *TINY, *LOGGED, *asked, f"pretrained={pruned}"
    )
    error = refusal(*TINY_RUN, *small("td3bc"), *LOGGED, *asked, f"pretrained={dense_run}")
    assert "is agent=bcq, and this run is agent=td3bc: choose a run of the same agent." in error


def test_critics_that_pruning_makes_equal_are_refused(cli, refusal, tmp_path):
    dense = tmp_path / "dense"
    copies = ["agent.twin=copy", f"pretrained={dense}"]
    done(cli, train("bcq", dense, "prune=none", "sparsity=0", "updates=8", copies[0]))
    error = refusal(*TINY, *LOGGED, "prune=after_training", "updates=16", *copies)
    assert "began with other weights than this run would (agent.twin=copy): set agent.twin=copy_mask for both" in error
    done(cli, train("bcq", tmp_path / "denser", "prune=none", "sparsity=0", "updates=16", *copies))


def test_the_checkpoint_says_what_the_dense_run_was(refusal, tmp_path, dense_run):
    """Its config.yaml may have been written by hand."""
    dense = tmp_path / "dense"
    shutil.copytree(dense_run, dense)
    path = dense / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    error = refusal(*TINY, *LOGGED, "prune=after_training", "updates=32", "seed=1", f"pretrained={dense}")
    assert "(seed: stored 0, now 1)" in error
    (dense / "summary.json").write_text("{}")
    error = refusal(*TINY, *LOGGED, "prune=after_training", "updates=32", f"pretrained={dense}")
    assert f"{dense / 'summary.json'} is damaged (" in error


def test_damaged_logs_of_the_dense_run_are_one_sentence(cli, refusal, tmp_path):
    dense = tmp_path / "dense"
    done(cli, train("bc", dense, "prune=none", "sparsity=0", "updates=8"))
    path = dense / "metrics.csv"
    path.write_bytes(path.read_bytes().replace(b"8,", b"9,", 1))
    arguments = [*TINY_RUN, *small("bc"), *LOGGED, "prune=after_training", "updates=16", f"pretrained={dense}"]
    assert f"{path} is not what its run had written: restore it, or choose another run." in refusal(*arguments)
    path.unlink()
    assert f"{path} cannot be read" in refusal(*arguments)
