"""``load_dataset``: the one door, and every way to be turned away at it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from dataset_files import Ep, episode, expected_rows, write_d4rl, write_minari
from test_datasets_minari import new_id
from test_datasets_transitions import assert_rows

from sparse_offline_rl.config import DatasetConfig, EnvConfig
from sparse_offline_rl.datasets.load import LoadedDataset, load_dataset
from sparse_offline_rl.errors import UserError

MADE = [episode(4, "terminal"), episode(6, "timeout", 1), episode(3, "open", 2)]
FROM_DATASET = {"name": "from_dataset", "id": None}
PENDULUM = {"name": "from_dataset", "id": "Pendulum-v1"}
HOPPER = {"name": "hopper", "id": "Hopper-v5", "reference_min_score": -20.272305, "reference_max_score": 3234.3}


def load(env: dict, **dataset: object) -> LoadedDataset:
    return load_dataset(DatasetConfig(**dataset), EnvConfig(**env))


def minari_dataset(made: list[Ep] = MADE, **options: object) -> str:
    dataset_id = new_id()
    write_minari(dataset_id, made, **options)
    return dataset_id


def test_bundled():
    loaded = load(HOPPER, name="medium", size=300, seed=3)
    assert loaded.name == "sparse-offline-rl/hopper/medium-300-seed3-v0"
    assert (loaded.env_id, loaded.env_kwargs) == ("Hopper-v5", {})
    assert (len(loaded.transitions), loaded.spaces.observation_dim, loaded.spaces.action_dim) == (300, 11, 3)
    assert (loaded.reference_min_score, loaded.reference_max_score) == (-20.272305, 3234.3)
    again = load({"name": "hopper", "id": None}, name="medium", size=300, seed=3)
    np.testing.assert_array_equal(again.transitions.observations, loaded.transitions.observations)
    assert again.reference_max_score == 3234.3


def test_minari_brings_its_environment():
    dataset_id = minari_dataset(ref_min_score=-1600.0, ref_max_score=-150.0)
    loaded = load(FROM_DATASET, name="minari", id=dataset_id)
    assert_rows(loaded.transitions, expected_rows(MADE))
    assert (loaded.env_id, loaded.name) == ("Pendulum-v1", dataset_id)
    assert (loaded.reference_min_score, loaded.reference_max_score) == (-1600.0, -150.0)
    assert loaded.spaces.action_low.tolist() == [-2.0]
    assert_rows(load(FROM_DATASET, name="minari", id=dataset_id, size=5).transitions, expected_rows(MADE)[:5])
    given = {**FROM_DATASET, "reference_min_score": 0.0, "reference_max_score": 1.0}
    assert load(given, name="minari", id=dataset_id).reference_max_score == 1.0


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (5.0, 5.0),
        (7, -5),
        ("0", "1"),
        (None, 1.0),
        (True, 2.0),
        (float("nan"), 1.0),
        pytest.param(0, 10**400, id="beyond float64"),
    ],
)
def test_reference_scores_that_give_no_score_are_refused(low, high):
    dataset_id = minari_dataset(ref_min_score=0.0, ref_max_score=1.0)
    path = Path(os.environ["MINARI_DATASETS_PATH"]) / dataset_id / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ref_min_score": low, "ref_max_score": high}))
    with pytest.raises(UserError, match=f"{dataset_id} .*ref_min_score.*set env.reference_min_score"):
        load(FROM_DATASET, name="minari", id=dataset_id)
    given = {**FROM_DATASET, "reference_min_score": 0.0, "reference_max_score": 1.0}
    assert load(given, name="minari", id=dataset_id).reference_max_score == 1.0


def test_a_missing_package_of_the_environment_is_named():
    dataset_id = minari_dataset()
    path = Path(os.environ["MINARI_DATASETS_PATH"]) / dataset_id / "data" / "metadata.json"
    path.write_text(
        path.read_text()
        .replace("gymnasium.envs.classic_control", "absent_robots.envs")
        .replace("Pendulum-v1", "Maze-v7")
    )
    with pytest.raises(UserError, match=r"needs the module 'absent_robots\.envs\.pendulum'"):
        load(FROM_DATASET, name="minari", id=dataset_id)


def test_minari_brings_its_environments_arguments():
    spec = gymnasium.make("Pendulum-v1", g=3.0, max_episode_steps=50).spec
    loaded = load(FROM_DATASET, name="minari", id=minari_dataset(env=spec))
    assert loaded.env_kwargs == {"g": 3.0, "max_episode_steps": 50}
    env = gymnasium.make(loaded.env_id, **loaded.env_kwargs)
    assert (env.unwrapped.g, env.spec.max_episode_steps) == (3.0, 50)


def test_minari_without_environment_takes_the_given_one():
    dataset_id = minari_dataset(env=None)
    assert load(PENDULUM, name="minari", id=dataset_id).env_id == "Pendulum-v1"
    with pytest.raises(UserError, match=r"does not name its environment: set env\.id"):
        load(FROM_DATASET, name="minari", id=dataset_id)


def test_d4rl(tmp_path):
    path = write_d4rl(tmp_path / "pendulum-v2.hdf5", MADE, successors=True)
    loaded = load(PENDULUM, name="d4rl", path=str(path))
    assert_rows(loaded.transitions, expected_rows(MADE))
    assert (loaded.name, loaded.env_id, loaded.reference_max_score) == ("pendulum-v2", "Pendulum-v1", None)
    assert len(load(PENDULUM, name="d4rl", path=str(path), size=5).transitions) == 5


def test_d4rl_without_timeouts_splits_by_the_environments_limit(tmp_path):
    path = write_d4rl(tmp_path / "v0.hdf5", [episode(500, "timeout")], timeouts=False)  # Pendulum-v1 stops at 200
    loaded = load(PENDULUM, name="d4rl", path=str(path))
    assert len(loaded.transitions) == 497  # rows 199, 399 and the last have no successor


USER_MODULE = """
import gymnasium
import numpy as np

