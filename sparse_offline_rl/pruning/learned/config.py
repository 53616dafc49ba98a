"""The keys of ``prune.schedule=learned``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sparse_offline_rl.config import Fraction, NonNegative, PositiveFloat, PositiveInt, PruneConfig


class LearnedConfig(PruneConfig):
    """Keys of ``prune.schedule=learned``."""

    schedule: Literal["learned"] = "learned"
    learn: str
    start: Fraction = 0.25
    until: Fraction = 0.5
    every: PositiveInt = 100
    penalty: NonNegative = 1.0
    polarize: NonNegative = 0.0
    gate_lr: PositiveFloat = 1e-3
    warmup: Fraction = 0.0
    after: Literal["finetune", "rewind"] = "finetune"
    rewind: Annotated[int, Field(ge=0)] = 0
    rescale: bool = False
