"""``python train.py …``: compose the configuration, do the run, tell how it ended."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sparse_offline_rl.cli.configs import check_overrides, config_dir
from sparse_offline_rl.cli.errors import INTERRUPTED, user_errors
from sparse_offline_rl.config import parse_config
from sparse_offline_rl.console import say, show_summary
from sparse_offline_rl.experiment import run


def main() -> None:
    """Entry point of ``train.py`` and ``sparse-offline-rl-train``."""
    # Errors reach user_errors() as they are, instead of Hydra's own report of them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with user_errors():
        check_overrides(sys.argv[1:])
        _hydra_main()


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
def _hydra_main(composed: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.RUN:
        with user_errors():  # here rather than in main(), before Hydra adds lines of its own
            _run_one(composed)
    else:
        _run_one(composed)


def _run_one(composed: DictConfig) -> None:
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    config = parse_config({str(key): value for key, value in values.items()})
    result = run(config)
    if result.summary is None:
        say(f"stopped after {result.update} of {config.updates} updates; all is saved: run the same command to go on.")
        sys.exit(INTERRUPTED)
    show_summary(result.summary, config.run_dir, result.status)
