"""What a network has beside its weights while its masks are learned: gates, penalties, steps of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from sparse_offline_rl.networks.masked import masked_product
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.pruning.learned.config import LearnedConfig
from sparse_offline_rl.pruning.masks import count
from sparse_offline_rl.types import FloatArray

_VECTORS = ("gates", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, eq=False)
class ExtensionState:
    """An extension as arrays. A checkpoint holds them as numbers of the schedule's memory."""

    gates: Mapping[str, FloatArray]  # layer name -> what is learned beside its weights, any shape
    exp_avg: Mapping[str, FloatArray]  # Adam's moments of the gates
    exp_avg_sq: Mapping[str, FloatArray]
    steps: int  # Adam's, for the gates
    unit: float  # what `prune.penalty` is a multiple of
    left: int  # how many weights were not switched off when they were last counted

    def numbers(self, name: str) -> dict[str, FloatArray]:
        """The arrays by the names that they have in the memory, for the network ``name``."""
        arrays = {f"{name}/{kind}.{layer}": it for kind in _VECTORS for layer, it in getattr(self, kind).items()}
        return arrays | {
            f"{name}/steps": _one(self.steps),
            f"{name}/unit": _one(self.unit),
            f"{name}/left": _one(self.left),
        }

    @classmethod
    def of_numbers(cls, name: str, numbers: Mapping[str, FloatArray]) -> ExtensionState:
        """The inverse of :meth:`numbers`."""
        found: dict[str, dict[str, FloatArray]] = {kind: {} for kind in _VECTORS}
        for key, array in numbers.items():
            network, _, rest = key.partition("/")
            kind, _, layer = rest.partition(".")
            if network == name and kind in found:
                found[kind][layer] = array
        steps, unit, left = (float(numbers[f"{name}/{key}"][0]) for key in ("steps", "unit", "left"))
        return cls(**found, steps=int(steps), unit=unit, left=int(left))


def summed(parts: Iterable[Tensor]) -> Tensor:
    """The sum of all entries of ``parts``, a scalar."""
    return torch.stack([part.sum() for part in parts]).sum()


def _one(number: float) -> FloatArray:
    return np.array([number], np.float32)


