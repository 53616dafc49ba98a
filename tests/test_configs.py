"""Every YAML composes, fits the typed schema key by key, and opens with a command that works."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf
from pydantic import BaseModel

from sparse_offline_rl.cli.configs import config_dir, hydra_app, parse_flags, run_mode
from sparse_offline_rl.cli.overrides import check_overrides
from sparse_offline_rl.config import AgentConfig, Config, DatasetConfig, EnvConfig, PruneConfig, parse_config

SECTIONS = {"agent": AgentConfig, "prune": PruneConfig, "env": EnvConfig, "dataset": DatasetConfig}
FILES = sorted(config_dir().rglob("*.yaml"))
NAMES = [str(path.relative_to(config_dir())) for path in FILES]
CHOICES = [(path.parent.name, path.stem) for path in FILES if path.parent.name in SECTIONS]


def composed(*overrides: str) -> dict:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("train", list(overrides)), resolve=True)


def command_of(path) -> list[str]:
    """The arguments in the first line of a YAML file, or the second below a ``@package`` header."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment, program, script, *arguments = shlex.split(lines[lines[0].startswith("# @package")])
    assert (comment, program, script) == ("#", "python", "train.py")
    return arguments


def jobs(arguments: list[str]) -> Iterator[tuple[str, ...]]:
    """The overrides of each job; a sweep (``-m``) has several."""
    overrides = OverridesParser.create().parse_overrides([text for text in arguments if text != "-m"])
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in overrides
    ]
    yield from itertools.product(*choices)


def keys_of(values: Mapping, prefix: str = "") -> set[str]:
    nested = (keys_of(v, f"{prefix}{k}.") if isinstance(v, Mapping) else {f"{prefix}{k}"} for k, v in values.items())
    return set().union(*nested)


def schema_keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        keys |= schema_keys(field.annotation, f"{prefix}{name}.") if nested else {f"{prefix}{name}"}
    return keys


def test_the_configs_of_the_repository_are_used():
    assert config_dir() == ROOT / "configs"
    assert {path.parent.name for path in FILES} >= {"configs", *SECTIONS}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_first_line_is_a_command_that_works(path):
    arguments = command_of(path)
    flags = parse_flags(arguments)
    with hydra_app(flags) as app:
        check_overrides(app, flags, run_mode(app, flags) == RunMode.MULTIRUN)
    for overrides in jobs(arguments):
        config = parse_config(composed(*overrides))
        if path.parent.name in SECTIONS:
            assert getattr(config, path.parent.name).name == path.stem, "the command does not select its own file"


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_parses(group, choice):
    sparsity = ["sparsity=0.95"] if group == "prune" and choice != "none" else []
    config = parse_config(composed(f"{group}={choice}", *sparsity))
    assert getattr(config, group).name == choice


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_yaml_and_schema_have_the_same_keys(group, choice):
    assert keys_of(composed(f"{group}={choice}")) == schema_keys(Config)
    assert keys_of(composed(f"{group}={choice}")[group]) == schema_keys(SECTIONS[group])


def test_the_defaults_are_those_of_the_contract():
    config = parse_config(composed())
    chosen = (config.agent.name, config.prune.name, config.env.name, config.dataset.name)
    assert chosen == ("bcq", "none", "halfcheetah", "expert")
    assert (config.sparsity, config.updates, config.eval.every, config.eval.episodes) == (0.0, 1_000_000, 5000, 10)
    assert (config.seed, config.device, config.engine) == (0, "cpu", "auto")
    assert config.run_dir == "runs/bcq/halfcheetah-expert/none-0.0/seed0"


def test_the_run_folder_names_the_run():
    config = parse_config(
        composed("agent=bc", "prune=grasp", "sparsity=0.95", "env=hopper", "dataset=medium", "seed=3")
    )
    assert config.run_dir == "runs/bc/hopper-medium/grasp-0.95/seed3"


def test_the_schema_has_the_defaults_of_the_yaml_files():
    config = parse_config(composed())
    sections = {"agent": {"name": "bcq"}, "prune": {"name": "none"}, "dataset": {"name": "expert"}}
    assert Config.model_validate({**sections, "env": config.env.model_dump(), "run_dir": config.run_dir}) == config


def test_bc_acts_as_in_the_paper():
    bcq, bc = composed("agent=bcq")["agent"], composed("agent=bc")["agent"]
    differing = {key: (bcq[key], bc[key]) for key in bcq if bcq[key] != bc[key]}
    assert differing == {"name": ("bcq", "bc"), "acting_candidates": (100, 1), "acting_latent_clip": (0.5, 0.25)}
