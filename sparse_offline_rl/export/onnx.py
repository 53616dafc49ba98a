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

    Noise is standard normal and clipped inside the graph; a policy without latents has no such input. A graph that ranks candidates
    takes any number of them for each observation. Raises UserError without the onnx package, or if the disk refuses.
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
        inputs = [helper.make_tensor_value_info("observation", kind, ["n", content.observation_dim])]
        if content.acting.latent_dim:
            inputs.append(helper.make_tensor_value_info("noise", kind, ["n_candidates", content.acting.latent_dim]))
        output = helper.make_tensor_value_info("action", kind, ["n", content.action_dim])
        graph = helper.make_graph(self._nodes, "policy", inputs, [output], self._constants)
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(
            graph, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="sparse_offline_rl"
        )
        facts = {"env_id": content.env_id, "candidates": str(content.acting.candidates)}
        helper.set_model_props(model, {**content.metadata, **facts})
        return model

    def _act(self, content: PolicyContent) -> None:
        centered = self._op("Sub", "observation", self._constant(content.observation_mean))
        states = self._op("Div", centered, self._constant(content.observation_std))
        inputs, acting, networks = [states], content.acting, content.networks
        if acting.latent_dim:
            bound = np.float32(acting.latent_clip)
            inputs.append(self._op("Clip", "noise", self._constant(-bound), self._constant(bound)))
        if acting.rank is not None:
            inputs = self._spread(inputs[0], inputs[1], content)
        states = inputs[0]
        raw = self._op("Tanh", self._network(networks[acting.propose], *inputs))
        scaled = self._op("Mul", raw, self._constant(content.action_scale))
        actions = self._op("Add", scaled, self._constant(content.action_center))
        if acting.perturb is not None:
            actions = self._perturbed(content, networks[acting.perturb], states, actions)
        if acting.rank is None:
            self._op("Identity", actions, result="action")
            return
        scores = self._network(networks[acting.rank], states, actions)
        best = self._op("ArgMax", scores, axis=1, keepdims=1)  # [n, 1, 1]
        index = self._op("Squeeze", best, self._constant(np.array([2])))
        self._op("GatherND", actions, index, batch_dims=1, result="action")

    def _spread(self, states: str, latents: str, content: PolicyContent) -> list[str]:
        """Rows for each candidate: ``[n, candidates, S]`` and ``[n, candidates, latent]``."""
        count = self._op("Shape", "observation", start=0, end=1)
        shape = self._op("Concat", count, self._constant(np.array([-1, content.acting.latent_dim])), axis=0)
        latents = self._op("Reshape", latents, shape)
        rows = self._op("Shape", latents, start=0, end=2)
        shape = self._op("Concat", rows, self._constant(np.array([content.observation_dim])), axis=0)
        single = self._op("Unsqueeze", states, self._constant(np.array([1])))
        return [self._op("Expand", single, shape), latents]

    def _perturbed(self, content: PolicyContent, network: PolicyNetwork, states: str, actions: str) -> str:
        raw = self._op("Tanh", self._network(network, states, actions))
        change = self._op("Mul", raw, self._constant(np.float32(content.acting.perturbation) * content.action_scale))
        moved = self._op("Add", actions, change)
        return self._op(
            "Min", self._op("Max", moved, self._constant(content.action_low)), self._constant(content.action_high)
        )

    def _network(self, network: PolicyNetwork, *inputs: str) -> str:
        x = inputs[0] if len(inputs) == 1 else self._op("Concat", *inputs, axis=-1)
        for layer in compact(network):
            product = self._op("MatMul", x, self._constant(np.ascontiguousarray(layer.weight.T)))
            x = self._op("Add", product, self._constant(layer.bias))
            if layer.relu:
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
