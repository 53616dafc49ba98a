"""Checkpoints: everything an exact resume needs, in one safetensors file with a JSON header, and no pickle.

``checkpoint/state.safetensors`` is written under a temporary name and renamed, so it is always a whole one. Its size follows
the surviving weights: masks are entropy-coded, values and moments are stored for the survivors only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import write_bytes
from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.networks.state import AgentState, NetworkState, ParameterState
from sparse_offline_rl.policy.header import MAX_POSITIONS
from sparse_offline_rl.policy.rice import decode_mask, encode_mask
from sparse_offline_rl.pruning.schedule import Memory
from sparse_offline_rl.types import BoolArray

_FORMAT = "sparse_offline_rl.checkpoint/2"
_LATER_FORMAT = (
    "sparse_offline_rl.checkpoint/3"  # where a network has linear or hashed layers, which older software does not know
)
_NETWORK_VECTORS = ("values", "exp_avg", "exp_avg_sq", "target")
_RANDOM = "random_state"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Progress:
    """What the loop knows beside the agent."""

    train_seconds: float
    eval_seconds: float
    evaluation: Mapping[str, float]  # the last one
    csv_bytes: int  # length of metrics.csv …
    csv_sha256: str  # … and its digest
    data: str  # fingerprint of the dataset
    engine: str  # which the run is on
    config: Mapping[str, Any]  # of the run, without its folder
    # The same of episodes.csv; a checkpoint that is older than that file has none of it.
    episodes_bytes: int = 0
    episodes_sha256: str = ""
    levels: Sequence[Mapping[str, float]] = field(
        default_factory=list
    )  # results of the levels that have ended (prune.schedule=tickets or surgery)
    teacher: str = ""  # digest of the checkpoint that the run learns from (distill.teacher)


@dataclass(frozen=True)
class Checkpoint:
    """A point in training: ``update`` updates are done, and ``random_state`` is that of the training's generator."""

    update: int
    state: AgentState
    random_state: NDArray[np.uint8]
    progress: Progress
    memory: Memory = field(default_factory=Memory)


