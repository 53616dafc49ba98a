"""Dict observations: flattened alike in a Minari dataset, in evaluation and in what a policy takes."""

from __future__ import annotations

import warnings
from collections import OrderedDict

import gymnasium
import minari
import numpy as np
import pytest
from conftest import ROOT, TINY
from dataset_files import episode, write_minari
from dict_environment import BOX, DICT, FLAT, ID, Reach, go_to_the_target
from gymnasium.spaces.utils import flatten, flatten_space
from minari.data_collector import EpisodeBuffer
from test_datasets_minari import new_id

from sparse_offline_rl import load_policy
from sparse_offline_rl.cli import evaluate as evaluate_cli
from sparse_offline_rl.config import DatasetConfig, EnvConfig
from sparse_offline_rl.datasets.environments import make_env, observation_parts
from sparse_offline_rl.datasets.load import load_dataset
from sparse_offline_rl.datasets.minari_source import read_minari
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.evaluation.returns import evaluate

EPISODES = 5


@pytest.fixture(scope="module")
def recorded(minari_root) -> tuple[str, list[list[dict]], np.ndarray]:
    """A dataset by Minari's own writer: its id, the observations of each episode, and all actions."""
    dataset_id = new_id()
    env = gymnasium.make(ID, near=0.25, max_episode_steps=6)
    env.action_space.seed(0)
    seen, buffers = [], []
    for seed in range(EPISODES):
        observations, steps = [env.reset(seed=seed)[0]], []
        while not (steps and steps[-1][3]):
            action = env.action_space.sample()
            observation, reward, terminated, truncated, _ = env.step(action)
            observations.append(observation)
            steps.append((action, reward, terminated, truncated))
        actions, *others = (list(values) for values in zip(*steps, strict=True))
        seen.append(observations)
        buffers.append(EpisodeBuffer(seed, None, None, stack(observations), np.array(actions), *others, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an author's address and more
        minari.create_dataset_from_buffers(dataset_id, buffers, env=env.spec)
    env.close()
    return dataset_id, seen, np.concatenate([buffer.actions for buffer in buffers])


def stack(observations: list[dict]) -> dict:
    """A Dict of arrays ``[T + 1, …]``, as Minari takes it."""
    first = observations[0]
    return {
        key: (stack if isinstance(first[key], dict) else np.array)([observation[key] for observation in observations])
        for key in first
    }


def load(dataset_id: str, **options: object):
    return load_dataset(DatasetConfig(name="minari", id=dataset_id, **options), EnvConfig(name="from_dataset", id=None))


def test_rows_are_flattened_as_gymnasium_does(recorded):
    dataset_id, seen, actions = recorded
    data = read_minari(dataset_id, 10**9).transitions
    flat = [np.array([flatten(Reach.observation_space, o) for o in observations]) for observations in seen]
    np.testing.assert_array_equal(data.observations, np.concatenate([f[:-1] for f in flat]).astype(np.float32))
    np.testing.assert_array_equal(data.next_observations, np.concatenate([f[1:] for f in flat]).astype(np.float32))
    np.testing.assert_array_equal(data.actions, actions)
    assert list(observation_parts(Reach.observation_space, "x").items()) == list(zip(FLAT, (2, 1, 2, 3), strict=True))
    assert len(read_minari(dataset_id, 7).transitions) == 7


def test_the_environment_gives_the_rows_that_the_dataset_holds(recorded):
    loaded = load(recorded[0])
    assert (loaded.env_id, loaded.env_kwargs) == (ID, {"near": 0.25, "max_episode_steps": 6})
    assert loaded.spaces.observation_dim == 8
    env = make_env(loaded.env_id, **loaded.env_kwargs)
    rows = loaded.transitions
    for start in range(0, 6 * EPISODES, 6):
        observation, _ = env.reset(seed=start // 6)
        for row in range(start, start + 6):
            np.testing.assert_array_equal(observation.astype(np.float32), rows.observations[row])
            observation, reward, _, truncated, _ = env.step(rows.actions[row])
            np.testing.assert_array_equal(observation.astype(np.float32), rows.next_observations[row])
            assert (np.float32(reward), truncated) == (rows.rewards[row], rows.truncated[row])
    env.close()


def test_evaluation_hands_flat_observations_to_the_policy():
    returns = evaluate(go_to_the_target, ID, 3, 0)
    np.testing.assert_allclose(returns, 0, atol=1e-5)  # it is at the target after one step


def test_a_run_its_policy_and_its_evaluation(recorded, cli, tmp_path, capsys):
    dataset_id, seen, _ = recorded
    small = [part for part in TINY if not part.startswith(("env", "dataset", "batch_size"))]
    run = [*small, "dataset=minari", f"dataset.id={dataset_id}", "batch_size=16", "prune.batch_size=16"]
    status, _, err = cli(*run, f"run_dir={tmp_path}")
    assert status == 0, err
    action = load_policy(tmp_path).act(flatten(Reach.observation_space, seen[0][0]))
    assert Reach.action_space.contains(action)
    evaluate_cli.main([f"run_dir={tmp_path}", "episodes=2"])
    assert f"{ID}, episodes of seeds 1 to 2" in capsys.readouterr().out


TEXT = gymnasium.spaces.Text(4)
UNFIT = {
    "a discrete part": (DICT({"a": BOX(-1, 1, (2,)), "b": gymnasium.spaces.Discrete(3)}), "Discrete 'b' observations"),
    "text": (DICT({"mission": TEXT}), "Text 'mission' observations"),
    "an image": (DICT({"a": DICT({"image": BOX(0, 255, (64, 64, 3), np.uint8)})}), r"'a/image' .* \(64, 64, 3\)"),
    "a tuple": (DICT({"a": gymnasium.spaces.Tuple([BOX(-1, 1, (2,))])}), "Tuple 'a' observations"),
    "nothing": (DICT({"a": DICT({})}), "without any part in 'a'"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_other_parts_are_refused_in_a_sentence(case, monkeypatch):
    space, words = UNFIT[case]
    dataset_id = new_id()
    write_minari(dataset_id, [episode(2, "terminal")], env=None, observation_space=space)
    with pytest.raises(UserError, match=f"{dataset_id} has .*{words}"):
        read_minari(dataset_id, 10)
    monkeypatch.setattr(Reach, "observation_space", space)
    with pytest.raises(UserError, match=f"{ID} has .*{words}"):
        make_env(ID, disable_env_checker=True)


def test_an_order_that_a_dataset_would_not_keep_is_refused(monkeypatch):
    ordered = DICT(OrderedDict(z=BOX(-1, 1, (2,)), a=BOX(-1, 1, (2,))))
    monkeypatch.setattr(Reach, "observation_space", ordered)
    with pytest.raises(UserError, match=r"not in alphabetical order \(z, a\)"):
        make_env(ID)


def test_a_dataset_without_one_of_its_parts_is_damaged():
    dataset_id = new_id()
    write_minari(dataset_id, [episode(2, "terminal")], env=None, observation_space=Reach.observation_space)
    with pytest.raises(UserError, match=f"{dataset_id} is damaged"):
        read_minari(dataset_id, 10)


def test_environments_are_made_in_one_place():
    """Anything that makes its own would act on observations that were never flattened."""
    makers = [path.name for path in (ROOT / "sparse_offline_rl").rglob("*.py") if "gymnasium.make(" in path.read_text()]
    assert makers == ["environments.py"]
    assert flatten_space(Reach.observation_space) == make_env(ID).observation_space
