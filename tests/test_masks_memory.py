"""What a schedule remembers: in checkpoints and out of them, refused where it cannot be, and never more of it than at the start."""

from __future__ import annotations

import gc
import json
import shutil
import tracemalloc
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from helpers import flat, on_engine, random_batch, small_agent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mask_changes import begin, moment, schedule
from test_checkpoint_claims import repaired
from test_damaged_runs import a_checkpoint

from sparse_offline_rl import experiment
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.engines.selection import choose_engine, choose_update
from sparse_offline_rl.pruning.schedule import Memory, observed
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint

names = st.sampled_from(["actor/hidden0", "actor/threshold", "critic1/out", "decoder/log_std"])
kinds = st.sampled_from(["first", "ever"])


@st.composite
def memories(draw):
    seed = np.random.default_rng(draw(st.integers(0, 2**16)))
    shapes = st.tuples(st.integers(1, 20), st.integers(1, 20))
    numbers = {
        key: seed.normal(size=draw(shapes)[: draw(st.integers(1, 2))]).astype(np.float32)
        for key in draw(st.sets(names))
    }
    density = draw(st.sampled_from([0.0, 0.03, 0.5, 1.0]))
    masks = {
        f"{draw(kinds)}/{key.replace('/', '.')}": seed.random(draw(shapes)) < density for key in draw(st.sets(names))
    }
    return Memory(numbers, masks, a_checkpoint().state if draw(st.booleans()) else None)


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(memories())
def test_a_memory_comes_back_as_it_went(tmp_path, memory):
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, replace(a_checkpoint(), memory=memory))
    loaded = load_checkpoint(path).memory
    for ours, theirs in ((memory.numbers, loaded.numbers), (memory.masks, loaded.masks)):
        assert list(ours) == list(theirs)
        assert all(
            np.array_equal(array, theirs[key]) and array.dtype == theirs[key].dtype for key, array in ours.items()
        )
    assert (memory.rewind is None) == (loaded.rewind is None)
    if memory.rewind is not None:
        wanted, found = flat(memory.rewind), flat(loaded.rewind)
        assert list(wanted) == list(found) and all(torch.equal(vector, found[key]) for key, vector in wanted.items())
        assert memory.rewind.steps == loaded.rewind.steps


def test_a_checkpoint_without_a_memory_is_as_it_always_was(tmp_path):
    """Older ones have no word of it, and those of runs whose masks stay have none either."""
    path = tmp_path / "state.safetensors"
    save_checkpoint(path, a_checkpoint())
    assert b"memory" not in path.read_bytes()
    repaired(path, lambda header, arrays: header["progress"].pop("levels"))
    loaded = load_checkpoint(path)
    assert loaded.memory == Memory() and list(loaded.progress.levels) == []


RUNS = {
    "rigl": ["prune=rigl", "prune.every=5", "prune.until=0.8"],
    "dsr": ["prune=dsr", "prune.every=5", "prune.until=0.8"],
    "deepr": ["prune=deepr", "prune.every=5", "prune.until=0.8"],
    "lottery": ["prune=lottery", "prune.levels=1"],
}
SHORT = ["updates=10", "eval.every=10"]


def header_of_rewind(header):
    return header["memory"]["rewind"]


