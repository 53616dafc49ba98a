"""A recorded update is the agent's own update: same losses, same weights, same noise, and the same bits at every replay."""

import copy
import itertools
import warnings

import pytest
import torch
from helpers import flat, needs_two_threads, pruned_agent, random_batch
from torch import nn

from sparse_offline_rl.agents.bcq import BCQ
from sparse_offline_rl.agents.optimizers import Adam
from sparse_offline_rl.agents.registry import AGENTS
from sparse_offline_rl.agents.td3bc import TD3BC
from sparse_offline_rl.engines.capture.update import CapturedUpdate
from sparse_offline_rl.engines.selection import choose_update
from sparse_offline_rl.errors import UserError
from sparse_offline_rl.types import Batch


def sparse_agent(name="bcq", method="snip", sparsity=0.8, **overrides):
    return pruned_agent(name, method, sparsity, "sparse", **overrides)


def train(agent, update, first, last, draws, size=64):
    for i in range(first, last):
        metrics = update(random_batch(size, seed=i), draws)
    return {name: value.clone() for name, value in metrics.items()}, flat(agent.state())


def assert_close(left, right):
    for key, value in left.items():
        torch.testing.assert_close(right[key], value, rtol=1e-3, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}")


SETTINGS = [
    {},
    {"method": "grasp", "sparsity": 0.95},
    {"method": "magnitude", "sparsity": 0.95},  # collapses
    {"weight_decay": 0.01, "kl_weight": 0.2, "soft_clip": 0.3, "target_candidates": 3},
    {"twin": "independent", "target_candidates": 1, "perturbation": 0.5, "polyak": 1.0},
    {"critic_hidden": (16,), "vae_hidden": (24, 16, 8), "latent_dim": 1},
]
OTHERS = [
    ("bc", {"train_critic": False}),
    ("bcq", {"lr_decay": 7}),
    ("td3bc", {"lr_decay": 7}),
    ("td3bc", {"method": "grasp", "sparsity": 0.95, "policy_every": 3}),
    ("iql", {"actor_lr_decay": 7}),
    ("iql", {"method": "magnitude", "sparsity": 0.95, "twin": "independent", "actor_lr_decay": None}),
]


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, options) for name in ("bcq", "bc") for options in SETTINGS]
    + [(name, {}) for name in sorted(AGENTS)]
    + OTHERS,
)
def test_replays_agree_with_the_update_itself(name, options):
    results = []
    for captured in (False, True):
        agent, draws = sparse_agent(name, **options), torch.Generator().manual_seed(1)
        update = CapturedUpdate(agent) if captured else agent.update
        results.append((*train(agent, update, 0, 10, draws), draws.get_state(), agent.optimizers))
    (metrics, tensors, state, optimizers), (other_metrics, other, other_state, others) = results
    assert_close(metrics, other_metrics)
    assert_close(tensors, other)
    assert torch.equal(state, other_state)  # the same noise was drawn
    for group, optimizer in optimizers.items():
        assert others[group].steps == optimizer.steps
        torch.testing.assert_close(others[group].gradient_norm(), optimizer.gradient_norm(), rtol=1e-3, atol=1e-6)


def test_programs_of_other_shapes_share_the_agent_and_only_the_last_few_are_kept():
    agent, twin = sparse_agent(), sparse_agent()
    draws, others = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    update = CapturedUpdate(agent)
    for i, size in enumerate([5, 9, 5, *range(1, 13), 5]):
        metrics = update(random_batch(size, seed=i), draws)
        expected = twin.update(random_batch(size, seed=i), others)
        metrics["mine"] = torch.zeros(1)  # the caller's own affair
        assert set(expected) == set(metrics) - {"mine"}
        for group, optimizer in twin.optimizers.items():
            torch.testing.assert_close(
                agent.optimizers[group].gradient_norm(), optimizer.gradient_norm(), rtol=1e-3, atol=1e-6
            )
    assert_close(flat(twin.state()), flat(agent.state()))
    assert len(update.programs) == 8


@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=needs_two_threads)])
def test_a_recording_made_later_gives_the_same_bits(use_threads, threads):
    """So a resumed run, which records at another update than the first one did, ends as if it had never stopped."""
    use_threads(threads)
    results = []
    for cuts in ([0, 8], [0, 3, 8]):
        agent, draws = sparse_agent(), torch.Generator().manual_seed(1)
        for first, last in itertools.pairwise(cuts):
            result = train(agent, CapturedUpdate(agent), first, last, draws)
        results.append(result)
    for expected, found in zip(*results, strict=True):
        assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_batches_of_other_shapes_and_strides():
    agent, twin = sparse_agent(), sparse_agent()
    draws, others = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    update = CapturedUpdate(agent)
    for size in (64, 1, 7, 64):
        batch = random_batch(size, seed=size)
        rows = torch.cat(batch, 1)
        update(Batch(*rows.split([x.shape[1] for x in batch], 1)), draws)  # views of one matrix
        twin.update(batch, others)
        update(Batch(*(x.t().contiguous().t() for x in batch)), draws)  # columns contiguous
        twin.update(batch, others)
    assert_close(flat(twin.state()), flat(agent.state()))


