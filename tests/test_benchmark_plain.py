"""The benchmark's plain torch agents: they learn what the oracles learn, in either precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bcq_oracle import bcq_update
from iql_oracle import IQLOracle, IQLSettings
from td3bc_oracle import TD3BCOracle

from sparse_offline_rl.benchmarks.contestants import plain, plain_bcq, plain_iql, plain_td3bc

HIDDEN = {"actor": (16, 12), "critic": (16, 12), "vae": (24, 24)}


@pytest.fixture(autouse=True)
def threads():
    """Contestants set the threads of their process; here that is the process of the tests."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_plain_bcq_learns_and_pruned_weights_have_no_say(sparsity):
    torch.manual_seed(0)
    bcq = plain_bcq.PlainBCQ(5, 2, HIDDEN, batch=16, candidates=3, sparsity=sparsity, bfloat16=False)
    before = [p.clone() for p in bcq.actor_target.parameters()]
    bcq.update()
    assert all(torch.isfinite(p).all() for p in bcq.critic.parameters())
    assert any(bool((p != q).any()) for p, q in zip(before, bcq.actor_target.parameters(), strict=True))
    if sparsity:
        first = bcq.encoder[0]
        assert not bool(first.weight.grad[first.mask == 0].any())


def test_plain_acting_gives_an_action_within_bounds():
    action = plain.acting(5, 2, (16, 12), observations=3).step()
    assert action.shape == (2,) and abs(action).max() <= 1


PLAIN = {
    "bcq": lambda bfloat16: plain_bcq.PlainBCQ(5, 2, HIDDEN, 16, 3, 0.0, bfloat16),
    "td3bc": lambda bfloat16: plain_td3bc.PlainTD3BC(5, 2, (16, 12), 16, bfloat16),
    "iql": lambda bfloat16: plain_iql.PlainIQL(5, 2, (16, 12), 16, bfloat16),
}


@pytest.mark.parametrize("name", PLAIN)
def test_bfloat16_computes_what_float32_does_in_fewer_digits(name):
    trained = []
    for bfloat16 in (False, True):
        torch.manual_seed(0)
        agent = PLAIN[name](bfloat16)
        before = [p.clone() for p in agent.critic.parameters()]
        losses = []
        for _ in range(4):
            torch.manual_seed(1)
            agent.update()
            with torch.no_grad(), plain.precision(bfloat16):
                torch.manual_seed(2)
                losses.append(float(agent._critic_loss()))
        assert all(p.dtype == torch.float32 for p in agent.critic.parameters())
        assert all(bool((p != q).any()) for p, q in zip(before, agent.critic.parameters(), strict=True))
        trained.append(losses)
    assert trained[0] != trained[1]
    assert trained[1] == pytest.approx(trained[0], rel=0.02)


def _layers(mlp):
    return [(x.weight.detach().numpy().copy(), x.bias.detach().numpy().copy()) for x in mlp if hasattr(x, "weight")]


def _critics(agent):
    return {f"critic{i + 1}": _layers(critic) for i, critic in enumerate(agent.critic)}


def _arrays(agent):
    data = agent.data
    tensors = (data.state, data.action, data.reward, data.next_state, 1 - data.not_done)
    return [x.numpy() for x in tensors]


def _assert_same_layers(mlp, expected):
    for mine, theirs in zip(_layers(mlp), expected, strict=True):
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(mine[1], theirs[1], rtol=1e-9, atol=1e-12)


def _assert_same_critics(agent, expected):
    for i in range(2):
        _assert_same_layers(agent.critic[i], expected[f"critic{i + 1}"])
        _assert_same_layers(agent.critic_target[i], expected[f"critic{i + 1}_target"])


@pytest.fixture
def float64():
    """Plain agents in the oracles' precision."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def test_plain_bcq_does_the_update_of_the_oracle(float64):
    agent = plain_bcq.PlainBCQ(5, 2, HIDDEN, batch=16, candidates=3, sparsity=0.0, bfloat16=False)
    nets = {name: _layers(getattr(agent, name)) for name in ("encoder", "decoder", "actor")} | _critics(agent)
    dense = {name: [np.ones_like(w) for w, _ in net] for name, net in nets.items()}
    torch.manual_seed(1)
    noises = [torch.randn(rows, 4) for rows in (16, 48, 16)]
    noises = [noises[0], *(z.clamp(-0.5, 0.5) for z in noises[1:])]
    torch.manual_seed(1)
    agent.update()
    _, new = bcq_update(nets, dense, _arrays(agent), [z.numpy() for z in noises], candidates=3)
    for name in ("encoder", "decoder", "actor", "actor_target"):
        _assert_same_layers(getattr(agent, name), new[name])
    _assert_same_critics(agent, new)


def test_plain_bcq_does_the_perturbed_candidate_that_its_critic_values_most(float64):
    agent = plain_bcq.PlainBCQ(5, 2, HIDDEN, batch=16, candidates=3, sparsity=0.0, bfloat16=False)
    states = torch.randn(4, 5)
    torch.manual_seed(1)
    found = agent.act(states, latent_clip=0.5, candidates=6)
    torch.manual_seed(1)
    latents = torch.randn(24, 4).clamp(-0.5, 0.5).reshape(4, 6, 4)
    for state, latent, action in zip(states, latents, found, strict=True):
        rows = state.expand(6, -1)
        with torch.no_grad():
            tried = torch.tanh(agent.decoder(torch.cat([rows, latent], 1)))
            tried = (tried + 0.05 * torch.tanh(agent.actor(torch.cat([rows, tried], 1)))).clamp(-1, 1)
            values = agent.critic[0](torch.cat([rows, tried], 1))
        torch.testing.assert_close(action, tried[int(values.argmax())])
    torch.manual_seed(1)
    alone = agent.act(states, latent_clip=0.25, candidates=None)
    torch.manual_seed(1)
    latents = torch.randn(4, 4).clamp(-0.25, 0.25)
    torch.testing.assert_close(alone, torch.tanh(agent.decoder(torch.cat([states, latents], 1))).detach())


def test_plain_td3bc_does_the_updates_of_the_oracle(float64):
    agent = plain_td3bc.PlainTD3BC(5, 2, (16, 12), batch=16, bfloat16=False)
    oracle = TD3BCOracle({"actor": _layers(agent.actor.net), **_critics(agent)})
    for step in range(10):
        torch.manual_seed(step)
        noise = torch.randn(16, 2).numpy()
        torch.manual_seed(step)
        agent.update()
        oracle.update(_arrays(agent), noise)
    _assert_same_layers(agent.actor.net, oracle.networks["actor"])
    _assert_same_layers(agent.actor_target.net, oracle.networks["actor_target"])
    _assert_same_critics(agent, oracle.networks)


def test_plain_iql_does_the_updates_of_the_oracle(float64):
    agent = plain_iql.PlainIQL(5, 2, (16, 12), batch=16, bfloat16=False, total_updates=12)
    nets = {"actor": _layers(agent.actor.net), "value": _layers(agent.value), **_critics(agent)}
    oracle = IQLOracle(nets, np.zeros(2), IQLSettings(total_updates=12))
    for _ in range(10):
        agent.update()
        oracle.update(_arrays(agent))
    _assert_same_layers(agent.actor.net, oracle.networks["actor"])
    _assert_same_layers(agent.value, oracle.networks["value"])
    np.testing.assert_allclose(agent.actor.log_std.detach().numpy(), oracle.log_std, rtol=1e-9)
    _assert_same_critics(agent, oracle.networks)
