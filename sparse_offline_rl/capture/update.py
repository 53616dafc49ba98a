"""An agent's update, recorded at its first call and replayed at every call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from sparse_offline_rl.agents.bcq import BCQ, Metrics
from sparse_offline_rl.agents.state import agent_tensors, load_agent_tensors
from sparse_offline_rl.capture.builder import Builder, Unsupported
from sparse_offline_rl.capture.codes import Call
from sparse_offline_rl.capture.machine import run_parallel, run_serial
from sparse_offline_rl.capture.recorder import UpdateRecorder
from sparse_offline_rl.recording import listening
from sparse_offline_rl.types import Batch


class Program:
    """One update on batches of one shape."""

    def __init__(self, agent: BCQ, batch: Batch, generator: torch.Generator) -> None:
        """Record ``agent.update``; agent and generator are afterwards as they were. Raises Unsupported."""
        if any(x.dtype != torch.float32 or x.device.type != "cpu" or x.dim() != 2 for x in batch):
            raise Unsupported("a batch of anything but float32 matrices on the CPU")
        fields = [x.contiguous().clone() for x in batch]
        recorder = UpdateRecorder(generator, [*fields, *_persistent(agent)])
        with _undone(agent, generator), listening(recorder), recorder:
            self.metrics = agent.update(Batch(*fields), generator)
        builder = Builder()
        self._inputs = np.zeros((len(fields), 2), np.int64)
        for field, place in zip(fields, self._inputs, strict=True):
            rows, columns = field.shape
            builder.emit(Call.INPUT, [rows, columns, field.data_ptr(), place.ctypes.data])
        recorder.lower(builder)
        self._words, self._count = builder.finish(), builder.count
        self._address = self._words.ctypes.data
        self._draws, self._optimizers = recorder.draws, recorder.optimizers
        self._kept = (fields, builder, recorder)
        self._run = run_parallel if recorder.parallel else run_serial

    def __call__(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """The update; the tensors that come back are overwritten by the next one."""
        fields = [x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous() for x in batch]
        for i, field in enumerate(fields):
            self._inputs[i, 0], self._inputs[i, 1] = field.data_ptr(), 4 * field.stride(0)
        for noise in self._draws:
            noise.normal_(generator=generator)
        for optimizer in self._optimizers:
            optimizer.advance()
        self._run(self._address, self._count)
        return self.metrics

    def part(self, kernels: bool) -> Callable[[], None]:
        """Runs only the sparse kernels, or only the other instructions, again and again: to see where the time goes."""
        chosen, count, at = [], 0, 0
        while at < len(self._words):
            code, length = int(self._words[at]), int(self._words[at + 1])
            if (code in (Call.FORWARD, Call.BACKWARD, Call.SINGLE)) == kernels:
                chosen.append(self._words[at : at + length])
                count += 1
            at += length
        words = np.concatenate([np.empty(0, np.int64), *chosen])
        return lambda: self._run(words.ctypes.data, count)


class CapturedUpdate:
    """Does what ``agent.update`` does. Records it for every shape of batch; where that cannot be done, says so once and calls it."""

    def __init__(self, agent: BCQ) -> None:
        self._agent = agent
        self._programs: dict[tuple[tuple[torch.Size, torch.dtype], ...], Program] = {}
        self._possible = True

    def __call__(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """As ``agent.update``, except that the tensors that come back are overwritten by the next call."""
        shapes = tuple((x.shape, x.dtype) for x in batch)
        program = self._programs.get(shapes)
        if program is None and self._possible:
            try:
                program = self._programs[shapes] = Program(self._agent, batch, generator)
            except Unsupported as reason:
                self._possible = False
                name = type(self._agent).__name__
                message = f"{name}.update runs operation by operation, which is slower: no instruction does {reason}."
                warnings.warn(message, RuntimeWarning, stacklevel=2)
        return self._agent.update(batch, generator) if program is None else program(batch, generator)


def _persistent(agent: BCQ) -> Iterator[Tensor]:
    """What an update finds and leaves behind: all tensors of the agent's modules, and the optimisers' moments."""
    for module in vars(agent).values():
        if isinstance(module, nn.Module):
            yield from module.parameters()
            yield from module.buffers()
    for learner in agent.learners.values():
        yield from (*learner.adam.exp_avg, *learner.adam.exp_avg_sq)


@contextmanager
def _undone(agent: BCQ, generator: torch.Generator) -> Iterator[None]:
    """Take back what happens to ``agent`` and ``generator`` within the block."""
    before = {name: tensor.clone() for name, tensor in agent_tensors(agent).items()}
    steps = max(learner.adam.steps for learner in agent.learners.values())
    state = generator.get_state()
    try:
        yield
    finally:
        load_agent_tensors(agent, before, steps)
        generator.set_state(state)