WRONG = {
    "no memory": ("rigl", lambda h, a: h.pop("memory")),
    "a memory that is a list": ("rigl", lambda h, a: h.update(memory=[])),
    "no masks": ("rigl", lambda h, a: h["memory"].update(masks={})),
    "a mask less": ("rigl", lambda h, a: h["memory"]["masks"].pop("ever/actor.hidden0")),
    "a mask of nothing": ("rigl", lambda h, a: h["memory"]["masks"].update({"ever/other.out": [24, 32]})),
    "a mask of another shape": ("rigl", lambda h, a: h["memory"]["masks"].update({"ever/actor.hidden0": [3, 3]})),
    "a mask of a billion": ("rigl", lambda h, a: h["memory"]["masks"].update({"ever/actor.hidden0": [2**20, 2**20]})),
    "no code of a mask": ("rigl", lambda h, a: a.pop("memory/mask/first/actor.out")),
    "never kept and there": (
        "rigl",
        lambda h, a: a.update({"memory/mask/ever/critic1.hidden1": a["memory/mask/first/critic1.hidden1"]}),
    ),
    "a state that is not gone back to": ("rigl", lambda h, a: h["memory"].update(rewind={**EMPTY})),
    "numbers of nothing": ("rigl", lambda h, a: h["memory"].update(numbers=["actor/threshold"])),
    "numbers that nobody asked for": (
        "rigl",
        lambda h, a: with_numbers(h, a, "actor/threshold", np.ones(1, np.float32)),
    ),
    "no threshold": ("dsr", lambda h, a: h["memory"]["numbers"].remove("actor/threshold")),
    "two thresholds": ("dsr", lambda h, a: a.update({"memory/number/actor/threshold": np.ones(2, np.float32)})),
    "no number for a threshold": (
        "dsr",
        lambda h, a: a.update({"memory/number/actor/threshold": np.full(1, np.nan, np.float32)}),
    ),
    "signs of another shape": (
        "deepr",
        lambda h, a: a.update({"memory/number/actor/out": np.ones((3, 3), np.float32)}),
    ),
    "signs in float64": ("deepr", lambda h, a: a.update({"memory/number/actor/out": np.ones((3, 24))})),
    "nothing to go back to": ("lottery", lambda h, a: h["memory"].update(rewind=None)),
    "a network less to go back to": ("lottery", lambda h, a: header_of_rewind(h)["networks"].pop("actor")),
    "no steps to go back to": ("lottery", lambda h, a: header_of_rewind(h).update(steps={})),
    "values of another length": (
        "lottery",
        lambda h, a: a.update({"memory/rewind/network/actor/values": np.zeros(3, np.float32)}),
    ),
    "no target to go back to": ("lottery", lambda h, a: a.pop("memory/rewind/network/actor/target")),
    "levels as text": ("lottery", lambda h, a: h["progress"].update(levels=["good"])),
    "a level without its update": ("lottery", lambda h, a: h["progress"]["levels"][0].pop("update")),
}
EMPTY = {"steps": {}, "networks": {}, "parameters": [], "buffers": []}


def with_numbers(header, arrays, key, numbers):
    header["memory"]["numbers"].append(key)
    arrays[f"memory/number/{key}"] = numbers


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """The run folder of each method without its summary."""
    folders = {}
    for method, overrides in RUNS.items():
        folders[method] = tmp_path_factory.mktemp("unfinished") / method
        experiment.run(config_of([*TINY, *overrides, *SHORT, f"run_dir={folders[method]}"]))
        (folders[method] / "summary.json").unlink()
    return folders


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_memory_is_a_sentence(cli, tmp_path, unfinished, wrong):
    method, change = WRONG[wrong]
    run_dir = tmp_path / "run"
    shutil.copytree(unfinished[method], run_dir)
    repaired(checkpoint_path(run_dir), change)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    status, _, err = cli(*TINY, *RUNS[method], *SHORT, f"run_dir={run_dir}")
    assert status == 2, err
    (sentence,) = (line for line in err.splitlines() if line and not line.startswith("warning: "))
    assert sentence.startswith("error: ") and str(run_dir) in sentence
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize("method", RUNS)
def test_the_memory_of_a_run_is_one_that_it_accepts(cli, tmp_path, unfinished, method):
    run_dir = tmp_path / "run"
    shutil.copytree(unfinished[method], run_dir)
    status, _, err = cli(*TINY, *RUNS[method], *SHORT, f"run_dir={run_dir}")
    assert status == 0, err
    assert "levels" in json.loads((run_dir / "summary.json").read_text())


def test_a_thousand_changes_take_no_more_memory_than_ten():
    """With the agents on their engine and their updates recorded: those of earlier masks are released.

    The last 900 changes add no object of Python, and to the process less than 10 kB each, which is what its allocator keeps by chance.
    """
    agent = small_agent("td3bc", actor_hidden=(8, 8), critic_hidden=(8, 8))
    plan = schedule("deepr", 0.8, updates=10**6, every=1, until=1.0)
    change, update, earlier, sizes, resident = begin(plan, agent), None, [], [], []
    engine, batch, draws = choose_engine("sparse", "cpu", 0.2), random_batch(4), torch.Generator().manual_seed(0)
    tracemalloc.start()
    for count in range(1, 1001):
        change = observed(plan.change(moment(agent, change.state, count, change.memory, count)))
        if count % 50 == 0:  # to record takes most of the time of this test
            learner = on_engine(agent, change.state, engine)
            update = choose_update(learner, "sparse", True, update)
            for _ in range(2):
                update(batch, draws)
            change = replace(change, state=learner.state())
            earlier.append(weakref.ref(update))
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    tracemalloc.stop()
    assert sum(reference() is not None for reference in earlier) == 1
    assert sizes[-1] < sizes[1] + 100_000, sizes
    assert resident[-1] < resident[1] + 900 * 10_000, resident
    assert len(change.memory.masks) == 2 * sum(len(it.topology.layers) for it in change.state.networks.values())
