"""Acting with a stored policy: the rule, its inputs and refusals, and that torch is never needed."""

from __future__ import annotations

import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
import torch
from helpers import pruned_agent
from policy_samples import assert_follows_rule, assert_same, halfcheetah_policy, make_network, make_policy
from test_configs import composed

import sparse_offline_rl
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.datasets.load import DatasetInfo
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.engines.sparse.available import engine_factory
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.experiment import read_config
from sparse_offline_rl.policy import runner
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.policy.format import write_policy
from sparse_offline_rl.policy.runtime import Policy, load_policy
from sparse_offline_rl.training.deploy import policy_content


def observations(content, count, seed=1):
    return np.random.default_rng(seed).normal(size=(count, content.observation_dim)).astype(np.float32)


def noise_for(content, count, seed=2):
    return (
        np.random.default_rng(seed)
        .normal(size=(count * content.acting.candidates, content.acting.latent_dim))
        .astype(np.float32)
    )


@pytest.mark.parametrize("count", [1, 2, 5, 700])
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("kind", ["bc", "bcq", "actor"])
@pytest.mark.parametrize("linear", [(), ("hidden0",), ("hidden0", "hidden1")])
def test_actions_follow_the_rule(kind, density, count, linear):
    content = make_policy(kind, density, linear=linear)
    states, noise = observations(content, count), noise_for(content, count)
    actions = Policy(content).act(states, noise=noise)
    assert_follows_rule(content, states, noise, actions)
    assert (actions >= content.action_low).all() and (actions <= content.action_high).all()


def test_perturbed_actions_stay_within_the_bounds():
    content = make_policy("bcq", 0.5, perturbation=40.0)
    states, noise = observations(content, 200), noise_for(content, 200)
    actions = Policy(content).act(states, noise)
    assert_follows_rule(content, states, noise, actions)
    for bound in (content.action_low, content.action_high):
        assert (actions == bound).any()


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("kind", ["bc", "bcq", "actor"])
def test_one_observation_gives_one_action(kind, density):
    content = make_policy(kind, density)
    state, noise = observations(content, 1), noise_for(content, 1)
    action = Policy(content).act(state[0], noise=noise)
    assert action.shape == (3,)
    assert_follows_rule(content, state, noise, action[None])


def test_heads_stand_side_by_side():
    content = make_policy("bc", hidden=(20,))
    network = make_network(np.random.default_rng(0), "decoder", [11, 20, 20, 3], 0.3, heads=(2, 1))
    content = PolicyContent(**{**vars(content), "networks": {"decoder": network}})
    states, noise = observations(content, 4), noise_for(content, 4)
    assert_follows_rule(content, states, noise, Policy(content).act(states, noise))


@pytest.mark.parametrize("kind", ["bc", "bcq", "actor"])
def test_sparse_and_dense_execution_agree(monkeypatch, kind):
    content = halfcheetah_policy(kind)
    states, noise = observations(content, 3), noise_for(content, 3)
    sparse = Policy(content)
    monkeypatch.setattr(runner, "DENSE_ABOVE", -1.0)
    dense = Policy(content)
    assert isinstance(sparse._propose, runner.SparseRunner) and isinstance(dense._propose, runner.DenseRunner)
    for policy in (sparse, dense):
        assert_follows_rule(content, states, noise, policy.act(states, noise))


def test_without_numba_policies_act_densely(monkeypatch):
    monkeypatch.setattr(runner.importlib.util, "find_spec", lambda name: None)
    policy = Policy(make_policy("bc", 0.1))
    assert isinstance(policy._propose, runner.DenseRunner)
    assert policy.act(np.zeros(5)).shape == (3,)


def test_with_a_numba_that_does_not_work_policies_act_densely_after_one_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "sparse_offline_rl.engines.sparse.engine", None)
    engine_factory.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="sparse kernels are not available") as caught:
            policy = Policy(make_policy("bcq", 0.1))
        assert len(caught) == 1
        runners = (policy._propose, policy._perturb, policy._rank)
        assert all(isinstance(it, runner.DenseRunner) for it in runners)
        assert policy.act(np.zeros(5)).shape == (3,)
    finally:
        engine_factory.cache_clear()


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("name", sorted(AGENTS))
def test_the_torch_agent_does_the_same(name, engine):
    agent = pruned_agent(name, engine=engine, **({"acting_candidates": 9} if name == "bcq" else {}))
    normalization = Normalization.identity(5)
    content = policy_content(
        read_config(composed(f"agent={name}")), agent, normalization, DatasetInfo(agent.spaces, "env", "data")
    )
    states, rows = observations(content, 6), 6 * content.acting.candidates
    expected = agent.act(torch.from_numpy(states), torch.Generator().manual_seed(3))
    noise = torch.randn(rows, content.acting.latent_dim, generator=torch.Generator().manual_seed(3))
    assert np.allclose(Policy(content).act(states, noise=noise.numpy()), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["bc", "bcq", "actor"])
def test_a_seed_repeats_itself_and_a_batch_sees_the_noise_of_single_calls(kind):
    content = make_policy(kind)
    states = observations(content, 300)
    policy = Policy(content, seed=5)
    singles = np.array([policy.act(state) for state in states])
    again = Policy(content)
    again.seed(5)
    assert np.allclose(again.act(states), singles, atol=1e-5)
    assert np.allclose(again.act(states), singles, atol=1e-3) == (kind == "actor")  # which draws no noise
    again.seed(5)
    uneven = [again.act(states[:7]), again.act(states[7:290]), again.act(states[290:])]
    assert np.allclose(np.concatenate(uneven), singles, atol=1e-5)


