"""The dense and the sparse engine are the same agent."""

import copy

import pytest
import torch
from helpers import flat, needs_two_threads, on_engine, pruned_agent, random_batch, small_agent

from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.engines.selection import CROSSOVER_DENSITY, choose_engine
from sparse_offline_rl.engines.sparse.module import SparseMLP
from sparse_offline_rl.errors import UserError


def pair(name="bcq", method="snip", sparsity=0.8, **overrides):
    """The same pruned agent on both engines, ready to train."""
    return [pruned_agent(name, method, sparsity, engine, **overrides) for engine in ("dense", "sparse")]


def train(agent, updates):
    draws = torch.Generator().manual_seed(1)
    for i in range(updates):
        metrics = agent.update(random_batch(64, seed=i), draws)
    return metrics


@pytest.mark.parametrize("name", sorted(AGENTS))
@pytest.mark.parametrize("method", ["snip", "grasp", "random"])
def test_one_update_agrees_to_rounding(name, method):
    dense, sparse = pair(name, method)
    before = flat(dense.state())
    assert all(torch.equal(value, flat(sparse.state())[key]) for key, value in before.items())
    left, right = train(dense, 1), train(sparse, 1)
    for key, value in left.items():
        torch.testing.assert_close(value.mean(), right[key].mean(), rtol=1e-5, atol=1e-6)
    after, other = flat(dense.state()), flat(sparse.state())
    for key, value in after.items():
        # Gradients agree to rounding; where one is zero up to rounding, Adam's first step has a random sign of size lr.
        if key.startswith("exp_avg"):
            torch.testing.assert_close(other[key], value, rtol=1e-4, atol=1e-6 * float(value.abs().max()) + 1e-12)
        else:
            close = torch.isclose(other[key], value, rtol=1e-5, atol=1e-6)
            assert close.float().mean() > 0.99, key


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_a_hundred_updates_stay_close(name):
    dense, sparse = pair(name)
    left, right = train(dense, 100), train(sparse, 100)
    for key in left:
        if key == "loss/actor":  # small differences of large numbers
            continue
        assert float(right[key].mean()) == pytest.approx(float(left[key].mean()), rel=0.02, abs=1e-3)
    after, other = flat(dense.state()), flat(sparse.state())
    for key in [key for key in after if key.startswith(("values", "target"))]:
        distance = (after[key] - other[key]).norm() / after[key].norm()
        assert distance < 1e-2, (key, float(distance))


def test_moments_of_dead_weights_are_zero_and_nothing_pruned_is_stored():
    _, sparse = pair(sparsity=0.95)
    train(sparse, 10)
    for optimizer in sparse.optimizers.values():
        for parameter in optimizer.parameters:
            assert parameter.dim() == 1  # one vector of survivors per network
    total = sum(p.numel() for p in sparse.networks.parameters())
    biases = 2 * (24 + 16) + 24 + 16 + 4 * 32 + 2 + 2 * 1 + 8 + 2
    weights = sum(round(0.05 * n) for n in (7 * 24 + 24 * 16 + 32, 7 * 32 + 32 * 32 + 256, 9 * 32 + 32 * 32 + 64))
    critic = 2 * round(0.05 * (7 * 24 + 24 * 16 + 16))
    assert total == biases + weights + critic


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_state_crosses_engines_exactly(name):
    dense, sparse = pair(name)
    train(dense, 5)
    there = on_engine(dense, dense.state(), "sparse").state()
    assert all(torch.equal(value, flat(there)[key]) for key, value in flat(dense.state()).items())
    back = on_engine(sparse, there, "dense")
    draws = torch.Generator().manual_seed(9), torch.Generator().manual_seed(9)
    dense.update(random_batch(seed=7), draws[0])
    back.update(random_batch(seed=7), draws[1])
    assert all(torch.equal(value, flat(back.state())[key]) for key, value in flat(dense.state()).items())


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("name", sorted(AGENTS))
def test_a_state_is_a_copy(name, engine):
    agent = pruned_agent(name, engine=engine)
    agent.networks.register_buffer("scale", torch.ones(1))
    before = agent.state()
    vectors = {key: vector.clone() for key, vector in flat(before).items()}
    train(agent, 2)  # TD3+BC moves its actor every other time
    agent.networks.scale.fill_(2)
    moved = flat(agent.state())
    for key, vector in flat(before).items():
        assert torch.equal(vector, vectors[key]), key
        assert not torch.equal(vector, moved[key]), key


@pytest.mark.parametrize("engine", ["dense", "sparse"])
@pytest.mark.parametrize("sparsity", [0.995, 0.9])
def test_a_collapsed_agent_trains(engine, sparsity):
    agent = pair(method="magnitude", sparsity=sparsity)[engine == "sparse"]
    metrics = train(agent, 5)
    assert all(bool(torch.isfinite(value).all()) for value in metrics.values())


def test_targets_share_the_plan_and_not_the_values():
    _, sparse = pair()
    online, target = sparse.networks.critic.q1, sparse.targets["critic"].q1
    assert isinstance(target, SparseMLP)
    assert target.plan is online.plan
    assert target.values.data_ptr() != online.values.data_ptr()
    clone = copy.deepcopy(sparse.networks)
    assert torch.equal(clone.critic.q1.values, online.values)


@needs_two_threads
def test_results_do_not_depend_on_the_run_and_threads_leave_torch_alone(use_threads):
    results = []
    threads = torch.get_num_threads()
    for count in (1, 1, 2):
        use_threads(count)
        assert torch.get_num_threads() == threads
        _, sparse = pair()
        train(sparse, 20)
        results.append(flat(sparse.state()))
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())
    for key, value in results[0].items():
        torch.testing.assert_close(results[2][key], value, rtol=1e-3, atol=1e-4)


def test_the_choice_of_engine():
    assert choose_engine("auto", "cpu", 0.05).name == "sparse"
    assert choose_engine("auto", "cpu", 1.0).name == "dense"
    assert f"{CROSSOVER_DENSITY:g}" in choose_engine("auto", "cpu", 1.0).reason
    assert choose_engine("auto", "cuda", 0.05).name == "dense"
    assert choose_engine("dense", "cpu", 0.05).name == "dense"
    assert choose_engine("sparse", "cpu", 1.0).name == "sparse"
    with pytest.raises(UserError, match="engine=sparse runs on the CPU, not on device=cuda"):
        choose_engine("sparse", "cuda", 0.05)
    agent = on_engine(small_agent(), small_agent().state(), "sparse")
    assert all(isinstance(mlp, SparseMLP) for mlp in agent.mlps().values())
    with pytest.raises(TypeError, match="network actor is a SparseMLP, and only dense networks can be scored"):
        agent.objectives(random_batch(), torch.Generator())
