"""Whole updates of other libraries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparse_offline_rl.benchmarks.contestant import Contestant


def d3rlpy_bcq(
    S: int, A: int, hidden: Mapping[str, Sequence[int]], batch: int, candidates: int, threads: int
) -> Contestant:
    """d3rlpy's BCQ with its own ``update``, on one prepared batch; sampling is not counted."""
    import d3rlpy
    import numpy as np
    import torch
    from d3rlpy.dataset import TransitionMiniBatch
    from d3rlpy.models import VectorEncoderFactory

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    encoders = {key: VectorEncoderFactory(hidden_units=list(sizes)) for key, sizes in hidden.items()}
    config = d3rlpy.algos.BCQConfig(
        actor_encoder_factory=encoders["actor"],
        critic_encoder_factory=encoders["critic"],
        imitator_encoder_factory=encoders["vae"],
        batch_size=batch,
        n_action_samples=candidates,
        update_actor_interval=1,
    )
    bcq = config.create(device="cpu")
    bcq.create_impl((S,), A)
    draw = np.random.default_rng(0)
    ones = np.ones((batch, 1), np.float32)
    data = TransitionMiniBatch(
        observations=draw.standard_normal((batch, S), np.float32),
        actions=draw.uniform(-1, 1, (batch, A)).astype(np.float32),
        rewards=draw.standard_normal((batch, 1), np.float32),
        next_observations=draw.standard_normal((batch, S), np.float32),
        next_actions=draw.uniform(-1, 1, (batch, A)).astype(np.float32),
        terminals=0 * ones,
        intervals=ones,
        transitions=[],
    )
    return Contestant(lambda: bcq.update(data), lambda: {"version": d3rlpy.__version__})
