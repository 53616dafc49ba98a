"""Policies as one ONNX graph: normalisation, networks and the choice among candidates; the noise is an input.

Initialisers are dense, after exact compaction: ONNX Runtime makes sparse ones dense when it loads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.export.compact import compact
from sparse_offline_rl.files import write_bytes
from sparse_offline_rl.policy.content import PolicyContent, PolicyNetwork

_OPSET, _IR_VERSION = 17, 8  # old enough for runtimes of 2022


def export_onnx(content: PolicyContent, path: Path) -> list[Path]:
    """Write the acting function: ``observation [n, S]`` and ``noise [n · candidates, latent]`` to ``action [n, A]``.

    Noise is standard normal and clipped inside the graph, one row for each observation with BC. A BCQ graph takes any number
    of candidates for each observation. Raises UserError without the onnx package, or if the disk refuses.
    """
    try:
        import onnx
    except ImportError:
        raise UserError("to=onnx needs the onnx package: pip install 'sparse-offline-rl[onnx]'.") from None
    model = _Graph(onnx).model(content)
    onnx.checker.check_model(model, full_check=True)
    write_bytes(path, model.SerializeToString())
    return [path]


class _Graph:
    """Nodes and initialisers while they are collected; methods return the name of their result."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def model(self, content: PolicyContent) -> Any:
        """The checked parts put together."""
        onnx, helper = self._onnx, self._onnx.helper
        self._act(content)
        kind = onnx.TensorProto.FLOAT
        inputs = [
            helper.make_tensor_value_info("observation", kind, ["n", content.observation_dim]),
            helper.make_tensor_value_info("noise", kind, ["n_candidates", content.latent_dim]),
        ]
        output = helper.make_tensor_value_info("action", kind, ["n", content.action_dim])
        graph = helper.make_graph(self._nodes, "policy", inputs, [output], self._constants)
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(
            graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="sparse_offline_rl"
        )
        facts = {"kind": content.kind, "env_id": content.env_id, "candidates": str(content.candidates)}
        helper.set_model_props(model, {**content.metadata, **facts})
        return model

    def _act(self, content: PolicyContent) -> None:
        centered = self._op("Sub", "observation", self._constant(content.observation_mean))
        states = self._op("Div", centered, self._constant(content.observation_std))
        bound = np.float32(content.latent_clip)
        latents = self._op("Clip", "noise", self._constant(-bound), self._constant(bound))
        if content.kind == "bcq":
            states, latents = self._spread(states, latents, content)
        raw = self._op("Tanh", self._network(content.networks["decoder"], states, latents))
        scaled = self._op("Mul", raw, self._constant(content.action_scale))
        if content.kind == "bc":
            self._op("Add", scaled, self._constant(content.action_center), result="action")
            return
        actions = self._perturbed(content, states, self._op("Add", scaled, self._constant(content.action_center)))
        scores = self._network(content.networks["critic1"], states, actions)
        best = self._op("ArgMax", scores, axis=1, keepdims=1)  # [n, 1, 1]
        index = self._op("Squeeze", best, self._constant(np.array([2])))
        self._op("GatherND", actions, index, batch_dims=1, result="action")

    def _spread(self, states: str, latents: str, content: PolicyContent) -> tuple[str, str]:
        """Rows for each candidate: ``[n, candidates, S]`` and ``[n, candidates, latent]``."""
        count = self._op("Shape", "observation", start=0, end=1)
        shape = self._op("Concat", count, self._constant(np.array([-1, content.latent_dim])), axis=0)
        latents = self._op("Reshape", latents, shape)
        rows = self._op("Shape", latents, start=0, end=2)
        shape = self._op("Concat", rows, self._constant(np.array([content.observation_dim])), axis=0)
        single = self._op("Unsqueeze", states, self._constant(np.array([1])))
        return self._op("Expand", single, shape), latents

    def _perturbed(self, content: PolicyContent, states: str, actions: str) -> str:
        raw = self._op("Tanh", self._network(content.networks["actor"], states, actions))
        change = self._op("Mul", raw, self._constant(np.float32(content.perturbation) * content.action_scale))
        moved = self._op("Add", actions, change)
        return self._op(
            "Min", self._op("Max", moved, self._constant(content.action_low)), self._constant(content.action_high)
        )

    def _network(self, network: PolicyNetwork, *inputs: str) -> str:
        x = self._op("Concat", *inputs, axis=-1)
        layers = compact(network)
        for i, layer in enumerate(layers):
            product = self._op("MatMul", x, self._constant(np.ascontiguousarray(layer.weight.T)))
            x = self._op("Add", product, self._constant(layer.bias))
            if i < len(layers) - 1:
                x = self._op("Relu", x)
        return x

    def _constant(self, value: NDArray[Any] | np.float32) -> str:
        name = f"constant{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def _op(self, kind: str, *inputs: str, result: str | None = None, **attributes: int | Sequence[int]) -> str:
        name = result or f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name
