"""The NumPy oracles on their own: their gradients are those of their losses, and masks, delays and rates are kept."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from iql_oracle import IQLOracle, IQLSettings, advantage_weights, value_step
from iql_oracle import actor_step as iql_actor_step
from oracle_parts import Adam, critic_step, forward, polyak
from td3bc_oracle import TD3BCOracle, TD3BCSettings, q_weight, target_values
from td3bc_oracle import actor_step as td3bc_actor_step

S, A, B = 4, 3, 11
LOW, HIGH = np.array([-3.0, 0.5, -1.0]), np.array([1.0, 0.75, 1.0])


def network(draw, *sizes):
    return [
        (draw.normal(size=(n_out, n_in)) / np.sqrt(n_in), 0.1 * draw.normal(size=n_out))
        for n_in, n_out in itertools.pairwise(sizes)
    ]


def networks(draw, *names):
    sizes = {"actor": (S, 8, 7, A), "value": (S, 8, 7, 1), "critic1": (S + A, 8, 7, 1), "critic2": (S + A, 8, 7, 1)}
    return {name: network(draw, *sizes[name]) for name in names}


def batch(draw, low=-1.0, high=1.0):
    return (
        draw.normal(size=(B, S)),
        draw.uniform(low, high, size=(B, A)),
        draw.normal(size=(B, 1)),
        draw.normal(size=(B, S)),
        (draw.random((B, 1)) < 0.3).astype(float),
    )


def assert_gradients(loss, arrays, grads, h=1e-6):
    """``grads`` are the central differences of ``loss()``, which reads ``arrays``; they are not all zero."""
    for array, grad in zip(arrays, grads, strict=True):
        differences = np.empty_like(array)
        for place in np.ndindex(array.shape):
            kept = array[place]
            values = []
            for array[place] in (kept + h, kept - h):
                values.append(loss())
            array[place] = kept
            differences[place] = (values[0] - values[1]) / (2 * h)
        np.testing.assert_allclose(grad, differences, rtol=1e-6, atol=1e-8)
    assert all(np.abs(grad).max() > 1e-6 for grad in grads)


def flat(net):
    return [array for layer in net for array in layer]


@pytest.fixture
def draw():
    return np.random.default_rng(0)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (LOW, HIGH)], ids=["unit bounds", "other bounds"])
def test_gradients_of_td3bc(draw, bounds):
    settings = TD3BCSettings(*bounds)
    nets = networks(draw, "actor", "critic1", "critic2")
    data = batch(draw, *bounds)
    s, a = data[:2]
    y = target_values(nets["actor"], (nets["critic1"], nets["critic2"]), data, draw.normal(size=(B, A)), settings)
    _, grads = critic_step(nets["critic1"], s, a, y)
    assert_gradients(lambda: critic_step(nets["critic1"], s, a, y)[0], flat(nets["critic1"]), flat(grads))

    weight = q_weight(nets["actor"], nets["critic1"], s, settings)
    arguments = (nets["actor"], nets["critic1"], s, a, weight, settings)
    _, grads = td3bc_actor_step(*arguments)
    assert_gradients(lambda: td3bc_actor_step(*arguments)[0], flat(nets["actor"]), flat(grads))


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (LOW, HIGH)], ids=["unit bounds", "other bounds"])
def test_gradients_of_iql(draw, bounds):
    settings = IQLSettings(*bounds)
    nets = networks(draw, "actor", "value")
    s, a = batch(draw, *bounds)[:2]
    q = draw.normal(size=(B, 1))
    _, grads = value_step(nets["value"], s, q, settings.expectile)
    assert_gradients(lambda: value_step(nets["value"], s, q, settings.expectile)[0], flat(nets["value"]), flat(grads))

    log_std, weights = draw.normal(size=A), advantage_weights(nets["value"], s, q, settings)
    arguments = (nets["actor"], log_std, s, a, weights, settings)
    _, grads, d_log_std = iql_actor_step(*arguments)
    assert_gradients(lambda: iql_actor_step(*arguments)[0], [*flat(nets["actor"]), log_std], [*flat(grads), d_log_std])


def test_a_clipped_deviation_has_no_gradient(draw):
    nets = networks(draw, "actor")
    s, a = batch(draw)[:2]
    arguments = (nets["actor"], np.array([-6.0, 0.0, 3.0]), s, a, np.ones((B, 1)), IQLSettings())
    loss, _, d_log_std = iql_actor_step(*arguments)
    assert d_log_std[1] != 0
    assert d_log_std[0] == d_log_std[2] == 0
    limits = (nets["actor"], np.array([-5.0, 0.0, 2.0]), *arguments[2:])
    assert loss == iql_actor_step(*limits)[0]


def test_values_by_hand():
    # One linear layer, one state: V = 1, Q = 3 and 0.
    value = [(np.array([[1.0]]), np.array([0.0]))]
    s = np.ones((1, 1))
    loss, grads = value_step(value, s, np.array([[3.0]]), 0.7)
    assert loss == pytest.approx(0.7 * 4)
    assert grads[0][0] == pytest.approx(-2 * 0.7 * 2)
    assert value_step(value, s, np.zeros((1, 1)), 0.7)[0] == pytest.approx(0.3)
    # exp(3 · (Q − V)), at most 100: Q − V = 0.5 and 2.
    assert advantage_weights(value, s, np.array([[1.5]]), IQLSettings()) == pytest.approx(np.exp(1.5))
    assert advantage_weights(value, s, np.array([[3.0]]), IQLSettings()) == 100

    # π = tanh 0 = 0 and noise 10, which clips to 0.5: Q1 = a + 1, Q2 = a + 2.
    actor = [(np.zeros((1, 1)), np.zeros(1))]
    critics = [[(np.array([[0.0, 1.0]]), np.array([bias]))] for bias in (1.0, 2.0)]
    rows = (s, s, np.full((1, 1), 10.0), s, np.zeros((1, 1)))
    assert target_values(actor, critics, rows, np.full((1, 1), 10.0), TD3BCSettings()) == pytest.approx(10 + 0.99 * 1.5)
    ended = (*rows[:4], np.ones((1, 1)))
    assert target_values(actor, critics, ended, np.ones((1, 1)), TD3BCSettings()) == 10
    assert q_weight(actor, critics[0], s, TD3BCSettings()) == 2.5


def test_adam_and_polyak_by_hand():
    parameters = [(np.array([1.0]),)]
    adam = Adam(parameters)
    for gradient in (2.0, -1.0):
        parameters = adam.step(parameters, [(np.array([gradient]),)], 0.1)
    # m̂ = (0.1·0.9·2 − 0.1·1) / 0.19 and v̂ = (0.001·0.999·4 + 0.001·1) / 0.001999
    assert parameters[0][0] == pytest.approx(1 - 0.1 - 0.1 * (0.08 / 0.19) / np.sqrt(0.004996 / 0.001999))
    assert polyak([(np.array([1.0]),)], [(np.array([3.0]),)], 0.25)[0][0] == 1.5


@pytest.fixture
def pruned(draw):
    """Networks of both agents with about half of the weights removed, and the masks."""
    nets = networks(draw, "actor", "value", "critic1", "critic2")
    masks = {name: [draw.random(w.shape) < 0.5 for w, _ in net] for name, net in nets.items()}
    kept = {name: [(w * mask, b) for (w, b), mask in zip(net, masks[name], strict=True)] for name, net in nets.items()}
    return kept, masks


def _assert_only_survivors_moved(before, after, masks):
    for name, net in before.items():
        for (w, _), (new, _), mask in zip(net, after[name], masks[name], strict=True):
            assert not new[~mask].any()
            assert (new != w)[mask].any()


def test_td3bc_delays_its_policy_and_keeps_pruned_weights_at_zero(draw, pruned):
    nets, masks = pruned
    nets.pop("value")
    oracle = TD3BCOracle(nets, masks=masks)
    first = oracle.update(batch(draw), draw.normal(size=(B, A)))
    assert set(first) == {"critic"}
    after_one = dict(oracle.networks)
    for name in ("actor", "actor_target", "critic1_target", "critic2_target"):
        assert after_one[name] is nets[name.removesuffix("_target")]
    assert after_one["critic1"] is not nets["critic1"]
    assert set(oracle.update(batch(draw), draw.normal(size=(B, A)))) == {"critic", "actor"}
    for _ in range(8):
        oracle.update(batch(draw), draw.normal(size=(B, A)))
    assert {name: adam.steps for name, adam in oracle.adam.items()} == {"actor": 5, "critic1": 10, "critic2": 10}
    _assert_only_survivors_moved(nets, oracle.networks, masks)


def test_iql_decays_the_actors_rate_and_keeps_pruned_weights_at_zero(draw, pruned):
    nets, masks = pruned
    oracle = IQLOracle(nets, np.zeros(A), IQLSettings(total_updates=10), masks)
    rates = []
    for _ in range(10):
        rates.append(oracle.actor_rate())
        assert set(oracle.update(batch(draw))) == {"value", "actor", "critic"}
    assert rates[0] == 3e-4
    assert rates[5] == pytest.approx(1.5e-4)
    assert 0 < rates[9] < rates[1] < rates[0]
    _assert_only_survivors_moved(nets, oracle.networks, masks)
    assert (oracle.log_std != 0).all()
    # At the end of the schedule the actor stands still, whatever else learns.
    actor, value = oracle.networks["actor"], oracle.networks["value"]
    oracle.update(batch(draw))
    assert all(np.array_equal(x, y) for x, y in zip(flat(actor), flat(oracle.networks["actor"]), strict=True))
    assert not np.array_equal(value[0][0], oracle.networks["value"][0][0])


def test_iql_reads_each_network_in_the_authors_order(draw):
    settings, data = IQLSettings(value_lr=0.05, critic_lr=0.05), batch(draw)
    oracle = IQLOracle(networks(draw, "actor", "value", "critic1", "critic2"), np.zeros(A), settings)
    oracle.update(data)
    before, log_std = dict(oracle.networks), oracle.log_std
    losses = oracle.update(data)
    after = oracle.networks
    s, a, r, s2, ended = data

    q = np.minimum(*(forward(before[f"{name}_target"], np.hstack([s, a]))[1] for name in ("critic1", "critic2")))
    assert losses["value"] == value_step(before["value"], s, q, 0.7)[0]
    weights = advantage_weights(after["value"], s, q, settings)
    assert losses["actor"] == iql_actor_step(before["actor"], log_std, s, a, weights, settings)[0]
    y = r + 0.99 * (1 - ended) * forward(after["value"], s2)[1]
    assert losses["critic"] == sum(critic_step(before[name], s, a, y)[0] for name in ("critic1", "critic2"))
    for name in ("critic1", "critic2"):
        blended = polyak(before[f"{name}_target"], after[name], 0.005)
        assert all(np.array_equal(x, z) for x, z in zip(flat(blended), flat(after[f"{name}_target"]), strict=True))
    # What the test could not tell apart otherwise: the networks did move.
    assert not np.array_equal(before["value"][0][0], after["value"][0][0])
    assert not np.array_equal(before["critic1"][0][0], before["critic1_target"][0][0])
