"""Agents against hand-written equations, and what pruning must never break in them."""

import copy

import numpy as np
import pytest
import torch
from bcq_oracle import bcq_update
from helpers import dense_layers, pruned_agent, random_batch, small_agent

from sparse_offline_rl.agents import optimizers
from sparse_offline_rl.agents.base import Agent
from sparse_offline_rl.agents.bcq import BCQ, BCQConfig
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.agents.td3bc import TD3BC
from sparse_offline_rl.networks.bcq import gaussian_latent
from sparse_offline_rl.types import Spaces


@pytest.mark.parametrize("name", ["bcq", "bc"])
@pytest.mark.parametrize("sparsity", [0.0, 0.7])
def test_one_update_equals_the_equations(name, sparsity):
    agent = pruned_agent(name, sparsity=sparsity) if sparsity else small_agent(name)
    batch = random_batch()
    mlps = agent.mlps()
    nets = {k: dense_layers(m) for k, m in mlps.items()}
    masks = {k: m.topology.stacked for k, m in mlps.items()}
    draws = torch.Generator().manual_seed(3)
    noises = torch.randn(240, 4, generator=draws).split((20, 200, 20))
    noises = [noises[0], noises[1].clamp(-0.5, 0.5), noises[2].clamp(-0.5, 0.5)]

    metrics = agent.update(batch, torch.Generator().manual_seed(3))
    losses, new = bcq_update(
        nets, masks, [x.double().numpy() for x in batch], [x.double().numpy() for x in noises], cloning=name == "bc"
    )

    for key, value in losses.items():
        assert float(metrics[f"loss/{key}"]) == pytest.approx(value, rel=1e-5, abs=1e-6)
    targets = {f"{k}_target": mlp for k, mlp in agent.target_mlps().items()}
    for key, mlp in {**mlps, **targets}.items():
        for (w, b), (expected_w, expected_b) in zip(dense_layers(mlp), new[key], strict=True):
            # Where a gradient is zero up to rounding, Adam's first step has a random sign of size lr: leave those out.
            sure = np.abs(w - expected_w) < 9e-4
            assert sure.mean() > 0.99
            np.testing.assert_allclose(w[sure], expected_w[sure], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(b, expected_b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["snip", "grasp", "random", "magnitude"])
def test_pruned_weights_and_moments_stay_zero(method):
    agent = pruned_agent(method=method, weight_decay=0.1)
    draws = torch.Generator().manual_seed(0)
    before = copy.deepcopy(agent.networks)
    for i in range(30):
        agent.update(random_batch(seed=i), draws)
    moments = {
        p: (m, v)
        for optimizer in agent.optimizers.values()
        for p, m, v in zip(optimizer.parameters, optimizer.exp_avg, optimizer.exp_avg_sq, strict=True)
    }
    for mlp in [*agent.mlps().values(), *agent.target_mlps().values()]:
        for layer in mlp.layers().values():
            pruned = ~layer.mask
            assert pruned.any()
            assert (layer.weight[pruned] == 0).all()
            for moment in moments.get(layer.weight, ()):
                assert (moment[pruned] == 0).all()
                assert moment.any()
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), agent.networks.parameters(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize("twin", ["copy", "copy_mask", "independent"])
def test_twin_modes(twin):
    agent = pruned_agent(sparsity=0.5, twin=twin)
    q1, q2 = (agent.mlps()[k] for k in ("critic1", "critic2"))
    masks_equal = all(
        torch.equal(a.mask, b.mask) for a, b in zip(q1.layers().values(), q2.layers().values(), strict=True)
    )
    weights_equal = all(torch.equal(a, b) for a, b in zip(q1.parameters(), q2.parameters(), strict=True))
    assert masks_equal == (twin != "independent")
    assert weights_equal == (twin == "copy")
    assert all(not bool(layer.mask.all()) for layer in q2.layers().values())


def test_a_literal_copy_degenerates_the_twin():
    agent = pruned_agent(sparsity=0.1, twin="copy")
    for i in range(5):
        metrics = agent.update(random_batch(seed=i), torch.Generator().manual_seed(i))
    assert torch.equal(metrics["q/q1"], metrics["q/q2"])


def test_time_limits_bootstrap_and_terminals_do_not():
    agent = small_agent()
    batch = random_batch()
    noise = torch.zeros(200, 4)
    live = agent.target(batch._replace(terminated=torch.zeros(20, 1)), noise)
    dead = agent.target(batch._replace(terminated=torch.ones(20, 1)), noise)
    assert torch.equal(dead, batch.rewards)
    assert not torch.equal(live, batch.rewards)


def test_the_target_takes_the_best_candidate_of_each_state():
    agent = small_agent(target_candidates=3, soft_clip=1.0, discount=1.0)
    batch = random_batch(4)
    batch = batch._replace(terminated=torch.zeros(4, 1))
    noise = torch.randn(12, 4, generator=torch.Generator().manual_seed(1)).clamp(-0.5, 0.5)
    expected = []
    agent.networks.requires_grad_(False)
    for row in range(4):
        values = []
        for candidate in range(3):
            s = batch.next_observations[row : row + 1]
            a = agent.networks.vae.decode(s, noise[3 * row + candidate][None])
            values.append(float(torch.minimum(*agent.targets["critic"](s, agent.targets["actor"](s, a)))))
        expected.append(float(batch.rewards[row]) + max(values))
    np.testing.assert_allclose(agent.target(batch, noise).flatten().numpy(), expected, rtol=1e-5)


def test_bc_ignores_actor_and_critic_when_it_acts():
    agent = small_agent("bc", acting_latent_clip=0.25)
    observations = torch.randn(7, 5)
    first = agent.act(observations, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in [*agent.networks.actor.parameters(), *agent.networks.critic.parameters()]:
            p.zero_()
    assert torch.equal(first, agent.act(observations, torch.Generator().manual_seed(0)))


def test_bcq_acts_with_its_best_candidate():
    agent = small_agent(acting_candidates=50)
    observations = torch.randn(3, 5)
    actions = agent.act(observations, torch.Generator().manual_seed(0))
    assert actions.shape == (3, 2)
    assert bool((actions.abs() <= 1).all())
    z = torch.randn(150, 4, generator=torch.Generator().manual_seed(0)).clamp(-0.5, 0.5)
    with torch.no_grad():
        repeated = observations.repeat_interleave(50, 0)
        candidates = agent.networks.actor(repeated, agent.networks.vae.decode(repeated, z))
        q = agent.networks.critic.q1(repeated, candidates).view(3, 50)
        chosen = agent.networks.critic.q1(observations, actions).flatten()
    torch.testing.assert_close(chosen, q.max(1).values)


def test_actions_respect_asymmetric_bounds():
    low, high = np.array([-3.0, 0.5], np.float32), np.array([1.0, 0.75], np.float32)
    agent = BCQ.create(Spaces(5, low, high), BCQConfig(vae_hidden=(8,)), torch.Generator().manual_seed(0))
    actions = agent.act(10 * torch.randn(50, 5), torch.Generator().manual_seed(0)).numpy()
    assert (actions >= low).all()
    assert (actions <= high).all()
    assert np.ptp(actions[:, 0]) > 0


def test_the_actor_step_leaves_critic_and_vae_alone():
    agent = small_agent(critic_lr=1e-3)
    before = [p.clone() for p in agent.networks.critic.parameters()]
    loss = agent.actor_loss(random_batch(), torch.zeros(20, 4))
    agent.optimizers["actor"].minimize(loss)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.networks.critic.parameters(), strict=True))
    assert all(p.grad is None for p in agent.networks.critic.parameters())
    assert all(p.requires_grad for p in agent.networks.critic.parameters())


