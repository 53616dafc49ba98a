"""Listens to an update: torch's operations below autograd, and the kernels that torch does not see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparse_offline_rl.agents.adam import Adam
from sparse_offline_rl.capture.builder import Builder, Unsupported
from sparse_offline_rl.capture.codes import Call
from sparse_offline_rl.capture.lowering import ALLOCATIONS, COMPARISONS, LOWERINGS
from sparse_offline_rl.sparse.engine import Buffer

_THREADS = {"forward": 17, "backward": 22}  # which argument is the number of threads
# What these say can be seen in the result.
_IGNORED = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "generator"}
_FROM_OUTSIDE = {"lift_fresh", "lift"}  # numbers of Python's made a tensor: a replay would not see them change
_CALLS = {"forward": Call.FORWARD, "backward": Call.BACKWARD, "single": Call.SINGLE}


class UpdateRecorder(TorchDispatchMode):
    """Everything that happened, in order, with every tensor alive, so that no memory serves twice."""

    def __init__(self, generator: torch.Generator, tensors: Iterable[Tensor]) -> None:
        """``tensors`` are all that the update may read of what was there before it."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._known = _places(tensors)
        self._generator = generator
        self._events: list[Callable[[Builder], None]] = []
        self._kept: list[object] = []
        self._free: list[Buffer] = []
        self.draws: list[Tensor] = []  # standard normal noise, to be drawn again before each replay
        self.optimizers: list[Adam] = []
        self.parallel = False  # whether a kernel ran on several threads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self._kept.append((args, kwargs, out))
        name = func.overloadpacket.__name__
        inputs, outputs = ([x for x in tree_leaves(tree) if isinstance(x, Tensor)] for tree in (args, out))
        in_place = name.endswith("_")
        if name in _FROM_OUTSIDE or not _places(inputs) <= self._known:
            self._refuse(f"{func} on a tensor that is neither in the batch nor in one of the agent's modules")
        elif name == "randn":
            self._draw(out, kwargs.get("generator"))
        elif in_place or not (outputs and _places(outputs) <= _places(inputs)):  # else it is a view
            target, options = args[0] if in_place else out, {k: v for k, v in kwargs.items() if k not in _IGNORED}
            self._events.append(lambda b: _lower(b, func, target, inputs, args, options))
        self._known |= _places(outputs)
        return out

    def kernel(self, name: str, arguments: Sequence[int]) -> None:
        """A call of a sparse kernel."""
        self.parallel |= name != "single" and arguments[_THREADS[name]] > 1
        self._events.append(lambda b: b.emit(_CALLS[name], arguments))

    def adam(self, optimizer: Adam, gradients: Sequence[Tensor]) -> None:
        """A step of an optimiser: one instruction for each parameter."""
        self.optimizers.append(optimizer)
        self._kept.append(list(gradients))
        rows = zip(optimizer.parameters, optimizer.exp_avg, optimizer.exp_avg_sq, gradients, strict=True)
        for row in rows:
            words = [*(x.data_ptr() for x in row), optimizer.factors.ctypes.data, row[0].numel()]
            self._events.append(lambda b, words=words: b.emit(Call.ADAM, words))  # type: ignore[misc]

    def take(self, count: int) -> Buffer:
        """The smallest free buffer that is large enough: the less memory the kernels touch, the more of it is in the cache."""
        fitting = [buffer for buffer in self._free if buffer.count >= count]
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

    def _draw(self, out: Tensor, generator: Any) -> None:
        mine: Any = self._generator
        if generator is None or generator._cdata != mine._cdata:  # the dispatcher wraps it anew
            self._refuse("noise from another generator than the update's")
        self.draws.append(out)

    def _refuse(self, reason: str) -> None:
        def refusal(_: Builder) -> None:
            raise Unsupported(reason)

        self._events.append(refusal)


def _places(tensors: Iterable[Tensor]) -> set[int]:
    """The memory in which tensors lie; views share it."""
    return {x.untyped_storage().data_ptr() for x in tensors}


def _lower(builder: Builder, func: Any, out: Any, inputs: Sequence[Tensor], args: Any, options: Any) -> None:
    name = func.overloadpacket.__name__.rstrip("_")
    if name in ALLOCATIONS:
        return
    lowering = LOWERINGS.get(name)
    booleans = [isinstance(x, Tensor) and x.dtype == torch.bool for x in (out, *inputs)]
    if lowering is None or (booleans[0] and not (name in COMPARISONS or all(booleans))):
        raise Unsupported(str(func))
    try:
        signature(lowering).bind(builder, out, *args, **options)
    except TypeError:
        raise Unsupported(f"{func} with {', '.join(options) or 'these arguments'}") from None
    lowering(builder, out, *args, **options)
