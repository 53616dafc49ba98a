"""What a mask left of each layer: survivors, live units, collapsed layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sparse_offline_rl.networks.liveness import live_units
from sparse_offline_rl.networks.mlp import stack_masks


@dataclass(frozen=True)
class LayerReport:
    """One layer after pruning."""

    network: str
    name: str
    kept: int
    total: int
    live_inputs: int  # input units with a surviving outgoing weight
    live_outputs: int  # output units with a surviving incoming weight
    collapsed: bool  # no surviving weight lies on a way from the network's input to its output

    @property
    def full_name(self) -> str:
        """``network.layer``."""
        return f"{self.network}.{self.name}"

    def as_dict(self) -> dict[str, object]:
        """The fields that ``summary.json`` stores."""
        fields = asdict(self) | {"name": self.full_name}
        del fields["network"], fields["collapsed"]
        return fields


def layer_reports(network: str, hidden: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> list[LayerReport]:
    """Reports for one network, from input to output; ``hidden`` and ``heads`` map layer names to masks ``[out, in]``."""
    masks = list(hidden.values())
    first = masks[0] if masks else next(iter(heads.values()))
    reached = [torch.ones(first.shape[1], dtype=torch.bool, device=first.device)]
    for mask in masks:
        reached.append((mask & reached[-1]).any(1))
    reports = []
    useful = [torch.from_numpy(live).to(first.device) for live in live_units(stack_masks(hidden, heads))]
    for i, (name, mask) in enumerate(hidden.items()):
        alive = mask & reached[i] & useful[i + 1][:, None]
        reports.append(_report(network, name, mask, bool(alive.any())))
    for name, mask in heads.items():
        reports.append(_report(network, name, mask, bool((mask & reached[-1]).any())))
    return reports


def _report(network: str, name: str, mask: Tensor, alive: bool) -> LayerReport:
    live_inputs, live_outputs = int(mask.any(0).sum()), int(mask.any(1).sum())
    return LayerReport(network, name, int(mask.sum()), mask.numel(), live_inputs, live_outputs, not alive)


def coo_bytes(kept: int, biases: int) -> int:
    """Bytes of int64 COO storage (the paper's Table 1): 20 per kept weight and 12 per bias."""
    return 20 * kept + 12 * biases
