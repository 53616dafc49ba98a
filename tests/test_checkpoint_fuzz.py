"""Checkpoints changed at random, with a digest that fits: each is read, or refused in a sentence that names the file."""

from __future__ import annotations

import json
import resource
from dataclasses import replace

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from test_damaged_runs import a_checkpoint

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.pruning.schedule import Memory
from sparse_offline_rl.training import checkpoint as checkpoint_module
from sparse_offline_rl.training.checkpoint import load_checkpoint, save_checkpoint

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Header and arrays of a checkpoint, and where to put changed ones."""
    path = tmp_path_factory.mktemp("checkpoints") / "state.safetensors"
    remembered = a_checkpoint().state
    numbers, mask = np.ones((2, 3), np.float32), np.eye(4, 9, dtype=bool)
    memory = Memory({"actor/out": numbers}, {"first/actor.out": mask, "ever/actor.out": ~mask}, remembered)
    progress = replace(a_checkpoint().progress, levels=[{"update": 1, "return_mean": 2.0}])
    save_checkpoint(path, replace(a_checkpoint(), memory=memory, progress=progress))
    with safetensors.safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["sparse_offline_rl"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    return path, header, arrays


def places(value, at=()):
    """Every path to a value inside of a JSON document."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


def replaced(value, at, new):
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(value[at[0]], at[1:], new)
    return copy


def outcome(path, header, arrays):
    """What reading says: nothing, or one sentence."""
    header = {**header, "sha256": checkpoint_module._digest(header, arrays)} if isinstance(header, dict) else header
    path.write_bytes(save(arrays, metadata={"sparse_offline_rl": json.dumps(header)}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        load_checkpoint(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kB


@settings(max_examples=300, deadline=5000)
@given(st.data())
def test_any_value_in_the_header(sound, data):
    path, header, arrays = sound
    header = {key: value for key, value in header.items() if key != "sha256"}
    at = data.draw(st.sampled_from([place for place in places(header) if place]))
    outcome(path, replaced(header, at, data.draw(JSON)), arrays)


@settings(max_examples=150, deadline=5000)
@given(st.data())
def test_any_array(sound, data):
    path, header, arrays = sound
    header = {key: value for key, value in header.items() if key != "sha256"}
    name = data.draw(st.sampled_from(sorted(arrays)))
    changed = dict(arrays)
    what = data.draw(st.sampled_from(["missing", "shorter", "another type", "other bytes", "a matrix"]))
    if what == "missing":
        del changed[name]
    elif what == "shorter":
        changed[name] = arrays[name][: data.draw(st.integers(0, max(0, len(arrays[name]) - 1)))]
    elif what == "another type":
        changed[name] = arrays[name].astype(data.draw(st.sampled_from([np.float64, np.int32, np.uint8])))
    elif what == "a matrix":
        changed[name] = arrays[name][None]
    else:
        draw = np.random.default_rng(data.draw(st.integers(0, 2**20)))
        changed[name] = np.frombuffer(draw.bytes(arrays[name].nbytes), arrays[name].dtype)
    outcome(path, header, changed)


@settings(max_examples=150, deadline=5000)
@given(st.data())
def test_any_byte(sound, data):
    path, header, arrays = sound
    bytes_ = bytearray(save(arrays, metadata={"sparse_offline_rl": json.dumps(header)}))
    for _ in range(data.draw(st.integers(1, 4))):
        bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes_[: data.draw(st.integers(0, len(bytes_)))] if data.draw(st.booleans()) else bytes_)
    try:
        load_checkpoint(path)
    except UserError as error:
        assert str(path) in str(error)
