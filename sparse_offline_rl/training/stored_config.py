"""Reading back the ``config.yaml`` of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sparse_offline_rl.errors import UserError


def read_stored_config(path: Path, remedy: str) -> dict[str, Any]:
    """The mapping in ``path``. Raises UserError that names the file and says ``remedy`` if it cannot be read as one."""
    try:
        stored = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, OSError, ValueError):
        stored = None
    if not isinstance(stored, dict):
        raise UserError(f"{path} is not a readable configuration: {remedy}.")
    return {str(key): value for key, value in stored.items()}
