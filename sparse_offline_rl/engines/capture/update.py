"""An agent's update, recorded at its first call and replayed at every call, and checked against fresh recordings.

A replay does what the update did when it was recorded. What Python decides in it is frozen, so an agent declares in ``phase()``
what changes from update to update, and each phase has a recording of its own. What it fails to declare is noticed: an update that
changes a plain attribute of the agent, or asks how many steps an optimiser has taken, is not recorded at all; and at some later
calls the update is recorded once more and must come out the same, else training ends with an error.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from sparse_offline_rl.agents.base import Agent, Metrics
from sparse_offline_rl.agents.optimizers import Adam
from sparse_offline_rl.engines.capture.builder import Builder, Unsupported
from sparse_offline_rl.engines.capture.executable import Executable
from sparse_offline_rl.engines.capture.opcodes import Call
from sparse_offline_rl.engines.capture.tracer import UpdateTracer
from sparse_offline_rl.engines.sparse.module import thread_count
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.networks.mlp import PrunableMLP
from sparse_offline_rl.types import Batch

_PROGRAMS = 8  # phases and shapes of batches to be remembered
# Replays of a program before which it is recorded afresh and compared: at the updates with these numbers, counted from 1. What an
# update does every k-th time only is seen at a multiple of k, so they have many divisors.
_CHECKED = {update - 1 for update in (2, 3, 4, 12, 60, 420, 2520, 25200, *(277200 * 10**n for n in range(5)))}
_LIBRARIES = {"torch", "numpy", "builtins", "functools"}  # whose objects hold nothing that an update decides by
_SMALLEST_ADDRESS = 1 << 32  # words above are addresses: no size, stride or count is so large

_Key = tuple[Any, ...]  # threads, phase, then the shapes of a batch


class Program:
    """One update on batches of one shape, as instructions at fixed addresses."""

    def __init__(self, fields: list[Tensor], tracer: UpdateTracer, metrics: Metrics, threads: int) -> None:
        """What ``tracer`` saw of an update on the tensors ``fields``, which gave ``metrics``. Raises Unsupported."""
        builder, self._inputs = _lowered(fields, tracer, threads)
        self.signature = _signature(builder)
        self.replays = 0
        self.executable = Executable(builder.tasks, threads)
        self._draws, self._steps, self._metrics = tracer.draws, tracer.steps, metrics
        self._kept = (fields, builder.kept)
        self.threads = threads
        self.batch: Batch | None = None  # whose addresses are in the inputs

    def __call__(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """The update; the tensors that come back are overwritten by the next one."""
        self.replays += 1
        fields = batch if batch is self.batch else self._point_to(batch)
        for noise in self._draws:
            noise.normal_(generator=generator)
        for optimizer, factors, gradients in self._steps:
            optimizer.advance()
            optimizer.gradients = gradients
            factors[:] = optimizer.factors
        self.executable()
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
    """Does what ``agent.update`` does. Records it for each phase, shape of batch and number of threads.

    Where that is impossible, it says so once and calls the update itself.
    """

    def __init__(self, agent: Agent, previous: CapturedUpdate | None = None) -> None:
        """``previous`` did the updates of the same agent with other masks: what it did, and was checked at, counts on."""
        self._agent = agent
        self._programs: dict[_Key, Program] = {}
        self._done = {} if previous is None else previous._replays()
        self._possible = True
        self._last: Program | None = None
        self._last_key: tuple[int, Hashable] | None = None

    def __call__(self, batch: Batch, generator: torch.Generator) -> Metrics:
        """As ``agent.update``, except that the tensors that come back are overwritten by the next call of the same phase.

        Raises UserError if the update turns out to do something else than what was recorded of the same phase.
        """
        now = (thread_count(), self._agent.phase())
        if self._last is not None and self._last.batch is batch and self._last_key == now:  # checked before
            return self._replay(self._last, batch, generator)
        if not self._possible or not all(x.dtype is torch.float32 and x.is_cpu and x.dim() == 2 for x in batch):
            return self._agent.update(batch, generator)
        key = (*now, *(x.shape for x in batch))
        program = self._programs.get(key)
        if program is None:
            return self._first(key, batch, generator)
        self._last, self._last_key = program, now
        return self._replay(program, batch, generator)

    @property
    def programs(self) -> list[Program]:
        """What has been recorded and not been forgotten."""
        return list(self._programs.values())

    def _first(self, key: _Key, batch: Batch, generator: torch.Generator) -> Metrics:
        """Record an update, take it back and replay it; if that is impossible it stands as it was done."""
        before = _State(self._agent, generator)
        seen = key in self._done  # with other masks, and nothing was found
        plain = {} if seen else _plain_values(self._agent)
        fields, tracer, metrics = self._record(key[0], before, batch, generator)
        try:
            if not before.in_place(self._agent):
                raise Unsupported("it puts other tensors into the agent's modules")
            now = {} if seen else _plain_values(self._agent)
            if changed := [path for path, value in now.items() if path not in plain or plain[path] != value]:
                raise Unsupported(f"it changes agent{changed[0]}, which a replay would not")
            program = Program(fields, tracer, metrics, key[0])
        except Unsupported as reason:
            self._possible = False
            name = type(self._agent).__name__
            message = f"{name}.update runs operation by operation, which is slower, because {reason}."
            warnings.warn(message, RuntimeWarning, stacklevel=3)
            return metrics
        before.restore(self._agent, generator)
        if len(self._programs) == _PROGRAMS:
            del self._programs[next(iter(self._programs))]
        self._programs[key] = program
        program.replays = self._done.pop(key, 0)
        return program(batch, generator)

    def _replays(self) -> dict[_Key, int]:
        return self._done | {key: program.replays for key, program in self._programs.items()}

    def _replay(self, program: Program, batch: Batch, generator: torch.Generator) -> Metrics:
        if program.replays in _CHECKED:
            self._check(program, batch, generator)
        return program(batch, generator)

    def _check(self, program: Program, batch: Batch, generator: torch.Generator) -> None:
        """Record once more what the update would do now, take it back, and compare."""
        before = _State(self._agent, generator)
        fields, tracer, _ = self._record(program.threads, before, batch, generator)
        before.restore(self._agent, generator)
        name = type(self._agent).__name__
        remedy = f"let {name}.phase() tell what changes from update to update, or set capture=false"
        try:
            fresh = _signature(_lowered(fields, tracer, program.threads)[0])
        except Unsupported as reason:
            raise UserError(f"{name}.update cannot be recorded any more ({reason}): {remedy}.") from None
        if fresh != program.signature:
            raise UserError(
                f"{name}.update does something else now than what was recorded of its phase {self._agent.phase()!r} "
                f"({program.replays} replays ago): {remedy}."
            )

    def _record(
        self, threads: int, before: _State, batch: Batch, generator: torch.Generator
    ) -> tuple[list[Tensor], UpdateTracer, Metrics]:
        """Do an update on copies of ``batch`` while a tracer listens."""
        fields = [x.clone(memory_format=torch.contiguous_format) for x in batch]
        tracer = UpdateTracer(generator, [*fields, *before.tensors], threads)
        phase = self._agent.phase()
        self._agent.phase = lambda: phase  # type: ignore[method-assign]  # may ask for steps, which the update itself may not
        try:
            with tracer.tracing():
                metrics = self._agent.update(Batch(*fields), generator)
        finally:
            del self._agent.phase
        return fields, tracer, metrics


def _lowered(fields: Sequence[Tensor], tracer: UpdateTracer, threads: int) -> tuple[Builder, array[int]]:
    """What ``tracer`` saw as instructions, and where they look for the batch: address and row stride of each of ``fields``.

    Raises Unsupported.
    """
    builder, inputs = Builder(threads), array("q", bytes(16 * len(fields)))
    for i, field in enumerate(fields):
        words = [*field.shape, field.data_ptr(), inputs.buffer_info()[0] + 16 * i]
        builder.emit(Call.INPUT, words, [], [(field.data_ptr(), 4 * field.numel())], float(field.numel()))
    tracer.lower(builder)
    return builder, inputs


def _signature(builder: Builder) -> list[list[object]]:
    """The instructions, in a form that two recordings of the same update share.

    Addresses of scratch memory and of intermediate results differ from recording to recording: each address is replaced by the
    number of its first appearance, or by the value of the constant that stands there.
    """
    seen: dict[int, object] = {address: ("constant", value) for value, address in builder.constants.items()}
    rows: list[list[object]] = []
    for task in builder.tasks:
        words = (0 if i in task.scratch else word for i, word in enumerate(task.words))
        rows.append([seen.setdefault(it, len(seen)) if it >= _SMALLEST_ADDRESS else it for it in words])
    return rows


def _plain_values(root: object) -> dict[str, object]:
    """Every number, text and flag that is reachable from ``root`` by attributes and containers, by its path.

    Tensors are an update's business, and so are the optimisers' books, which a replay keeps, and what an engine keeps for its
    networks.
    """
    found: dict[str, object] = {}
    visited: set[int] = set()

    def visit(value: object, path: str) -> None:
        if isinstance(value, bool | int | float | str | None):
            found[path] = value
        elif id(value) not in visited and not isinstance(value, Tensor | Adam | PrunableMLP | torch.Generator):
            visited.add(id(value))
            items: Iterable[tuple[str, object]] = ()
            if isinstance(value, Mapping):
                items = ((f"[{key!r}]", item) for key, item in value.items())
            elif isinstance(value, list | tuple):
                items = ((f"[{i}]", item) for i, item in enumerate(value))
            elif isinstance(value, nn.Module) or type(value).__module__.split(".")[0] not in _LIBRARIES:
                items = ((f".{key}", item) for key, item in getattr(value, "__dict__", {}).items())
            for key, item in items:
                visit(item, path + key)

    visit(root, "")
    return found


class _State:
    """What an update changes, as it was: all tensors of the agent's modules, its optimisers and the noise."""

    def __init__(self, agent: Agent, generator: torch.Generator) -> None:
        self.tensors = list(agent.tensors())
        self._places = [x.data_ptr() for x in self.tensors]
        self._values = [x.detach().clone() for x in self.tensors]
        self._steps = {name: optimizer.steps for name, optimizer in agent.optimizers.items()}
        self._noise = generator.get_state()

    def in_place(self, agent: Agent) -> bool:
        """Whether every tensor is still where it was."""
        return self._places == [x.data_ptr() for x in agent.tensors()]

    @torch.no_grad()
    def restore(self, agent: Agent, generator: torch.Generator) -> None:
        """Let everything be as it was."""
        for tensor, value in zip(self.tensors, self._values, strict=True):
            tensor.copy_(value)
        for name, optimizer in agent.optimizers.items():
            optimizer.steps = self._steps[name]
        generator.set_state(self._noise)
