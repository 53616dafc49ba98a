"""Datasets that are damaged at random: a sentence or a dataset, in bounded time and memory, and nothing else."""

from __future__ import annotations

import json
import os
import resource
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import h5py
import pytest
from dataset_files import episode, write_d4rl, write_minari
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_datasets_minari import new_id

from sparse_offline_rl.config import DatasetConfig, EnvConfig
from sparse_offline_rl.datasets.d4rl import read_d4rl
from sparse_offline_rl.datasets.load import load_dataset
from sparse_offline_rl.errors import UserError

MADE = [episode(20, "terminal"), episode(10, "timeout", 1)]
MEMORY = 256_000  # kB more than before, at most; the files have 30
FUZZ = settings(
    max_examples=150,
    deadline=timedelta(seconds=10),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY


def read_or_refuse(read, *arguments: object) -> None:
    """Any other exception than the project's own fails the test."""
    try:
        read(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1


def load(dataset_id: str) -> None:
    load_dataset(DatasetConfig(name="minari", id=dataset_id), EnvConfig(name="from_dataset", id=None))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A few bytes are others, or the end is missing."""
    found = bytearray(content)
    for place in draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        found[place] = draw(st.sampled_from([0, 255, found[place] ^ (1 << draw(st.integers(0, 7)))]))
    return bytes(found[: draw(st.sampled_from([len(found), draw(st.integers(0, len(found)))]))])


@pytest.fixture(scope="module")
def minari_folder(minari_root) -> tuple[str, Path]:
    dataset_id = new_id()
    write_minari(dataset_id, MADE, ref_min_score=0.0, ref_max_score=1.0)
    return dataset_id, Path(os.environ["MINARI_DATASETS_PATH"]) / dataset_id / "data"


@FUZZ
@given(st.data())
def test_bytes_of_a_minari_file(minari_folder, data):
    dataset_id, folder = minari_folder
    file = folder / "main_data.hdf5"
    whole = file.read_bytes()
    try:
        file.write_bytes(data.draw(damaged(whole)))
        read_or_refuse(load, dataset_id)
    finally:
        file.write_bytes(whole)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 10**6, 10**12, 10**400])
    | st.floats()
    | st.text("xyz0.:-/[é\n", max_size=6)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=2)
)


@st.composite
def mutated(draw: st.DrawFn, value: object) -> object:
    """``value`` with something in it replaced or left out, also in a string that holds JSON itself."""
    if isinstance(value, str):
        with suppress(ValueError):
            return json.dumps(draw(mutated(json.loads(value))))
    if isinstance(value, (dict, list)) and value and draw(st.integers(0, 5)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, changed = draw(st.sampled_from(keys)), value.copy()
        if draw(st.integers(0, 4)):
            changed[key] = draw(mutated(value[key]))
        else:
            del changed[key]
        return changed
    return draw(VALUES)


@FUZZ
@given(st.data())
def test_the_metadata_of_minari(minari_folder, data):
    dataset_id, folder = minari_folder
    file = folder / "metadata.json"
    whole = file.read_text()
    try:
        text = json.dumps(data.draw(mutated(json.loads(whole))))
        file.write_bytes(data.draw(st.just(text.encode()) | damaged(whole.encode())))
        read_or_refuse(load, dataset_id)
    finally:
        file.write_text(whole)


@FUZZ
@given(st.data())
def test_bytes_of_a_d4rl_file(data):
    with tempfile.TemporaryDirectory() as folder:
        path = write_d4rl(Path(folder) / "x.hdf5", MADE, successors=data.draw(st.booleans()))
        path.write_bytes(data.draw(damaged(path.read_bytes())))
        read_or_refuse(read_d4rl, path, 200)


SHAPES = st.sampled_from([(), (0,), (5,), (5, 1), (5, 3), (4, 3), (5, 0), (5, 2, 2)])
DTYPES = st.sampled_from(["f2", "f4", "f8", "i1", "u8", "?", "c8", "S3", ">f4"])
ARRAYS = st.tuples(DTYPES, SHAPES).flatmap(lambda kind: arrays.arrays(*kind)) | arrays.arrays("f4", (5, 3))


@FUZZ
@given(
    st.fixed_dictionaries(
        dict.fromkeys(("observations", "actions", "rewards", "terminals"), ARRAYS),
        optional=dict.fromkeys(("timeouts", "next_observations"), ARRAYS),
    )
)
def test_arrays_of_a_d4rl_file(found):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.hdf5"
        with h5py.File(path, "w") as file:
            for name, values in found.items():
                file[name] = values
        read_or_refuse(read_d4rl, path, 3)
