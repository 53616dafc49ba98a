"""An agent's update, recorded at its first call and replayed at every call."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterator, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from sparse_offline_rl.agents.bcq import BCQ, Metrics
from sparse_offline_rl.engines.capture.builder import Builder, Unsupported
from sparse_offline_rl.engines.capture.executable import Executable as Assembly
from sparse_offline_rl.engines.capture.opcodes import Call
from sparse_offline_rl.engines.capture.tracer import UpdateTracer as UpdateRecorder
from sparse_offline_rl.engines.sparse.module import thread_count
from sparse_offline_rl.types import Batch

_PROGRAMS = 8  # shapes of batches to be remembered

_Key = tuple[Any, ...]  # threads, then the shapes of a batch


class Program:
    """One update on batches of one shape, as instructions at fixed addresses."""

    def __init__(self, fields: list[Tensor], recorder: UpdateRecorder, metrics: Metrics, threads: int) -> None:
        """What ``recorder`` saw of an update on the tensors ``fields``, which gave ``metrics``. Raises Unsupported."""
        builder = Builder(threads)
        self._inputs = array("q", bytes(16 * len(fields)))  # address and row stride of each
        for i, field in enumerate(fields):
            words = [*field.shape, field.data_ptr(), self._inputs.buffer_info()[0] + 16 * i]
            builder.emit(Call.INPUT, words, [], [(field.data_ptr(), 4 * field.numel())], float(field.numel()))
        recorder.lower(builder)
        self.assembly = Assembly(builder.tasks, threads)
        self._draws, self._steps, self._metrics = recorder.draws, recorder.steps, metrics
        self._kept = (fields, builder.kept)
        self.threads = threads
        self.batch: Batch | None = None  # whose addresses are in the inputs

    def __call__(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """The update; the tensors that come back are overwritten by the next one."""
        fields = batch if batch is self.batch else self._point_to(batch)
        for noise in self._draws:
            noise.normal_(generator=generator)
        for optimizer, factors, gradients in self._steps:
            optimizer.advance()
            optimizer.gradients = gradients
            factors[:] = optimizer.factors
        self.assembly()
        del fields  # alive until now: some may be copies
        return dict(self._metrics)

    def _point_to(self, batch: Batch) -> Sequence[Tensor]:
        """Let the program read ``batch``, or copies of those of its fields whose rows are not contiguous."""
        fields = [x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous() for x in batch]
        self._inputs[:] = array("q", [word for x in fields for word in (x.data_ptr(), 4 * x.stride(0))])
        # Who draws every batch into the same tensors need not be asked for their addresses again.
        self.batch = batch if all(map(is_, fields, batch)) else None
        return fields


class CapturedUpdate:
    """Does what ``agent.update`` does. Records it for each shape of batch and number of threads.

    Where that is impossible, it says so once and calls the update itself.
    """

    def __init__(self, agent: BCQ) -> None:
        self._agent = agent
        self._programs: dict[_Key, Program] = {}
        self._possible = True
        self._last: Program | None = None

    def __call__(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """As ``agent.update``, except that the tensors that come back are overwritten by the next call."""
        threads = thread_count()
        if self._last is not None and self._last.batch is batch and self._last.threads == threads:  # checked before
            return self._last(batch, generator)
        if not self._possible or not all(x.dtype is torch.float32 and x.is_cpu and x.dim() == 2 for x in batch):
            return self._agent.update(batch, generator)
        key = (threads, *(x.shape for x in batch))
        self._last = self._programs.get(key)
        return self._record(key, batch, generator) if self._last is None else self._last(batch, generator)

    @property
    def programs(self) -> list[Program]:
        """What has been recorded and not been forgotten."""
        return list(self._programs.values())

    def _record(self, key: _Key, batch: Batch, generator: torch.Generator) -> Metrics:
        """Record an update, take it back and replay it; if that is impossible it stands as it was done."""
        agent, before = self._agent, _State(self._agent, generator)
        fields = [x.contiguous().clone() for x in batch]
        recorder = UpdateRecorder(generator, [*fields, *before.tensors], key[0])
        with recorder.recording():
            metrics = agent.update(Batch(*fields), generator)
        try:
            if not before.in_place(agent):
                raise Unsupported("it puts other tensors into the agent's modules")
            program = Program(fields, recorder, metrics, key[0])
        except Unsupported as reason:
            self._possible = False
            name = type(agent).__name__
            message = f"{name}.update runs operation by operation, which is slower, because {reason}."
            warnings.warn(message, RuntimeWarning, stacklevel=3)
            return metrics
        before.restore(agent, generator)
        if len(self._programs) == _PROGRAMS:
            del self._programs[next(iter(self._programs))]
        self._programs[key] = program
        return program(batch, generator)


class _State:
    """What an update changes, as it was: all tensors of the agent's modules, its optimisers and the noise."""

    def __init__(self, agent: BCQ, generator: torch.Generator) -> None:
        self.tensors = list(_persistent(agent))
        self._places = [x.data_ptr() for x in self.tensors]
        self._values = [x.detach().clone() for x in self.tensors]
        self._steps = {name: learner.adam.steps for name, learner in agent.learners.items()}
        self._noise = generator.get_state()

    def in_place(self, agent: BCQ) -> bool:
        """Whether every tensor is still where it was."""
        return self._places == [x.data_ptr() for x in _persistent(agent)]

    @torch.no_grad()
    def restore(self, agent: BCQ, generator: torch.Generator) -> None:
        """Let everything be as it was."""
        for tensor, value in zip(self.tensors, self._values, strict=True):
            tensor.copy_(value)
        for name, learner in agent.learners.items():
            learner.adam.steps = self._steps[name]
        generator.set_state(self._noise)


def _persistent(agent: BCQ) -> Iterator[Tensor]:
    for module in vars(agent).values():
        if isinstance(module, nn.Module):
            yield from module.parameters()
            yield from module.buffers()
    for learner in agent.learners.values():
        yield from (*learner.adam.exp_avg, *learner.adam.exp_avg_sq)
