"""Generation: what is written is what happened, once, whole, and the same on every machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
import yaml

from sparse_offline_rl.cli import generate_dataset as cli
from sparse_offline_rl.config import config_dir
from sparse_offline_rl.datasets import minari_writer
from sparse_offline_rl.datasets.environments import BUNDLED_ENVS
from sparse_offline_rl.datasets.experts import StochasticPolicy, bundled_policy_path
from sparse_offline_rl.datasets.generate import Part, Recipe, bundled_recipe, generate
from sparse_offline_rl.datasets.minari_source import read_minari
from sparse_offline_rl.errors import UserError

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def arrays(dataset_id: str) -> dict[str, np.ndarray]:
    return vars(read_minari(dataset_id, 10**9).transitions)


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


def test_the_environment_replays_what_was_written(root):
    recipe = bundled_recipe("hopper", "medium", 3000, 1)
    generate(recipe)
    dataset = minari.load_dataset(recipe.dataset_id)
    assert dataset.total_steps == 3000
    env = gymnasium.make("Hopper-v5")
    policy = StochasticPolicy.load(bundled_policy_path("hopper", "medium"))
    seeds = [metadata["seed"] for metadata in dataset.storage.get_episode_metadata(range(len(dataset)))]
    assert len(set(seeds)) == len(seeds) > 3
    for number, (seed, episode) in enumerate(zip(seeds, dataset.iterate_episodes(), strict=True)):
        observation, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(episode.observations[0], observation.astype(np.float32))
        for t, action in enumerate(episode.actions):
            observation, reward, terminated, truncated, _ = env.step(action)
            np.testing.assert_array_equal(episode.observations[t + 1], observation.astype(np.float32))
            assert episode.rewards[t] == reward
            cut = number == len(dataset) - 1 and t == len(episode.actions) - 1
            assert episode.terminations[t] == terminated
            assert episode.truncations[t] == (truncated or (cut and not terminated))
        assert episode.terminations[-1] or episode.truncations[-1]
        assert np.abs(episode.actions - policy.mean(episode.observations[:-1])).max() > 0.05  # sampled, not the mean
    env.close()


def test_any_number_of_processes_gives_the_same_bits(root):
    read = []
    for processes in (1, 3):
        for kind, size in (("medium", 5500), ("random", 2000)):
            recipe = bundled_recipe("hopper", kind, size, 0)
            folder = generate(recipe, processes)
            read.append(arrays(recipe.dataset_id))
            folder.rename(root / f"{kind}-{processes}")
    assert_same(read[0], read[2])
    assert_same(read[1], read[3])


def test_every_episode_is_another(root):
    recipe = bundled_recipe("hopper", "random", 2000, 0)
    generate(recipe)
    storage = minari.load_dataset(recipe.dataset_id).storage
    assert storage.total_episodes > 60  # more than are stepped together
    everyone = range(storage.total_episodes)
    assert len({metadata["seed"] for metadata in storage.get_episode_metadata(everyone)}) == len(everyone)
    assert len({episode["actions"][0].tobytes() for episode in storage.get_episodes(everyone)}) == len(everyone)


def test_seeds_differ_and_a_smaller_size_is_the_beginning(root):
    for size, seed in ((2000, 0), (500, 0), (500, 1)):
        generate(bundled_recipe("walker2d", "random", size, seed))
    full, part, other = (
        arrays(f"sparse-offline-rl/walker2d/random-{name}-v0") for name in ("2000-seed0", "500-seed0", "500-seed1")
    )
    assert part["truncated"][-1] or part["terminated"][-1]
    for values in (full, part):
        values["truncated"] = values["truncated"][:499]
    assert_same(part, {name: values[:500] for name, values in full.items()})
    assert not np.array_equal(part["observations"], other["observations"])


@pytest.mark.parametrize("size", [1, 2, 15, 1001])
def test_the_size_is_exact(root, size):
    for kind in ("expert", "medium_expert", "random"):
        recipe = bundled_recipe("halfcheetah", kind, size, 0)
        generate(recipe)
        data = arrays(recipe.dataset_id)
        assert len(data["rewards"]) == size
        assert not data["terminated"].any()
        ends = {size - 1, 999} if kind != "medium_expert" else {size // 2 - 1, size - 1}
        assert set(np.flatnonzero(data["truncated"])) == {end for end in ends if 0 <= end < size}


def test_random_actions_fill_the_bounds(root):
    recipe = Recipe("my/pendulum-v0", "Pendulum-v1", (Part("random", None, 4000),), 0)
    generate(recipe)
    actions = arrays(recipe.dataset_id)["actions"]
    assert actions.min() > -2
    assert actions.max() < 2
    assert np.histogram(actions, 4, (-2, 2))[0].min() > 900


def test_metadata(root):
    recipe = bundled_recipe("hopper", "expert", 1500, 0)
    metadata = json.loads((generate(recipe) / "data" / "metadata.json").read_text())
    assert (metadata["ref_min_score"], metadata["ref_max_score"]) == (-20.272305, 3234.3)
    assert metadata["author"]
    assert "soft actor-critic" in metadata["algorithm_name"]
    assert "seed 0" in metadata["description"]
    assert 3300 < metadata["mean_return"] < 3600  # of the first episode alone: the second is cut
    dataset = minari.load_dataset(recipe.dataset_id)
    assert dataset.env_spec.id == "Hopper-v5"
    assert minari.get_normalized_score(dataset, np.array([3234.3]))[0] == 1
    assert list(minari.list_local_datasets()) == [recipe.dataset_id]
    assert json.loads((root / "sparse-offline-rl" / "hopper" / "namespace_metadata.json").read_text()) == {}


def test_the_bundled_environments_are_those_of_the_configs():
    for name, env in BUNDLED_ENVS.items():
        config = yaml.safe_load((config_dir() / "env" / f"{name}.yaml").read_text())
        shared = {
            key: value for key, value in vars(env).items() if key != "policy_returns"
        }  # that of the data, not of a run
        assert config == {"name": name, **shared}


COUNTED = """
import sys, time
from pathlib import Path
from sparse_offline_rl.datasets import generate as module
write = module._write
def counted(*arguments):
    with Path(sys.argv[1]).open("a") as file:
        file.write("generated\\n")
    time.sleep(0.5)
    write(*arguments)