def test_a_batch_that_is_drawn_into_the_same_tensors():
    agent, twin = sparse_agent(), sparse_agent()
    draws, others = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    update = CapturedUpdate(agent)
    same, other = random_batch(16), random_batch(16, seed=99)
    for i in range(6):
        for place, value in zip(same, random_batch(16, seed=i), strict=True):
            place.copy_(value)
        for batch in (same, other) if i == 3 else (same,):
            update(batch, draws)
            twin.update(batch, others)
    assert_close(flat(twin.state()), flat(agent.state()))


@needs_two_threads
def test_two_threads_give_the_result_of_one(use_threads):
    results = []
    for threads in (1, 2):
        use_threads(threads)
        agent = sparse_agent(sparsity=0.5, vae_hidden=(200, 200))
        update = CapturedUpdate(agent)
        results.append(train(agent, update, 0, 5, torch.Generator().manual_seed(1), size=200)[1])
        (program,) = update.programs
        assert program.executable.workers == threads
    assert_close(*results)


class Mine(BCQ):
    """Agents as somebody might write them."""

    what = ""

    def critic_loss(self, batch, noise):
        loss, metrics = super().critic_loss(batch, noise)
        if self.what == "an operation that nobody lowered":
            loss = loss * torch.special.bessel_j0(loss.detach()).sign().abs()
        elif self.what == "a number that Python reads":
            loss = loss * (1.0 if float(loss.detach()) > 0 else 2.0)
        elif self.what == "an array that NumPy reads":
            loss = loss * float(loss.detach().numpy())
        elif self.what == "a list of numbers":
            loss = loss * loss.detach().view(1).tolist()[0]
        elif self.what == "a constant made anew":
            loss = loss * torch.tensor(0.5)
        elif self.what == "noise of its own":
            loss = loss + 0 * torch.randn(3).sum()
        elif self.what == "a tensor that belongs to nobody":
            loss = loss * outside.sum()
        elif self.what == "an option":
            loss = torch.div(loss, 0.25, rounding_mode="floor").detach() * 0 + loss
        elif self.what == "a result in a tensor that was there":
            target = metrics["q/target"].clone()
            loss = loss + torch.clamp(target, -1, 1, out=target).mean()
        elif self.what == "a tensor as the exponent":
            loss = loss + torch.pow(0.5, metrics["q/q1"]).mean()
        elif self.what == "a sum of booleans":
            loss = loss + (((batch.rewards > 0) + (batch.rewards < 1)) * metrics["q/q1"]).mean()
        elif self.what == "logic on floats":
            loss = loss + (batch.rewards.clone().logical_and_(batch.terminated) * metrics["q/q1"]).mean()
        elif self.what == "a parameter that moves":
            moving = self.networks.actor.net.values
            moving.data = moving.data * 0.99
        return loss, metrics


outside = torch.ones(3)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("an operation that nobody lowered", "no instruction does aten.special_bessel_j0.default (docs/engine.md"),
        ("a number that Python reads", "Python reads the numbers of a tensor (item)"),
        ("an array that NumPy reads", "Python reads the numbers of a tensor (numpy)"),
        ("a list of numbers", "Python reads the numbers of a tensor (tolist)"),
        ("a constant made anew", "it makes a tensor of Python's numbers"),
        ("noise of its own", "it draws noise from another generator"),
        ("a tensor that belongs to nobody", "neither in its batch nor in one of the agent's modules (aten.sum"),
        ("an option", "aten.div.Tensor_mode with these arguments"),
        ("a result in a tensor that was there", "aten.clamp.out writes or reads by out="),
        ("a tensor as the exponent", "no instruction takes powers"),
        ("a sum of booleans", "aten.add.Tensor with booleans like these"),
        ("logic on floats", "aten.logical_and_.default with booleans like these"),
        ("a parameter that moves", "it puts other tensors into the agent's modules"),
    ],
)
def test_what_cannot_be_recorded_runs_as_it_is_and_says_so_once(what, reason):
    results = []
    for captured in (False, True):
        agent = sparse_agent()
        agent.__class__, agent.what = Mine, what
        update = CapturedUpdate(agent) if captured else agent.update
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(train(agent, update, 0, 4, torch.Generator().manual_seed(1))[1])
        assert len(caught) == captured
        for warning in caught:
            assert str(warning.message).startswith("Mine.update runs operation by operation, which is slower, because ")
            assert reason in str(warning.message)
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


class Asking(TD3BC):
    """Every tenth update differs, and nothing says so."""

    def phase(self):
        return None

    def target(self, batch, noise):
        target = super().target(batch, noise)
        return 2.0 * target if self.optimizers["critic"].steps % 10 == 9 else target


class Counting(BCQ):
    """Counts its updates, and would do something else at the thousandth."""

    calls = 0

    def update(self, batch, generator):
        self.calls += 1
        return super().update(batch, generator)


