"""Constants of the machine of the benchmark. Wrong values cost time, never correctness.

``python scripts/benchmark.py only=constants`` shows them beside those of the machine that it runs on. They are not measured
when a run starts: the first two decide in which order gradients are summed, so two runs would differ in their last bits.
The others are estimates of time in ns, from which the schedule of an update is made.
"""

from __future__ import annotations

# Half of a core's second-level cache: the activations of so many bytes are still there when a backward needs them again.
CACHE_BYTES = 1 << 20
# Surviving weights times vectors of the batch. A parallel region starts in about the time of this much work, 8 µs.
MIN_WORK_FOR_THREADS = 20_000

FORWARD_NS = 0.38  # of a weight for a vector of the batch
BACKWARD_NS = 0.48  # of the same in one of the two products of a backward
SINGLE_NS = 1.0  # of a weight in the forward of a single row
ADD_NS = 0.1  # of a float in a sum of gradients
INSTRUCTION_NS = 150.0  # of an elementwise instruction
ELEMENT_NS = 0.4  # of each of its elements
ADAM_NS = 0.45  # of a parameter
SYNC_NS = 300.0  # until a worker sees what another one has done
BYTES_PER_NS = 10.0  # from the cache of one core to that of another; not measured