module._write = counted
recipe = module.bundled_recipe("hopper", "random", 500, 0)
print(module.generate(recipe), flush=True)
"""


def test_two_that_start_at_once_generate_once(root, tmp_path):
    command = [sys.executable, "-c", COUNTED, str(tmp_path / "count")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert (tmp_path / "count").read_text() == "generated\n"


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_kill_in_the_middle_leaves_nothing(root):
    arguments = ["env=hopper", "dataset=random", "size=20000"]
    process = subprocess.Popen([sys.executable, str(SCRIPTS / "generate_dataset.py"), *arguments])
    until = time.monotonic() + 60
    while not list(root.glob(".staging*/data")):
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(0.5)
    workers = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(root.glob(".staging*"))
    assert minari.list_local_datasets() == {}
    while any(alive(worker) for worker in workers):  # they notice within a progress message
        assert time.monotonic() < until
        time.sleep(0.05)
    cli.main([*arguments[:2], "size=20000"])
    assert list(minari.list_local_datasets()) == ["sparse-offline-rl/hopper/random-20000-seed0-v0"]
    assert not list(root.glob(".staging*"))


FAILING = """
import gymnasium
class Failing(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))
    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}
    def step(self, action):
        print("noise on standard output")
        raise ArithmeticError("the motor burnt out")
