"""What the machine of the benchmark measured; wrong values cost time, never correctness.

``python scripts/benchmark.py only=machine`` measures them again. They are constants rather than measured at the start of
a run, because the first two decide the order in which gradients are summed: two runs would differ in their last bits.
The others only decide which thread does what.
"""

from __future__ import annotations

# Half of a core's second-level cache: the activations of so many bytes are still there when a backward needs them twice.
CACHE_BYTES = 1 << 20
# Weights times vectors of a batch from which more threads are worth their start: about 8 µs of work.
MIN_WORK_FOR_THREADS = 20_000

# Nanoseconds of one weight for one vector of the batch: in a forward, in one of the two products of a backward, and of a single row.
FORWARD_NS, BACKWARD_NS, SINGLE_NS = 0.38, 0.48, 1.0
ADD_NS = 0.1  # of one float in a sum of gradients
INSTRUCTION_NS, ELEMENT_NS = 150.0, 0.4  # of an elementwise instruction, and of each of its elements
ADAM_NS = 0.45  # of a parameter
COPY_NS = 1.0  # of a float of a batch
SYNC_NS = 300.0  # until a worker sees what another one has done
BYTES_PER_NS = 10.0  # between the caches of two cores
