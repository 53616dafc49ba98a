"""Policies as dense float32 tensors in a safetensors file, for whoever wants plain matrices."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sparse_offline_rl.files import replacing
from sparse_offline_rl.policy.content import PolicyContent


def export_dense(content: PolicyContent, path: Path) -> list[Path]:
    """Write ``network/layer/weight`` ``[out, in]``, ``network/layer/bias`` and the four vectors; pruned weights are 0.

    The metadata entry ``policy`` is JSON with the settings of acting and the layers of each network in order; hidden layers that are
    ``linear`` have no ReLU. Raises UserError
    if the disk refuses.
    """
    tensors = {
        name: getattr(content, name) for name in ("observation_mean", "observation_std", "action_low", "action_high")
    }
    for network in content.networks.values():
        for layer in network.layers:
            tensors[f"{network.name}/{layer.name}/weight"] = np.ascontiguousarray(layer.weight)
            tensors[f"{network.name}/{layer.name}/bias"] = np.ascontiguousarray(layer.bias)
    settings: dict[str, Any] = {"env_id": content.env_id, "acting": asdict(content.acting)}
    settings["metadata"] = dict(content.metadata)
    settings["networks"] = {
        network.name: {
            "hidden": [layer.name for layer in network.hidden],
            "heads": [layer.name for layer in network.heads],
            **({"linear": sorted(network.linear)} if network.linear else {}),
        }
        for network in content.networks.values()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"policy": json.dumps(settings)})
    return [path]
