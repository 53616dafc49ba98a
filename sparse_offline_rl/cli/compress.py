"""``sparse-offline-rl compress run_dir=… [bits=8|4|16] [clusters=16]``: a policy file that is a few times smaller."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.cli.evaluate import EvaluateOptions, evaluate_run
from sparse_offline_rl.compression.compress import quantized, share, shared
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.policy.format import read_policy, write_policy
from sparse_offline_rl.policy.levels import MAX_BITS, MIN_BITS
from sparse_offline_rl.policy.runtime import find_policy

FILE_NAME = "compressed.sorl"
_BITS_IF_NOT_SAID, _FINETUNE = 8, 300


class CompressOptions(Options):
    """Make the policy of a finished run smaller: its weights take few values.

    sparse-offline-rl compress run_dir=runs/bcq/hopper-expert/snip-0.95/seed0
    sparse-offline-rl compress run_dir=runs/bcq/hopper-expert/snip-0.95/seed0 clusters=16
    """

    run_dir: Path = Field(description="a run folder; a policy.sorl file will do where nothing is fine-tuned")
    bits: int | None = Field(
        None,
        ge=MIN_BITS,
        le=MAX_BITS,
        description=f"bits of a weight on equal steps, {_BITS_IF_NOT_SAID} if nothing is said",
    )
    clusters: int | None = Field(
        None, ge=2, le=256, description="in place of bits: values that the weights of a layer share, e.g. 16"
    )
    finetune: int | None = Field(
        None, ge=0, description=f"updates that train shared values on the run's dataset, {_FINETUNE} if nothing is said"
    )
    episodes: int = Field(100, ge=0, description="episodes to play before and after; 0 plays none")
    seed: int = Field(1, ge=0, lt=2**31, description="episode i starts from seed + i")
    out: Path | None = Field(None, description=f"the file to write, else policy/{FILE_NAME} in the run folder")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(CompressOptions, sys.argv[1:] if arguments is None else arguments)
        source, out = _files(options)
        size = write_policy(out, compress(options, read_policy(source)))
        returns = [_returns(policy, options) for policy in (source, out)]
        old = source.stat().st_size
        print(f"{source}, {old} bytes")
        print(f"  written to    {out}, {size} bytes: {old / size:.1f} times smaller")
        if options.episodes:
            print(f"  return        {returns[0]} before, {returns[1]} after, over {options.episodes} episodes")


def compress(options: CompressOptions, content: PolicyContent) -> PolicyContent:
    """``content`` made smaller. Raises UserError for options that do not fit together, or a run that cannot be fine-tuned."""
    clusters = options.clusters
    if clusters is None:
        bits = options.bits or _BITS_IF_NOT_SAID
        return _labelled(quantized(content, bits), f"bits={bits}")
    updates = _FINETUNE if options.finetune is None else options.finetune
    sharing = share(content, clusters)
    if updates:
        from sparse_offline_rl.experiment import finetune_run  # and with it torch

        sharing = finetune_run(options.run_dir, content, sharing, updates)
    return _labelled(shared(content, sharing), f"clusters={clusters} finetune={updates}")


def _files(options: CompressOptions) -> tuple[Path, Path]:
    """The policy file to read and the one to write. Raises UserError before anything is done if the options do not allow it."""
    bits, clusters, finetune = options.bits, options.clusters, options.finetune
    if bits is not None and clusters is not None:
        raise UserError(f"bits={bits} clusters={clusters}: weights lie on equal steps or share values; leave one out.")
    if finetune is not None and clusters is None:
        raise UserError(
            f"finetune={finetune} trains shared values: give clusters=… too, e.g. clusters=16, or leave it out."
        )
    if clusters is not None and finetune != 0 and options.run_dir.exists() and not _is_run(options.run_dir):
        raise UserError(
            f"run_dir={options.run_dir} is no run folder, whose dataset fine-tuning needs: give one, or finetune=0, or bits=8."
        )
    source = find_policy(options.run_dir)
    out = options.out or source.with_name(FILE_NAME)
    if out.is_dir():
        raise UserError(f"out={out} is a folder: give the name of a file in it.")
    if out.exists() and out.samefile(source):
        raise UserError(f"out={out} is the policy to be compressed, which is kept: give another file.")
    return source, out


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file()


def _returns(policy: Path, options: CompressOptions) -> str:
    if not options.episodes:
        return ""
    result = evaluate_run(EvaluateOptions(run_dir=policy, episodes=options.episodes, seed=options.seed))
    return f"{result['return_mean']:.1f} ± {result['return_std']:.1f}"


def _labelled(content: PolicyContent, how: str) -> PolicyContent:
    return replace(content, metadata={**content.metadata, "compressed": how})