class Extension:
    """What one network learns beside its weights until it is pruned: gates that multiply the weights, unless a subclass says else.

    Networks of the agent call :meth:`product` in the place of a layer's own. The loss of the network gets :meth:`penalty`, and after
    each step of its optimiser :meth:`after_step` may move weights and gates. Where no gradient is computed (targets, acting) gates have
    their expected value, which :meth:`factors` gives; so has the network that is made of it in the end.
    """

    INITIAL: ClassVar[float | None] = None  # of every gate; None: there are no gates
    LAYERS: ClassVar[str] = "all"  # layers that have gates: "all" or "hidden"
    SWITCHES: ClassVar[bool] = True  # whether weights are switched off, which `left` then counts
    POLARIZES: ClassVar[bool] = False  # whether `prune.polarize` says something to it

    def __init__(self, settings: LearnedConfig, state: ExtensionState, topology: Topology, device: str = "cpu") -> None:
        self.settings, self.state = settings, state
        self.hidden = list(topology.hidden)
        self.gates = {name: torch.from_numpy(it).to(device, copy=True) for name, it in state.gates.items()}
        for gate in self.gates.values():
            gate.requires_grad_()

    def begin_update(self, draws: torch.Generator, strength: float) -> None:
        """Called before each update of training: where its noise comes from, and the present strength of the penalty.

        ``strength`` is ``prune.penalty``, less while it warms up, and 0 once no more weights are left than shall survive.
        """
        self.draws, self.strength = draws, strength

    @classmethod
    def begin(cls, topology: Topology, settings: LearnedConfig, effects: Mapping[str, Tensor]) -> ExtensionState:
        """The extension at its start; ``effects`` are ``w · ∂L/∂w`` of each layer ``[out, in]`` on one batch."""
        gates = {}
        if cls.INITIAL is not None:
            for name, mask in topology.layers.items():
                if cls.LAYERS == "all" or name in topology.hidden:
                    gates[name] = np.full(cls.gate_shape(mask.shape), cls.INITIAL, np.float32)
        zeros = {name: np.zeros_like(gate) for name, gate in gates.items()}
        unit = cls.unit({name: effects[name] for name in gates or effects})
        return ExtensionState(gates, zeros, dict(zeros), 0, unit, topology.kept)

    @classmethod
    def gate_shape(cls, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the gates of a layer ``[out, in]``."""
        return shape

    @classmethod
    def unit(cls, effects: Mapping[str, Tensor]) -> float:
        """What ``prune.penalty`` is a multiple of: the mean size of the loss's own gradient by a gate.

        Losses of an agent's networks differ by factors of a thousand, so one absolute coefficient cannot be right for all of them.
        """
        return float(torch.cat([effect.flatten() for effect in effects.values()]).abs().mean())

    @classmethod
    def penalises_twins(cls) -> bool:
        """Whether a twin that follows a network has a :meth:`penalty` of its own, by its own weights; gates they have in common."""
        return cls.INITIAL is None

    def product(self, layer: str, x: Tensor, weight: Tensor, bias: Tensor, keep: Tensor | None, relu: bool) -> Tensor:
        """What the layer computes: ``[B, in]`` to ``[B, out]``, as :func:`masked_product` does it with the gated weights."""
        factor, bias_factor = self.sampled(layer) if torch.is_grad_enabled() else self.factors(layer)
        gated = weight if factor is None else weight * factor
        return masked_product(x, gated, bias if bias_factor is None else bias * bias_factor, keep, relu)

    def factors(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """What multiplies the weights ``[out, in]`` and the biases ``[out]``; None: nothing does."""
        return None, None

    def sampled(self, layer: str) -> tuple[Tensor | None, Tensor | None]:
        """As :meth:`factors`, with the noise of training."""
        return self.factors(layer)

    def added_loss(self, weights: Mapping[str, Tensor]) -> Tensor | None:
        """What is added to the network's loss: its :meth:`penalty` with the present strength."""
        penalty = self.penalty(weights) if self.strength else None
        return None if penalty is None else penalty * (self.strength * self.state.unit)

    def penalty(self, weights: Mapping[str, Tensor]) -> Tensor | None:
        """A scalar of which the strength and :attr:`ExtensionState.unit` are factors."""
        return None

    @torch.no_grad()
    def after_step(self, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], rate: float) -> None:
        """Move ``weights`` ``[out, in]`` or gates in place, after a step of size ``rate`` along ``gradients`` of the weights."""

    @property
    def idle(self) -> bool:
        """Whether its gates were never trained, as no optimiser moved their network: they say nothing."""
        return self.INITIAL is not None and self.state.steps == 0

    def importance(self, layer: str, weight: Tensor) -> Tensor:
        """What decides which weights survive, ``[out, in]``: the size of the gated weight."""
        factor, _ = self.factors(layer)
        return (weight if factor is None else weight * factor).abs()

    def left(self, layer: str, weight: Tensor) -> Tensor:
        """Boolean ``[out, in]``: which weights are not switched off."""
        return self.importance(layer, weight) > 0

    @torch.no_grad()
    def count_left(self, weights: Mapping[str, Tensor]) -> int:
        """How many of the network's weights are not switched off."""
        return sum(count(self.left(name, weight)) for name, weight in weights.items())

    def normal(self, shape: torch.Size) -> Tensor:
        """Standard normal noise of this update."""
        return torch.randn(shape, generator=self.draws, device=self.draws.device)

    def uniform(self, shape: torch.Size) -> Tensor:
        """Uniform noise of this update, inside (0, 1)."""
        return torch.rand(shape, generator=self.draws, device=self.draws.device).clamp_(1e-6, 1 - 1e-6)


class UnitExtension(Extension):
    """An extension that switches off whole hidden units."""

    def unit_scores(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What decides which hidden units survive: ``[out]`` of each hidden layer."""
        raise NotImplementedError

    def alive(self, layer: str, weight: Tensor) -> Tensor:
        """Boolean ``[out]``: which units of a hidden layer are not switched off."""
        raise NotImplementedError

    @torch.no_grad()
    def count_left(self, weights: Mapping[str, Tensor]) -> int:
        """As the base says: a weight is there if the units on both of its ends are."""
        found, inputs = 0, next(iter(weights.values())).shape[1]
        for name in self.hidden:
            outputs = count(self.alive(name, weights[name]))
            found, inputs = found + inputs * outputs, outputs
        return found + inputs * sum(len(weight) for name, weight in weights.items() if name not in self.hidden)
