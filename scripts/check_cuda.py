"""Check ``device=cuda`` on this machine: same numbers as the CPU, replayed graphs equal to eager updates, and the speed.

    python scripts/check_cuda.py

CI has no GPU, so this is a script and not a test. It exits with status 1 if a check fails.
"""

from __future__ import annotations

import statistics
import sys
import time

import numpy as np
import torch

from sparse_offline_rl.agents.factory import AGENTS
from sparse_offline_rl.agents.state import agent_tensors, load_agent_tensors
from sparse_offline_rl.agents.stepping import make_step
from sparse_offline_rl.config import AgentConfig, PruneConfig
from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.datasets.transitions import Transitions
from sparse_offline_rl.process import prepare_process
from sparse_offline_rl.pruning.prune import apply_masks, find_masks
from sparse_offline_rl.types import Spaces

S, A, ROWS = 17, 6, 10_000


def make_data() -> Transitions:
    """Random transitions of HalfCheetah's size."""
    rng = np.random.default_rng(0)
    observations, following = rng.standard_normal((2, ROWS, S), dtype=np.float32)
    actions = rng.uniform(-1, 1, (ROWS, A)).astype(np.float32)
    rewards = rng.standard_normal(ROWS, dtype=np.float32)
    terminated = rng.random(ROWS) < 0.01
    return Transitions(observations, actions, rewards, following, terminated, np.zeros(ROWS, dtype=bool))


def make_agent(name: str, device: str, data: ReplayBuffer):  # type: ignore[no-untyped-def]
    """A SNIP-pruned agent, the same on every device."""
    spaces = Spaces(S, -np.ones(A, np.float32), np.ones(A, np.float32))
    agent = AGENTS[name](spaces, AgentConfig(name=name), device, torch.Generator().manual_seed(0))
    draws = torch.Generator().manual_seed(1)
    reference = AGENTS[name](spaces, AgentConfig(name=name), "cpu", torch.Generator().manual_seed(0))
    masks = find_masks(reference.objectives(data.sample(draws, 100), draws), PruneConfig(name="snip"), 0.95, draws)
    for network, mlp in agent.networks.dense_mlps().items():
        if network in masks:
            apply_masks(mlp, type(masks[network])({k: v.to(device) for k, v in masks[network].items()}))
    agent.tie_twin()
    agent.begin_training()
    return agent


def rate(step) -> float:  # type: ignore[no-untyped-def]
    """Median updates a second of five rounds of 200."""
    rates = []
    for _ in range(6):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(200):
            step()
        torch.cuda.synchronize()
        rates.append(200 / (time.perf_counter() - begin))
    return statistics.median(rates[1:])


def check(name: str) -> bool:
    """All checks for one agent; prints a line each."""
    data = make_data()
    cpu, gpu = (ReplayBuffer(data, Normalization.identity(S), device) for device in ("cpu", "cuda"))
    good = True

    # One update from the same weights and noise on both devices.
    agents = {device: make_agent(name, device, cpu) for device in ("cpu", "cuda")}
    batch = cpu.sample(torch.Generator().manual_seed(2), 100)
    noise = torch.randn(100, 2 * A, generator=torch.Generator().manual_seed(3))
    losses = {d: a.vae_loss(type(batch)(*(x.to(d) for x in batch)), noise.to(d))[0].item() for d, a in agents.items()}
    error = abs(losses["cpu"] - losses["cuda"]) / abs(losses["cpu"])
    print(f"{name}: VAE loss on CUDA differs from the CPU's by {error:.1e} (relative)")
    good &= error < 1e-4

    # 20 updates replayed from a graph equal 20 eager ones, bit for bit; and so they do after a resume in the middle.
    eager, graphed, resumed = (make_agent(name, "cuda", cpu) for _ in range(3))
    draws = [torch.Generator("cuda").manual_seed(5) for _ in range(3)]
    step, resumed_step = make_step(graphed, gpu, draws[1], 100), None
    for i in range(20):
        eager.update(gpu.sample(draws[0], 100), draws[0])
        step()
        if i == 11:
            load_agent_tensors(resumed, agent_tensors(graphed), 12)
            draws[2].set_state(draws[1].get_state())
            resumed_step = make_step(resumed, gpu, draws[2], 100)
        elif resumed_step is not None:
            resumed_step()
    states = [agent_tensors(a) for a in (eager, graphed, resumed)]
    for label, state in (("replayed", states[1]), ("resumed", states[2])):
        same = all(torch.equal(states[0][k], state[k]) for k in state)
        print(f"{name}: 20 {label} updates {'equal' if same else 'DIFFER FROM'} 20 eager ones bit for bit")
        good &= same

    speeds = rate(lambda: eager.update(gpu.sample(draws[0], 100), draws[0])), rate(step)
    print(f"{name}: {speeds[0]:.0f} updates/s eager, {speeds[1]:.0f} updates/s as a CUDA graph")
    return good


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("this torch sees no CUDA device")
    prepare_process(1)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    sys.exit(0 if all([check("bcq"), check("bc")]) else 1)
