"""Films one episode of a policy as a GIF, or as an mp4 where imageio-ffmpeg is installed."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparse_offline_rl.datasets.environments import Env, make_env
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.evaluation.returns import Act
from sparse_offline_rl.files import replacing

Frame = NDArray[np.uint8]  # [height, width, 3]

_GIF_RATE = 20  # frames a second at most; one of 1000 steps is then some 4 MB
_GIF_WIDTH = 240  # pixels at most
_GIF_COLOURS = 64
_DEFAULT_RATE = 30.0  # of environments that do not say


def check_video_path(path: Path) -> None:
    """Raise UserError unless ``path`` is a kind of film that can be written here."""
    if path.suffix not in (".gif", ".mp4"):
        raise UserError(f"video={path}: the name must end in .gif or .mp4.")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(f"video={path} needs imageio-ffmpeg: pip install imageio-ffmpeg, or write a .gif.")


def check_opengl() -> None:
    """Raise UserError if the library that MUJOCO_GL names is missing; MuJoCo would fail at its import without saying why."""
    if "MUJOCO_GL" in os.environ:
        try:
            importlib.import_module("mujoco")
        except Exception as error:  # each OpenGL library fails in its own way, down to AttributeError
            raise _no_rendering(f"MUJOCO_GL={os.environ['MUJOCO_GL']}", error) from error


def record_episode(
    act: Act, env_id: str, path: Path, seed: int, env_kwargs: Mapping[str, Any] | None = None
) -> tuple[float, int]:
    """Write one whole episode from ``seed`` to ``path`` (.gif or .mp4); its return and number of steps.

    Raises UserError if the environment cannot be rendered on this machine, or the file cannot be written.
    """
    check_video_path(path)
    film = _Film(act, env_id, seed, env_kwargs or {})
    try:
        with replacing(path) as temporary:
            (_write_gif if path.suffix == ".gif" else _write_mp4)(temporary, film.frames(), film.rate)
    finally:
        film.close()
    return film.total, film.steps


class _Film:
    """An episode that is played while its frames are taken."""

    def __init__(self, act: Act, env_id: str, seed: int, env_kwargs: Mapping[str, Any]) -> None:
        self._act, self.total, self.steps = act, 0.0, 0
        self._env, self._observation, self._first = _start(env_id, seed, env_kwargs)
        self.rate = float(self._env.metadata.get("render_fps") or _DEFAULT_RATE)

    def frames(self) -> Iterator[Frame]:
        """The first frame and one after every step."""
        yield self._first
        over = False
        while not over:
            action = self._act(np.asarray(self._observation, dtype=np.float32)[None])[0]
            self._observation, reward, terminated, truncated, _ = self._env.step(action)
            self.total += float(reward)
            self.steps += 1
            over = terminated or truncated
            yield _frame(self._env)

    def close(self) -> None:
        """Release the environment and its renderer."""
        self._env.close()


def _start(env_id: str, seed: int, env_kwargs: Mapping[str, Any]) -> tuple[Env, NDArray[Any], Frame]:
    """An environment after its reset, with its first frame."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glfw warns about the missing display, which the error below tells
        try:
            env = make_env(env_id, **{**env_kwargs, "render_mode": "rgb_array"})
        except UserError as error:  # it was made without rendering before, for the evaluation
            raise _no_rendering(env_id, error.__cause__ or error) from error
        try:
            observation, _ = env.reset(seed=seed)
            _follow(env)
            return env, observation, _frame(env)
        except UserError:
            env.close()
            raise
        except Exception as error:  # as above
            env.close()
            raise _no_rendering(env_id, error) from error


def _follow(env: Env) -> None:
    """Film with the model's own tracking camera: by default gymnasium lets HalfCheetah run out of the picture."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None)
    if renderer is not None:
        import mujoco  # here, for other environments do not need it

        renderer.camera_id = mujoco.mj_name2id(renderer.model, mujoco.mjtObj.mjOBJ_CAMERA, "track")  # -1: none


def _no_rendering(name: str, error: BaseException) -> UserError:
    reason = str(error).strip().split("\n")[0].rstrip(".")
    return UserError(
        f"{name} cannot be rendered on this machine ({reason}): without a screen set MUJOCO_GL=egl (needs libegl1) or "
        "MUJOCO_GL=osmesa (software, needs libosmesa6), or leave video and MUJOCO_GL out."
    )


def _frame(env: Env) -> Frame:
    frame = np.asarray(env.render())
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise UserError(f"{env.spec.id if env.spec else env} renders no rgb_array frames: leave video out.")
    return frame


def _write_gif(path: Path, frames: Iterator[Frame], rate: float) -> None:
    """Every n-th frame, reduced to the size and the palette that keep a GIF small."""
    stride = math.ceil(rate / _GIF_RATE)
    images = (_reduced(frame) for i, frame in enumerate(frames) if i % stride == 0)
    first = next(images)
    milliseconds = max(20, 10 * round(100 * stride / rate))  # the format counts in hundredths; viewers slow 10 ms down
    first.save(path, "GIF", save_all=True, append_images=images, duration=milliseconds, loop=0)


def _reduced(frame: Frame) -> Image.Image:
    image = Image.fromarray(frame)
    factor = math.ceil(image.width / _GIF_WIDTH)
    small = image.reduce(factor) if factor > 1 else image
    return small.quantize(_GIF_COLOURS, dither=Image.Dither.NONE)


def _write_mp4(path: Path, frames: Iterator[Frame], rate: float) -> None:
    ffmpeg = importlib.import_module("imageio_ffmpeg")  # here, for it is an extra
    first = next(frames)
    size = (first.shape[1], first.shape[0])
    # The temporary name does not end in .mp4, so the container is named; the codec takes even sizes only.
    writer = ffmpeg.write_frames(str(path), size, fps=rate, macro_block_size=2, output_params=["-f", "mp4"])
    writer.send(None)
    for frame in itertools.chain([first], frames):
        writer.send(np.ascontiguousarray(frame))
    writer.close()
