"""Policies in the bundled format: reading, acting, and training new ones."""

from __future__ import annotations

import numpy as np
import pytest

from sparse_offline_rl.cli import train_expert as cli
from sparse_offline_rl.datasets.environments import BUNDLED_ENVS, make_env, spaces_of
from sparse_offline_rl.datasets.experts import StochasticPolicy, bundled_policy_path
from sparse_offline_rl.errors import UserError


def arrays(observations: int = 3, actions: int = 2, hidden: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {
        "hidden0": (hidden, observations),
        "hidden1": (hidden, hidden),
        "mean": (actions, hidden),
        "log_std": (actions, hidden),
    }
    weights = {f"{layer}_weight": rng.normal(size=size).astype(np.float32) for layer, size in sizes.items()}
    return weights | {f"{layer}_bias": rng.normal(size=size[0]).astype(np.float32) for layer, size in sizes.items()}


@pytest.mark.parametrize("env", BUNDLED_ENVS)
@pytest.mark.parametrize("kind", ["expert", "medium"])
def test_bundled_policies_fit_their_environments(env, kind):
    policy = StochasticPolicy.load(bundled_policy_path(env, kind))
    made = make_env(BUNDLED_ENVS[env].id)
    spaces = spaces_of(made, env)
    made.close()
    assert (policy.observation_dim, policy.action_dim) == (spaces.observation_dim, spaces.action_dim)
    np.testing.assert_array_equal(policy.action_low, spaces.action_low)
    np.testing.assert_array_equal(policy.action_high, spaces.action_high)


def test_actions_are_those_of_the_formula():
    weights = arrays()
    policy = StochasticPolicy.from_arrays(weights, "test")
    observation = np.array([0.3, -1.0, 2.0], np.float32)
    hidden = np.maximum(weights["hidden0_weight"] @ observation + weights["hidden0_bias"], 0)
    hidden = np.maximum(weights["hidden1_weight"] @ hidden + weights["hidden1_bias"], 0)
    mean = weights["mean_weight"] @ hidden + weights["mean_bias"]
    std = np.exp(np.clip(weights["log_std_weight"] @ hidden + weights["log_std_bias"], -20, 2))
    np.testing.assert_allclose(policy.mean(observation[None])[0], np.tanh(mean), rtol=1e-5)
    repeated = np.repeat(observation[None], 100_000, 0)
    actions = policy.sample(repeated, np.random.default_rng(0)).astype(np.float64)
    many = np.arctanh(np.clip(actions, -0.9999999, 0.9999999))
    inside = np.abs(mean) + 3 * std < 6  # beyond, tanh saturates in float32
    assert inside.any()
    np.testing.assert_allclose(many[:, inside].mean(0), mean[inside], atol=0.02)
    np.testing.assert_allclose(many[:, inside].std(0), std[inside], rtol=0.02)


def test_bounds_are_optional_and_respected():
    low, high = np.array([-2, 0], np.float32), np.array([2, 10], np.float32)
    unit = StochasticPolicy.from_arrays(arrays(), "test")
    scaled = StochasticPolicy.from_arrays({**arrays(), "action_low": low, "action_high": high}, "test")
    observations = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    np.testing.assert_allclose(
        scaled.mean(observations), low + (unit.mean(observations) + 1) / 2 * (high - low), atol=1e-5
    )


WRONG = {
    "a missing array": (lambda a: a.pop("mean_bias"), "lacks the array mean_bias"),
    "a vector for a matrix": (lambda a: a.update(hidden0_weight=a["hidden0_bias"]), "hidden0_weight"),
    "layers that do not fit": (lambda a: a.update(hidden1_weight=a["hidden1_weight"][:, :3]), "hidden1_weight"),
    "a short bias": (lambda a: a.update(mean_bias=a["mean_bias"][:1]), "mean_weight"),
    "other log_std": (
        lambda a: a.update(log_std_weight=a["log_std_weight"][:1], log_std_bias=a["log_std_bias"][:1]),
        "log_std",
    ),
    "other bounds": (lambda a: a.update(action_low=np.zeros(5, np.float32)), "bounds"),
    "not a number": (lambda a: a["mean_bias"].fill(np.nan), "mean_bias holds NaN"),
    "an object": (lambda a: a.update(mean_bias=np.array([{}, {}])), "policy.npz is not a policy"),
    "text": (lambda a: a.update(mean_bias=np.array(["x", "y"])), "policy.npz is not a policy"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_policy_is_a_sentence(tmp_path, case):
    change, words = WRONG[case]
    wrong = arrays()
    change(wrong)
    path = tmp_path / "policy.npz"
    np.savez(path, **wrong)
    with pytest.raises(UserError, match=words) as error:
        StochasticPolicy.load(path)
    assert str(path) in str(error.value)


def test_files_that_are_no_policy(tmp_path):
    with pytest.raises(UserError, match=r"no policy file .*nowhere\.npz"):
        StochasticPolicy.load(tmp_path / "nowhere.npz")
    path = tmp_path / "policy.npz"
    np.save(tmp_path / "array.npy", np.zeros(3))
    whole = bundled_policy_path("hopper", "expert").read_bytes()
    for content in (
        b"",
        b"text",
        whole[:-5000],
        whole[:1000] + bytes(5000) + whole[6000:],
        (tmp_path / "array.npy").read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"policy\.npz is not a policy"):
            StochasticPolicy.load(path)


def test_training_an_expert(tmp_path, capsys):
    out = tmp_path / "expert"
    tiny = ["env_id=Pendulum-v1", "steps=60", "every=30", "warmup=20", "hidden=8", "device=cpu", f"out={out}"]
    cli.main(tiny)
    printed = capsys.readouterr().out
    assert "expert.npz" in printed
    assert "medium.npz" in printed
    first, second = (StochasticPolicy.load(out / f"step_{steps}.npz") for steps in (30, 60))
    assert (second.observation_dim, second.action_dim) == (3, 1)
    assert (second.action_low[0], second.action_high[0]) == (-2, 2)
    assert not np.array_equal(first.weights["mean_weight"], second.weights["mean_weight"])  # it learned
    rows = (out / "curve.csv").read_text().splitlines()
    returns = [float(row.split(",")[1]) for row in rows[1:]]
    best = StochasticPolicy.load(out / f"step_{(30, 60)[int(np.argmax(returns))]}.npz")
    expert = StochasticPolicy.load(out / "expert.npz")
    np.testing.assert_array_equal(expert.weights["mean_weight"], best.weights["mean_weight"])
    StochasticPolicy.load(out / "medium.npz")
    with pytest.raises(SystemExit):
        cli.main(tiny)
    assert "is not empty" in capsys.readouterr().err


def test_exported_policies_act_as_the_model_does():
    from stable_baselines3 import SAC

    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8, 8]}, seed=0, device="cpu", buffer_size=10)
    policy = StochasticPolicy.from_arrays(cli.policy_arrays(model), "test")
    observations = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.testing.assert_allclose(policy.mean(observations), model.predict(observations, deterministic=True)[0], atol=1e-5)
    assert len(np.unique(policy.sample(observations, np.random.default_rng(0)))) == 20


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["env=hoper"], "env=hoper"),
        (["env_id=CartPole-v1"], "Discrete actions"),
        (["steps=many"], "steps=many"),
        (["device=gpu0"], "device=gpu0"),
    ],
)
def test_a_bad_command_is_one_sentence(tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, f"out={tmp_path / 'out'}"])
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1)
    assert words in error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        cli.main([f"out={tmp_path / 'file' / 'out'}"])
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1) and "cannot be created" in error


def test_without_stable_baselines3(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    with pytest.raises(SystemExit):
        cli.main([f"out={tmp_path / 'out'}"])
    assert 'pip install "sparse-offline-rl[experts]"' in capsys.readouterr().err


def test_returns_of_bundled_policies_are_those_of_their_description():
    lines = (bundled_policy_path("hopper", "expert").parent / "README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|") and ".npz" in line]
    described = {row[1].removesuffix(".npz"): float(row[4].split()[0]) for row in rows}
    known = {
        f"{name}_{kind}": value for name, env in BUNDLED_ENVS.items() for kind, value in env.policy_returns.items()
    }
    assert described == known
