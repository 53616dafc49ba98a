"""Stored policies evaluated from the command line, and films of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from policy_samples import make_policy

from sparse_offline_rl.cli import evaluate as evaluate_cli
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.evaluation import video
from sparse_offline_rl.policy.format import write_policy

STEPS = 12


class Slide(gymnasium.Env):
    """A point that the first action moves; an episode of 12 steps pays the sum of its squared positions."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012  (gymnasium's own way)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode=None, broken=False):
        self.render_mode, self.broken = render_mode, broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.normal(size=3).astype(np.float32), 0
        return self.position, {}

    def step(self, action):
        self.position = self.position + np.float32(action[0])
        self.steps += 1
        return self.position, float(self.position @ self.position), False, self.steps == STEPS, {}

    def render(self):
        if self.broken:
            raise AttributeError("'NoneType' object has no attribute 'glGetError'\nmore")
        frame = np.zeros((300, 500, 3), np.uint8)
        frame[:, 20 * self.steps : 20 * self.steps + 40] = (200, 30, 60)
        return frame


class Blind(Slide):
    metadata = {"render_modes": []}  # noqa: RUF012

    def render(self):
        return None


class Sized(Slide):
    """Slide in as many dimensions as its argument says."""

    def __init__(self, size=3, render_mode=None):
        super().__init__(render_mode)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self.position, self.steps = self.np_random.normal(size=self.observation_space.shape).astype(np.float32), 0
        return self.position, {}


class Boundless(Slide):
    """Pays without a limit."""

    def step(self, action):
        observation, _, *over = super().step(action)
        return observation, float("inf"), *over


class Mute(Slide):
    """Cannot be made with a way of rendering."""

    def __init__(self):
        super().__init__()


KINDS = (
    ("Slide", Slide, {}),
    ("Broken", Slide, {"broken": True}),
    ("Blind", Blind, {}),
    ("Sized", Sized, {}),
    ("Mute", Mute, {}),
    ("Boundless", Boundless, {}),
)


@pytest.fixture(scope="module", autouse=True)
def environments():
    for name, kind, kwargs in KINDS:
        gymnasium.register(f"{name}-v0", kind, kwargs=kwargs, disable_env_checker=True)
    yield
    for name, _, _ in KINDS:
        del gymnasium.registry[f"{name}-v0"]


@pytest.fixture
def run_dir(tmp_path):
    """A run folder with a policy for Slide-v0."""
    content = dataclasses.replace(make_policy("bcq", state=3, action=2, candidates=3), env_id="Slide-v0")
    write_policy(tmp_path / "run" / "policy" / "policy.sorl", content)
    return tmp_path / "run"