def test_the_latent_step_has_the_gradients_of_its_formula():
    g = torch.Generator().manual_seed(0)
    statistics = (3 * torch.randn(6, 8, generator=g, dtype=torch.float64)).requires_grad_()
    noise = torch.randn(6, 4, generator=g, dtype=torch.float64)
    assert bool((statistics[:, 4:] < -4).any())  # clamped ones too
    latent, kl = gaussian_latent(statistics, noise)
    mean, log_std = statistics[:, :4], statistics[:, 4:].clamp(-4, 15)
    torch.testing.assert_close(latent, mean + log_std.exp() * noise)
    torch.testing.assert_close(kl, -0.5 * (1 + 2 * log_std - mean**2 - log_std.exp() ** 2).mean())
    assert torch.autograd.gradcheck(lambda s: gaussian_latent(s, noise), statistics)
    assert torch.autograd.gradgradcheck(lambda s: gaussian_latent(s, noise), statistics)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_is_torchs(compiled, weight_decay, monkeypatch):
    if not compiled:
        monkeypatch.setattr(optimizers, "_compiled", lambda: None)
    g = torch.Generator().manual_seed(0)
    ours = [torch.randn(7, 5, generator=g), torch.randn(301, generator=g)]
    theirs = [torch.nn.Parameter(p.clone()) for p in ours]
    adam = optimizers.Adam(ours, 1e-3, weight_decay)
    reference = torch.optim.Adam(theirs, lr=1e-3, weight_decay=weight_decay)
    for _ in range(50):
        gradients = [torch.randn(p.shape, generator=g) for p in ours]
        adam.step(gradients)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient
        reference.step()
    assert adam.steps == 50
    for mine, parameter, m, v in zip(ours, theirs, adam.exp_avg, adam.exp_avg_sq, strict=True):
        torch.testing.assert_close(mine, parameter.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(m, reference.state[parameter]["exp_avg"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(v, reference.state[parameter]["exp_avg_sq"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", sorted(AGENTS))
def test_learning_rates_fall_to_zero_over_as_many_updates_as_asked_for(name):
    """Half a cosine: all of the rate, 85, 50 and 15 % of it in the four updates, and nothing afterwards."""
    own = {"actor_lr_decay": 4} if name == "iql" else {}  # its actor's rate falls by itself
    agent, draws = small_agent(name, lr_decay=4, **own), torch.Generator().manual_seed(0)
    rates = {group: [] for group in agent.optimizers}
    for i in range(4):
        before = {group: it.steps for group, it in agent.optimizers.items()}
        agent.update(random_batch(5, seed=i), draws)
        for group, it in agent.optimizers.items():
            if it.steps > before[group]:
                rates[group].append(it.rate)
    for group, found in rates.items():
        full = getattr(agent.config, f"{group}_lr")
        falling = (
            [1, 0.5] if (name, group) == ("td3bc", "actor") else [1, 0.85355, 0.5, 0.14645]
        )  # one of two updates moves it
        assert found == pytest.approx([full * it for it in falling], rel=1e-4)
    trained = [parameter.clone() for it in agent.optimizers.values() for parameter in it.parameters]
    for i in range(2):
        agent.update(random_batch(5, seed=i), draws)
    assert all(map(torch.equal, trained, (p for it in agent.optimizers.values() for p in it.parameters)))


@pytest.mark.parametrize(("own", "falling"), [(None, [1, 1, 1]), (2, [1, 0.5, 0])])
def test_the_rate_of_iql_s_actor_is_its_own(own, falling):
    agent, draws, rates = small_agent("iql", lr_decay=4, actor_lr_decay=own), torch.Generator().manual_seed(0), []
    for i in range(3):
        agent.update(random_batch(5, seed=i), draws)
        rates.append(agent.optimizers["actor"].rate)
    assert rates == pytest.approx([agent.config.actor_lr * it for it in falling])


class WithoutALoss(TD3BC):
    """Forgets its actor when it is scored."""

    def losses(self, batch, generator):
        return {name: loss for name, loss in super().losses(batch, generator).items() if name != "actor"}


class WithAStrangersLoss(TD3BC):
    """Scores a network that it does not have."""

    def losses(self, batch, generator):
        return {**super().losses(batch, generator), "policy": lambda: torch.zeros(())}


class WithoutAnOptimiser(TD3BC):
    """Builds critics that nothing trains."""

    def __init__(self, networks, spaces, config):
        Agent.__init__(self, networks, spaces, config, {"actor": config.actor_lr}, targets=("critic", "actor"))


@pytest.mark.parametrize("kind", [WithoutALoss, WithAStrangersLoss])
def test_every_network_is_scored(kind):
    agent = small_agent("td3bc")
    agent.__class__ = kind
    with pytest.raises(
        ValueError, match=rf"{kind.__name__}\.losses is of .* the networks are .'actor', 'critic1', 'critic2'"
    ):
        agent.objectives(random_batch(), torch.Generator())


def test_every_network_is_trained():
    agent = WithoutAnOptimiser.create(small_agent("td3bc").spaces, small_agent("td3bc").config)
    with pytest.raises(ValueError, match=r"no optimiser of WithoutAnOptimiser trains critic\.q1\.\S+weight"):
        agent.state()
