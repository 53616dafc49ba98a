"""What a mask left of each layer: survivors, live units, collapsed layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from sparse_offline_rl.networks.liveness import live_units
from sparse_offline_rl.networks.packing import Topology


@dataclass(frozen=True)
class LayerReport:
    """One layer after pruning: its matrix, or the factors that are left of it."""

    network: str
    name: str
    kept: int
    total: int
    outputs: int  # output units, each of which has a bias
    live_inputs: int  # input units with a surviving outgoing weight
    live_outputs: int  # output units with a surviving incoming weight
    collapsed: bool  # no surviving weight lies on a way from the network's input to its output
    stored: int  # values for its weights: as many as survive, or fewer where these share values by a hash

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
    """Reports for the network of that name, from input to output.

    A layer in factors is one report: the weights of them all against those of the matrix for which they stand. What several heads
    share counts for each of them in equal parts.
    """
    masks, reached = topology.layers, np.ones(topology.in_features, bool)  # units that a signal from the input reaches
    useful = dict(zip(topology.hidden, live_units(topology.stacked)[1:], strict=False))
    alive = {}
    for name, mask in topology.hidden.items():
        alive[name] = bool((mask & reached & useful[name][:, None]).any())
        reached = np.any(mask & reached, axis=1)
    alive |= {name: bool((mask & reached).any()) for name, mask in topology.heads.items()}
    reports, heads = [], list(topology.heads)
    for name, (outputs, inputs) in topology.shapes.items():
        before = topology.factors[name]
        part, parts = (heads.index(name), len(heads)) if name in heads else (0, 1)
        shared = sum(int(masks[it].sum()) for it in before)
        kept = int(masks[name].sum()) + shared * (part + 1) // parts - shared * part // parts
        first = masks[before[0] if before else name]
        reports.append(
            LayerReport(
                network=network,
                name=name,
                kept=kept,
                total=outputs * inputs,
                outputs=outputs,
                live_inputs=int(first.any(0).sum()),
                live_outputs=int(masks[name].any(1).sum()),
                collapsed=not all(alive[it] for it in (*before, name)),
                stored=topology.stored[name] if topology.hashes else kept,
            )
        )
    return reports


def coo_bytes(kept: int, biases: int) -> int:
    """Bytes of int64 COO storage (the paper's Table 1): 20 per kept weight and 12 per bias."""
    return 20 * kept + 12 * biases
