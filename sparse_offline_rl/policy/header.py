"""The JSON header of a policy file: sizes first, so that a reader knows what to expect before it allocates anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import NoneType
from typing import Any

from sparse_offline_rl.policy.content import PolicyContent, PolicyLayer
from sparse_offline_rl.types import Acting

MAX_POSITIONS = 2**27  # weights of all networks together, kept or not: 512 MiB once expanded
# A reader expands masks, so a short file must not claim a large one: at sparsity 0.9999 a file has 2000 weights a byte.
MAX_POSITIONS_PER_BYTE = 2**12
_MAX_WIDTH = 2**27


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of one layer: ``kept`` of ``outputs × inputs`` weights, and the bytes that its mask takes in the file."""

    name: str
    inputs: int
    outputs: int
    kept: int
    mask_bytes: int

    @property
    def floats(self) -> int:
        """How many values the layer has in the file."""
        return self.kept + self.outputs


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
        return 2 * self.observation_dim + 2 * self.action_dim + sum(layer.floats for layer in self.layers)


def describe(content: PolicyContent, exponent_bytes: int, mask_bytes: Sequence[int]) -> dict[str, Any]:
    """The header of ``content`` as JSON values; ``mask_bytes`` has one entry a layer, in file order."""
    sizes = iter(mask_bytes)

    def layers(some: tuple[PolicyLayer, ...]) -> list[dict[str, Any]]:
        return [
            {
                "name": it.name,
                "in": it.weight.shape[1],
                "out": it.weight.shape[0],
                "kept": it.kept,
                "mask_bytes": next(sizes),
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
        "networks": [
            {"name": network.name, "hidden": layers(network.hidden), "heads": layers(network.heads)}
            for network in content.networks.values()
        ],
    }


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
        networks=tuple(_network(entry) for entry in _get(values, "networks", list)),
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


def _network(values: Any) -> NetworkSizes:
    hidden, heads = (tuple(_layer(entry) for entry in _get(values, key, list)) for key in ("hidden", "heads"))
    return NetworkSizes(_get(values, "name", str), hidden, heads)


def _layer(values: Any) -> LayerSizes:
    sizes = {key: _size(values, key) for key in ("in", "out", "kept", "mask_bytes")}
    name: str = _get(values, "name", str)
    if sizes["kept"] > sizes["in"] * sizes["out"]:
        raise ValueError(f"layer {name} claims {sizes['kept']} of {sizes['in']} × {sizes['out']} weights")
    return LayerSizes(name, sizes["in"], sizes["out"], sizes["kept"], sizes["mask_bytes"])


def _get(values: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    value = values.get(key) if isinstance(values, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"its header lacks a valid {key}")
    return value


def _size(values: Any, key: str, least: int = 0) -> int:
    value: int = _get(values, key, int)
    if not least <= value <= _MAX_WIDTH:
        raise ValueError(f"its header claims {key} = {value}")
    return value