class Clocked(BCQ):
    """Does what something outside of it says."""

    late = [False]  # noqa: RUF012

    def vae_loss(self, batch, noise):
        loss, metrics = super().vae_loss(batch, noise)
        return (loss * 2.0, metrics) if Clocked.late[0] else (loss, metrics)


def test_an_update_that_asks_for_steps_is_not_recorded():
    agent, draws = sparse_agent("td3bc"), torch.Generator().manual_seed(1)
    agent.__class__ = Asking
    with pytest.warns(RuntimeWarning, match=r"it asks how many steps an optimiser has taken, which only phase\(\) may"):
        CapturedUpdate(agent)(random_batch(64), draws)


def test_an_update_that_counts_is_not_recorded():
    agent, draws = sparse_agent(), torch.Generator().manual_seed(1)
    agent.__class__ = Counting
    update = CapturedUpdate(agent)
    with pytest.warns(RuntimeWarning, match=r"because it changes agent\.calls, which a replay would not"):
        update(random_batch(64), draws)
    update(random_batch(64), draws)
    assert agent.calls == 2


def test_a_change_from_outside_is_noticed_at_the_next_check(monkeypatch):
    agent, draws = sparse_agent(), torch.Generator().manual_seed(1)
    agent.__class__ = Clocked
    update = CapturedUpdate(agent)
    for i in range(10):
        update(random_batch(64, seed=i), draws)
    monkeypatch.setattr(Clocked, "late", [True])
    update(random_batch(64), draws)  # the eleventh
    with pytest.raises(UserError, match="11 replays ago"):
        update(random_batch(64), draws)


def test_checks_leave_no_trace(monkeypatch):
    results = []
    for checked in (set(), {1, 2, 3, 4, 5}):
        monkeypatch.setattr("sparse_offline_rl.engines.capture.update._CHECKED", checked)
        agent, draws = sparse_agent("td3bc"), torch.Generator().manual_seed(1)
        update = CapturedUpdate(agent)
        results.append((train(agent, update, 0, 8, draws)[1], draws.get_state(), len(update.programs)))
    (left, state, count), (right, other, _) = results
    assert all(torch.equal(value, right[name]) for name, value in left.items())
    assert torch.equal(state, other) and count == 2


def test_a_tensor_that_goes_straight_into_a_network_is_noticed():
    agent = sparse_agent()
    probe, original = torch.zeros(64, 2), agent.critic_loss
    agent.critic_loss = lambda batch, noise: (
        original(batch, noise)[0] + agent.networks.critic.q1(batch.observations, probe).mean(), {}
    )  # fmt: skip
    with pytest.warns(RuntimeWarning, match=r"nor in one of the agent's modules \(a sparse network\)"):
        CapturedUpdate(agent)(random_batch(64), torch.Generator())


class Temperature(nn.Module):
    """Something else that an agent may learn, and what it may keep of the past."""

    def __init__(self):
        super().__init__()
        self.log = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean_target", torch.zeros(()))


class Tempered(BCQ):
    def update(self, batch, generator):
        metrics = super().update(batch, generator)
        self.networks.temperature.mean_target.lerp_(metrics["q/target"].mean(), 0.1)
        self.optimizers["temperature"].minimize(
            (self.networks.temperature.log.exp() * metrics["q/target"].mean()).sum()
        )
        self.optimizers["critic"].minimize(
            self.critic_loss(batch, metrics["q/target"].new_zeros(10 * len(batch.rewards), 4))[0]
        )
        return metrics


def test_an_agent_with_more_to_learn_and_an_optimiser_that_steps_twice():
    results = []
    for captured in (False, True):
        agent = sparse_agent()
        agent.__class__, agent.networks.temperature = Tempered, Temperature()
        agent.optimizers["temperature"] = Adam(agent.networks.temperature.parameters(), 0.01)
        update = CapturedUpdate(agent) if captured else agent.update
        _, tensors = train(agent, update, 0, 6, torch.Generator().manual_seed(1))
        assert {name: optimizer.steps for name, optimizer in agent.optimizers.items()} == {
            "vae": 6, "critic": 12, "actor": 6, "temperature": 6
        }  # fmt: skip
        assert not captured or len(update.programs) == 1
        assert {"parameter/temperature.log/values", "buffer/temperature.mean_target"} <= set(tensors)
        results.append(tensors)
    assert_close(*results)


def test_an_odd_batch_does_not_end_recording():
    agent, draws = sparse_agent(), torch.Generator()
    update = CapturedUpdate(agent)
    expected = copy.deepcopy(agent)
    double = Batch(*(x.double() for x in random_batch(8)))
    with pytest.raises(RuntimeError):
        update(double, draws)  # as agent.update: float64 batches do not fit float32 networks
    with pytest.raises(RuntimeError):
        expected.update(double, torch.Generator())
    update(random_batch(8), draws)
    assert len(update.programs) == 1


def test_who_records():
    agent = sparse_agent()
    assert isinstance(choose_update(agent, "sparse", True), CapturedUpdate)
    assert choose_update(agent, "sparse", False) == agent.update
    assert choose_update(agent, "dense", True) == agent.update
