"""Acting with a stored policy. Needs NumPy, and Numba for speed; never torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.policy.format import read_policy
from sparse_offline_rl.policy.runner import Rows, make_runner, rows
from sparse_offline_rl.types import BoolArray, FloatArray

FILE_NAME = "policy.sorl"
_ROWS_AT_ONCE = 4096  # of a larger batch; bounds the memory that acting takes
_NOISE_ROWS = 256  # latents drawn at a time: a draw costs more than a row
_KEPT_SPACES = 16


def find_policy(path: str | Path) -> Path:
    """The policy file behind a run folder, its ``policy`` folder or the file itself. Raises UserError if there is none."""
    given = Path(path)
    if not given.exists():
        raise UserError(f"there is no {given}: give a run folder or a {FILE_NAME} file.")
    if not given.is_dir():
        return given
    for candidate in (given / "policy" / FILE_NAME, given / FILE_NAME):
        if candidate.is_file():
            return candidate
    raise UserError(f"{given} holds no policy/{FILE_NAME}: give the folder of a run that has finished.")


def load_policy(path: str | Path) -> Policy:
    """Open a trained policy: a run folder, its ``policy`` folder, or a ``policy.sorl`` file.

    Raises UserError if there is none or it cannot be read.
    """
    return Policy(read_policy(find_policy(path)))


class _Space(NamedTuple):
    """Preallocated rows for ``n`` observations of ``n · rows`` candidates."""

    observations: Rows  # [n, S], normalised
    finite: BoolArray
    actions: Rows
    changes: Rows
    scores: Rows


class Policy:
    """A trained policy on one thread. Objects keep buffers between calls: use one object a thread.

    ``content`` holds everything that the file does; ``seed`` starts the latent noise of acting.
    """

    def __init__(self, content: PolicyContent, seed: int | None = None) -> None:
        self.content = content
        acting = content.acting
        self._rows, self._latent_dim = acting.candidates, acting.latent_dim
        self._propose = make_runner(content.networks[acting.propose])
        self._perturb = None if acting.perturb is None else make_runner(content.networks[acting.perturb])
        self._rank = None if acting.rank is None else make_runner(content.networks[acting.rank])
        self._mean, self._std = content.observation_mean, content.observation_std
        self._low, self._high = content.action_low, content.action_high
        self._scale, self._center = content.action_scale, content.action_center
        self._unit_range = bool((self._scale == 1).all() and (self._center == 0).all())
        self._change = np.float32(acting.perturbation) * self._scale
        self._no_latents = rows(np.empty((0, 0), np.float32))
        self._shape = (content.observation_dim,)
        self._spaces: dict[int, _Space] = {}
        self.seed(seed)

    def seed(self, seed: int | None) -> None:
        """Restart the latent noise; the same seed and calls give the same actions. None takes fresh entropy."""
        self._generator = np.random.default_rng(seed)
        self._noise = rows(np.empty((0, self._latent_dim), np.float32))
        self._next = 0

    def act(self, observation: ArrayLike, noise: ArrayLike | None = None) -> FloatArray:
        """Actions within the bounds: ``[S]`` to ``[A]``, or a batch ``[n, S]`` to ``[n, A]``.

        ``noise`` gives the standard normal latents, ``[n · candidates, latent_dim]``, in place of the policy's own; both are clipped.
        A policy without latents takes none. Raises UserError for a wrong shape or values that are not finite.
        """
        array = _as_float32(observation, "observation")
        single = array.shape == self._shape
        if not single and (array.ndim != 2 or array.shape[1:] != self._shape):
            raise UserError(
                f"an observation of this policy has {self._shape[0]} values, not the shape {array.shape}: pass [S] or [n, S]."
            )
        count = 1 if single else len(array)
        given = None if noise is None else self._given_latents(noise, count * self._rows)
        if single:
            only: FloatArray = self._act(array, self._own_latents(self._rows) if given is None else given, 1)[0]
            return only
        at_once = max(1, _ROWS_AT_ONCE // self._rows)
        actions = np.empty((count, len(self._low)), np.float32)
        for start in range(0, count, at_once):
            part = array[start : start + at_once]
            first, needed = start * self._rows, len(part) * self._rows
            latents = self._own_latents(needed) if given is None else _part(given, first, first + needed)
            actions[start : start + at_once] = self._act(part, latents, len(part))
        return actions

    def _act(self, observations: FloatArray, latents: Rows, count: int) -> FloatArray:
        space = self._spaces.get(count) or self._new_space(count)
        normal = space.observations.array
        np.subtract(observations, self._mean, out=normal)
        np.divide(normal, self._std, out=normal)
        if not np.isfinite(normal, out=space.finite).all():
            _refuse_non_finite(observations)
        actions = space.actions.array
        self._propose.run(space.observations, latents, space.actions)
        np.tanh(actions, out=actions)
        if not self._unit_range:
            np.multiply(actions, self._scale, out=actions)
            np.add(actions, self._center, out=actions)
        if self._perturb is not None:
            self._perturb.run(space.observations, space.actions, space.changes)
            self._move(actions, space.changes.array)
        if self._rank is None:
            return actions.copy()
        self._rank.run(space.observations, space.actions, space.scores)
        best = space.scores.array.reshape(count, self._rows).argmax(1)
        best += np.arange(0, count * self._rows, self._rows)
        chosen: FloatArray = actions[best]
        return chosen

    def _move(self, actions: FloatArray, changes: FloatArray) -> None:
        """Perturb ``actions`` by the squashed ``changes``, inside the bounds."""
        np.tanh(changes, out=changes)
        np.multiply(changes, self._change, out=changes)
        np.add(actions, changes, out=actions)
        np.maximum(actions, self._low, out=actions)
        np.minimum(actions, self._high, out=actions)

    def _new_space(self, count: int) -> _Space:
        if len(self._spaces) >= _KEPT_SPACES:
            self._spaces.clear()
        total, state, action = count * self._rows, self._shape[0], len(self._low)
        observations = rows(np.empty((count, state), np.float32))
        actions, changes = (rows(np.empty((total, action), np.float32)) for _ in range(2))
        scores = rows(np.empty((total, 1), np.float32))
        space = _Space(observations, np.empty((count, state), bool), actions, changes, scores)
        self._spaces[count] = space
        return space

    def _own_latents(self, count: int) -> Rows:
        if not self._latent_dim:
            return self._no_latents
        start, stop = self._next, self._next + count
        if stop > len(self._noise.array):
            # What is left goes first, so that a batch and as many single calls see the same noise.
            left = self._noise.array[start:]
            fresh = self._generator.standard_normal((max(count, _NOISE_ROWS), self._latent_dim), dtype=np.float32)
            self._noise = rows(np.concatenate([left, self._clip(fresh)]))
            start, stop = 0, count
        self._next = stop
        return _part(self._noise, start, stop)

    def _given_latents(self, noise: ArrayLike, count: int) -> Rows:
        array = _as_float32(noise, "noise")
        shape = (count, self._latent_dim)
        if array.shape != shape and not (count == 1 and array.shape == shape[1:]):
            raise UserError(f"the noise for these observations must have the shape {shape}, not {array.shape}.")
        if not np.isfinite(array).all():
            raise UserError("the noise holds a value that is not finite.")
        return rows(np.ascontiguousarray(self._clip(array).reshape(shape)))

    def _clip(self, latents: FloatArray) -> FloatArray:
        bound = np.float32(self.content.acting.latent_clip)
        return np.clip(latents, -bound, bound)


def _part(matrix: Rows, first: int, last: int) -> Rows:
    """Rows ``first`` to ``last`` of ``matrix``."""
    array, address, stride, width = matrix
    return Rows(array[first:last], address + first * stride, stride, width)


def _as_float32(values: ArrayLike, name: str) -> FloatArray:
    try:
        array = np.asarray(values)
    except ValueError:
        raise UserError(f"the {name} has rows of different lengths.") from None
    if array.dtype == np.float32:
        return array
    if array.dtype.kind not in "fiub":
        raise UserError(f"the {name} must be numbers, not {array.dtype}.")
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite and is refused as such
        return array.astype(np.float32)


def _refuse_non_finite(observations: FloatArray) -> None:
    """Raise UserError for the first value that is not finite."""
    bad = np.argwhere(~np.isfinite(np.atleast_2d(observations)))
    row, column = bad[0] if len(bad) else (0, 0)
    raise UserError(f"value {column} of observation {row} is not finite: the policy cannot act on it.")
