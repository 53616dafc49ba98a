"""Minari datasets, by Minari's own writer and by ours, against the episodes that they were written from."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from dataset_files import Ep, episode, episodes, expected_rows, write_minari
from hypothesis import given, settings
from hypothesis import strategies as st
from test_datasets_transitions import assert_rows

from sparse_offline_rl.datasets import minari_source
from sparse_offline_rl.datasets.minari_source import read_minari
from sparse_offline_rl.datasets.minari_writer import EpisodeWriter
from sparse_offline_rl.datasets.rollouts import Episode
from sparse_offline_rl.errors import UserError

_numbers = itertools.count()


def new_id() -> str:
    return f"made-up/episodes{next(_numbers)}-v0"


def write_ours(dataset_id: str, made: list[Ep]) -> None:
    folder = Path(os.environ["MINARI_DATASETS_PATH"]) / dataset_id
    folder.mkdir(parents=True)
    env = gymnasium.make("Pendulum-v1")
    with EpisodeWriter(folder / "data", env) as writer:
        for number, ep in enumerate(made):
            ends = {"terminated": ep.end == "terminal", "truncated": ep.end == "timeout"}
            writer.add(Episode(number, ep.observations, ep.actions, ep.rewards, **ends))
        writer.finish({"dataset_id": dataset_id, "minari_version": minari.__version__, "author": {"test"}})
    env.close()


@settings(max_examples=25)
@given(episodes(), st.sampled_from([write_minari, write_ours]), st.integers(1, 40))
def test_every_row_is_that_of_its_episode(made, write, limit):
    dataset_id = new_id()
    write(dataset_id, made)
    data = read_minari(dataset_id, 10**9)
    assert_rows(data.transitions, expected_rows(made))
    assert data.env_spec.id == "Pendulum-v1"
    assert_rows(read_minari(dataset_id, limit).transitions, expected_rows(made)[:limit])


def test_minari_reads_what_we_write():
    made = [episode(3, "terminal"), episode(1, "timeout", 1), episode(5, "open", 2)]
    dataset_id = new_id()
    write_ours(dataset_id, made)
    dataset = minari.load_dataset(dataset_id)
    assert (dataset.total_episodes, dataset.total_steps) == (3, 9)
    for ep, read in zip(made, dataset.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(read.observations, ep.observations)
        np.testing.assert_array_equal(read.actions, ep.actions)
        np.testing.assert_array_equal(read.rewards, ep.rewards)
        assert read.terminations.tolist() == [False] * (ep.steps - 1) + [ep.end == "terminal"]
        assert read.truncations.tolist() == [False] * (ep.steps - 1) + [ep.end == "timeout"]
        assert dataset.action_space.contains(read.actions[0])
    assert [metadata["total_steps"] for metadata in dataset.storage.get_episode_metadata(range(3))] == [3, 1, 5]
    assert dataset_id in minari.list_local_datasets()
    dataset.recover_environment().close()
    combined = minari.combine_datasets([dataset, dataset], new_id())
    assert combined.total_steps == 18
    assert len(dataset.filter_episodes(lambda read: read.terminations[-1])) == 1


def test_reference_scores():
    dataset_id = new_id()
    write_minari(dataset_id, [episode(3, "terminal")], ref_min_score=-5.0, ref_max_score=7.0)
    assert read_minari(dataset_id, 10).reference_scores == (-5.0, 7.0)


def test_no_environment():
    dataset_id = new_id()
    write_minari(dataset_id, [episode(3, "terminal")], env=None)
    assert read_minari(dataset_id, 10).env_spec is None


def test_not_a_number():
    dataset_id = new_id()
    ep = episode(5, "terminal")
    ep.rewards[3] = np.nan
    write_minari(dataset_id, [ep])
    with pytest.raises(UserError, match=f"{dataset_id} .* rewards, .* row 3"):
        read_minari(dataset_id, 10)


BOX = gymnasium.spaces.Box
SPACES = {
    "images": ({"observation_space": BOX(0, 255, (64, 64, 3), np.uint8)}, r"Box observations of shape \(64, 64, 3\)"),
    "discrete actions": ({"action_space": gymnasium.spaces.Discrete(3)}, "Discrete actions"),
    "matrix actions": ({"action_space": BOX(-1, 1, (2, 2))}, r"Box actions of shape \(2, 2\)"),
}


@pytest.mark.parametrize("case", SPACES)
def test_other_spaces_are_refused(case):
    changes, words = SPACES[case]
    dataset_id = new_id()
    ep = episode(2, "terminal")
    if case == "images":
        ep = replace(ep, observations=np.zeros((3, 64, 64, 3), np.uint8))
    write_minari(dataset_id, [ep], env=None, **changes)
    with pytest.raises(UserError, match=f"{dataset_id} has {words}, but only one-dimensional Box"):
        read_minari(dataset_id, 10)


@pytest.mark.parametrize("name", ["no version", "made-up/x", "", "../x-v0", "hf://farama/x-v0"])
def test_a_malformed_id(name):
    with pytest.raises(UserError, match="form namespace/name-v0"):
        read_minari(name, 10)


def damaged(change) -> str:
    dataset_id = new_id()
    write_minari(dataset_id, [episode(20, "terminal"), episode(30, "timeout", 1)])
    change(Path(os.environ["MINARI_DATASETS_PATH"]) / dataset_id / "data")
    return dataset_id


def cut_file(data: Path) -> None:
    file = data / "main_data.hdf5"
    file.write_bytes(file.read_bytes()[:-2000])


def drop_array(data: Path) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        del file["episode_1/actions"]


def drop_observation(data: Path) -> None:
    with h5py.File(data / "main_data.hdf5", "a") as file:
        file["episode_1/observations"].resize((30, 3))


def claim_fewer_steps(data: Path) -> None:
    metadata = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps({**metadata, "total_steps": 40}))


def replace_array(name: str, change):
    def replace_it(data: Path) -> None:
        with h5py.File(data / "main_data.hdf5", "a") as file:
            values = change(file[f"episode_1/{name}"][()])
            del file[f"episode_1/{name}"]
            file[f"episode_1/{name}"] = values

    return replace_it


def write_metadata(text: str):
    return lambda data: (data / "metadata.json").write_text(text)


def change_metadata(**changes: object):
    def change(data: Path) -> None:
        metadata = json.loads((data / "metadata.json").read_text())
        (data / "metadata.json").write_text(json.dumps({**metadata, **changes}))

    return change


DAMAGE = {
    "truncated file": cut_file,
    "missing array": drop_array,
    "observations as long as actions": drop_observation,
    "more steps than the metadata says": claim_fewer_steps,
    "more episodes than there are": change_metadata(total_episodes=3),
    "no episodes": change_metadata(total_episodes=0),
    "unknown version": change_metadata(minari_version="9.9.9"),
    "no file": lambda data: (data / "main_data.hdf5").unlink(),
    "no metadata": lambda data: (data / "metadata.json").unlink(),
    "broken metadata": write_metadata("{"),
    "metadata is a list": write_metadata("[]"),
    "metadata is null": write_metadata("null"),
    "metadata is nested too deep": write_metadata("[" * 100_000),
    "a million million steps": change_metadata(total_steps=10**12),
    "some steps that are not there": change_metadata(total_steps=51),
    "a million million episodes": change_metadata(total_episodes=10**12),
    "fewer than no episodes": change_metadata(total_episodes=-1),
    "steps as text": change_metadata(total_steps="50"),
    "spaces as a list": change_metadata(observation_space=[]),
    "a space of no kind": change_metadata(observation_space='{"type": "Blob"}'),
    "an environment of no kind": change_metadata(env_spec='{"id": 3}'),
    "one reward for an episode": replace_array("rewards", lambda values: values[0]),
    "transposed observations": replace_array("observations", np.transpose),
    "terminations that are no flags": replace_array("terminations", lambda values: values.astype(np.int8) + 2),
    "truncations as fractions": replace_array("truncations", lambda values: values / 2),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_refused_in_a_sentence(case):
    dataset_id = damaged(DAMAGE[case])
    with pytest.raises(UserError, match=dataset_id) as error:
        read_minari(dataset_id, 10**9)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("total_steps", 10**12),
        ("total_steps", "50"),
        ("total_steps", None),
        ("total_episodes", -1),
        ("total_episodes", 10**6),
    ],
)
def test_counts_are_checked_before_memory_is_taken(name, count):
    dataset_id = damaged(change_metadata(**{name: count}))
    with pytest.raises(UserError, match=rf"metadata.json says {name}={count!r}, but main_data.hdf5 has \d+ bytes"):
        read_minari(dataset_id, 10**9)


def test_a_dataset_that_cannot_be_downloaded(monkeypatch, minari_root):
    monkeypatch.setenv("MINARI_REMOTE", "nowhere://none")
    with pytest.raises(UserError) as error:
        read_minari("mujoco/hopper/none-v0", 10)
    for words in ("mujoco/hopper/none-v0", str(minari_root), "minari download", "dataset=expert"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "mujoco/hopper/none-v0" not in minari.list_local_datasets(prefix="mujoco")
    assert not [path for path in minari_root.iterdir() if "staging" in path.name]


def test_a_download_appears_only_when_complete(monkeypatch, minari_root, tmp_path):
    write_minari("far/away-v0", [episode(4, "terminal")])
    shutil.move(minari_root / "far" / "away-v0", tmp_path / "remote")
    # Stands in for Minari in the downloading process, which the sandbox of the tests has no network for.
    (tmp_path / "minari.py").write_text(
        "import os, shutil\n"
        "def download_dataset(dataset_id):\n"
        "    target = os.path.join(os.environ['MINARI_DATASETS_PATH'], dataset_id)\n"
        f"    shutil.copytree({str(tmp_path / 'remote')!r}, target)\n"
        f"    assert not os.path.exists(os.path.join({str(minari_root)!r}, dataset_id))\n"
        f"    if os.path.exists({str(tmp_path / 'fail')!r}): raise OSError('connection lost')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "fail").touch()
    with pytest.raises(UserError, match="connection lost"):
        read_minari("far/away-v0", 10)
    assert not (minari_root / "far" / "away-v0").exists()
    (tmp_path / "fail").unlink()
    assert len(read_minari("far/away-v0", 10).transitions) == 4


def test_minari_in_arrow_format(monkeypatch):
    dataset_id = new_id()
    write_minari(dataset_id, [episode(4, "terminal")])
    monkeypatch.setattr(minari_source.MinariDataset, "storage", type("Storage", (), {"FORMAT": "arrow"}))
    with pytest.raises(UserError, match="stored as arrow"):
        read_minari(dataset_id, 10)


def test_reading_warns_of_nothing():
    dataset_id = new_id()
    write_minari(dataset_id, [episode(4, "terminal")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_minari(dataset_id, 10)
