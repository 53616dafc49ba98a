"""Bytes of policies and checkpoints in our files, in torch's own formats, and at the least."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sparse_offline_rl.agents.state import agent_tensors
from sparse_offline_rl.benchmarks.contestant import Contestant
from sparse_offline_rl.benchmarks.contestants.acting import make_content
from sparse_offline_rl.benchmarks.contestants.agents import make_trainee, random_buffer, read_config
from sparse_offline_rl.policy.content import KINDS
from sparse_offline_rl.policy.format import write_policy
from sparse_offline_rl.seeding import generator
from sparse_offline_rl.training.checkpoint import Checkpoint, save_checkpoint
from sparse_offline_rl.types import BoolArray

_UPDATES = 3  # before saving, so that Adam's moments are no zeros


def sizes(overrides: Sequence[str]) -> Contestant:
    """Facts: ``policy`` and ``checkpoint``, each with its bytes by way of storing."""
    config, buffer = read_config(overrides), random_buffer()
    trainee = make_trainee(config, buffer)
    agent, draws, sample = trainee.agent, generator(0, "train"), buffer.sampler(config.batch_size)
    for _ in range(_UPDATES):
        trainee.update(sample(draws), draws)
    tensors = agent_tensors(agent)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_policy(folder / "policy", make_content(config, trainee))
        save_checkpoint(folder / "checkpoint", Checkpoint(_UPDATES, tensors, trainee.masks, {}))
        policy = {f"online/{name}": tensors[f"online/{name}"] for name in KINDS[config.agent.name]}
        found = {
            "policy": {
                "file": (folder / "policy").stat().st_size,
                **_alternatives(policy, trainee.masks),
            },
            "checkpoint": {
                "file": (folder / "checkpoint").stat().st_size,
                **_alternatives(tensors, trainee.masks),
            },
        }
    return Contestant(facts=lambda: found)


def _alternatives(tensors: Mapping[str, Tensor], masks: Mapping[str, Mapping[str, BoolArray]]) -> dict[str, float]:
    """Bytes of the same content by other means."""
    layers = [layer for name, vector in tensors.items() for layer in _dense_layers(vector, masks[_network(name)])]
    return {
        "dense": _torch_save(layers, lambda weight: weight),
        "COO": _torch_save(layers, lambda weight: weight.to_sparse()),
        "CSR": _torch_save(layers, lambda weight: weight.to_sparse_csr()),
        "least": 4 * sum(len(vector) for vector in tensors.values())
        + _mask_bytes(mask for network in {_network(name) for name in tensors} for mask in masks[network].values()),
    }


def _network(name: str) -> str:
    """``critic1`` of ``target/critic1_target``."""
    return name.partition("/")[2].removesuffix("_target")


def _dense_layers(vector: Tensor, masks: Mapping[str, BoolArray]) -> list[tuple[Tensor, Tensor]]:
    """(weight, bias) of each layer; only the numbers of values matter here, not the order of several heads."""
    layers, start = [], 0
    for mask in masks.values():
        kept = int(mask.sum())
        weight = torch.zeros(mask.shape)
        weight[torch.from_numpy(mask)] = vector[start : start + kept]
        bias = vector[start + kept : start + kept + len(mask)].clone()
        layers.append((weight, bias))
        start += kept + len(mask)
    return layers


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
