"""Bytes of policies and checkpoints in our files, in torch's own formats, and at the least."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.benchmarks.contestant import Contestant
from sparse_offline_rl.benchmarks.contestants.acting import make_content
from sparse_offline_rl.benchmarks.contestants.agents import make_agent, random_buffer
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.networks.state import NetworkState
from sparse_offline_rl.policy.format import write_policy
from sparse_offline_rl.seeding import generator
from sparse_offline_rl.training.checkpoint import Checkpoint, Progress, save_checkpoint
from sparse_offline_rl.types import BoolArray, FloatArray

_UPDATES = 3  # before saving, so that Adam's moments are no zeros


def sizes(overrides: Sequence[str]) -> Contestant:
    """Facts: ``policy`` and ``checkpoint``, each with its bytes by way of storing."""
    config, buffer = config_of(overrides), random_buffer()
    active = make_agent(config, buffer)
    agent, draws, sample = active.agent, generator(0, "train"), buffer.sampler(config.batch_size)
    for _ in range(_UPDATES):
        active.update(sample(draws), draws)
    state = agent.state()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_policy(folder / "policy", make_content(config, active))
        progress = Progress(0.0, 0.0, {}, 0, "", "", active.engine, {})
        checkpoint = Checkpoint(_UPDATES, state, draws.get_state().numpy(), progress)
        save_checkpoint(folder / "checkpoint", checkpoint)
        acting = [(state.networks[name], state.networks[name].values) for name in agent.acting().networks]
        whole = [(network, vector) for network in state.networks.values() for vector in network.vectors().values()]
        found = {
            "policy": {"file": (folder / "policy").stat().st_size, **_alternatives(acting)},
            "checkpoint": {"file": (folder / "checkpoint").stat().st_size, **_alternatives(whole)},
        }
    return Contestant(facts=lambda: found)


def _alternatives(vectors: Sequence[tuple[NetworkState, FloatArray]]) -> dict[str, float]:
    """Bytes of the same content by other means."""
    layers = [layer for network, vector in vectors for layer in _dense_layers(network, vector)]
    topologies = {id(network): network.topology for network, _ in vectors}
    return {
        "dense": _torch_save(layers, lambda weight: weight),
        "COO": _torch_save(layers, lambda weight: weight.to_sparse()),
        "CSR": _torch_save(layers, lambda weight: weight.to_sparse_csr()),
        "least": 4 * sum(len(vector) for _, vector in vectors)
        + _mask_bytes(mask for topology in topologies.values() for mask in topology.layers.values()),
    }


def _dense_layers(network: NetworkState, vector: FloatArray) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of each layer."""
    arrays = [torch.from_numpy(np.ascontiguousarray(array)) for array in network.topology.unpack(vector)]
    return list(zip(arrays[0::2], arrays[1::2], strict=True))


def _torch_save(layers: Iterable[tuple[Tensor, Tensor]], convert: Callable[[Tensor], Tensor]) -> int:
    with tempfile.NamedTemporaryFile() as file:
        torch.save([(convert(weight), bias) for weight, bias in layers], file.name)
        return Path(file.name).stat().st_size


def _mask_bytes(masks: Iterable[BoolArray]) -> float:
    """log2 of how many masks have these counts in these layers: the least for masks without structure. Equal ones count once."""

    def nats(mask: BoolArray) -> float:
        n, k = mask.size, int(mask.sum())
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    different = {(mask.shape, mask.tobytes()): mask for mask in masks}
    return sum(map(nats, different.values())) / math.log(2) / 8
