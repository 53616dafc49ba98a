"""D4RL files in every layout, against the episodes that they were written from."""

from __future__ import annotations

import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from dataset_files import Ep, episode, episodes, expected_rows, write_arrays, write_d4rl
from hypothesis import given
from hypothesis import strategies as st
from test_datasets_transitions import assert_rows

from sparse_offline_rl.datasets.d4rl import read_d4rl
from sparse_offline_rl.datasets.rewards import mean_return
from sparse_offline_rl.errors import UserError

LIMIT = 6


def rows_without_successors(made: list[Ep], limit: int | None = None) -> list:
    """A row that ends an episode without a terminal is dropped; a terminal row keeps its own observation.

    Where a time limit (a flag, or ``limit`` steps) ended the episode, the row before the dropped one ends it.
    """
    rows = []
    for ep in made:
        timed_out = ep.end == "timeout" or (ep.end == "open" and ep.steps == limit)
        for index, row in enumerate(expected_rows([ep])):
            if index < ep.steps - 1:
                rows.append((*row[:5], timed_out and index == ep.steps - 2))
            elif ep.end == "terminal":
                rows.append((*row[:3], row[0], *row[4:]))
    return rows


@given(episodes(LIMIT), st.booleans(), st.booleans())
def test_every_row_is_that_of_its_episode(made, timeouts, successors):
    expected = expected_rows(made) if successors else rows_without_successors(made, None if timeouts else LIMIT)
    if made[-1].end == "open" and made[-1].steps == LIMIT and not timeouts:
        expected = [*expected[:-1], (*expected[-1][:5], True)] if successors else expected  # by the count it timed out
    with tempfile.TemporaryDirectory() as folder:
        path = write_d4rl(Path(folder) / "made_up-v2.hdf5", made, timeouts=timeouts, successors=successors)
        if not expected:
            with pytest.raises(UserError, match="no transition with a known next observation"):
                read_d4rl(path, LIMIT)
            return
        data, name = read_d4rl(path, LIMIT)
    assert name == "made_up-v2"
    assert_rows(data, expected)


def test_without_timeouts_and_limit_only_terminals_split(tmp_path):
    made = [episode(9, "terminal"), episode(4, "terminal", 1)]
    data, _ = read_d4rl(write_d4rl(tmp_path / "x.hdf5", made, timeouts=False), None)
    assert_rows(data, rows_without_successors(made))


def test_returns_do_not_depend_on_whether_successors_are_stored(tmp_path):
    """But for the last reward of each episode that a time limit ended, whose row has no successor."""
    made = [episode(5, "timeout"), episode(7, "timeout", 1), episode(3, "terminal", 2), episode(4, "open", 3)]
    whole = [float(np.float64(ep.rewards.astype(np.float32)).sum()) for ep in made[:3]]
    cut = [float(np.float64(ep.rewards[:-1].astype(np.float32)).sum()) for ep in made[:2]] + whole[2:]
    stored, _ = read_d4rl(write_d4rl(tmp_path / "x.hdf5", made, successors=True), None)
    found, _ = read_d4rl(write_d4rl(tmp_path / "y.hdf5", made), None)
    assert mean_return(stored) == pytest.approx(np.mean(whole))
    assert mean_return(found) == pytest.approx(np.mean(cut))


