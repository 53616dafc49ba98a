"""What a deployable policy consists of, as NumPy arrays: the one thing that the file, the runtime and the exporters share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.policy.levels import Levels
from sparse_offline_rl.types import Acting, BoolArray, FloatArray

# Floats that acting on one observation may need for the outputs of its widest layer over all candidates: 256 MiB.
MAX_ACTIVATIONS = 2**26


@dataclass(frozen=True, eq=False)
class PolicyLayer:
    """One linear layer, ``y = weight @ x + bias``.

    Levels, where there are any, are those on which all surviving weights or all biases lie: a file then holds integers for them.
    With a hash no weight is pruned and all share a few values: a file then holds these, and the levels are theirs.
    Raises ValueError unless shapes fit, values are float32 and every pruned weight is zero.
    """

    name: str
    weight: FloatArray  # [out, in], exactly 0 where pruned
    mask: BoolArray  # [out, in], True = kept
    bias: FloatArray  # [out]
    weight_levels: Levels | None = None
    bias_levels: Levels | None = None
    hashing: LayerHash | None = None

    def __post_init__(self) -> None:
        _require(
            self.weight.dtype == self.bias.dtype == np.float32 and self.mask.dtype == np.bool_,
            self.name,
            "has wrong types",
        )
        _require(
            self.weight.ndim == 2 and self.weight.shape == self.mask.shape, self.name, "has a mask of another shape"
        )
        _require(self.bias.shape == self.weight.shape[:1], self.name, "has a bias of another length")
        _require(not self.weight[~self.mask].any(), self.name, "has pruned weights that are not zero")
        if self.hashing is not None:
            _require(self.hashing.shape == self.weight.shape, self.name, "has a hash of another shape")
            _require(bool(self.mask.all()), self.name, "has a hash, and pruned weights")

    @property
    def kept(self) -> int:
        """How many weights survive."""
        return int(np.count_nonzero(self.mask))

    @property
    def vectors(self) -> tuple[tuple[FloatArray, Levels | None], tuple[FloatArray, Levels | None]]:
        """The surviving weights in the row-major order of the mask, or the values that they share, and the biases, each with its levels.

        Raises ValueError if weights differ that share a value by their hash.
        """
        values = self.weight[self.mask] if self.hashing is None else self.hashing.collect(self.weight)
        return (values, self.weight_levels), (self.bias, self.bias_levels)


@dataclass(frozen=True, eq=False)
class PolicyNetwork:
    """Hidden layers with ReLU after each but those that are ``linear``, then linear heads whose outputs stand side by side.

    Raises ValueError unless each layer takes what the one before it gives.
    """

    name: str
    hidden: tuple[PolicyLayer, ...]
    heads: tuple[PolicyLayer, ...]
    linear: frozenset[str] = frozenset()  # names of hidden layers

    def __post_init__(self) -> None:
        _require(len(self.heads) > 0, self.name, "has no output layer")
        for before, after in pairwise(self.hidden):
            _require(
                after.weight.shape[1] == len(before.bias), self.name, f"has a layer {after.name} that does not fit"
            )
        width = len(self.hidden[-1].bias) if self.hidden else self.heads[0].weight.shape[1]
        for head in self.heads:
            _require(head.weight.shape[1] == width, self.name, f"has a head {head.name} that does not fit")
        _require(
            self.linear <= {layer.name for layer in self.hidden}, self.name, "has no hidden layer for each linear one"
        )

    @property
    def layers(self) -> tuple[PolicyLayer, ...]:
        """All layers from input to output, heads last."""
        return self.hidden + self.heads

    @property
    def topology(self) -> Topology:
        """The masks, and which layers are linear; of a hashed network, with a value of its own for each weight."""
        hidden, heads = ({layer.name: layer.mask for layer in group} for group in (self.hidden, self.heads))
        return Topology(hidden, heads, linear=self.linear)

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return int(self.layers[0].weight.shape[1])

    @property
    def out_features(self) -> int:
        """Width of the heads together."""
        return sum(len(head.bias) for head in self.heads)

    @property
    def density(self) -> float:
        """Fraction of the weights that survive; 1 for a network without weights."""
        topology = self.topology
        return topology.kept / topology.total if topology.total else 1.0


@dataclass(frozen=True, eq=False)
class PolicyContent:
    """Everything that acting needs. Raises ValueError if the parts do not fit together or acting would take too much memory.

    The state is ``(observation - mean) / std``; ``acting`` says how the networks make an action of it.
    """

    acting: Acting
    networks: Mapping[str, PolicyNetwork]  # exactly those that `acting` names, in that order
    observation_mean: FloatArray  # [S]
    observation_std: FloatArray  # [S], above 0
    action_low: FloatArray  # [A]
    action_high: FloatArray  # [A]
    env_id: str
    metadata: Mapping[str, str] = field(default_factory=dict)  # agent, prune, sparsity, seed, versions, …

    def __post_init__(self) -> None:
        wanted = self.acting.networks
        _require(tuple(self.networks) == wanted, "policy", f"needs the networks {', '.join(wanted)}, in this order")
        _require(all(name == network.name for name, network in self.networks.items()), "policy", "misnames a network")
        self._check_vectors()
        self._check_metadata()
        for name, shape in self.acting.shapes(self.observation_dim, self.action_dim).items():
            network = self.networks[name]
            _require((network.in_features, network.out_features) == shape, name, f"must map {shape} features")
        widest = max(max(layer.weight.shape) for network in self.networks.values() for layer in network.layers)
        _require(
            self.acting.candidates * widest <= MAX_ACTIVATIONS,
            "policy",
            f"would need {self.acting.candidates} candidates of {widest} units, more than {MAX_ACTIVATIONS} numbers",
        )

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """What the environment ``env_id`` is made with, such as the dataset's time limit."""
        settings: dict[str, Any] = json.loads(self.metadata.get("env_kwargs", "{}"))
        return settings

    def _check_metadata(self) -> None:
        try:
            known = isinstance(self.env_kwargs, dict)
        except (ValueError, RecursionError):
            known = False
        _require(known, "metadata", "needs a JSON object for env_kwargs")

    def _check_vectors(self) -> None:
        vectors: dict[str, NDArray[np.float32]] = {
            "observation_mean": self.observation_mean,
            "observation_std": self.observation_std,
            "action_low": self.action_low,
            "action_high": self.action_high,
        }
        for name, vector in vectors.items():
            fits = vector.dtype == np.float32 and vector.ndim == 1 and bool(np.isfinite(vector).all())
            _require(fits and len(vector) > 0, name, "must be a vector of finite float32 numbers")
        _require(
            self.observation_mean.shape == self.observation_std.shape, "observation_std", "must be as long as the mean"
        )
        _require(bool((self.observation_std > 0).all()), "observation_std", "must be above 0")
        _require(self.action_low.shape == self.action_high.shape, "action_high", "must be as long as action_low")
        _require(bool((self.action_low <= self.action_high).all()), "action_low", "must not be above action_high")

    @property
    def observation_dim(self) -> int:
        """S."""
        return len(self.observation_mean)

    @property
    def action_dim(self) -> int:
        """A."""
        return len(self.action_low)

    @property
    def action_scale(self) -> FloatArray:
        """Half the width of the action range, ``[A]``."""
        return ((self.action_high - self.action_low) / 2).astype(np.float32)

    @property
    def action_center(self) -> FloatArray:
        """The middle of the action range, ``[A]``."""
        return ((self.action_high + self.action_low) / 2).astype(np.float32)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the networks as dense float32 before pruning, biases included: what the file size is compared with."""
        return sum(4 * network.topology.original.size for network in self.networks.values())


def same_values(one: PolicyContent, other: PolicyContent) -> bool:
    """Whether two policies have the same networks with equal weights and biases."""
    pairs = [(one.networks[name], other.networks[name]) for name in one.networks if name in other.networks]
    layers = [(x.layers, y.layers) for x, y in pairs]
    return one.networks.keys() == other.networks.keys() and all(
        len(xs) == len(ys)
        and all(
            np.array_equal(x.weight, y.weight) and np.array_equal(x.bias, y.bias) for x, y in zip(xs, ys, strict=True)
        )
        for xs, ys in layers
    )


def _require(condition: bool, name: str, complaint: str) -> None:
    if not condition:
        raise ValueError(f"{name} {complaint}")
