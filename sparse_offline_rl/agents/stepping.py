"""One training step as a function without arguments: plain calls on the CPU, a replayed CUDA graph on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sparse_offline_rl.agents.bcq import BCQ, Metrics
from sparse_offline_rl.datasets.buffer import ReplayBuffer

_WARM_UP = 3  # real updates that run eagerly first, so that cuBLAS and the optimisers have allocated what they keep


def make_step(agent: BCQ, buffer: ReplayBuffer, generator: torch.Generator, batch_size: int) -> Callable[[], Metrics]:
    """A function that samples a batch and updates ``agent`` once; its metrics hold until the next call.

    On CUDA an update is some 400 tiny kernels and the launches are what takes the time: after a few eager updates one
    update is captured as a graph and replayed, with ``generator`` registered so that every replay draws fresh numbers.
    """

    def update() -> Metrics:
        return agent.update(buffer.sample(generator, batch_size), generator)

    return update if agent.device.type != "cuda" else _GraphedStep(update, generator)


class _GraphedStep:
    def __init__(self, update: Callable[[], Metrics], generator: torch.Generator) -> None:
        self._update, self._generator = update, generator
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._metrics: Metrics = {}
        self._done = 0

    def __call__(self) -> Metrics:
        if self._done < _WARM_UP:
            self._done += 1
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                metrics = self._update()
            torch.cuda.current_stream().wait_stream(self._stream)
            return metrics
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._generator)
            with torch.cuda.graph(self._graph):  # records without executing
                self._metrics = self._update()
        self._graph.replay()
        return self._metrics
