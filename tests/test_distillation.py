"""Networks that learn from those of a finished run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TINY, small
from helpers import pruned_agent, random_batch, small_agent
from run_results import kill_at_file_operations, trained

from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.training.checkpoint import checkpoint_path, load_checkpoint
from sparse_offline_rl.training.distillation import Teacher, learn_from


def distance(student, teacher, x) -> float:
    with torch.no_grad():
        wanted = teacher(x)
        return float((student(x) - wanted).square().mean() / wanted.var())


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("name", sorted(AGENTS))
def test_every_network_comes_nearer_to_its_teacher(name, engine):
    teacher, student = small_agent(name, seed=1), pruned_agent(name, "snip", 0.5, engine)
    alone = pruned_agent(name, "snip", 0.5, engine)
    learn_from(student, Teacher(teacher.mlps(), ""), 100.0)
    for agent in (student, alone):
        draws = torch.Generator().manual_seed(0)
        for step in range(150):
            agent.update(random_batch(64, seed=step % 7), draws)
    for network, mlp in teacher.mlps().items():
        x = torch.randn(200, mlp.topology.in_features, generator=torch.Generator().manual_seed(2))
        near, far = (distance(agent.mlps()[network], mlp, x) for agent in (student, alone))
        assert near < 0.7 * far, network


def test_the_penalty_is_the_distance_in_units_of_the_teachers_variance():
    teacher, student = small_agent("bc", seed=1), small_agent("bc", seed=2)
    learn_from(student, Teacher(teacher.mlps(), ""), 3.0)
    (lessons,) = student.optimizers["vae"].companions
    batch = random_batch(30)
    noise = torch.randn(30, student.networks.vae.latent_dim, generator=torch.Generator().manual_seed(0))
    student.vae_loss(batch, noise)
    with torch.no_grad():
        student.vae_loss(random_batch(10), noise[:10])  # as acting does: not looked at
        mean = torch.cat([batch.observations, batch.actions], 1)
        asked, wanted = student.mlps()["encoder"](mean), teacher.mlps()["encoder"](mean)
        latents, _ = student.networks.vae.encode(batch.observations, batch.actions, noise)
        x = torch.cat([batch.observations, latents], 1)
        said, right = student.mlps()["decoder"](x), teacher.mlps()["decoder"](x)
    expected = 3 * sum(
        float((a - b).square().mean() / b.var(correction=0)) for a, b in ((asked, wanted), (said, right))
    )
    assert float(lessons.penalty().detach()) == pytest.approx(expected, rel=1e-4)
    assert lessons.penalty() is None  # an update's calls are forgotten with it


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("teacher") / "run"
    trained(*TINY, "prune=none", "sparsity=0", f"run_dir={run_dir}")
    return run_dir


def test_a_killed_student_ends_with_the_same_bits(tmp_path, teacher_run):
    overrides = [*small("bcq"), f"distill.teacher={teacher_run}"]
    found = kill_at_file_operations(tmp_path, 3, *overrides)
    assert found["killed"] > 1 and found["wrong"] == [] and found["engine"] == "sparse"


def test_a_teacher_changes_what_is_learned_and_leaves_no_trace_in_the_policy(cli, tmp_path, teacher_run):
    sizes = []
    for name, more in (("alone", []), ("taught", [f"distill.teacher={teacher_run}"])):
        status, _, err = cli(*TINY, *more, f"run_dir={tmp_path / name}")
        assert status == 0, err
        sizes.append({path.name: path.read_bytes() for path in (tmp_path / name / "policy").iterdir()})
    assert sizes[0].keys() == sizes[1].keys() and sizes[0] != sizes[1]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["distill.teacher=/nowhere"], "distill.teacher=/nowhere is no finished run"),
        (["agent=td3bc", "distill.teacher={run}"], "is agent=bcq, and this run is agent=td3bc"),
        (["dataset.size=1500", "distill.teacher={run}"], "was trained on other data than this run"),
        (["agent.latent_dim=3", "distill.teacher={run}"], "distill.teacher: its network encoder has (14, "),
        (["distill.weight=0"], "distill.weight=0 cannot be used"),
        (["distill.weight=5"], "distill.weight=5 has no effect without a teacher: set distill.teacher to the folder"),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_sentence(refusal, teacher_run, more, sentence):
    overrides = TINY if more[0] != "agent=td3bc" else [it for it in TINY if not it.startswith("agent")]
    assert sentence in refusal(*overrides, *(it.format(run=teacher_run) for it in more))


def test_what_a_teacher_asks_does_not_count_towards_penalties(cli, tmp_path, teacher_run):
    """A teacher of next to no weight changes next to nothing, though its questions pass through the layers that decorrelation looks at."""
    ends = []
    for name, more in (("alone", []), ("taught", [f"distill.teacher={teacher_run}", "distill.weight=1e-12"])):
        run_dir = tmp_path / name
        command = [*TINY, "prune=decorrelation", "prune.scope=erk", "prune.penalty=100", "engine=auto", *more]
        status, _, err = cli(*command, f"run_dir={run_dir}")
        assert status == 0, err
        ends.append(load_checkpoint(checkpoint_path(run_dir)).state.networks)
    for network, alone in ends[0].items():
        taught = ends[1][network]
        assert (np.abs(taught.values - alone.values) > 1e-5).mean() < 0.01