class Point(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = self.np_random.normal(size=2).astype(np.float32)
        return self.at, {}

    def step(self, action):
        self.at = self.at + action
        return self.at, float(self.at[0]), bool(self.at[1] > 20), False, {}

gymnasium.register("Point-v0", Point, max_episode_steps=30)
gymnasium.register("ByFunction-v0", lambda: Point())
"""


def test_an_environment_that_the_user_registered(tmp_path, monkeypatch):
    (tmp_path / "point_module.py").write_text(USER_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    script = """
import sys
from sparse_offline_rl.cli import generate_dataset
from sparse_offline_rl.config import DatasetConfig, EnvConfig
from sparse_offline_rl.datasets.load import load_dataset
if sys.argv[1] == "generate":
    generate_dataset.main(["dataset=random", "size=100", *sys.argv[2:]])
else:
    print(load_dataset(DatasetConfig(name="minari", id=sys.argv[2]), EnvConfig(name="from_dataset", id=None)).env_id)
"""

    def run(*arguments: str) -> str:
        result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
        return result.stdout + result.stderr

    assert "100 transitions" in run("generate", "env_id=point_module:Point-v0", "id=my/point-v0")
    assert run("load", "my/point-v0") == "point_module:Point-v0\n"  # in a process that has not imported the module
    function = run("generate", "env_id=point_module:ByFunction-v0", "id=my/function-v0")
    assert "registered with a function" in function
    monkeypatch.delenv("PYTHONPATH")
    with pytest.raises(UserError, match=r"point_module.*|Point-v0 is not registered"):
        load(FROM_DATASET, name="minari", id="my/point-v0")


def out_of_bounds(value: float) -> list[Ep]:
    ep = episode(5, "terminal")
    ep.actions[3, 0] = value
    return [ep]


def test_actions_outside_the_bounds():
    dataset_id = minari_dataset(out_of_bounds(-2.5))
    with pytest.raises(UserError) as error:
        load(FROM_DATASET, name="minari", id=dataset_id)
    for words in ("row 3", "dimension 0", "-2.5", "-2 to 2", "dataset.out_of_bounds=clip", "Pendulum-v1"):
        assert words in str(error.value)
    clipped = load(FROM_DATASET, name="minari", id=dataset_id, out_of_bounds="clip").transitions
    assert clipped.actions[3, 0] == -2
    assert load(FROM_DATASET, name="minari", id=minari_dataset(out_of_bounds(2.000005)))


def test_bounds_are_of_each_dimension(tmp_path, monkeypatch):
    class Lopsided(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-1, 1, (3,))
        action_space = gymnasium.spaces.Box(np.array([0.0], np.float32), np.array([5.0], np.float32))

    monkeypatch.setitem(gymnasium.registry, "Lopsided-v0", gymnasium.envs.registration.EnvSpec("Lopsided-v0", Lopsided))
    env = {"name": "from_dataset", "id": "Lopsided-v0"}
    ep = episode(4, "terminal")
    ep.actions[:, 0] = [0, 5, 3, -0.1]
    with pytest.raises(UserError, match=r"row 3, dimension 0 is -0\.1, the bounds are 0 to 5"):
        load(env, name="d4rl", path=str(write_d4rl(tmp_path / "x.hdf5", [ep])))
    Lopsided.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    with pytest.raises(UserError, match="Lopsided-v0 has unbounded actions"):
        load(env, name="d4rl", path=str(write_d4rl(tmp_path / "x.hdf5", [ep])))


def test_a_dataset_of_another_environment():
    with pytest.raises(UserError, match=r"3 observation dimensions, but Hopper-v5 has 11: .* env=from_dataset"):
        load(HOPPER, name="minari", id=minari_dataset())
    two = [Ep(ep.observations, np.repeat(ep.actions, 2, 1), ep.rewards, ep.end) for ep in MADE]
    box = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    with pytest.raises(UserError, match="2 action dimensions, but Pendulum-v1 has 1"):
        load(FROM_DATASET, name="minari", id=minari_dataset(two, action_space=box))


@pytest.mark.parametrize(
    ("env", "dataset", "words"),
    [
        (FROM_DATASET, {"name": "minari"}, r"dataset\.id"),
        (PENDULUM, {"name": "d4rl"}, r"dataset\.path"),
        (FROM_DATASET, {"name": "d4rl", "path": "x.hdf5"}, r"env=hopper or env\.id"),
        (FROM_DATASET, {"name": "expert"}, "halfcheetah, hopper and walker2d, not for env=from_dataset"),
        ({**HOPPER, "id": "Hopper-v4"}, {"name": "expert"}, "generated in Hopper-v5, but env.id=Hopper-v4"),
        (
            {**HOPPER, "id": "Hoper-v5"},
            {"name": "d4rl", "path": "x"},
            "Hoper-v5 is not registered: did you mean Hopper-v5",
        ),
        ({**HOPPER, "id": "Hopper-v99"}, {"name": "d4rl", "path": "x"}, "Hopper-v99 is not registered"),
        ({**HOPPER, "id": "CartPole-v1"}, {"name": "d4rl", "path": "x"}, "dataset.path=x does not exist"),
        ({**HOPPER, "id": "nomodule:X-v0"}, {"name": "d4rl", "path": "x"}, "module 'nomodule'"),
        ({**HOPPER, "id": "Hopper v5"}, {"name": "d4rl", "path": "x"}, "Hopper v5"),
    ],
)
def test_what_cannot_be_is_a_sentence(env, dataset, words):
    with pytest.raises(UserError, match=words) as error:
        load(env, **dataset)
    assert "\n" not in str(error.value)


def test_loading_writes_nothing_beside_the_datasets(tmp_path):
    # MuJoCo would leave a MUJOCO_LOG.TXT in the current folder, and a warning on the terminal.
    script = """
from sparse_offline_rl.config import DatasetConfig, EnvConfig
from sparse_offline_rl.datasets.load import load_dataset
load_dataset(DatasetConfig(name="random", size=20), EnvConfig(name="halfcheetah", id=None))
"""
    command = [sys.executable, "-W", "error", "-c", script]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert (result.stdout, result.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []
