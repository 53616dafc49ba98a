"""What a mask left of each layer: survivors, live units, collapsed layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from sparse_offline_rl.networks.liveness import live_units
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.types import BoolArray


@dataclass(frozen=True)
class LayerReport:
    """One layer after pruning."""

    network: str
    name: str
    kept: int
    total: int
    outputs: int  # output units, each of which has a bias
    live_inputs: int  # input units with a surviving outgoing weight
    live_outputs: int  # output units with a surviving incoming weight
    collapsed: bool  # no surviving weight lies on a way from the network's input to its output
    stored: (
        int  # values that are stored for its weights: as many as survive, or fewer where these share values by a hash
    )

    @property
    def full_name(self) -> str:
        """``network.layer``."""
        return f"{self.network}.{self.name}"

    def as_dict(self) -> dict[str, object]:
        """The fields that ``summary.json`` stores; ``stored`` only where that says something."""
        fields = asdict(self) | {"name": self.full_name}
        del fields["network"], fields["collapsed"]
        if self.stored == self.kept:
            del fields["stored"]
        return fields


def layer_reports(network: str, topology: Topology) -> list[LayerReport]:
    """Reports for the network of that name, from input to output."""
    hidden = list(topology.hidden.items())
    reached: list[BoolArray] = [np.ones(topology.in_features, bool)]  # units that a signal from the input reaches
    for _, mask in hidden:
        reached.append(np.any(mask & reached[-1], axis=1))
    useful = live_units(topology.stacked)
    reports = []
    for i, (name, mask) in enumerate(hidden):
        alive = mask & reached[i] & useful[i + 1][:, None]
        reports.append(_report(network, name, mask, bool(alive.any()), topology.stored[name]))
    for name, mask in topology.heads.items():
        reports.append(_report(network, name, mask, bool((mask & reached[-1]).any()), topology.stored[name]))
    return reports


def _report(network: str, name: str, mask: BoolArray, alive: bool, stored: int) -> LayerReport:
    live_inputs, live_outputs = int(mask.any(0).sum()), int(mask.any(1).sum())
    return LayerReport(
        network, name, int(mask.sum()), mask.size, len(mask), live_inputs, live_outputs, not alive, stored
    )


def coo_bytes(kept: int, biases: int) -> int:
    """Bytes of int64 COO storage (the paper's Table 1): 20 per kept weight and 12 per bias."""
    return 20 * kept + 12 * biases
