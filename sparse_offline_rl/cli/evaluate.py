"""``sparse-offline-rl evaluate …``: the returns of a stored policy, without torch."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.datasets.environments import BUNDLED_ENVS, make_env, spaces_of
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.evaluation.normalized_score import normalized_score, reference_returns
from sparse_offline_rl.evaluation.returns import evaluate
from sparse_offline_rl.evaluation.video import check_opengl, check_video_path, record_episode
from sparse_offline_rl.files import read_json, write_json
from sparse_offline_rl.policy.runtime import Policy, load_policy
from sparse_offline_rl.training.stored_config import read_stored_config
from sparse_offline_rl.types import FloatArray


class EvaluateOptions(Options):
    """Evaluate the policy of a finished run: sparse-offline-rl evaluate run_dir=runs/bcq/hopper-expert/snip-0.95/seed0"""

    run_dir: Path = Field(description="a run folder, or a policy.sorl file")
    episodes: int = Field(100, ge=1, description="episodes to play")
    seed: int = Field(1, ge=0, lt=2**31, description="episode i starts from seed + i")
    env_id: str | None = Field(None, alias="env.id", description="another environment than the policy's own")
    video: Path | None = Field(None, description="film one episode to this .gif or .mp4")
    out: Path | None = Field(None, description="write the result to this JSON file")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(EvaluateOptions, sys.argv[1:] if arguments is None else arguments)
        _check_files(options)
        film = _film(options)  # before the episodes: a machine without a screen may not be able to
        result = evaluate_run(options)
        _show(result)
        if options.out is not None:
            write_json(options.out, result)
            print(f"  written to    {options.out}")
        if film is not None:
            total, steps = film
            print(f"  film          {options.video}: an episode of {steps} steps, return {total:.1f}")


def evaluate_run(options: EvaluateOptions) -> dict[str, Any]:
    """Play the episodes; the contents of the file that ``out`` names. Raises UserError if there is nothing to evaluate."""
    policy, env_id = _open(options)
    references = _references(options.run_dir, policy.content.env_id, env_id)
    steps = 0

    def act(observations: FloatArray) -> FloatArray:
        nonlocal steps
        steps += len(observations)
        return policy.act(observations)

    act(np.zeros((1, policy.content.observation_dim), np.float32))  # compiles the kernels outside the measured time
    policy.seed(options.seed)
    steps, start = 0, time.perf_counter()
    returns = evaluate(act, env_id, options.episodes, options.seed, _settings(policy, env_id))
    seconds = time.perf_counter() - start
    if not np.isfinite(returns).all():
        raise UserError(
            f"{env_id} gave rewards that are not finite, so its episodes have no return: mend the environment."
        )
    score = normalized_score(float(returns.mean()), *references)
    facts = {"run_dir": str(options.run_dir), "env": env_id, "episodes": options.episodes, "seed": options.seed}
    return (
        facts | _statistics(returns) | {"normalized_score": score, "steps": steps, "steps_per_second": steps / seconds}
    )


def _check_files(options: EvaluateOptions) -> None:
    """Raise UserError for files that could not be written once all episodes are played."""
    if options.video is not None:
        check_video_path(options.video)
    if options.out is not None and options.out.is_dir():
        raise UserError(f"out={options.out} is a folder: give the name of a file in it.")


def _open(options: EvaluateOptions) -> tuple[Policy, str]:
    """The policy, and the id of an environment that it fits."""
    check_opengl()
    policy = load_policy(options.run_dir)
    content = policy.content
    env_id = options.env_id or content.env_id
    env = make_env(env_id, **_settings(policy, env_id))
    try:
        spaces = spaces_of(env, env_id)
    finally:
        env.close()
    wanted, have = (spaces.observation_dim, spaces.action_dim), (content.observation_dim, content.action_dim)
    if wanted != have:
        raise UserError(
            f"env.id={env_id} has {wanted[0]} observation and {wanted[1]} action dimensions, but the policy of "
            f"{options.run_dir} was trained in {content.env_id} with {have[0]} and {have[1]}: leave env.id out."
        )
    return policy, env_id


def _settings(policy: Policy, env_id: str) -> dict[str, Any]:
    return policy.content.env_kwargs if env_id == policy.content.env_id else {}


def _references(run_dir: Path, trained_in: str, env_id: str) -> tuple[float | None, float | None]:
    """Returns that score 0 and 100: the run's own where it was ``trained_in`` ``env_id``, else those of a bundled environment.

    They are those of its configuration, or else of its dataset, which its summary has.
    """
    env = _stored_config(run_dir / "config.yaml").get("env", {})
    if (env.get("id") or trained_in) == env_id:
        own = reference_returns(env) or reference_returns(_stored_summary(run_dir / "summary.json"))
        if own:
            return own
    for known in BUNDLED_ENVS.values():
        if known.id == env_id:
            return known.reference_min_score, known.reference_max_score
    return None, None


def _stored_summary(path: Path) -> Mapping[str, Any]:
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise UserError(f"{path} is no summary of a run: restore it, or give the policy.sorl file as run_dir.")
    return found


def _stored_config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    remedy = "restore it, or give the policy.sorl file as run_dir"
    found = read_stored_config(path, remedy)
    if not isinstance(found.get("env", {}), dict):
        raise UserError(f"{path} is not a readable configuration: {remedy}.")
    return found


def _statistics(returns: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_median": float(np.median(returns)),
        "return_max": float(returns.max()),
        "returns": returns.tolist(),
    }


def _show(result: Mapping[str, Any]) -> None:
    score = result["normalized_score"]
    last = result["seed"] + result["episodes"] - 1
    print(f"{result['env']}, episodes of seeds {result['seed']} to {last}")
    print(f"  return        {result['return_mean']:.1f} ± {result['return_std']:.1f}")
    print(
        f"  median        {result['return_median']:.1f}, from {result['return_min']:.1f} to {result['return_max']:.1f}"
    )
    print(f"  score         {'no reference scores are known' if score is None else f'{score:.1f}'}")
    print(f"  speed         {result['steps_per_second']:.0f} environment steps a second")


def _film(options: EvaluateOptions) -> tuple[float, int] | None:
    """Return and steps of the episode that was filmed, if there is to be a film."""
    if options.video is None:
        return None
    policy, env_id = _open(options)
    policy.seed(options.seed)
    return record_episode(policy.act, env_id, options.video, options.seed, _settings(policy, env_id))
