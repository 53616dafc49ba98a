"""Whole updates of our own agents, built as ``train.py`` builds them, on random standardised data."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np

from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.benchmarks.contestant import Contestant, Unavailable, peak_bytes
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.config import Config
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.datasets.transitions import Transitions
from sparse_offline_rl.engines.capture.interpreter import run_serial
from sparse_offline_rl.engines.capture.update import CapturedUpdate, Program
from sparse_offline_rl.engines.sparse.kernel_table import FIRST_OPCODE
from sparse_offline_rl.engines.sparse.module import SparseMLP
from sparse_offline_rl.seeding import generator
from sparse_offline_rl.training.active import ActiveAgent, put_on_engine
from sparse_offline_rl.training.mask_changes import MaskChanges
from sparse_offline_rl.training.process import prepare_process
from sparse_offline_rl.types import Spaces

OBSERVATIONS, ACTIONS = 17, 6  # those of HalfCheetah
_TRANSITIONS = 10_000


def spaces() -> Spaces:
    """Observations and actions of HalfCheetah's size."""
    return Spaces(OBSERVATIONS, -np.ones(ACTIONS, np.float32), np.ones(ACTIONS, np.float32))


def random_transitions(count: int = _TRANSITIONS) -> Transitions:
    """Standard normal observations and rewards, uniform actions."""
    draw = np.random.default_rng(0)
    observations = draw.standard_normal((count, OBSERVATIONS), np.float32)
    following = draw.standard_normal((count, OBSERVATIONS), np.float32)
    actions = draw.uniform(-1, 1, (count, ACTIONS)).astype(np.float32)
    rewards = draw.standard_normal(count, np.float32)
    ends = draw.random((2, count)) < 0.001
    return Transitions(observations, actions, rewards, following, *ends)


def random_buffer(count: int = _TRANSITIONS) -> ReplayBuffer:
    """A buffer of :func:`random_transitions`."""
    return ReplayBuffer(random_transitions(count), Normalization.identity(OBSERVATIONS))


def count_weights(overrides: Sequence[str]) -> int:
    """Prunable weights of all networks."""
    config = config_of(overrides)
    agent = AGENTS[config.agent.name].create(spaces(), config.agent)
    return sum(mlp.topology.total for mlp in agent.mlps().values())


def make_agent(config: Config, buffer: ReplayBuffer) -> ActiveAgent:
    """A pruned agent on its engine."""
    prepare_process(config.threads)
    state = MaskChanges(config, spaces(), buffer).start().state
    return put_on_engine(config, spaces(), state)


def _updates(config: Config, active: ActiveAgent, buffer: ReplayBuffer) -> Callable[[], object]:
    draws, sample = generator(0, "train"), buffer.sampler(config.batch_size)
    return lambda: active.update(sample(draws), draws)


def training(overrides: Sequence[str]) -> Contestant:
    """One update with its sampled batch."""
    config, buffer = config_of(overrides), random_buffer()
    active = make_agent(config, buffer)
    reports = active.layer_reports()
    kept, total = sum(r.kept for r in reports), sum(r.total for r in reports)
    facts = {"kept": kept, "total": total, "live_units": sum(r.live_outputs for r in reports)}
    return Contestant(_updates(config, active, buffer), lambda: facts)


def first_update(overrides: Sequence[str]) -> Contestant:
    """Nothing to time: what counts is how soon this is ready, having done one update."""
    contestant = training(overrides)
    assert contestant.step is not None
    contestant.step()
    return Contestant()


