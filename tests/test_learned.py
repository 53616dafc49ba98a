"""Masks that are learned beside the weights: each method's formulas, and what becomes of gates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import yaml
from helpers import flat, on_engine, random_batch, small_agent
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_changes import begin, moment, schedule

from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.config import config_dir
from sparse_offline_rl.engines.selection import masked_engine
from sparse_offline_rl.networks.packing import Topology
from sparse_offline_rl.pruning.learned.extension import Extension, ExtensionState
from sparse_offline_rl.pruning.learned.registry import EXTENSIONS
from sparse_offline_rl.pruning.prune import Twins
from sparse_offline_rl.pruning.schedule import Change, observed
from sparse_offline_rl.training.extended import ExtendedUpdate, Extensions

METHODS = sorted(
    path.stem
    for path in (config_dir() / "prune").glob("*.yaml")
    if yaml.safe_load(path.read_text(encoding="utf-8"))["schedule"] == "learned"
)


UNITS = {"slimming", "group_lasso"}


TOPOLOGY = Topology.dense(3, [2], {"out": 1})


WEIGHTS = {"hidden0": torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]]), "out": torch.tensor([[2.0, -4.0]])}


def extension(method: str, gates: dict[str, list] | None = None, **options: object):
    """The extension of a network of 3 inputs, 2 hidden units and 1 output, with these gates."""
    config = schedule(method, **options).config
    kind = EXTENSIONS[config.learn]
    effects = {name: torch.ones_like(weight) for name, weight in WEIGHTS.items()}
    state = kind.begin(TOPOLOGY, config, effects)
    if gates is not None:
        arrays = {name: np.array(rows, np.float32) for name, rows in gates.items()}
        state = ExtensionState(arrays, state.exp_avg, state.exp_avg_sq, 0, state.unit, state.left)
    found = kind(config, state, TOPOLOGY)
    found.begin_update(torch.Generator().manual_seed(0), config.penalty)
    return found


GATES = {"hidden0": [[1.0, -0.5, 0.0], [0.25, 0.005, 2.0]], "out": [[0.02, 0.0]]}


def test_a_soft_mask_multiplies_and_its_size_is_its_penalty_and_its_rank():
    espn = extension("espn", GATES)
    assert float(espn.penalty(WEIGHTS).detach()) == pytest.approx(1 + 0.5 + 0.25 + 0.005 + 2 + 0.02)
    assert espn.importance("hidden0", WEIGHTS["hidden0"]).tolist()[0] == [1.0, 0.5, 0.0]
    assert espn.count_left(WEIGHTS) == 5  # 0.005 is below the threshold of 0.01
    x, bias = torch.tensor([[1.0, 1.0, 1.0]]), torch.zeros(2)
    product = espn.product("hidden0", x, WEIGHTS["hidden0"], bias, None, False)
    assert product.tolist()[0] == pytest.approx([1 + 1, 0.015 - 2])


def test_a_bernoulli_mask_is_pushed_to_its_ends_and_stays_between_them():
    mask = extension(
        "bernoulli", {"hidden0": [[0.5, 1.5, -1.0], [0, 0, 0]], "out": [[1.0, 0.0]]}, polarize=3.0, penalty=2.0
    )
    mask.after_step({}, {}, 0.1)
    assert mask.gates["hidden0"].tolist()[0] == [0.5, 1.0, 0.0]
    # λ1 Σ M (1 - M) + λ2 Σ M in the unit of the effects, which are all 1; λ1 stays when the target is met.
    assert float(mask.added_loss(WEIGHTS).detach()) == pytest.approx(3 * 0.25 + 2 * 2.5)
    mask.begin_update(torch.Generator(), 0.0)
    assert float(mask.added_loss(WEIGHTS).detach()) == pytest.approx(3 * 0.25)
    assert mask.importance("hidden0", WEIGHTS["hidden0"]).tolist()[0] == [0.5, 2.0, 0.0]


def test_a_hard_concrete_gate_is_that_of_louizos():
    gates = {"hidden0": [[0.0, 5.0, -5.0], [0.0, 0.0, 0.0]], "out": [[0.0, 0.0]]}
    l0 = extension("l0", gates)
    factor = l0.factors("hidden0")[0].tolist()[0]
    assert factor == pytest.approx([0.5, 1.0, 0.0])
    never_zero = [1 / (1 + math.exp(-(it - 2 / 3 * math.log(0.1 / 1.1)))) for it in (0, 5, -5)]
    assert float(l0.penalty(WEIGHTS).detach()) == pytest.approx(never_zero[0] * 6 + sum(never_zero[1:]), rel=1e-5)
    # The share of gates that are exactly 0 in training is one minus that probability.
    l0 = extension("l0", {"hidden0": np.full((2, 3), -1.0), "out": np.full((1, 2), -1.0)})
    drawn = torch.stack([l0.sampled("hidden0")[0] for _ in range(4000)]).detach()
    wanted = 1 / (1 + math.exp(-(-1 - 2 / 3 * math.log(0.1 / 1.1))))
    assert float((drawn > 0).float().mean()) == pytest.approx(wanted, abs=0.015)
    assert float(drawn.min()) == 0 and float(drawn.max()) <= 1


def test_variational_dropout_has_the_noise_and_the_divergence_of_molchanov():
    gates = {"hidden0": np.full((2, 3), math.log(0.04)), "out": [[math.log(4.0), math.log(400.0)]]}
    dropout = extension("vardrop", gates)
    assert dropout.log_alpha("out", WEIGHTS["out"]).tolist()[0] == pytest.approx([0.0, math.log(25)], abs=1e-5)
    assert dropout.left("out", WEIGHTS["out"]).tolist() == [[True, False]]  # log α < 3

    def negative_kl(alpha: float) -> float:
        sigmoid = 1 / (1 + math.exp(-(1.87320 + 1.48695 * math.log(alpha))))
        return 0.63576 * sigmoid - 0.5 * math.log(1 + 1 / alpha) - 0.63576

    alphas = [0.04 / w**2 for w in (1, -2, 0.5, 3, -1)] + [0.04 / 1e-8] + [4 / 4, 400 / 16]
    assert float(dropout.penalty(WEIGHTS).detach()) == pytest.approx(-sum(map(negative_kl, alphas)), rel=1e-4)
    x = torch.tensor([[1.0, 2.0, 0.0]]).expand(20000, 3)
    out = dropout.product("hidden0", x, WEIGHTS["hidden0"], torch.tensor([10.0, 20.0]), None, True).detach()
    assert out.mean(0).tolist() == pytest.approx([10 - 3, 20 + 6], abs=0.02)
    assert out.std(0).tolist() == pytest.approx([math.sqrt(5 * 0.04)] * 2, abs=0.01)
    with torch.no_grad():
        mean = dropout.product("hidden0", x[:1], WEIGHTS["hidden0"], torch.tensor([10.0, 20.0]), None, True)
    assert mean.tolist() == [[7.0, 26.0]]


def test_a_units_scale_goes_through_relu_into_weights_and_bias():
    slim = extension("slimming", {"hidden0": [0.5, -0.3]})
    slim.after_step({}, {}, 0.1)
    assert slim.gates["hidden0"].tolist() == [0.5, 0.0] and float(slim.penalty(WEIGHTS).detach()) == 0.5
    x, bias = torch.tensor([[4.0, 1.0, 0.0]]), torch.tensor([1.0, 1.0])
    scaled = slim.product("hidden0", x, WEIGHTS["hidden0"], bias, None, True)
    plain = (x @ WEIGHTS["hidden0"].T + bias).relu()
    assert torch.allclose(scaled, plain * torch.tensor([0.5, 0.0]))
    assert slim.count_left(WEIGHTS) == 3 + 1  # one unit of three weights, and what the head reads of it
    # The gradient by a scale is the sum over the unit's weights.
    assert slim.unit({"hidden0": torch.tensor([[1.0, -1.0, 3.0], [1.0, 0.0, 0.0]])}) == pytest.approx(2.0)


def test_a_proximal_step_shortens_a_group_or_makes_it_zero():
    lasso = extension("group_lasso", penalty=1.0)
    weights = {"hidden0": torch.tensor([[3.0, 4.0, 0.0], [0.1, 0.0, 0.0]]), "out": torch.tensor([[1.0, 1.0]])}
    lasso.after_step(weights, {}, rate=0.5)
    threshold = 0.5 * math.sqrt(3)
    assert weights["hidden0"][0].tolist() == pytest.approx([3 * (1 - threshold / 5), 4 * (1 - threshold / 5), 0])
    assert weights["hidden0"][1].tolist() == [0, 0, 0] and weights["out"].tolist() == [[1.0, 1.0]]
    assert lasso.alive("hidden0", weights["hidden0"]).tolist() == [True, False]
    assert lasso.count_left(weights) == 3 + 1


def test_weights_that_the_loss_does_not_feel_shrink():
    lobster = extension("sensitivity", penalty=2.0)
    weights = {"hidden0": torch.ones(2, 3), "out": torch.ones(1, 2)}
    gradients = {"hidden0": torch.tensor([[0.0, 1.0, -3.0], [2.0, 2.0, 0.0]]), "out": torch.tensor([[0.0, 0.0]])}
    lobster.after_step(weights, gradients, rate=0.1)  # the mean of |gradient| is 1
    assert weights["hidden0"].tolist() == [pytest.approx([0.8, 1.0, 1.0]), pytest.approx([1.0, 1.0, 0.8])]
    assert weights["out"].tolist() == [pytest.approx([0.8, 0.8])]
    lobster.after_step(weights, gradients, rate=100.0)  # beyond zero they would grow again, with the other sign
    assert weights["hidden0"].tolist() == [pytest.approx([0, 1.0, 1.0]), pytest.approx([1.0, 1.0, 0])]
    assert weights["out"].tolist() == [[0, 0]]


def test_units_that_say_the_same_are_penalised():
    apart = extension("decorrelation")
    x = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, -1.0, 0.0], [2.0, 2.0, 0.0]])
    weight = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    out = apart.product("hidden0", x, weight, torch.zeros(3), None, True)
    correlations = np.corrcoef(out.detach().numpy().T)
    wanted = (np.square(correlations).sum() - 3) / 6
    assert float(apart.penalty({}).detach()) == pytest.approx(wanted, rel=1e-4)


def extended(agent, plan, change, update, twins):
    """The agent of ``change`` with its extensions, and the function that does its updates."""
    built = on_engine(agent, change.state, masked_engine("a test"))
    found = plan.extensions(update, change.state, change.memory, "cpu")
    return built, ExtendedUpdate(built, Extensions(update, found, plan, twins, seed=0))


def fast_gates(method: str) -> dict[str, float]:
    """A learning rate with which gates get somewhere in a few updates, where there are gates."""
    kind = EXTENSIONS[schedule(method).config.learn]
    return {} if kind.INITIAL is None else {"gate_lr": 0.05}


def learning(name: str, method: str, steps: int, seed: int = 0, twin: str = "copy_mask", **options: object):
    """An agent that has trained with extensions for so many updates: its schedule, the agent, the update, and what is remembered."""
    agent = small_agent(name, seed=seed, twin=twin)
    options = fast_gates(method) | options
    plan = schedule(method, 0.8, 100, start=0.01, until=0.5, every=2, **options)
    twins = Twins(agent.TWINS, agent.config.twin)
    begun = begin(plan, agent)
    change = plan.change(moment(agent, begun.state, 1, begun.memory, seed))
    built, update = extended(agent, plan, change, 1, twins)
    draws = torch.Generator().manual_seed(seed)
    for step in range(steps):
        update(random_batch(40, seed=100 * seed + step), draws)
    return plan, built, update, update.remember(change.memory)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", sorted(AGENTS))
def test_hardened_networks_are_the_gated_ones_where_nothing_is_cut(name, method):
    """At a sparsity that keeps every weight the outputs are the same to rounding, those of targets too."""
    plan, agent, _, memory = learning(name, method, 4)
    plan.sparsity = 0.0
    after = plan.change(moment(agent, agent.state(), plan.last, memory))
    hard = on_engine(agent, after.state, masked_engine("a test"))
    for found, wanted in ((hard.mlps(), agent.mlps()), (hard.target_mlps(), agent.target_mlps())):
        for network, mlp in wanted.items():
            x = torch.randn(20, mlp.topology.in_features, generator=torch.Generator().manual_seed(1))
            with torch.no_grad():
                assert torch.allclose(found[network](x), mlp(x), atol=1e-6, rtol=1e-5)
    assert not plan.extensions(plan.last, after.state, after.memory, "cpu")


@pytest.mark.parametrize("after", ["finetune", "rewind"])
@pytest.mark.parametrize("method", ["espn", "slimming"])
def test_a_rescaled_start_gives_each_layer_the_norm_that_it_had(method, after):
    """Values and targets of a layer are multiplied by one factor; moments stay."""
    plan, agent, _, memory = learning("bcq", method, 4, after=after)
    now = moment(agent, agent.state(), plan.last, memory)
    plain = plan.change(now).state
    plan.config = plan.config.model_copy(update={"rescale": True})
    scaled = plan.change(now).state
    plan.config, plan.sparsity = plan.config.model_copy(update={"rescale": False}), 0.0
    whole = plan.change(now).state  # the gates in the weights, and nothing cut
    for name, network in scaled.networks.items():
        other = plain.networks[name]
        for layer, (weight, bias) in network.layers().items():
            assert np.linalg.norm(weight) == pytest.approx(
                np.linalg.norm(whole.networks[name].layers()[layer][0]), rel=1e-5
            )
            assert np.array_equal(bias, other.layers()[layer][1])
            span = network.topology.spans[layer].values
            ratios = network.values[span] / np.where(other.values[span] == 0, np.nan, other.values[span])
            (factor,) = {round(float(it), 4) for it in (np.nanmin(ratios), np.nanmax(ratios))}
            assert factor > 1
            expected = {"exp_avg": 1, "exp_avg_sq": 1, "target": factor}
            for key, by in expected.items():
                if (old := other.vectors().get(key)) is not None:
                    assert np.allclose(network.vectors()[key][span], old[span] * by, rtol=1e-3, atol=1e-30)


def written_out(method, extension, weights) -> torch.Tensor:
    """The penalty with a strength of one half."""
    if method != "bernoulli":
        return 0.5 * extension.penalty(weights)
    gates = torch.cat([gate.flatten() for gate in extension.gates.values()])
    return 0.5 * gates.sum() + (gates - gates.square()).sum()


@pytest.mark.parametrize("method", METHODS)
def test_gates_get_the_gradient_of_loss_and_penalty(method):
    """Compared with autograd on the loss of the vae written out: ``L + strength · unit · penalty``."""
    _, agent, update, _ = learning("bc", method, 0)
    found = {name: update._extensions.by_network[name] for name in update._companions[0].own}
    batch, draws = random_batch(40, seed=5), torch.Generator().manual_seed(3)
    noise = torch.Generator().manual_seed(9)
    for extension in found.values():
        extension.begin_update(noise, 0.5)
    loss, _ = agent.vae_loss(batch, torch.randn(40, agent.networks.vae.latent_dim, generator=draws))
    penalty = update._companions[0].penalty()
    gates = [gate for extension in found.values() for gate in extension.gates.values()]
    if penalty is not None and gates:
        weights = {n: {k: v.weight for k, v in agent.mlps()[n].layers().items()} for n in found}
        terms = [it.state.unit * written_out(method, it, weights[n]) for n, it in found.items()]
        wanted = torch.stack(terms).sum()
        ours = torch.autograd.grad(penalty, gates, retain_graph=True)
        theirs = torch.autograd.grad(wanted, gates, retain_graph=True)
        assert all(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))
        assert all(bool(g.any()) for g in torch.autograd.grad(loss, gates, retain_graph=True, materialize_grads=True))
    before = [gate.detach().clone() for gate in gates]
    update(batch, draws)
    assert all(not torch.equal(gate.detach(), old) for gate, old in zip(gates, before, strict=True))
    assert (penalty is None) == (method in ("group_lasso", "sensitivity"))


class Lasso(Extension):
    """An L1 penalty on weights, without gates."""

    SWITCHES = False

    def penalty(self, weights):
        return torch.stack([weight.abs().sum() for weight in weights.values()]).sum()


@pytest.mark.parametrize("method", ["lasso", "vardrop", "decorrelation", "espn"])
@pytest.mark.parametrize("twin", ["copy_mask", "independent"])
def test_a_penalty_on_weights_reaches_both_critics_and_one_on_gates_each_gate_once(monkeypatch, method, twin):
    monkeypatch.setitem(EXTENSIONS, "lasso", Lasso)
    options = {"learn": "lasso"} if method == "lasso" else {}
    _, agent, update, _ = learning("td3bc", "sensitivity" if method == "lasso" else method, 0, twin=twin, **options)
    companion = next(it for it in update._companions if "critic1" in it.own)
    assert set(companion.own) == ({"critic1"} if twin == "copy_mask" else {"critic1", "critic2"})
    for name in companion.own:
        companion._extension[name].begin_update(torch.Generator().manual_seed(3), 0.5)
    for name in ("critic1", "critic2"):  # what decorrelation looks at
        agent.mlps()[name](torch.randn(40, agent.mlps()[name].topology.in_features))
    weights = {n: {k: v.weight for k, v in agent.mlps()[n].layers().items()} for n in ("critic1", "critic2")}
    penalty = companion.penalty()
    found = {
        n: torch.autograd.grad(penalty, list(it.values()), retain_graph=True, allow_unused=True)
        for n, it in weights.items()
    }
    for name, layers in weights.items():
        extension = companion._extension[name]
        if method == "espn":
            assert found[name] == (None,) * len(layers)
        elif method != "decorrelation":
            own = extension.added_loss(layers)
            wanted = torch.autograd.grad(own, list(layers.values()))
            assert all(bool(it.any()) for it in wanted)
            assert all(torch.allclose(a, b) for a, b in zip(found[name], wanted, strict=True))
        else:
            assert bool(found[name][0].any())
    gates = companion.parameters
    if method == "espn":
        terms = [companion._extension[name].added_loss(weights[name]) for name in companion.own]
        wanted = torch.autograd.grad(torch.stack(terms).sum(), gates)
        assert all(torch.equal(a, b) for a, b in zip(torch.autograd.grad(penalty, gates), wanted, strict=True))


def test_networks_that_no_optimiser_moves_are_pruned_by_magnitude():
    """Their gates are all alike and would keep the first weights by index."""
    agent = small_agent("bc", train_critic=False)
    plan = schedule("espn", 0.8, 20, start=0.1, until=0.4, every=2)
    begun = begin(plan, agent)
    change = plan.change(moment(agent, begun.state, plan.first, begun.memory))
    built, update = extended(agent, plan, change, plan.first, Twins(agent.TWINS, agent.config.twin))
    draws = torch.Generator().manual_seed(0)
    for step in range(4):
        update(random_batch(40, seed=step), draws)
    after = plan.change(moment(built, built.state(), plan.last, update.remember(change.memory))).state.networks["actor"]
    weights = np.abs(begun.state.networks["actor"].topology.unpack(begun.state.networks["actor"].values)[0])
    mask = after.topology.layers["hidden0"]
    assert weights[mask].min() > weights[~mask].max()


@settings(deadline=None, max_examples=20)
@given(
    st.sampled_from(sorted(AGENTS)),
    st.sampled_from(METHODS),
    st.sampled_from([0.5, 0.8, 0.95]),
    st.sampled_from(["copy", "copy_mask", "independent"]),
    st.sampled_from(["finetune", "rewind"]),
    st.integers(0, 99),
)
def test_what_is_learned_becomes_masks_that_keep_their_word(name, method, sparsity, twin, after, seed):
    agent = small_agent(name, seed=seed, twin=twin)
    plan = schedule(method, sparsity, 20, start=0.1, until=0.4, every=2, after=after, **fast_gates(method))
    twins = Twins(agent.TWINS, agent.config.twin)
    change = begin(plan, agent)
    plan.check_memory(0, change.state, change.memory, twins)
    start = change.state
    for at in (plan.first, plan.last):
        first, second = (plan.change(moment(agent, change.state, at, change.memory, seed)) for _ in range(2))
        ours, theirs = flat(first.state), flat(second.state)
        assert all(torch.equal(vector, theirs[key]) for key, vector in ours.items())
        change = observed(first)
        plan.check_memory(at, change.state, change.memory, twins)
        if at == plan.first:
            built, update = extended(agent, plan, change, at, twins)
            draws = torch.Generator().manual_seed(seed)
            for step in range(plan.last - plan.first):
                update(random_batch(40, seed=seed + step), draws)
            change = Change(built.state(), update.remember(change.memory))
            plan.check_memory(plan.last - 1, change.state, change.memory, twins)
    for network, it in change.state.networks.items():
        topology = it.topology
        wanted = round((1 - sparsity) * topology.total)
        widest = max(sum(mask.shape) for mask in topology.layers.values())
        assert abs(topology.kept - wanted) <= (widest if method in UNITS else 0)
        assert {len(vector) for vector in it.vectors().values()} == {topology.size}
        assert all(np.isfinite(vector).all() for vector in it.vectors().values())
        if twins.follows(network):
            leader = change.state.networks[twins.pairs[network]].topology.layers
            assert all(np.array_equal(mask, leader[layer]) for layer, mask in topology.layers.items())
        if after == "rewind":
            old = start.networks[network].topology.unpack(start.networks[network].values)
            assert np.array_equal(it.values, topology.pack(old))
    sparse = on_engine(agent, change.state, "sparse")
    dense = on_engine(agent, change.state, masked_engine("a test"))
    for network, mlp in dense.mlps().items():
        x = torch.randn(16, mlp.topology.in_features, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            assert torch.allclose(sparse.mlps()[network](x), mlp(x), atol=1e-5)


def test_the_penalty_rests_once_the_target_is_met():
    _, _, update, _ = learning("bc", "espn", 0, penalty=1000.0, gate_lr=5e-3)
    draws, seen = torch.Generator().manual_seed(0), []
    for step in range(240):
        update(random_batch(40, seed=step), draws)
        seen.append(update.left()["gates/left/decoder"])
    assert seen[0] == 1.0 and seen[-1] <= 0.2
    assert update._extensions.by_network["decoder"].strength == 0