def checkpoint_path(run_dir: Path) -> Path:
    """Where a run keeps its checkpoint."""
    return run_dir / "checkpoint" / "state.safetensors"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path``, all or nothing. A full disk becomes a UserError; the older checkpoint stays."""
    arrays: Arrays = {_RANDOM: checkpoint.random_state}
    state = _store_state("", checkpoint.state, arrays)
    topologies = [it.topology for it in checkpoint.state.networks.values()]
    header = {
        "format": _LATER_FORMAT if any(it.linear or it.hashes for it in topologies) else _FORMAT,
        "update": checkpoint.update,
        **state,
        "progress": vars(checkpoint.progress),
    }
    if checkpoint.memory != Memory():
        header["memory"] = _store_memory(checkpoint.memory, arrays)
    header["sha256"] = _digest(header, arrays)
    write_bytes(path, save(arrays, metadata={"sparse_offline_rl": json.dumps(header)}))


def _store_state(prefix: str, state: AgentState, arrays: Arrays) -> dict[str, Any]:
    """Put the arrays of ``state`` into ``arrays``, their names after ``prefix``; returns what the header says of it."""
    networks: dict[str, Any] = {}
    stored: dict[bytes, str] = {}
    for name, network in state.networks.items():
        topology = network.topology
        layers: list[dict[str, Any]] = [
            {"name": layer, "head": layer in topology.heads, "shape": list(mask.shape)}
            | ({"linear": True} if layer in topology.linear else {})
            for layer, mask in topology.layers.items()
        ]
        for layer, mask in zip(layers, topology.layers.values(), strict=True):
            if topology.hashes:
                hashing = topology.hashes[layer["name"]]
                layer["hashed"] = {"values": hashing.values, "seed": hashing.seed}
                continue
            code, key = encode_mask(mask), f"{prefix}mask/{name}/{layer['name']}"
            # A mask that stands in the file already (a twin critic's) is stored once.
            layer["mask"] = stored.setdefault(bytes(str(mask.shape), "ascii") + code, key)
            if layer["mask"] == key:
                arrays[key] = np.frombuffer(code, np.uint8)
        arrays |= {f"{prefix}network/{name}/{kind}": vector for kind, vector in network.vectors().items()}
        networks[name] = layers
    for name, parameter in state.parameters.items():
        arrays |= {f"{prefix}parameter/{name}/{kind}": vector for kind, vector in parameter.vectors().items()}
    arrays |= {f"{prefix}buffer/{name}": buffer for name, buffer in state.buffers.items()}
    return {
        "steps": dict(state.steps),
        "networks": networks,
        "parameters": list(state.parameters),
        "buffers": list(state.buffers),
    }


def _store_memory(memory: Memory, arrays: Arrays) -> dict[str, Any]:
    """As :func:`_store_state`, for what a schedule of masks remembers."""
    for key, mask in memory.masks.items():
        arrays[f"memory/mask/{key}"] = np.frombuffer(encode_mask(mask), np.uint8)
    arrays |= {f"memory/number/{key}": numbers for key, numbers in memory.numbers.items()}
    return {
        "masks": {key: list(mask.shape) for key, mask in memory.masks.items()},
        "numbers": list(memory.numbers),
        "rewind": None if memory.rewind is None else _store_state("memory/rewind/", memory.rewind, arrays),
    }


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises UserError naming the file if it is truncated, damaged, foreign or of another version."""
    remedy = "restore it from a copy, or remove the run folder to start again"
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = (file.metadata() or {}).get("sparse_offline_rl")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is truncated or not a checkpoint ({error}): {remedy}.") from None
    if metadata is None:
        raise UserError(f"{path} is a safetensors file but not a checkpoint of sparse_offline_rl: {remedy}.")
    try:
        header = json.loads(metadata)
        if header["format"] not in (_FORMAT, _LATER_FORMAT):
            raise UserError(
                f"{path} has format {header['format']!r}, this version reads {_FORMAT!r} and {_LATER_FORMAT!r}: {remedy}."
            )
        if header.pop("sha256") != _digest(header, arrays):
            raise ValueError("its checksum does not match its contents")
        return _checkpoint(header, arrays)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): {remedy}.") from None


def _checkpoint(header: Mapping[str, Any], arrays: Arrays) -> Checkpoint:
    """Check every claim of a file. Raises ValueError, KeyError, TypeError or AttributeError for one that cannot be."""
    state = _state("", header, arrays)
    random_state = arrays[_RANDOM]
    if random_state.dtype != np.uint8 or random_state.ndim != 1:
        raise ValueError("its random state is no vector of bytes")
    update = _count(header["update"], "update")
    if update < 1:
        raise ValueError("it stands before the first update")
    progress, memory = _progress(header["progress"]), _memory(header.get("memory"), arrays)
    return Checkpoint(update, state, random_state, progress, memory)


def _state(prefix: str, header: Mapping[str, Any], arrays: Arrays) -> AgentState:
    networks = {name: _network(prefix, name, layers, arrays) for name, layers in header["networks"].items()}
    parameters = {}
    for name in header["parameters"]:
        vectors = [_floats(arrays, f"{prefix}parameter/{name}/{kind}") for kind in ("values", "exp_avg", "exp_avg_sq")]
        if len({vector.shape for vector in vectors}) > 1:
            raise ValueError(f"parameter {name} and its moments differ in shape")
        parameters[name] = ParameterState(*vectors)
    buffers = {str(name): _floats(arrays, f"{prefix}buffer/{name}") for name in header["buffers"]}
    steps = {str(name): _count(count, f"steps of {name}") for name, count in header["steps"].items()}
    return AgentState(networks, parameters, buffers, steps)


def _memory(header: Mapping[str, Any] | None, arrays: Arrays) -> Memory:
    if header is None:
        return Memory()
    masks = {str(key): _mask(key, shape, arrays[f"memory/mask/{key}"]) for key, shape in header["masks"].items()}
    numbers = {str(key): _floats(arrays, f"memory/number/{key}") for key in header["numbers"]}
    rewind = header["rewind"]
    return Memory(numbers, masks, None if rewind is None else _state("memory/rewind/", rewind, arrays))