def test_flags_as_numbers_and_columns(tmp_path):
    made = [episode(4, "terminal"), episode(3, "timeout", 1)]
    path = write_d4rl(tmp_path / "x.hdf5", made)
    with h5py.File(path, "r") as file:
        arrays = {name: file[name][()] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    for name in ("rewards", "terminals", "timeouts"):
        arrays[name] = arrays[name].astype(np.float64)[:, None]
    data, _ = read_d4rl(write_arrays(tmp_path / "y.hdf5", arrays), None)
    assert_rows(data, rows_without_successors(made))


def arrays(rows: int = 5) -> dict[str, np.ndarray]:
    return {
        "observations": np.zeros((rows, 3), np.float32),
        "actions": np.zeros((rows, 1), np.float32),
        "rewards": np.zeros(rows, np.float32),
        "terminals": np.zeros(rows, bool),
    }


BROKEN = {
    "lacks an array": ({"terminals": None}, "lacks the array 'terminals'"),
    "a group for an array": ({"rewards": None, "rewards/x": np.zeros(5)}, "lacks the array 'rewards'"),
    "too short": ({"actions": np.zeros((4, 1))}, r"5 rows, but 'actions' has shape \(4, 1\)"),
    "too short successors": ({"next_observations": np.zeros((4, 3))}, r"'next_observations' has shape \(4, 3\)"),
    "narrow successors": ({"next_observations": np.zeros((5, 2))}, "differ in shape"),
    "empty": (dict(arrays(0)), "is empty"),
    "images": ({"observations": np.zeros((5, 8, 8, 3), np.uint8)}, r"'observations' has shape \(5, 8, 8, 3\)"),
    "text": ({"observations": np.full((5, 3), b"x")}, "'observations' has shape"),
    "a scalar": ({"rewards": np.float32(1)}, r"'rewards' has shape \(\)"),
    "wide rewards": ({"rewards": np.zeros((5, 2))}, r"'rewards' has shape \(5, 2\)"),
    "a terminal that is none": (
        {"terminals": np.array([0, 1, 0, np.nan, 0])},
        r"values other than 0 and 1 in 1 rows of 'terminals', the first of them nan in row 3",
    ),
    "half a terminal": ({"terminals": np.array([0, 0.5, 0.5, 0, 1])}, "2 rows of 'terminals', .* 0.5 in row 1"),
    "a timeout of two": ({"timeouts": np.array([[0], [0], [0], [0], [2]])}, "'timeouts', .* 2 in row 4"),
    "beyond float32": ({"observations": np.full((5, 3), 1e300)}, "infinity .* 5 rows of its observations"),
    "nan": ({"rewards": np.array([0, 0, np.nan, 0, 0])}, "1 rows of its rewards, .* row 2"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_a_sentence(tmp_path, case):
    changes, words = BROKEN[case]
    broken = {name: values for name, values in {**arrays(), **changes}.items() if values is not None}
    path = tmp_path / "broken.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in broken.items():
            file.create_dataset(name, data=values)
    with pytest.raises(UserError, match=words) as error:
        read_d4rl(path, None)
    assert str(path) in str(error.value)
    assert str(error.value).endswith(".")


def test_files_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.hdf5 does not exist"):
        read_d4rl(tmp_path / "nowhere.hdf5", None)
    with pytest.raises(UserError, match="is a folder"):
        read_d4rl(tmp_path, None)
    text = tmp_path / "text.hdf5"
    text.write_text("not at all")
    with pytest.raises(UserError, match=r"text\.hdf5 is not an HDF5 file"):
        read_d4rl(text, None)


def test_arrays_that_the_file_cannot_hold(tmp_path):
    """HDF5 would fill the rows that were never written: 800 GB from a file of some kilobytes."""
    path = tmp_path / "huge.hdf5"
    with h5py.File(path, "w") as file:
        for name, values in arrays().items():
            shape = (10**10, *values.shape[1:])
            file.create_dataset(name, shape, values.dtype, chunks=(1000, *values.shape[1:]))
    with pytest.raises(
        UserError, match=r"huge\.hdf5 is damaged: its arrays claim \d+ bytes, which a file of \d+ bytes"
    ):
        read_d4rl(path, None)


def test_a_truncated_file(tmp_path):
    path = write_d4rl(tmp_path / "x.hdf5", [episode(500, "terminal")])
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(UserError, match=r"x\.hdf5 is truncated"):
        read_d4rl(path, None)


def test_damage_inside_the_data(tmp_path):
    path = write_d4rl(tmp_path / "x.hdf5", [episode(500, "terminal")])
    with h5py.File(path, "r") as file:
        where = file["observations"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[where.byte_offset : where.byte_offset + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        read_d4rl(path, None)
