"""Ways to learn masks by the name that ``prune.learn`` gives them."""

from __future__ import annotations

from sparse_offline_rl.pruning.learned.bernoulli_mask import BernoulliMask
from sparse_offline_rl.pruning.learned.decorrelation import Decorrelation
from sparse_offline_rl.pruning.learned.extension import Extension
from sparse_offline_rl.pruning.learned.group_lasso import GroupLasso
from sparse_offline_rl.pruning.learned.hard_concrete import HardConcrete
from sparse_offline_rl.pruning.learned.sensitivity import Sensitivity
from sparse_offline_rl.pruning.learned.soft_mask import SoftMask
from sparse_offline_rl.pruning.learned.unit_scale import UnitScale
from sparse_offline_rl.pruning.learned.variational_dropout import VariationalDropout

EXTENSIONS: dict[str, type[Extension]] = {
    "soft_mask": SoftMask,
    "bernoulli_mask": BernoulliMask,
    "hard_concrete": HardConcrete,
    "variational_dropout": VariationalDropout,
    "unit_scale": UnitScale,
    "group_lasso": GroupLasso,
    "sensitivity": Sensitivity,
    "decorrelation": Decorrelation,
}