def _mask(name: str, shape: Any, code: NDArray[Any]) -> BoolArray:
    return decode_mask(code.tobytes(), _shape(name, shape))


def _hashed(name: str, shape: Any, values: Any) -> tuple[LayerHash, BoolArray]:
    """The hash of a layer, and its mask."""
    height, width = _shape(name, shape)
    return LayerHash(height, width, values["values"], values["seed"]), np.ones((height, width), np.bool_)


def _shape(name: str, shape: Any) -> tuple[int, int]:
    height, width = (_count(size, "a layer's width") for size in shape)
    if height * width > MAX_POSITIONS:
        raise ValueError(f"layer {name} claims {height} × {width} weights")
    return height, width


def _network(prefix: str, name: str, layers: Any, arrays: Arrays) -> NetworkState:
    hidden: dict[str, BoolArray] = {}
    heads: dict[str, BoolArray] = {}
    hashes: dict[str, LayerHash] = {}
    for layer in layers:
        if "hashed" in layer:
            hashes[layer["name"]], mask = _hashed(f"{name}.{layer['name']}", layer["shape"], layer["hashed"])
        else:
            mask = _mask(f"{name}.{layer['name']}", layer["shape"], arrays[layer["mask"]])
        (heads if layer["head"] else hidden)[layer["name"]] = mask
        if not isinstance(layer.get("linear", False), bool):
            raise ValueError(f"it says of layer {name}.{layer['name']} that linear is {layer['linear']!r}")
    linear = frozenset(layer["name"] for layer in layers if layer.get("linear"))
    topology = Topology(hidden, heads, hashes, linear)
    vectors = {}
    for kind in _NETWORK_VECTORS:
        key = f"{prefix}network/{name}/{kind}"
        if kind == "target" and key not in arrays:
            continue
        vectors[kind] = _floats(arrays, key)
        if vectors[kind].shape != (topology.size,):
            raise ValueError(f"{key} has {vectors[kind].size} values and its masks keep {topology.size}")
    return NetworkState(topology, vectors["values"], vectors["exp_avg"], vectors["exp_avg_sq"], vectors.get("target"))


def _progress(values: Mapping[str, Any]) -> Progress:
    values = {"episodes_bytes": 0, "episodes_sha256": "", "teacher": "", **values}
    kinds = {
        "csv_sha256": str,
        "data": str,
        "engine": str,
        "config": dict,
        "evaluation": dict,
        "episodes_sha256": str,
        "teacher": str,
    }
    for key, kind in kinds.items():
        if not isinstance(values[key], kind):
            raise ValueError(f"its {key} is no {kind.__name__}")
    if values["engine"] not in ("dense", "sparse"):
        raise ValueError(f"its engine is {values['engine']!r}")
    seconds = [float(values[key]) for key in ("train_seconds", "eval_seconds")]
    if not all(0 <= it < float("inf") for it in seconds):
        raise ValueError("its clocks show no time")
    evaluation = {str(name): float(value) for name, value in values["evaluation"].items()}
    levels = [_level(it) for it in values.get("levels", [])]
    texts = {key: values[key] for key in ("csv_sha256", "data", "engine", "config", "episodes_sha256", "teacher")}
    csv_bytes, episodes_bytes = (_count(values[key], key) for key in ("csv_bytes", "episodes_bytes"))
    return Progress(
        seconds[0], seconds[1], evaluation, csv_bytes, episodes_bytes=episodes_bytes, levels=levels, **texts
    )


def _level(values: Mapping[str, Any]) -> dict[str, float]:
    return {**{str(name): float(value) for name, value in values.items()}, "update": _count(values["update"], "level")}


def _floats(arrays: Arrays, key: str) -> NDArray[np.float32]:
    if key not in arrays or arrays[key].dtype != np.float32:
        raise ValueError(f"it lacks {key} in float32")
    return arrays[key]


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(f"its {name} is {value!r}")
    return value


def _digest(header: Mapping[str, Any], arrays: Arrays) -> str:
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
