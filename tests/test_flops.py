"""FLOPs and bytes of acting and of updates, against numbers computed by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import pruned_agent, small_agent

from sparse_offline_rl.agents.flops import Call, flops_and_bytes, work_of
from sparse_offline_rl.networks.packing import Topology

S, A, B = 5, 2, 10  # of helpers.spaces, and a batch


def products(*sizes: int) -> int:
    """Weights of a dense network, which is its multiply-adds a row."""
    return sum(n_in * n_out for n_in, n_out in itertools.pairwise(sizes))


ACTOR = products(S, 24, 16, A)
PERTURB = products(S + A, 24, 16, A)  # BCQ's actor
CRITIC = products(S + A, 24, 16, 1)
LATENT = 2 * A
ENCODER = products(S + A, 32, 32, 2 * LATENT)
DECODER = products(S + LATENT, 32, 32, A)


def test_a_masked_network_counts_its_survivors():
    """3 inputs, of which the first two are a state's; unit 0 of the hidden layer reads the state only, unit 2 nothing."""
    hidden = np.array([[1, 1, 0], [1, 0, 1], [0, 0, 0]], bool)
    out = np.array([[1, 1, 1], [0, 1, 0]], bool)
    topology = Topology({"hidden0": hidden}, {"out": out})
    state = np.array([True, True, False])
    assert Call("x", 6, 6, state).flops(topology) == 2 * 6 * (4 + 4)
    # Once a state: three weights of the first layer, and those that read units 0 and 2; for each of 6 rows: the other three.
    assert Call("x", 6, 2, state).flops(topology) == 2 * (2 * (3 + 2) + 6 * (1 + 2))
    columns = np.array([False, False, True])
    assert Call("x", 6, 6, state, True, True).flops(topology) == 2 * 6 * (8 + 4)
    assert Call("x", 6, 6, state, True, False, columns).flops(topology) == 2 * 6 * (4 + 1)
    assert Call("x", 6, 6, state, True, True, columns).flops(topology) == 2 * 6 * (8 + 4 + 1)


def trained(weights: int, first_layer: int) -> int:
    """Products a row of forward, and of backward for the weights alone: no gradient of the inputs."""
    return 3 * weights - first_layer


def split(weights: int, first_of_state: int, count: int, rows: int) -> int:
    """Products of a dense network with ``rows`` candidates for each of ``count / rows`` states."""
    return count // rows * first_of_state + count * (weights - first_of_state)


def test_td3bc_moves_its_actor_every_second_time():
    found = flops_and_bytes(small_agent("td3bc"), B)
    first = (S + A) * 24
    critics = ACTOR + 2 * CRITIC + 2 * trained(CRITIC, first)
    through_q1 = CRITIC + (CRITIC - first) + A * 24  # forward, and backward to the actions
    actor = trained(ACTOR, S * 24) + through_q1
    assert found["update_flops"] == 2 * B * (critics + actor / 2)
    assert found["act_flops"] == found["act_dense_flops"] == 2 * ACTOR
    floats = ACTOR + 24 + 16 + A
    assert found["act_bytes"] == 4 * floats
    assert found["update_bytes"] == 4 * 4 * (floats + 2 * (CRITIC + 24 + 16 + 1))
    assert work_of(small_agent("td3bc", policy_every=3), B).updates == 3
    assert work_of(small_agent("td3bc", policy_every=1), B).updates == 100


def test_iql_has_no_gradient_through_a_critic():
    found = flops_and_bytes(small_agent("iql"), B)
    value = products(S, 24, 16, 1)
    targets = 2 * CRITIC + 2 * value  # Q of the dataset's actions; V of the states and of the next ones
    learning = trained(value, S * 24) + trained(ACTOR, S * 24) + 2 * trained(CRITIC, (S + A) * 24)
    assert found["update_flops"] == 2 * B * (targets + learning)
    assert found["act_flops"] == 2 * ACTOR
    floats = [weights + 24 + 16 + out for weights, out in ((ACTOR, A), (value, 1), (CRITIC, 1), (CRITIC, 1))]
    moments, targets = 2 * sum(floats), 2 * floats[-1]
    assert found["update_bytes"] == 4 * (sum(floats) + moments + targets + 3 * A)  # log σ and its moments


def vae_update() -> int:
    """Encoder and decoder learn; the decoder passes a gradient to its latents."""
    return trained(ENCODER, (S + A) * 32) + trained(DECODER, (S + LATENT) * 32) + LATENT * 32


def generative_update(perturbed: bool) -> int:
    """BCQ's, or that of BC, whose targets are not perturbed; 10 candidates a next state share what depends on it alone."""
    tried = split(DECODER, S * 32, 10 * B, 10) + 2 * split(CRITIC, S * 24, 10 * B, 10)
    tried += split(PERTURB, S * 24, 10 * B, 10) if perturbed else 0
    first = (S + A) * 24
    actor = DECODER + trained(PERTURB, first) + CRITIC + (CRITIC - first) + A * 24
    return B * (vae_update() + 2 * trained(CRITIC, first) + actor) + tried


def test_bcq_shares_the_state_among_its_candidates():
    found = flops_and_bytes(small_agent("bcq", acting_candidates=7), B)
    assert found["update_flops"] == 2 * generative_update(perturbed=True)
    acting = split(DECODER, S * 32, 7, 7) + split(PERTURB, S * 24, 7, 7) + split(CRITIC, S * 24, 7, 7)
    assert found["act_flops"] == 2 * acting
    floats = DECODER + 32 + 32 + A + PERTURB + 24 + 16 + A + CRITIC + 24 + 16 + 1
    assert found["act_bytes"] == 4 * floats


def test_bc_decodes_once_and_may_train_its_vae_alone():
    found = flops_and_bytes(small_agent("bc"), B)
    assert found["update_flops"] == 2 * generative_update(perturbed=False)
    assert found["act_flops"] == 2 * DECODER
    assert flops_and_bytes(small_agent("bc", train_critic=False), B)["update_flops"] == 2 * B * vae_update()


@pytest.mark.parametrize("name", ["bcq", "bc", "td3bc", "iql"])
def test_a_pruned_agent_is_set_against_the_dense_one(name):
    agent, dense = pruned_agent(name, sparsity=0.8, engine="sparse"), flops_and_bytes(small_agent(name), B)
    before = {key: it.copy() for key, it in vectors(agent).items()}
    found = flops_and_bytes(agent, B)
    assert all(np.array_equal(it, before[key]) for key, it in vectors(agent).items())
    for key in ("act_flops", "act_bytes", "update_flops", "update_bytes"):
        what = key.replace("_", "_dense_")
        assert found[what] == dense[key] == dense[what]
    kept = {name: mlp.topology for name, mlp in agent.mlps().items()}
    held = sum(len(agent.state().networks[name].vectors()) * it.size for name, it in kept.items())
    assert found["update_bytes"] == 4 * held + (3 * 4 * A if name == "iql" else 0)
    assert 0.1 < found["update_flops"] / found["update_dense_flops"] < 0.3
    if name in ("td3bc", "iql"):
        assert found["act_flops"] == 2 * kept["actor"].kept


def vectors(agent) -> dict[str, np.ndarray]:
    state = agent.state()
    return {f"{name}/{key}": it for name, net in state.networks.items() for key, it in net.vectors().items()}


def test_counting_draws_nothing_from_the_global_generator():
    torch.manual_seed(3)
    flops_and_bytes(small_agent("bcq"), B)
    first = torch.rand(1)
    torch.manual_seed(3)
    assert torch.rand(1) == first