class _Stopwatch:
    """Replaces functions by timed ones and adds up their time by label."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def watch(self, owner: Any, name: str, label: str) -> None:
        """Time ``owner.name`` from now on."""
        function = getattr(owner, name)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[label] += time.perf_counter() - begin
            return result

        setattr(owner, name, timed)


def stages(overrides: Sequence[str]) -> Contestant:
    """An update that runs operation by operation; facts: milliseconds by stage, and those inside the sparse kernels."""
    config, buffer, watch = config_of(overrides), random_buffer(), _Stopwatch()
    active = make_agent(config, buffer)
    agent = active.agent
    for kernels in {type(mlp.engine) for mlp in agent.mlps().values() if isinstance(mlp, SparseMLP)}:
        for method in ("forward", "backward"):
            watch.watch(kernels, method, "kernels")
    for name, label in (("vae_loss", "VAE"), ("target", "target"), ("critic_loss", "critic"), ("actor_loss", "actor")):
        watch.watch(agent, name, label)
    for name, label in (("vae", "VAE"), ("critic", "critic"), ("actor", "actor")):
        watch.watch(agent.optimizers[name], "minimize", label)
    update, calls = _updates(config, active, buffer), [0]
    update()
    watch.seconds.clear()

    def step() -> None:
        begin = time.perf_counter()
        update()
        watch.seconds["whole update"] += time.perf_counter() - begin
        calls[0] += 1

    def facts() -> Mapping[str, float]:
        spent = {label: 1e3 * seconds / calls[0] for label, seconds in watch.seconds.items()}
        spent["sampling, Polyak, rest"] = spent["whole update"] - sum(
            spent[name] for name in ("VAE", "critic", "actor")
        )
        spent["critic"] -= spent["target"]
        return spent

    return Contestant(step, facts)


def captured(overrides: Sequence[str]) -> Contestant:
    """A recorded update; facts: milliseconds, and how many of them the sparse kernels and the other instructions take."""
    config, buffer = config_of(overrides), random_buffer()
    active = make_agent(config, buffer)
    assert isinstance(active.update, CapturedUpdate)
    update, calls = _updates(config, active, buffer), [0]
    update()
    (program,) = active.update.programs
    parts = {"kernels": _part(program, kernels=True), "other instructions": _part(program, kernels=False)}
    seconds: defaultdict[str, float] = defaultdict(float)

    def step() -> None:
        for label, part in {"whole update": update, **parts}.items():
            begin = time.perf_counter()
            part()
            seconds[label] += time.perf_counter() - begin
        calls[0] += 1

    return Contestant(step, lambda: {label: 1e3 * spent / calls[0] for label, spent in seconds.items()})


def _part(program: Program, kernels: bool) -> Callable[[], None]:
    """Runs only the sparse kernels of an update, or only its other instructions."""
    chosen, count, at = [np.empty(0, np.int64)], 0, 0
    source = program.executable.words
    while at < len(source):
        code, length = source[at : at + 2]
        if (code >= FIRST_OPCODE) == kernels:
            chosen.append(source[at : at + length])
            count += 1
        at += length
    words = np.concatenate(chosen)
    return lambda: run_serial(words.ctypes.data, count)


def memory(overrides: Sequence[str], updates: int) -> Contestant:
    """Facts: the process's resident memory before the agent is built, and its peak after ``updates``."""
    config, buffer = config_of(overrides), random_buffer()
    before = peak_bytes()
    update = _updates(config, make_agent(config, buffer), buffer)
    for _ in range(updates):
        update()
    after = peak_bytes()
    return Contestant(facts=lambda: {"before": before, "peak": after})


def shared_memory(overrides: Sequence[str], updates: int, transitions: int) -> Contestant:
    """Facts: the process's part of the resident memory after ``updates``, pages that others map as well counted in proportion."""
    config, buffer = config_of(overrides), random_buffer(transitions)
    update = _updates(config, make_agent(config, buffer), buffer)
    for _ in range(updates):
        update()

    def facts() -> dict[str, int]:
        smaps = Path("/proc/self/smaps_rollup")
        if not smaps.exists():
            raise Unavailable("only Linux tells what processes share")
        (line,) = (line for line in smaps.read_text().splitlines() if line.startswith("Pss:"))
        return {"bytes": 1024 * int(line.split()[1])}

    facts()
    return Contestant(update, facts)  # the update holds on to the data


def pruning(overrides: Sequence[str]) -> Contestant:
    """Scoring all networks on one batch, finding the masks and applying them."""
    config, buffer = config_of(overrides), random_buffer()
    prepare_process(config.threads)
    agent = AGENTS[config.agent.name].create(spaces(), config.agent, generator(config.seed, "init"))
    state, masks = agent.state(), MaskChanges(config, spaces(), buffer)

    def step() -> None:
        masks.prune(state)

    return Contestant(step)
