"""``sparse-offline-rl generate-dataset key=value …``: a Minari dataset by a bundled policy, or by any policy file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from minari.dataset.minari_storage import MinariStorage
from pydantic import Field, PositiveInt

from sparse_offline_rl.cli.arguments import Options, parse_options
from sparse_offline_rl.cli.errors import user_errors
from sparse_offline_rl.datasets.generate import Part, Recipe, bundled_recipe, generate
from sparse_offline_rl.datasets.minari_writer import dataset_folder
from sparse_offline_rl.errors import UserError


class GenerateOptions(Options):
    """Generate a Minari dataset.

    With a bundled policy:  env=hopper dataset=medium size=100000 seed=0
    With a policy file:     policy=expert.npz env_id=Hopper-v5 id=my/hopper-v0
    At random anywhere:     dataset=random env_id=Pendulum-v1 id=my/pendulum-random-v0
    """

    env: str = Field("halfcheetah", description="environment of a bundled policy: halfcheetah, hopper or walker2d")
    dataset: Literal["expert", "medium", "medium_expert", "random"] = Field("expert", description="whose actions")
    size: PositiveInt = Field(1_000_000, description="transitions, exactly")
    seed: int = Field(0, ge=0, description="the same seed gives the same transitions")
    policy: Path | None = Field(None, description="a policy file in the .npz format, instead of a bundled one")
    env_id: str | None = Field(None, description="any gymnasium environment, also module:Name-v0; needs id")
    id: str | None = Field(None, description="Minari id of the new dataset when env_id is given, e.g. my/hopper-v0")
    processes: PositiveInt | None = Field(None, description="worker processes; changes the speed, not the data")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do it; ``arguments`` are those of the command line by default."""
    with user_errors():
        options = parse_options(GenerateOptions, sys.argv[1:] if arguments is None else arguments)
        recipe = _recipe(options)
        existed = dataset_folder(recipe.dataset_id).exists()
        if existed and options.env_id is not None:
            raise UserError(
                f"id={recipe.dataset_id} exists already in {dataset_folder(recipe.dataset_id)}: choose another id, or delete it."
            )
        folder = generate(recipe, options.processes)
        print(_report(recipe, folder, "was there already" if existed else "written"))


def _recipe(options: GenerateOptions) -> Recipe:
    if options.env_id is None:
        if options.policy is not None or options.id is not None:
            raise UserError("policy=… and id=… need the environment: give env_id=…, e.g. env_id=Hopper-v5.")
        return bundled_recipe(options.env, options.dataset, options.size, options.seed)
    if options.id is None:
        raise UserError(f"env_id={options.env_id} needs a name for the dataset: give id=…, e.g. id=my/dataset-v0.")
    if options.policy is None and options.dataset != "random":
        raise UserError(f"env_id={options.env_id} has no bundled policy: give policy=…, or dataset=random.")
    name = "random" if options.policy is None else options.policy.stem
    return Recipe(options.id, options.env_id, (Part(name, options.policy, options.size),), options.seed)


def _report(recipe: Recipe, folder: Path, what: str) -> str:
    metadata = MinariStorage.read_raw_metadata(folder / "data")
    mean = metadata["mean_return"]
    mean_return = "no episode is whole" if mean is None else f"mean return {mean:.1f}"
    low, high = recipe.reference_min_score, recipe.reference_max_score
    if mean is not None and low is not None and high is not None:
        mean_return += f" (normalised {100 * (mean - low) / (high - low):.1f})"
    return (
        f"{recipe.dataset_id}: {what}, {metadata['total_steps']} transitions in {metadata['total_episodes']} episodes, "
        f"{mean_return}, in {folder}\n"
        f"train on it: sparse-offline-rl train dataset=minari dataset.id={recipe.dataset_id}"
    )
