"""``sparse-offline-rl train-expert key=value …``: trains a policy that generates datasets, with stable-baselines3's soft actor-critic."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.datasets.environments import BUNDLED_ENVS, make_env, spaces_of
from sparse_offline_rl.datasets.experts import StochasticPolicy
from sparse_offline_rl.datasets.rollouts import GroupRunner
from sparse_offline_rl.errors import UserError, reason
from sparse_offline_rl.files import replacing, write_csv
from sparse_offline_rl.types import FloatArray

_LONGEST = 100_000  # steps of an evaluation in all, for environments without a time limit
_LAYERS = {"hidden0": "latent_pi.0", "hidden1": "latent_pi.2", "mean": "mu", "log_std": "log_std"}  # ours: theirs


class TrainExpertOptions(Options):
    """Train an expert and a medium policy with soft actor-critic (needs the extra: pip install "sparse-offline-rl[experts]").

    env=hopper steps=1000000 out=experts/hopper
    """

    env: str = Field("halfcheetah", description="halfcheetah, hopper or walker2d")
    env_id: str | None = Field(None, description="any gymnasium environment with continuous actions, instead of env")
    steps: PositiveInt = Field(1_000_000, description="environment steps, one gradient step each")
    every: PositiveInt = Field(25_000, description="steps between checkpoints, each evaluated")
    warmup: PositiveInt = Field(10_000, description="random steps before learning starts")
    hidden: PositiveInt = Field(256, description="units in each of the two hidden layers")
    seed: int = Field(0, ge=0, description="seed of the training")
    device: Literal["cpu", "cuda", "auto"] = Field("auto", description="cpu, cuda or auto")
    out: Path = Field(description="a new folder for the policies and the learning curve")


@dataclass(frozen=True)
class Checkpoint:
    """An evaluated policy file."""

    steps: int
    path: Path
    return_mean: float  # over whole episodes, actions sampled
    return_std: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(TrainExpertOptions, sys.argv[1:] if arguments is None else arguments)
        expert, medium = train(options)
        for name, chosen in (("expert", expert), ("medium", medium)):
            print(
                f"{options.out / f'{name}.npz'}: step {chosen.steps}, return {chosen.return_mean:.1f} ± {chosen.return_std:.1f}"
            )
        print(
            f"use one: sparse-offline-rl generate-dataset policy={options.out / 'expert.npz'} env_id=… id=my/dataset-v0"
        )


def train(options: TrainExpertOptions) -> tuple[Checkpoint, Checkpoint]:
    """Train, save a checkpoint at every interval, and pick ``expert.npz`` (the best) and ``medium.npz``."""
    try:
        from stable_baselines3 import SAC
    except ImportError:
        raise UserError(
            'Training experts needs stable-baselines3, which is not installed: pip install "sparse-offline-rl[experts]".'
        ) from None
    env_id = _env_id(options)
    if options.out.exists() and not (options.out.is_dir() and not any(options.out.iterdir())):
        raise UserError(f"out={options.out} is a file, or a folder that is not empty: give a new folder.")
    env = make_env(env_id)
    spaces_of(env, env_id)  # refuses unsuitable environments before any training
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={options.out} cannot be created ({reason(error)}): give another folder.") from None
    # The bundled policies were trained with these settings; gamma 0.99 and Adam 3e-4 are SAC's own defaults.
    model = SAC(
        "MlpPolicy",
        env,
        batch_size=128,
        buffer_size=min(options.steps, 1_000_000),
        learning_starts=options.warmup,
        policy_kwargs={"net_arch": [options.hidden, options.hidden]},
        seed=options.seed,
        device=options.device,
    )
    checkpoints: list[Checkpoint] = []
    for start in range(0, options.steps, options.every):
        model.learn(min(options.every, options.steps - start), reset_num_timesteps=False)
        arrays = policy_arrays(model)
        path = _save(options.out / f"step_{model.num_timesteps}.npz", arrays)
        checkpoints.append(_evaluate(model.num_timesteps, path, env_id, options.seed))
        print(
            f"step {checkpoints[-1].steps}: return {checkpoints[-1].return_mean:.1f} ± {checkpoints[-1].return_std:.1f}"
        )
    env.close()
    return _pick(checkpoints, options, env_id)


def policy_arrays(model: Any) -> dict[str, FloatArray]:
    """The actor of a stable-baselines3 SAC model, in the arrays of the bundled format."""
    parameters = {name: value.detach().cpu().numpy() for name, value in model.policy.actor.named_parameters()}
    space = model.action_space
    arrays = {"action_low": space.low.astype(np.float32), "action_high": space.high.astype(np.float32)}
    for ours, theirs in _LAYERS.items():
        arrays |= {f"{ours}_{part}": parameters[f"{theirs}.{part}"].copy() for part in ("weight", "bias")}
    return arrays


def _env_id(options: TrainExpertOptions) -> str:
    if options.env_id is not None:
        return options.env_id
    if options.env not in BUNDLED_ENVS:
        raise UserError(f"env={options.env} is not one of {', '.join(BUNDLED_ENVS)}: choose one, or give env_id=….")
    return BUNDLED_ENVS[options.env].id


def _save(path: Path, arrays: Mapping[str, FloatArray]) -> Path:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def _returns(env_id: str, policy: StochasticPolicy | None, seed: int) -> list[float]:
    episodes = GroupRunner(env_id, policy).run((seed, 0), 0, _LONGEST, lambda _: None)
    return [float(episode.rewards.sum()) for episode in episodes]


def _evaluate(steps: int, path: Path, env_id: str, seed: int) -> Checkpoint:
    """Mean and standard deviation over :data:`GROUP` fresh episodes of the policy as it is stored."""
    returns = _returns(env_id, StochasticPolicy.load(path), seed)
    return Checkpoint(steps, path, float(np.mean(returns)), float(np.std(returns)))


def _pick(checkpoints: list[Checkpoint], options: TrainExpertOptions, env_id: str) -> tuple[Checkpoint, Checkpoint]:
    """The best checkpoint, and the one up to it that is nearest to a third of the way from random to the best."""
    expert = max(checkpoints, key=lambda checkpoint: checkpoint.return_mean)
    floor = float(np.mean(_returns(env_id, None, options.seed)))
    third = floor + (expert.return_mean - floor) / 3
    earlier = [checkpoint for checkpoint in checkpoints if checkpoint.steps <= expert.steps]
    medium = min(earlier, key=lambda checkpoint: abs(checkpoint.return_mean - third))
    for name, chosen in (("expert", expert), ("medium", medium)):
        with np.load(chosen.path) as arrays:
            _save(options.out / f"{name}.npz", dict(arrays))
    rows = ([checkpoint.steps, checkpoint.return_mean, checkpoint.return_std] for checkpoint in checkpoints)
    write_csv(options.out / "curve.csv", [["steps", "return_mean", "return_std"], *rows])
    return expert, medium
