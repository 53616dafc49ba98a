"""One seed, many independent random streams, so that no part of a run can disturb another's draws."""

from __future__ import annotations

import random
import zlib

import numpy as np
import torch


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the stream ``name`` of a run seeded with ``seed``; the same on every machine."""
    state = np.random.SeedSequence([seed, zlib.crc32(name.encode())]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def generator(seed: int, name: str, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator on ``device`` for the stream ``name``."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, name))


def cpu_generator(draws: torch.Generator) -> torch.Generator:
    """A generator on the CPU, where all new weights are drawn, seeded by the next number of ``draws``."""
    seed = int(torch.randint(2**62, (1,), generator=draws, device=draws.device))
    return torch.Generator().manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Seed the global generators too, for user code and libraries that draw from them."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries draw from the global state)
    torch.manual_seed(seed)