@pytest.fixture
def call(capsys):
    """Call the command in this process: arguments to (exit status, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = 0
        try:
            evaluate_cli.main(arguments)
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def evaluated(call, run_dir, *arguments) -> dict:
    out = run_dir.parent / "out" / "evaluation.json"
    status, _, err = call(f"run_dir={run_dir}", f"out={out}", *arguments)
    assert status == 0, err
    return json.loads(out.read_text())


def test_it_prints_the_statistics_and_writes_nothing_unasked(call, run_dir):
    before = sorted(run_dir.parent.rglob("*"))
    status, out, _ = call(f"run_dir={run_dir}", "episodes=5")
    assert status == 0
    for word in ("Slide-v0", "return", "±", "median", "no reference scores", "steps a second"):
        assert word in out
    assert sorted(run_dir.parent.rglob("*")) == before


def test_the_file_holds_what_the_episodes_gave(call, run_dir):
    result = evaluated(call, run_dir, "episodes=23", "seed=7")
    returns = np.array(result["returns"])
    assert len(returns) == result["episodes"] == 23
    assert result["steps"] == 23 * STEPS
    assert result["return_mean"] == returns.mean()
    assert result["return_std"] == returns.std()
    assert (result["return_min"], result["return_max"]) == (returns.min(), returns.max())
    assert result["return_median"] == np.median(returns)
    assert result["steps_per_second"] > 0
    assert result["normalized_score"] is None


def test_same_seed_same_returns_other_seed_other_returns(call, run_dir):
    first, again, other = (evaluated(call, run_dir, "episodes=4", f"seed={seed}")["returns"] for seed in (3, 3, 30))
    assert first == again
    assert not set(first) & set(other)


def test_the_environment_is_made_as_in_training(call, tmp_path):
    content = dataclasses.replace(make_policy("bc", state=5, action=2), env_id="Sized-v0")
    write_policy(
        tmp_path / "a.sorl", dataclasses.replace(content, metadata={**content.metadata, "env_kwargs": '{"size": 5}'})
    )
    assert evaluated(call, tmp_path / "a.sorl", "episodes=1")["steps"] == STEPS
    write_policy(tmp_path / "b.sorl", content)
    status, _, err = call(f"run_dir={tmp_path / 'b.sorl'}", "episodes=1")
    assert (status, "has 3 observation" in err) == (2, True)


def test_the_score_takes_the_references_of_the_run(call, run_dir):
    references = "env: {id: Slide-v0, reference_min_score: -10.0, reference_max_score: 40.0}\n"
    (run_dir / "config.yaml").write_text(references)
    result = evaluated(call, run_dir, "episodes=3")
    assert result["normalized_score"] == pytest.approx(100 * (result["return_mean"] + 10) / 50)


def test_references_of_the_dataset_are_in_the_summary(call, run_dir):
    """``env=from_dataset`` has no environment of its own; what the configuration has goes first."""
    (run_dir / "config.yaml").write_text("env: {id: null, reference_min_score: null, reference_max_score: null}\n")
    (run_dir / "summary.json").write_text('{"reference_min_score": -10.0, "reference_max_score": 40.0}')
    result = evaluated(call, run_dir, "episodes=3")
    assert result["normalized_score"] == pytest.approx(100 * (result["return_mean"] + 10) / 50)
    (run_dir / "config.yaml").write_text("env: {id: null, reference_min_score: 0, reference_max_score: 1}\n")
    assert evaluated(call, run_dir, "episodes=3")["normalized_score"] == pytest.approx(100 * result["return_mean"])


def test_a_damaged_summary_is_one_sentence_where_it_is_needed(call, run_dir):
    (run_dir / "summary.json").write_text("[]")
    status, _, err = call(f"run_dir={run_dir}", "episodes=1")
    assert status == 2 and "summary.json is no summary of a run" in err and err.count("\n") == 1
    (run_dir / "config.yaml").write_text("env: {id: null, reference_min_score: 0, reference_max_score: 1}\n")
    assert evaluated(call, run_dir, "episodes=1")["normalized_score"] is not None


@pytest.mark.parametrize("damage", ["env: null\n", "env: [1]\n", "- env\n"])
def test_a_damaged_configuration_is_one_sentence(call, run_dir, damage):
    (run_dir / "config.yaml").write_text(damage)
    status, _, err = call(f"run_dir={run_dir}", "episodes=1")
    assert status == 2 and "config.yaml is not a readable configuration" in err and err.count("\n") == 1


def test_the_references_of_another_environment_are_not_used(call, run_dir):
    references = "env: {id: Elsewhere-v0, reference_min_score: -10.0, reference_max_score: 40.0}\n"
    (run_dir / "config.yaml").write_text(references)
    assert evaluated(call, run_dir, "episodes=1")["normalized_score"] is None


def test_a_return_that_is_no_number_is_one_sentence(call, run_dir, tmp_path):
    status, _, err = call(f"run_dir={run_dir}", "env.id=Boundless-v0", "episodes=2", f"out={tmp_path / 'out.json'}")
    assert status == 2 and "Boundless-v0 gave rewards that are not finite" in err and err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


def test_bundled_environments_have_references_without_a_config(call, tmp_path):
    path = tmp_path / "hopper.sorl"
    write_policy(path, dataclasses.replace(make_policy("bc", state=11, action=3), env_id="Hopper-v5"))
    result = evaluated(call, path, "episodes=2")
    assert result["normalized_score"] == pytest.approx(100 * (result["return_mean"] + 20.272305) / 3254.572305)


BAD = {
    "nothing": ([], ["run_dir is missing", "run_dir=…"]),
    "no folder": (["run_dir=nowhere"], ["nowhere"]),
    "unfinished": (["run_dir=empty"], ["empty", "finished"]),
    "other dimensions": (["run_dir=run", "env.id=Hopper-v5"], ["11", "3", "Slide-v0", "leave env.id out"]),
    "unknown environment": (["run_dir=run", "env.id=Hoper-v5"], ["Hoper-v5", "Hopper-v5"]),
    "discrete actions": (["run_dir=run", "env.id=CartPole-v1"], ["CartPole-v1", "Discrete"]),
    "no episodes": (["run_dir=run", "episodes=0"], ["episodes=0 cannot be used: give at least 1."]),
    "episodes as text": (["run_dir=run", "episodes=many"], ["episodes=many cannot be used: give a whole number."]),
    "unknown key": (["run_dir=run", "episode=3"], ["episode=3", "'episodes'"]),
    "repeated key": (["run_dir=run", "seed=3", "seed=4"], ["seed=4", "twice"]),
    "not key=value": (["run"], ["'run'", "run_dir="]),
    "a folder for a file": (["run_dir=run", "out=."], ["out=. is a folder", "name of a file"]),
    "film of another kind": (["run_dir=run", "video=film.avi"], ["film.avi", ".gif"]),
    "damaged config": (["run_dir=damaged", "episodes=1"], ["config.yaml"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_sentence(call, run_dir, monkeypatch, case):
    monkeypatch.chdir(run_dir.parent)
    Path("empty").mkdir()
    Path("damaged", "policy").mkdir(parents=True)
    Path("damaged", "policy", "policy.sorl").write_bytes((run_dir / "policy" / "policy.sorl").read_bytes())
    Path("damaged", "config.yaml").write_text("a: [")
    arguments, words = BAD[case]
    status, _, err = call(*arguments)
    assert status == 2
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err


def test_a_film_shows_one_episode(call, run_dir):
    film = run_dir.parent / "films" / "slide.gif"
    status, out, err = call(f"run_dir={run_dir}", "episodes=1", "seed=5", f"video={film}")
    assert status == 0, err
    assert f"{STEPS} steps" in out
    with Image.open(film) as gif:
        # 50 frames a second are thinned to every third: steps 0, 3, 6, 9, 12, at 60 ms each.
        assert (gif.n_frames, gif.size, gif.info["duration"]) == (5, (167, 100), 60)
        gif.seek(4)
        row = np.asarray(gif.convert("RGB"))[50]
    assert row[240 // 3 + 6].tolist() == pytest.approx([200, 30, 60], abs=8)
    assert [path.name for path in film.parent.iterdir()] == ["slide.gif"]


def test_the_film_has_the_return_of_its_episode(run_dir, tmp_path):
    total, steps = video.record_episode(lambda o: np.zeros((len(o), 2), np.float32), "Slide-v0", tmp_path / "a.gif", 4)
    start, _ = Slide().reset(seed=4)
    assert steps == STEPS
    assert total == pytest.approx(STEPS * float(start @ start), rel=1e-5)


UNFILMED = {
    "Broken-v0": ["cannot be rendered", "glGetError", "MUJOCO_GL=egl", "MUJOCO_GL=osmesa"],
    "Blind-v0": ["no rgb_array"],
    "Mute-v0": ["cannot be rendered", "render_mode"],
}


@pytest.mark.parametrize("env_id", UNFILMED)
def test_what_cannot_be_rendered_ends_in_a_sentence(call, run_dir, env_id):
    film = run_dir.parent / "film.gif"
    status, out, err = call(f"run_dir={run_dir}", f"env.id={env_id}", "episodes=1", f"video={film}")
    assert status == 2
    assert not out, "nothing was played in vain"
    assert len(err.splitlines()) == 1
    for word in [env_id, *UNFILMED[env_id]]:
        assert word in err
    assert [path.name for path in run_dir.parent.iterdir()] == ["run"]


def test_a_missing_opengl_library_is_named(monkeypatch):
    def fail(name):
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    monkeypatch.setattr(video.importlib, "import_module", fail)
    with pytest.raises(UserError, match="MUJOCO_GL=osmesa cannot be rendered"):
        video.check_opengl()


def test_mp4_without_its_library_is_refused_before_anything_is_played(call, run_dir, monkeypatch):
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    status, out, err = call(f"run_dir={run_dir}", "video=film.mp4")
    assert status == 2
    assert "imageio-ffmpeg" in err
    assert not out


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="mp4 needs imageio-ffmpeg")
def test_a_film_as_mp4(run_dir, tmp_path):
    video.record_episode(lambda o: np.zeros((len(o), 2), np.float32), "Slide-v0", tmp_path / "a.mp4", 4)
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"


def test_the_script_tells_its_keys():
    command = [sys.executable, str(ROOT / "scripts" / "evaluate.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("sparse-offline-rl evaluate", "env.id=", "episodes to play (100)", "(required)", "(optional)"):
        assert word in result.stdout
