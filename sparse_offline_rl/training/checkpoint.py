"""Checkpoints: everything an exact resume needs, in one safetensors file with a JSON header, and no pickle.

``checkpoint/state.safetensors`` is written under a temporary name and renamed, so it is always a whole one. Its size follows
the surviving weights: masks are entropy-coded, values and moments are stored for the survivors only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import write_bytes
from sparse_offline_rl.policy.rice import decode_mask, encode_mask
from sparse_offline_rl.types import BoolArray

_FORMAT = "sparse_offline_rl.training.checkpoint/1"


@dataclass(frozen=True)
class Checkpoint:
    """A point in training.

    ``tensors`` and ``masks`` (network -> layer -> mask) hold the agent, ``progress`` what the loop knows as JSON values.
    """

    update: int
    tensors: Mapping[str, Tensor]
    masks: Mapping[str, Mapping[str, BoolArray]]
    progress: Mapping[str, Any]


def checkpoint_path(run_dir: Path) -> Path:
    """Where a run keeps its checkpoint."""
    return run_dir / "checkpoint" / "state.safetensors"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path``, all or nothing. A full disk becomes a UserError; the older checkpoint stays."""
    tensors = dict(checkpoint.tensors)
    shapes: dict[str, list[int]] = {}
    shared: dict[str, str] = {}
    stored: dict[bytes, str] = {}
    for network, masks in checkpoint.masks.items():
        for layer, mask in masks.items():
            name, code = f"mask/{network}/{layer}", encode_mask(mask)
            shapes[name] = list(mask.shape)
            # A mask that stands in the file already (a twin critic's) is stored once.
            shared[name] = stored.setdefault(bytes(str(mask.shape), "ascii") + code, name)
            if shared[name] == name:
                tensors[name] = torch.from_numpy(np.frombuffer(code, dtype=np.uint8).copy())
    header = {
        "format": _FORMAT,
        "update": checkpoint.update,
        "shapes": shapes,
        "shared": shared,
        "progress": dict(checkpoint.progress),
    }
    header["sha256"] = _digest(header, tensors)
    write_bytes(path, save(tensors, metadata={"sparse_offline_rl": json.dumps(header)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises UserError naming the file if it is truncated, damaged, foreign or of another version."""
    remedy = "restore it from a copy, or remove the run folder to start again"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("sparse_offline_rl")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is truncated or not a checkpoint ({error}): {remedy}.") from None
    if metadata is None:
        raise UserError(f"{path} is a safetensors file but not a checkpoint of sparse_offline_rl: {remedy}.")
    try:
        header = json.loads(metadata)
        if header["format"] != _FORMAT:
            raise UserError(f"{path} has format {header['format']!r}, this version reads {_FORMAT!r}: {remedy}.")
        if header.pop("sha256") != _digest(header, tensors):
            raise ValueError("its checksum does not match its contents")
        return _checkpoint(header, tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}.") from None


def _checkpoint(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Checkpoint:
    masks: dict[str, dict[str, BoolArray]] = {}
    for name, shape in header["shapes"].items():
        _, network, layer = name.split("/")
        code = tensors[header["shared"][name]].numpy().tobytes()
        masks.setdefault(network, {})[layer] = decode_mask(code, tuple(shape))
    values = {name: tensor for name, tensor in tensors.items() if not name.startswith("mask/")}
    return Checkpoint(header["update"], values, masks, header["progress"])


def _digest(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()
