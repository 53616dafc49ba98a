"""The JSON header of a policy file: sizes first, so that a reader knows what to expect before it allocates anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any

from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.policy.content import PolicyContent, PolicyLayer
from sparse_offline_rl.policy.levels import MAX_BITS, MAX_SHARED, MIN_BITS, Levels, LinearLevels, SharedLevels
from sparse_offline_rl.types import Acting, FloatArray

MAX_POSITIONS = 2**27  # weights of all networks together, kept or not: 512 MiB once expanded
# A reader expands masks, so a short file must not claim a large one: at sparsity 0.9999 a file has 2000 weights a byte.
MAX_POSITIONS_PER_BYTE = 2**12
_MAX_WIDTH = 2**27


@dataclass(frozen=True)
class VectorSizes:
    """Sizes of a layer's weights or biases: ``count`` values, as floats or on levels of which there are ``shared`` or ``bits``."""

    count: int
    shared: int = 0
    bits: int = 0

    @property
    def floats(self) -> int:
        """How many float32 values stand for it in the file."""
        return self.shared or int(self.bits > 0) or self.count

    @property
    def planes(self) -> int:
        """How many bytes each of its integers has, if it has integers."""
        return 1 if self.shared else (self.bits + 7) // 8

    def levels(self, floats: FloatArray) -> Levels | None:
        """The levels that these ``floats`` describe. Raises ValueError for a step that cannot be one."""
        if self.shared:
            return SharedLevels(floats)
        return LinearLevels(self.bits, floats[0]) if self.bits else None


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of one layer of ``outputs × inputs`` weights, and the bytes that its mask takes in the file."""

    name: str
    inputs: int
    outputs: int
    weights: VectorSizes  # of those that are kept, or of the values that they share
    biases: VectorSizes
    mask_bytes: int
    linear: bool  # a hidden layer without ReLU
    hashing: LayerHash | None = None


@dataclass(frozen=True)
class NetworkSizes:
    """Sizes of one network, from input to heads."""

    name: str
    hidden: tuple[LayerSizes, ...]
    heads: tuple[LayerSizes, ...]


@dataclass(frozen=True)
class Header:
    """The header, checked: every size is in range, though not yet against the length of the file."""

    fields: Mapping[str, Any]  # of PolicyContent, those that are no arrays
    observation_dim: int
    action_dim: int
    exponent_bytes: int
    code_bytes: int  # of the integers, deflated; 0 where there are none
    networks: tuple[NetworkSizes, ...]

    @property
    def layers(self) -> list[LayerSizes]:
        """The layers of all networks in file order."""
        return [layer for network in self.networks for layer in network.hidden + network.heads]

    @property
    def positions(self) -> int:
        """Weights of all layers, kept or not."""
        return sum(layer.inputs * layer.outputs for layer in self.layers)

    @property
    def floats(self) -> int:
        """How many float32 values the file holds."""
        return 2 * self.observation_dim + 2 * self.action_dim + sum(vector.floats for vector in self.vectors)

    @property
    def codes(self) -> int:
        """How many bytes its integers take before they are deflated."""
        return sum(vector.count * vector.planes for vector in self.vectors)

    @property
    def vectors(self) -> list[VectorSizes]:
        """Weights and biases of each layer in file order."""
        return [vector for layer in self.layers for vector in (layer.weights, layer.biases)]


def describe(
    content: PolicyContent, exponent_bytes: int, code_bytes: int | None, mask_bytes: Sequence[int]
) -> dict[str, Any]:
    """The header of ``content`` as JSON values; ``mask_bytes`` has one entry a layer, in file order.

    ``code_bytes`` is None for a version that knows no integers.
    """
    sizes = iter(mask_bytes)

    def layers(some: tuple[PolicyLayer, ...], linear: frozenset[str] = frozenset()) -> list[dict[str, Any]]:
        return [
            {
                "name": it.name,
                "in": it.weight.shape[1],
                "out": it.weight.shape[0],
                **_describe_positions(it, next(sizes)),
                **_describe_levels("weights", it.weight_levels),
                **_describe_levels("biases", it.bias_levels),
                **({"linear": True} if it.name in linear else {}),
            }
            for it in some
        ]

    return {
        "acting": asdict(content.acting),
        "env_id": content.env_id,
        "observation_dim": content.observation_dim,
        "action_dim": content.action_dim,
        "metadata": dict(content.metadata),
        "exponent_bytes": exponent_bytes,
        **({} if code_bytes is None else {"code_bytes": code_bytes}),
        "networks": [
            {"name": network.name, "hidden": layers(network.hidden, network.linear), "heads": layers(network.heads)}
            for network in content.networks.values()
        ],
    }


def _describe_positions(layer: PolicyLayer, mask_bytes: int) -> dict[str, Any]:
    hashing = layer.hashing
    if hashing is None:
        return {"kept": layer.kept, "mask_bytes": mask_bytes}
    return {"hashed": {"values": hashing.values, "seed": hashing.seed}}


def _describe_levels(key: str, levels: Levels | None) -> dict[str, Any]:
    if levels is None:
        return {}
    return {key: {"shared": len(levels.values)} if isinstance(levels, SharedLevels) else {"bits": levels.bits}}


def parse(values: Any, version: int) -> Header:
    """Check what a file of that format version claims. Raises ValueError with a clause that says what is wrong."""
    metadata = _get(values, "metadata", dict)
    if not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not text")
    acting = _acting(_get(values, "acting", dict)) if version >= 2 else _acting_of_version_1(values)
    if version == 1:
        metadata = {"agent": _get(values, "kind", str), **metadata}
    header = Header(
        fields={"acting": acting, "env_id": _get(values, "env_id", str), "metadata": metadata},
        observation_dim=_size(values, "observation_dim", 1),
        action_dim=_size(values, "action_dim", 1),
        exponent_bytes=_size(values, "exponent_bytes"),
        code_bytes=_size(values, "code_bytes") if version >= 3 else 0,
        networks=tuple(_network(entry, version) for entry in _get(values, "networks", list)),
    )
    if len({network.name for network in header.networks}) < len(header.networks):
        raise ValueError("it names a network twice")
    if header.positions > MAX_POSITIONS:
        raise ValueError(f"it claims more than {MAX_POSITIONS} weights")
    return header


def _acting(values: dict[str, Any]) -> Acting:
    try:
        return Acting(
            propose=_get(values, "propose", str),
            latent_dim=_size(values, "latent_dim"),
            latent_clip=float(_get(values, "latent_clip", (int, float))),
            perturb=_get(values, "perturb", (str, NoneType)),
            perturbation=float(_get(values, "perturbation", (int, float))),
            rank=_get(values, "rank", (str, NoneType)),
            candidates=_size(values, "candidates", 1),
        )
    except OverflowError:
        raise ValueError("its header claims a number beyond all bounds") from None


def _acting_of_version_1(values: Any) -> Acting:
    """Version 1 knew two kinds of policies, whose networks it took for granted."""
    names = {"bcq": {"propose": "decoder", "perturb": "actor", "rank": "critic1"}, "bc": {"propose": "decoder"}}
    kind = _get(values, "kind", str)
    if kind not in names:
        raise ValueError(f"it is of unknown kind {kind!r}")
    fields = {key: values.get(key) for key in ("latent_dim", "latent_clip", "candidates", "perturbation")}
    if kind == "bc":
        fields |= {"candidates": 1, "perturbation": 0.0}
    return _acting({"perturb": None, "rank": None} | fields | names[kind])


def _network(values: Any, version: int) -> NetworkSizes:
    hidden, heads = (tuple(_layer(entry, version) for entry in _get(values, key, list)) for key in ("hidden", "heads"))
    if any(layer.linear for layer in heads):
        raise ValueError("it says of a head that it is linear, as all heads are")
    if len({layer.name for layer in (*hidden, *heads)}) < len(hidden) + len(heads):
        raise ValueError("it names a layer twice")
    return NetworkSizes(_get(values, "name", str), hidden, heads)


def _layer(values: Any, version: int) -> LayerSizes:
    name: str = _get(values, "name", str)
    hashing = _hashing(values) if version >= 5 and "hashed" in values else None
    sizes = {key: _size(values, key) for key in (("in", "out") if hashing else ("in", "out", "kept", "mask_bytes"))}
    if hashing is not None:
        sizes |= {"kept": hashing.values, "mask_bytes": 0}
    if sizes["kept"] > sizes["in"] * sizes["out"]:
        raise ValueError(f"layer {name} claims {sizes['kept']} of {sizes['in']} × {sizes['out']} weights")
    counts = {"weights": sizes["kept"], "biases": sizes["out"]}
    weights, biases = (_vector(count, values.get(key) if version >= 3 else None, key) for key, count in counts.items())
    linear = version >= 4 and "linear" in values and _get(values, "linear", bool)
    return LayerSizes(name, sizes["in"], sizes["out"], weights, biases, sizes["mask_bytes"], linear, hashing)


def _hashing(values: dict[str, Any]) -> LayerHash:
    hashed = _get(values, "hashed", dict)
    return LayerHash(_size(values, "out"), _size(values, "in"), hashed.get("values"), hashed.get("seed"))


def _vector(count: int, levels: Any, key: str) -> VectorSizes:
    if levels is None:
        return VectorSizes(count)
    ranges = {"shared": (1, MAX_SHARED), "bits": (MIN_BITS, MAX_BITS)}
    if not isinstance(levels, dict) or len(levels) != 1 or not set(levels) <= set(ranges):
        raise ValueError(f"its header lacks valid levels of {key}")
    (kind,) = levels
    least, most = ranges[kind]
    number = _size(levels, kind, least)
    if number > most:
        raise ValueError(f"its header claims {kind} = {number}")
    return VectorSizes(count, **{kind: number})


def _get(values: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"its header lacks a valid {key}")
    return value


def _size(values: Any, key: str, least: int = 0) -> int:
    value: int = _get(values, key, int)
    if not least <= value <= _MAX_WIDTH:
        raise ValueError(f"its header claims {key} = {value}")
    return value
