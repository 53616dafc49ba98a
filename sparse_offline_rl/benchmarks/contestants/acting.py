"""Acting on one observation at a time, and whole evaluations."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.agents.bcq import BCQConfig, GenerativeConfig
from sparse_offline_rl.benchmarks.contestant import Contestant, Unavailable
from sparse_offline_rl.benchmarks.contestants.agents import (
    ACTIONS,
    OBSERVATIONS,
    make_agent,
    random_buffer,
    spaces,
)
from sparse_offline_rl.benchmarks.contestants.plain_bcq import PlainPolicy
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.load import DatasetInfo
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.evaluation.returns import Act, evaluate
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.policy.format import write_policy
from sparse_offline_rl.policy.runtime import FILE_NAME, load_policy
from sparse_offline_rl.seeding import generator
from sparse_offline_rl.training.active import ActiveAgent
from sparse_offline_rl.training.deploy import policy_content
from sparse_offline_rl.types import FloatArray

ENVIRONMENT = "HalfCheetah-v5"
_OBSERVATIONS = 64  # different ones, in turn


def make_content(config: Config, active: ActiveAgent) -> PolicyContent:
    """What the policy file of an agent holds."""
    data = DatasetInfo(spaces(), ENVIRONMENT, "random")
    return policy_content(config, active.agent, Normalization.identity(OBSERVATIONS), data)


def _trained_content(overrides: Sequence[str]) -> PolicyContent:
    config = config_of(overrides)
    return make_content(config, make_agent(config, random_buffer()))


def _runtime(overrides: Sequence[str]) -> Act:
    """The stored policy, as a user of ``load_policy`` has it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        write_policy(path, _trained_content(overrides))
        return load_policy(path).act


def _plain(overrides: Sequence[str]) -> tuple[PlainPolicy, int]:
    """A dense torch policy of the same sizes, and the number of latents it wants."""
    agent = config_of(overrides).agent
    assert isinstance(agent, GenerativeConfig)
    hidden = {"actor": agent.actor_hidden, "critic": agent.critic_hidden, "vae": agent.vae_hidden}
    candidates = agent.acting_candidates if isinstance(agent, BCQConfig) else 1
    return PlainPolicy(OBSERVATIONS, ACTIONS, hidden, candidates > 1).eval(), candidates


def _eager(overrides: Sequence[str]) -> Act:
    policy, rows = _plain(overrides)
    return _with_torch(policy, rows)


def _compiled(overrides: Sequence[str]) -> Act:
    """``torch.compile`` on the whole policy, first call included."""
    policy, rows = _plain(overrides)
    act = _with_torch(torch.compile(policy), rows)
    try:
        act(np.zeros(OBSERVATIONS, np.float32))
    except Exception as error:
        raise Unavailable(f"torch.compile does not work here ({type(error).__name__})") from error
    return act


def _with_torch(policy: Callable[[Tensor, Tensor], Tensor], rows: int) -> Act:
    @torch.no_grad()
    def act(observation: FloatArray) -> FloatArray:
        state, z = torch.from_numpy(observation)[None], torch.randn(rows, 2 * ACTIONS)
        action: FloatArray = policy(state, z)[0].numpy()
        return action

    return act


def _onnx(overrides: Sequence[str]) -> Act:
    """Our ONNX export, dense after compaction, in ONNX Runtime on one thread."""
    import onnxruntime

    from sparse_offline_rl.export.onnx import export_onnx

    content = _trained_content(overrides)
    with tempfile.TemporaryDirectory() as folder:
        (path,) = export_onnx(content, Path(folder) / "policy.onnx")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path.read_bytes(), settings, providers=["CPUExecutionProvider"])
    draws = np.random.default_rng(0)

    def act(observation: FloatArray) -> FloatArray:
        noise = draws.standard_normal((content.acting.candidates, content.acting.latent_dim), np.float32)
        action: FloatArray = session.run(None, {"observation": observation[None], "noise": noise})[0][0]
        return action

    return act


POLICIES: dict[str, Callable[[Sequence[str]], Act]] = {
    "policy file": _runtime,
    "torch eager": _eager,
    "torch.compile": _compiled,
    "ONNX Runtime": _onnx,
}


def latency(kind: str, overrides: Sequence[str]) -> Contestant:
    """One action for one observation."""
    torch.set_num_threads(1)
    act = POLICIES[kind](overrides)
    observations = np.random.default_rng(1).standard_normal((_OBSERVATIONS, OBSERVATIONS), np.float32)
    turn = itertools.cycle(observations)
    return Contestant(lambda: act(next(turn)))


def _agent(overrides: Sequence[str]) -> Act:
    """The agent as it is evaluated in the middle of its training."""
    config = config_of(overrides)
    agent, draws = make_agent(config, random_buffer()).agent, generator(0, "acting")

    def act(observations: FloatArray) -> FloatArray:
        actions: FloatArray = agent.act(torch.from_numpy(observations), draws).numpy()
        return actions

    return act


def _zeros(overrides: Sequence[str]) -> Act:
    return lambda observations: np.zeros((len(observations), ACTIONS), np.float32)


EVALUATED: dict[str, Callable[[Sequence[str]], Act]] = {"policy file": _runtime, "agent": _agent, "environment": _zeros}


def episodes(kind: str, overrides: Sequence[str], count: int) -> Contestant:
    """``count`` whole episodes side by side, as training evaluates; ``environment`` takes no decisions."""
    act = EVALUATED[kind](overrides)
    return Contestant(lambda: evaluate(act, ENVIRONMENT, count, seed=0))