gymnasium.register("Failing-v0", Failing)
"""


def test_a_failing_environment_is_a_sentence(root, tmp_path, monkeypatch):
    (tmp_path / "failing_module.py").write_text(FAILING)
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = Recipe("my/failing-v0", "failing_module:Failing-v0", (Part("random", None, 10),), 0)
    with pytest.raises(UserError, match="Failing-v0 failed: ArithmeticError: the motor burnt out"):
        generate(recipe)
    assert not list(root.glob("my*")) + list(root.glob(".staging*"))


DYING = FAILING.replace('raise ArithmeticError("the motor burnt out")', "__import__('os')._exit(7)")


def test_a_dying_worker_is_a_sentence(root, tmp_path, monkeypatch):
    (tmp_path / "dying_module.py").write_text(DYING.replace("Failing", "Dying"))
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = Recipe("my/dying-v0", "dying_module:Dying-v0", (Part("random", None, 10),), 0)
    with pytest.raises(UserError, match="Dying-v0 failed: a worker ended with status 7: noise on standard output"):
        generate(recipe)


def test_a_full_disk_is_a_sentence(root, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(minari_writer.Path, "write_bytes", full)
    recipe = bundled_recipe("hopper", "random", 100, 0)
    with pytest.raises(UserError, match=r"cannot be written .*No space left.* MINARI_DATASETS_PATH"):
        generate(recipe)
    assert not list(root.glob(".staging*"))


def test_a_root_that_is_a_file_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written"):
        generate(bundled_recipe("hopper", "random", 100, 0))


EXPERT = str(bundled_policy_path("hopper", "expert"))
WRONG = {
    "unknown environment": (["env=hoper"], ["env=hoper", "hopper"]),
    "unknown key": (["sise=3"], ["sise", "'size'"]),
    "unknown dataset": (["dataset=exprt"], ["dataset=exprt", "'expert'"]),
    "no size": (["size=0"], ["size=0"]),
    "policy without environment": ([f"policy={EXPERT}"], ["env_id"]),
    "environment without id": (["env_id=Hopper-v5", f"policy={EXPERT}"], ["id="]),
    "environment without policy": (["env_id=Hopper-v5", "id=my/x-v0"], ["policy=", "dataset=random"]),
    "malformed id": (["env_id=Hopper-v5", "id=my/x", "dataset=random"], ["'my/x'", "-v0"]),
    "missing policy": (["env_id=Hopper-v5", "id=my/x-v0", "policy=nowhere.npz"], ["nowhere.npz"]),
    "policy of another environment": (
        ["env_id=HalfCheetah-v5", "id=my/x-v0", f"policy={EXPERT}"],
        ["hopper_expert.npz", "11", "17", "HalfCheetah-v5"],
    ),
    "unregistered environment": (["env_id=Hoper-v5", "id=my/x-v0", "dataset=random"], ["Hoper-v5", "Hopper-v5"]),
    "missing module": (["env_id=nomodule:X-v0", "id=my/x-v0", "dataset=random"], ["nomodule:X-v0", "'nomodule'"]),
    "discrete actions": (["env_id=CartPole-v1", "id=my/x-v0", "dataset=random"], ["CartPole-v1", "Discrete actions"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_command_is_one_sentence(root, capsys, case):
    arguments, words = WRONG[case]
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.err.count("\n") == 1
    for word in words:
        assert word in captured.err
    assert not list(root.glob("my*")) + list(root.glob(".staging*"))


def test_the_command_says_what_it_wrote(root, capsys):
    cli.main(["env=hopper", "dataset=medium", "size=1500"])
    first = capsys.readouterr().out
    for words in ("medium-1500-seed0-v0: written", "1500 transitions", "normalised", str(root)):
        assert words in first
    cli.main(["env=hopper", "dataset=medium", "size=1500"])
    assert "was there already" in capsys.readouterr().out
    mine = [f"policy={EXPERT}", "env_id=Hopper-v5", "id=my/own-v0", "size=30"]
    cli.main(mine)
    assert "30 transitions in 1 episodes, no episode is whole" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(mine)
    assert "id=my/own-v0 exists already" in capsys.readouterr().err
