"""``python train.py …``: compose the configuration, do the run, tell how it ended."""

from __future__ import annotations

import os
import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparse_offline_rl.cli.configs import check_overrides, config_dir
from sparse_offline_rl.cli.errors import INTERRUPTED, user_errors
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.experiment import read_config, run
from sparse_offline_rl.training.console import say, show_summary

# Jobs that failed; None in a worker process of a parallel launcher, which has no main().
_failed: list[str] | None = None


def main() -> None:
    """Entry point of ``train.py`` and ``sparse-offline-rl-train``."""
    # Errors reach user_errors() as they are, instead of Hydra's own report of them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    global _failed
    _failed = []
    with user_errors():
        check_overrides(sys.argv[1:])
        try:
            _hydra_main()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(" ".join(f"{error}".split())) from None
    if _failed:
        sys.exit(2)


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="train")
def _hydra_main(composed: DictConfig) -> None:
    try:
        _run_one(composed)
    except UserError as error:
        if _failed is None:
            raise
        # Reported here rather than in main(), before Hydra adds lines of its own; the other jobs of a sweep go on.
        overrides = " ".join(HydraConfig.get().overrides.task)
        job = f"[{overrides}] " if HydraConfig.get().mode == RunMode.MULTIRUN else ""
        print(f"error: {job}{error}", file=sys.stderr)
        _failed.append(overrides)


def _run_one(composed: DictConfig) -> None:
    values = OmegaConf.to_container(composed, resolve=True)
    assert isinstance(values, dict)
    config = read_config({str(key): value for key, value in values.items()})
    result = run(config)
    if result.summary is None:
        say(f"stopped after {result.update} of {config.updates} updates; all is saved: run the same command to go on.")
        sys.exit(INTERRUPTED)
    show_summary(result.summary, config.run_dir, result.status)
