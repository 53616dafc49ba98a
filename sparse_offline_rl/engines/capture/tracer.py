"""Traces an update: torch's operations below autograd, and what torch does not see."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse_offline_rl.agents.optimizers import Adam
from sparse_offline_rl.engines.capture.builder import Builder, Unsupported
from sparse_offline_rl.engines.capture.lowering import lower
from sparse_offline_rl.engines.capture.opcodes import Call
from sparse_offline_rl.engines.sparse.buffers import Buffer
from sparse_offline_rl.engines.sparse.costs import ADAM_NS
from sparse_offline_rl.engines.sparse.kernel_table import KERNELS
from sparse_offline_rl.engines.sparse.tables import FLOAT_BYTES
from sparse_offline_rl.tracing import KernelCall, tracing

# Options of an operation that can be seen in its result.
_IGNORED = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}
_UNKNOWN = "it reads a tensor that is neither in its batch nor in one of the agent's modules"
_READ = "Python reads the numbers of a tensor"
_READERS = {Tensor.numpy, Tensor.tolist, Tensor.__array__}  # not seen by torch's dispatcher


class UpdateTracer(TorchDispatchMode):
    """What happened during an update, in order. Every tensor is kept alive, so that no memory is used twice."""

    def __init__(self, generator: torch.Generator, tensors: Iterable[Tensor], threads: int = 1) -> None:
        """``tensors`` are all tensors from before the update that it may read; ``threads`` threads will replay it."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._threads = threads
        self._known = _places(tensors)
        self._generator = generator
        self._events: list[Callable[[Builder], None]] = []
        self._kept: list[object] = []
        self._free: list[Buffer] = []
        self.draws: list[Tensor] = []  # standard normal noise, to be drawn again before each replay
        self.steps: list[tuple[Adam, array[float], list[Tensor]]] = []  # optimiser, factors of this step, gradients

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Asked by torch when the class is made. Nothing here is ever compiled by torch, and to be kept from that costs the
        # import of its compiler, for seconds, at the first operation that is traced.
        return False

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Within the block everything is traced."""
        with tracing(self), self, _Watch(self):
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "profiler":
            return out
        self._kept.append((args, kwargs, out))
        inputs, outputs = _tensors(args), _tensors(out)
        arguments = func._schema.arguments
        written = [i for i, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write]
        if func.overloadpacket.__name__ == "randn":
            self._draw(out, kwargs.get("generator"))
        elif func.overloadpacket.__name__ == "_local_scalar_dense":  # of float(), int(), bool() and if, too
            self.refuse(f"{_READ} (item)")
        elif func.overloadpacket.__name__ in ("lift", "lift_fresh"):
            self.refuse("it makes a tensor of Python's numbers, which a replay would not see change")
        elif written not in ([], [0]) or _tensors(kwargs):
            self.refuse(f"{func} writes or reads by out= or another keyword")
        elif not _places(inputs) <= self._known:
            self.refuse(f"{_UNKNOWN} ({func})")
        elif written or not (outputs and _places(outputs) <= _places(inputs)):  # else it is a view
            target, options = args[0] if written else out, {k: v for k, v in kwargs.items() if k not in _IGNORED}
            self._events.append(lambda b: lower(b, func, target, inputs, args, options))
        self._known |= _places(outputs)
        return out

    def reads(self, tensors: Sequence[Tensor]) -> None:
        """A kernel is about to read these."""
        self._kept.append(list(tensors))
        if not _places(tensors) <= self._known:
            self.refuse(f"{_UNKNOWN} (a sparse network)")

    def kernel(self, call: KernelCall) -> None:
        """A call of a sparse kernel."""
        kernel = KERNELS[call.name]
        scratch = {kernel.position(word): size for word, size in call.scratch.items()}
        self._events.append(
            lambda b: b.emit(kernel.opcode, call.words, call.reads, call.writes, call.nanoseconds, scratch)
        )

    def steps_read(self) -> None:
        """What Python decides by a number of steps would be frozen."""
        self.refuse("it asks how many steps an optimiser has taken, which only phase() may")

    def adam(self, optimizer: Adam, gradients: Sequence[Tensor]) -> None:
        """A step of an optimiser: an instruction for each parameter, or several for a large one."""
        factors = optimizer.factors[:]
        self.steps.append((optimizer, factors, list(gradients)))
        rows = zip(optimizer.parameters, optimizer.exp_avg, optimizer.exp_avg_sq, gradients, strict=True)
        for row in rows:
            self._events.append(lambda b, row=row: _adam(b, row, factors.buffer_info()[0]))  # type: ignore[misc]

    def take(self, count: int) -> Buffer:
        """A free buffer that is large enough: the less memory the kernels touch, the more of it is in the cache.

        With several threads only one of the same size, because tasks that use one buffer cannot run side by side.
        """
        largest = count if self._threads > 1 else math.inf
        fitting = [buffer for buffer in self._free if count <= buffer.count <= largest]
        if not fitting:
            buffer = Buffer(count)
            self._kept.append(buffer)
            return buffer
        best = min(fitting, key=lambda buffer: buffer.count)
        self._free.remove(best)
        return best

    def give_back(self, buffer: Buffer) -> None:
        """A buffer is free again."""
        self._free.append(buffer)

    def lower(self, builder: Builder) -> None:
        """Add what happened to a program. Raises Unsupported for what no instruction does."""
        builder.kept.append(self._kept)
        for event in self._events:
            event(builder)

    def refuse(self, reason: str) -> None:
        """Let :meth:`lower` fail; raising here would end the update in its middle."""

        def refusal(_: Builder) -> None:
            raise Unsupported(reason)

        self._events.append(refusal)

    def _draw(self, out: Tensor, generator: Any) -> None:
        given: Any = self._generator
        if generator is None or generator._cdata != given._cdata:  # the dispatcher wraps it anew
            self.refuse("it draws noise from another generator than the one that it is given")
        self.draws.append(out)


class _Watch(TorchFunctionMode):
    """Notices numbers that Python reads without torch's dispatcher."""

    def __init__(self, tracer: UpdateTracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READERS:
            gradients = [gradient for _, _, step in self._tracer.steps for gradient in step]
            if not _places(args[:1]) <= _places(gradients):  # Adam reads these
                self._tracer.refuse(f"{_READ} ({func.__name__})")
        return func(*args, **(kwargs or {}))


def _adam(b: Builder, row: Sequence[Tensor], factors: int) -> None:
    """Adam on one parameter, given with both moments and the gradient."""
    count = row[0].numel()
    for part in b.chunks(count, count // 8):
        size = part.stop - part.start
        places = [x.data_ptr() + FLOAT_BYTES * part.start for x in row]
        regions = [(place, FLOAT_BYTES * size) for place in places]
        b.emit(Call.ADAM, [*places, factors, size], regions, regions[:3], ADAM_NS * size)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _places(tensors: Iterable[Tensor]) -> set[int]:
    """The memory in which tensors lie; views share it."""
    return {x.untyped_storage().data_ptr() for x in tensors}