def test_a_large_batch_takes_little_more_memory_than_its_actions():
    """It is acted on in pieces, and the candidates' latents of one piece are drawn at a time."""
    content = make_policy("bcq", candidates=100)
    states = np.tile(observations(content, 100), (100, 1))
    whole, pieces = Policy(content, seed=5), Policy(content, seed=5)
    whole.act(states[:200])
    pieces.act(states[:200])
    tracemalloc.start()
    actions = whole.act(states)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    latents = 4 * len(states) * content.acting.candidates * content.acting.latent_dim
    assert peak < 0.5 * latents and latents > 20e6
    assert np.allclose(actions[:300], np.array([pieces.act(state) for state in states[:300]]), atol=1e-5)


def test_own_noise_is_standard_normal_and_clipped():
    policy = Policy(make_policy("bc"), seed=0)
    latents = policy._own_latents(20_000).array
    assert np.abs(latents).max() == 0.5
    assert abs((np.abs(latents) < 0.5).mean() - 0.3829) < 0.01


@pytest.mark.parametrize("convert", [list, tuple, np.float64, np.float16, lambda x: np.asfortranarray(x[::-1])[::-1]])
def test_other_inputs_are_taken_as_float32(convert):
    content = make_policy("bcq")
    states, noise = observations(content, 6).astype(np.float16).astype(np.float32), noise_for(content, 6)
    policy = Policy(content)
    expected = policy.act(states, noise=noise)
    assert np.allclose(policy.act(convert(states), noise=noise), expected, atol=1e-6)
    assert np.allclose(policy.act(convert(states[0]), noise=noise[:7]), expected[0], atol=1e-5)


def test_results_do_not_share_memory():
    policy = Policy(make_policy("bc"))
    first = policy.act(np.zeros(5))
    kept = first.copy()
    policy.act(np.ones(5))
    assert np.array_equal(first, kept)


def test_an_empty_batch_gives_no_actions():
    assert Policy(make_policy("bcq")).act(np.empty((0, 5))).shape == (0, 3)


@pytest.mark.parametrize(
    ("observation", "sentence"),
    [
        (np.zeros(4), r"has 5 values, not the shape \(4,\)"),
        (np.zeros((2, 6)), r"has 5 values, not the shape \(2, 6\)"),
        (np.zeros((1, 1, 5)), "has 5 values"),
        (3.0, "has 5 values"),
        ([[0, 0], [0]], "rows of different lengths"),
        (["a"] * 5, "must be numbers"),
        ([0, 0, np.nan, 0, 0], "value 2 of observation 0 is not finite"),
        ([[0] * 5, [0, 0, 0, 0, -np.inf]], "value 4 of observation 1 is not finite"),
        ([1e300, 0, 0, 0, 0], "value 0 of observation 0 is not finite"),
    ],
)
@pytest.mark.parametrize("kind", ["bc", "bcq", "actor"])
def test_wrong_observations_are_refused(kind, observation, sentence):
    with pytest.raises(UserError, match=sentence):
        Policy(make_policy(kind)).act(observation)


def test_huge_but_finite_observations_pass():
    assert np.isfinite(Policy(make_policy("bc")).act(np.full(5, 1e25, np.float32))).all()


def test_wrong_noise_is_refused():
    policy = Policy(make_policy("bcq"))
    with pytest.raises(UserError, match=r"shape \(14, 6\), not \(7, 6\)"):
        policy.act(np.zeros((2, 5)), noise=np.zeros((7, 6)))
    with pytest.raises(UserError, match="not finite"):
        policy.act(np.zeros(5), noise=np.full((7, 6), np.nan))


def test_run_folder_policy_folder_and_file_open(tmp_path):
    content = make_policy()
    write_policy(tmp_path / "policy" / "policy.sorl", content)
    for path in (tmp_path, tmp_path / "policy", tmp_path / "policy" / "policy.sorl", str(tmp_path)):
        assert_same(sparse_offline_rl.load_policy(path).content, content)


def test_folders_without_a_policy_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no policy"):
        load_policy(tmp_path)
    with pytest.raises(UserError, match="there is no"):
        load_policy(tmp_path / "missing")


def test_acting_never_imports_torch(tmp_path):
    write_policy(tmp_path / "policy.sorl", make_policy("bcq", 0.2))
    code = (
        "import sys, sparse_offline_rl\n"
        "assert sparse_offline_rl.__version__\n"
        f"policy = sparse_offline_rl.load_policy({str(tmp_path)!r})\n"
        "assert policy.act([0.0] * 5).shape == (3,)\n"
        "assert 'numba' in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_the_package_has_no_other_attributes():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sparse_offline_rl.nonsense


def test_bc_acts_within_tens_of_microseconds():
    policy = Policy(halfcheetah_policy("bc"), seed=0)
    state = observations(policy.content, 1)[0]
    policy.act(state)
    times = []
    for _ in range(2000):
        start = time.perf_counter()
        policy.act(state)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 100e-6  # about 15 µs alone on a core; the tests may share theirs
