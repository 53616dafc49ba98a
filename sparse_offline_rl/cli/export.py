"""``sparse-offline-rl export run_dir=… to=onnx|c|dense``: a policy for another runtime."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import closest, user_errors
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.export.c99 import export_c
from sparse_offline_rl.export.dense import export_dense
from sparse_offline_rl.export.onnx import export_onnx
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.policy.format import read_policy
from sparse_offline_rl.policy.runtime import find_policy

Exporter = Callable[[PolicyContent, Path], list[Path]]
_EXPORTERS: dict[str, tuple[str, Exporter]] = {
    "onnx": (".onnx", export_onnx),
    "c": (".c", export_c),
    "dense": (".safetensors", export_dense),
}


class ExportOptions(Options):
    """Write a trained policy for another runtime, e.g. sparse-offline-rl export run_dir=runs/… to=onnx"""

    run_dir: str = Field(description="a run folder, its policy folder, or a policy.sorl file")
    to: str = Field(description="onnx: one graph; c: C99 source and header; dense: float32 tensors in safetensors")
    out: str | None = Field(
        None, description="folder, or file ending in .onnx, .c or .safetensors; else run_dir/export"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(ExportOptions, sys.argv[1:] if arguments is None else arguments)
        for path in export(options):
            print(f"wrote {path}, {path.stat().st_size} bytes")


def export(options: ExportOptions) -> list[Path]:
    """Do it and return the files written. Raises UserError for an unknown format, a missing policy, or a refusing disk."""
    if options.to not in _EXPORTERS:
        raise UserError(f"to={options.to}: there is no such format; {closest(options.to, _EXPORTERS)}.")
    suffix, exporter = _EXPORTERS[options.to]
    source = find_policy(options.run_dir)
    out = _folder(source) if options.out is None else Path(options.out)
    if out.suffix in {known for known, _ in _EXPORTERS.values()} and not out.is_dir():
        if out.suffix != suffix:
            raise UserError(
                f"out={out} does not end in {suffix}, as to={options.to} needs: rename it or give a folder."
            )
    else:
        out = out / f"policy{suffix}"
    content = read_policy(source)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be written ({error.strerror}): give another folder.") from None
    return exporter(content, out)


def _folder(policy: Path) -> Path:
    parent = policy.resolve().parent
    return (parent.parent if parent.name == "policy" else parent) / "export"
