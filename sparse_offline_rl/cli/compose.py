"""The configuration of a run without running it, for code that does parts of a run itself: studies, benchmarks, tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from sparse_offline_rl.cli.configs import CONFIG_NAME, hydra_errors
from sparse_offline_rl.config import Config, config_dir
from sparse_offline_rl.experiment import read_config


def config_of(overrides: Sequence[str]) -> Config:
    """What ``python train.py OVERRIDES`` trains with. Raises UserError as that does."""
    with hydra_errors(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        values = OmegaConf.to_container(compose(CONFIG_NAME, list(overrides)), resolve=True)
    return read_config(cast(dict[str, Any], values))
