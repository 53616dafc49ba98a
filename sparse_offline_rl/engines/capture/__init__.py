"""Runs an agent's update as one compiled call: recorded once through the agent's own code, replayed by :mod:`.machine`.

It is to the CPU what CUDA graphs are to a GPU: an update of a pruned agent is a few large kernels and many small tensor operations,
and torch takes longer to call the latter than to compute them.
"""
