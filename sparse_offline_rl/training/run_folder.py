"""One run, one folder: what it holds, who may write to it, and whether it is new, unfinished or complete."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
from omegaconf import OmegaConf
from pydantic import BaseModel

from sparse_offline_rl.config import Config, written
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import read_json, remove_leftovers, write_bytes, write_json
from sparse_offline_rl.policy.runtime import FILE_NAME
from sparse_offline_rl.training.checkpoint import checkpoint_path
from sparse_offline_rl.training.run_lock import FAILURE, forget_failure, run_lock, store_failure
from sparse_offline_rl.training.stored_config import read_stored_config
from sparse_offline_rl.training.summary import check_summary


class RunFolder:
    """The folder of a run. Nothing is written before :meth:`claim`.

    ``config.yaml`` comes first, the policy and ``summary.json`` come last: a folder that has both is complete. One that has lost one of
    them is made complete again from its checkpoint.
    """

    def __init__(self, config: Config) -> None:
        self.path = Path(config.run_dir)
        self.checkpoint = checkpoint_path(self.path)
        self.policy = self.path / "policy" / FILE_NAME
        self._summary = self.path / "summary.json"
        self._config = stored_values(config)
        self._defaults = _defaults(config)
        self._lock = run_lock(self.path)
        try:
            self._refuse_foreign()
            self._found = self._state()
        except OSError as error:
            raise UserError(f"run_dir={self.path} cannot be read ({error.strerror}): choose another run_dir.") from None

    @property
    def complete(self) -> bool:
        """Whether the run has ended well."""
        return self._summary.exists() and self.policy.exists()

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.checkpoint.exists()

    def summary(self) -> dict[str, Any]:
        """What a complete run reported. Raises UserError for a file that does not hold it."""
        try:
            return check_summary(read_json(self._summary))
        except ValueError as error:
            raise UserError(
                f"{self._summary} is damaged ({error}): remove it and run the same command again, which writes it anew."
            ) from None

    def finish(self, summary: dict[str, Any]) -> None:
        """Write the summary: the run is complete."""
        write_json(self._summary, summary)

    def claim(self) -> None:
        """Create the folder if need be and take it for this process until :meth:`release`."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout:
            raise UserError(
                f"{self.path} is being written by another process: wait for it, or choose another run_dir."
            ) from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be created ({error.strerror}): choose another run_dir.") from None
        if self._state() != self._found:
            self.release()
            raise UserError(f"{self.path} was changed by another process meanwhile: run the same command again.")
        for folder in (self.path, self.checkpoint.parent, self.policy.parent):
            remove_leftovers(folder)
        forget_failure(self.path)
        if not self.resumable:
            for stale in self.path.glob(
                "events.out.tfevents.*"
            ):  # of an attempt that ended before its first checkpoint
                stale.unlink()
        write_bytes(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(self._config)).encode())

    def fail(self, error: Exception) -> None:
        """Write down what the run ended in, for ``sparse-offline-rl status``; on a full disk that is left undone."""
        with suppress(UserError):
            store_failure(self.path, error)

    def release(self) -> None:
        """Let other processes write here."""
        self._lock.release()

    def _state(self) -> tuple[bool, int]:
        return self.complete, self.checkpoint.stat().st_mtime_ns if self.resumable else 0

    def _refuse_foreign(self) -> None:
        stored_path = self.path / "config.yaml"
        if not stored_path.exists():
            # An attempt that failed before its configuration was on the disk may have left its reason alone.
            if self.path.exists() and (
                not self.path.is_dir()
                or any(p.name != FAILURE and not p.name.startswith(".") for p in self.path.iterdir())
            ):
                raise UserError(f"run_dir={self.path} exists and is not a run folder: choose an empty or new folder.")
            return
        stored = read_stored_config(stored_path, "restore it or remove its folder")
        self.refuse_other(stored, f"run_dir={self.path} holds")

    def refuse_other(self, stored: Mapping[str, Any], what: str) -> None:
        """Raise UserError, naming the keys that differ, unless ``stored`` is the configuration of this run; ``what`` it is of."""
        # A key that is younger than the run has its default there.
        old = _merged(self._defaults, stored)
        differing = differing_keys(old, self._config)
        if differing:
            more = f" and pretrained={self.path} to go on from it" if self._goes_on(old) else ""
            raise UserError(
                f"{what} a run of another configuration ({'; '.join(differing)}): "
                f"repeat its command, or choose another run_dir{more}."
            )

    def _goes_on(self, old: Mapping[str, Any]) -> bool:
        """Whether this is the dense run of a configuration, but with more updates."""
        wanted, done = self._config["updates"], old["updates"]
        same = {**old, "updates": wanted} == self._config and self._config["prune"]["name"] == "none"
        return same and isinstance(done, int) and done < wanted


def stored_values(config: Config) -> dict[str, Any]:
    """What of a configuration makes a run what it is: all but where it is stored, as JSON values."""
    values: dict[str, Any] = config.model_dump(mode="json", exclude={"run_dir"})
    return values


def _defaults(section: BaseModel) -> dict[str, Any]:
    """The defaults of a section and of those in it, as JSON values; keys without one are missing."""
    fields = type(section).model_fields
    values = section.model_dump(mode="json")
    defaults = type(section).model_construct(
        **{name: field.default for name, field in fields.items() if not field.is_required()}
    )
    plain = defaults.model_dump(mode="json", warnings=False)
    found = {name: plain[name] for name, field in fields.items() if name in values and not field.is_required()}
    nested = {name: getattr(section, name) for name in fields if isinstance(getattr(section, name), BaseModel)}
    return found | {name: _defaults(value) for name, value in nested.items()}


def _merged(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``defaults`` for what they lack, section by section."""
    found = {**defaults, **values}
    for name, default in defaults.items():
        value = values.get(name)
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            found[name] = _merged(default, value)
    return found


def differing_keys(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """``key: stored …, now …`` for every key, also in sections, in which two configurations differ."""
    found = []
    for key in dict.fromkeys([*stored, *wanted]):
        old, new = stored.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += differing_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key}: stored {written(old)}, now {written(new)}")
    return found
