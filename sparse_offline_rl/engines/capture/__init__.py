"""Runs an agent's update as one compiled call: traced once through the agent's own code, then replayed by :mod:`.interpreter`.

This is to the CPU what CUDA graphs are to a GPU. An update of a pruned agent is a few large kernels and many small tensor
operations, and torch takes longer to call the latter than to compute them.
"""
