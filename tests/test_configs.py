"""Every YAML composes, fits the typed schema key by key, and opens with a command that works."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator, Mapping

import pytest
from command_lines import checked
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from pydantic import BaseModel

from sparse_offline_rl.agents.registry import agent_configs
from sparse_offline_rl.cli.compose import config_of
from sparse_offline_rl.config import (
    Config,
    DatasetConfig,
    EnvConfig,
    PruneConfig,
    config_dir,
    key_default,
    shipped_settings,
)
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.experiment import read_config
from sparse_offline_rl.pruning.registry import prune_configs

SECTIONS = {"agent": None, "prune": PruneConfig, "env": EnvConfig, "dataset": DatasetConfig}
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


def check(*arguments: str) -> None:
    with checked(*arguments):
        pass


def test_shipped_settings_and_defaults_are_those_of_the_files():
    assert shipped_settings("prune", "rigl")["prune.scope"] == "erk"
    assert shipped_settings("agent", "iql")["agent.rewards"] == "return_range"
    assert shipped_settings("agent", "iql")["batch_size"] == 256
    for name in ("../agent/bcq", "x" * 500, "mine"):
        assert shipped_settings("prune", name) == {}
    assert key_default("agent.rewards") == "raw"
    assert key_default("soft.until") == 0.0
    assert [key_default(key, "unknown") for key in ("batch_size", "agent.nothing", "no.such")] == ["unknown"] * 3


def test_the_configs_of_the_repository_are_used():
    assert config_dir() == ROOT / "configs"
    assert {path.parent.name for path in FILES} >= {"configs", *SECTIONS}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_first_line_is_a_command_that_works(path):
    arguments = command_of(path)
    check(*arguments)
    for overrides in jobs(arguments):
        config = read_config(composed(*overrides))
        if path.parent.name in SECTIONS:
            assert getattr(config, path.parent.name).name == path.stem, "the command does not select its own file"


@pytest.mark.parametrize("group", [*SECTIONS, "experiment"])
def test_train_yaml_names_every_choice(group):
    lines = (config_dir() / "train.yaml").read_text(encoding="utf-8").splitlines()
    (comment,) = (line.partition("#")[2] for line in lines if line.startswith(f"  - {group}: "))
    named = set(comment.partition(";")[0].replace("|", " ").split())
    assert named == {path.stem for path in FILES if path.parent.name == group}


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_composes_and_parses(group, choice):
    sparsity = ["sparsity=0.95"] if group == "prune" and choice != "none" else []
    config = read_config(composed(f"{group}={choice}", *sparsity))
    assert getattr(config, group).name == choice


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_yaml_and_schema_have_the_same_keys(group, choice):
    values, agents = composed(f"{group}={choice}"), agent_configs()
    chosen = {"agent": agents[values["agent"]["name"]], "prune": prune_configs()[values["prune"]["schedule"]]}
    keys = {key for key in schema_keys(Config) if key.partition(".")[0] not in chosen}
    assert keys_of(values) == keys.union(*(schema_keys(model, f"{name}.") for name, model in chosen.items()))
    model = chosen.get(group, SECTIONS[group])
    assert keys_of(values[group]) == schema_keys(model)


def test_the_defaults_are_those_of_the_contract():
    config = read_config(composed())
    chosen = (config.agent.name, config.prune.name, config.env.name, config.dataset.name)
    assert chosen == ("bcq", "none", "halfcheetah", "expert")
    assert (config.sparsity, config.updates, config.eval.every, config.eval.episodes) == (0.0, 1_000_000, 5000, 10)
    assert (config.seed, config.device, config.engine) == (0, "cpu", "auto")
    assert config.run_dir == "runs/bcq/halfcheetah-expert/none-0.0/seed0"


def test_code_composes_what_the_command_line_does():
    config = config_of(["agent=bc", "prune=grasp", "sparsity=0.95", "env=hopper"])
    assert (config.agent.name, config.prune.name, config.sparsity, config.env.name) == ("bc", "grasp", 0.95, "hopper")
    for wrong, said in (
        ("agent=bqc", "bqc"),
        ("sparsity=2", "sparsity=2"),
        ("what=1", "what"),
        ("seed=[", "no viable alternative"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            config_of([wrong])


def test_the_run_folder_names_the_run():
    config = read_config(composed("agent=bc", "prune=grasp", "sparsity=0.95", "env=hopper", "dataset=medium", "seed=3"))
    assert config.run_dir == "runs/bc/hopper-medium/grasp-0.95/seed3"


@pytest.mark.parametrize("name", sorted(agent_configs()))
def test_the_schema_has_the_defaults_of_the_yaml_files(name):
    config = read_config(composed(f"agent={name}"))
    assert config.agent == agent_configs()[name]()
    sections = {"prune": {"name": "none"}, "dataset": {"name": "expert"}, "env": config.env.model_dump()}
    defaults = Config.model_validate(
        {**sections, "agent": config.agent, "batch_size": config.batch_size, "run_dir": "x"}
    )
    assert defaults.model_dump(exclude={"run_dir"}) == config.model_dump(exclude={"run_dir"})


def test_bc_acts_as_in_the_paper():
    bcq, bc = (composed(f"agent={name}")["agent"] for name in ("bcq", "bc"))
    differing = {key: (bcq.get(key), bc.get(key)) for key in {**bcq, **bc} if bcq.get(key) != bc.get(key)}
    assert differing == {
        "name": ("bcq", "bc"),
        "acting_candidates": (100, None),
        "acting_latent_clip": (0.5, 0.25),
        "train_critic": (None, True),
    }


def test_an_agent_has_its_own_keys_only():
    with pytest.raises(UserError, match=r"there is no key 'agent.vae_hidden'"):
        check("agent=td3bc", "agent.vae_hidden=[5]")
    with pytest.raises(
        UserError, match=r"agent.vae_hidden=\[5\]: there is no such key with agent.name=td3bc; remove it"
    ):
        values = composed("agent=td3bc")
        read_config({**values, "agent": {**values["agent"], "vae_hidden": [5]}})
    with pytest.raises(
        UserError, match=r"there is no key 'agent.policy_noise' with agent=bcq; make a sweep of its own"
    ):
        check("-m", "agent=bcq,td3bc", "agent.policy_noise=0.1")
    check("-m", "agent=bcq,bc", "agent.vae_hidden=[5,5]")
    with pytest.raises(UserError, match=r"agent\.name='sac' cannot be used: choose one of bcq, bc, td3bc, iql"):
        read_config({**composed(), "agent": {"name": "sac"}})
    assert read_config(composed("agent=iql", "updates=77")).agent.actor_lr_decay == 77
    assert [read_config(composed(f"agent={name}")).batch_size for name in ("bcq", "td3bc", "iql")] == [100, 256, 256]
