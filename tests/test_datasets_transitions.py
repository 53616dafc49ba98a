"""Transitions, normalisation and the replay buffer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from dataset_files import ACTIONS, OBSERVATIONS, Ep, episode, episodes, expected_rows
from hypothesis import given
from hypothesis import strategies as st

from sparse_offline_rl.datasets.buffer import ReplayBuffer
from sparse_offline_rl.datasets.normalization import Normalization
from sparse_offline_rl.datasets.rewards import mean_return
from sparse_offline_rl.datasets.transitions import Transitions, concatenate, from_episodes
from sparse_offline_rl.errors import UserError


def transitions(made: list[Ep]) -> Transitions:
    rows = expected_rows(made)
    return from_episodes(
        np.concatenate([ep.observations for ep in made]),
        np.concatenate([ep.actions for ep in made]),
        np.concatenate([ep.rewards for ep in made]),
        np.array([row[4] for row in rows]),
        np.array([row[5] for row in rows]),
        np.array([ep.steps for ep in made]),
    )


def assert_rows(data: Transitions, rows: list) -> None:
    assert len(data) == len(rows)
    for index, row in enumerate(rows):
        np.testing.assert_array_equal(data.observations[index], row[0])
        np.testing.assert_array_equal(data.actions[index], row[1])
        assert data.rewards[index] == row[2]
        np.testing.assert_array_equal(data.next_observations[index], row[3])
        assert bool(data.terminated[index]) == row[4]
        assert bool(data.truncated[index]) == row[5]


@given(episodes())
def test_every_row_is_that_of_its_episode(made):
    data = transitions(made)
    assert_rows(data, expected_rows(made))
    assert data.observations.dtype == data.rewards.dtype == data.next_observations.dtype == np.float32
    assert data.terminated.dtype == data.truncated.dtype == np.bool_


@given(episodes(), st.integers(1, 50))
def test_head_and_concatenate(made, count):
    data = transitions(made)
    assert_rows(data.head(count), expected_rows(made)[:count])
    assert_rows(concatenate([data, data.head(count)]), expected_rows(made) + expected_rows(made)[:count])


def test_observations_of_another_count_are_refused():
    ep = episode(4, "terminal")
    flags = np.zeros(4, bool)
    with pytest.raises(UserError, match="5 observations"):
        from_episodes(ep.observations[:-1], ep.actions, ep.rewards, flags, flags, np.array([4]))


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "next_observations"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_by_array_and_row(name, value):
    data = transitions([episode(5, "terminal"), episode(4, "timeout")])
    broken = getattr(data, name).copy()
    broken[6:8] = value
    with pytest.raises(UserError, match=rf"2 rows of its {name}, .* row 6"):
        replace(data, **{name: broken})


def test_values_beyond_float32_are_refused():
    ep = episode(3, "terminal")
    rewards = np.array([0.0, 1e300, 0.0])
    with np.errstate(over="ignore"), pytest.raises(UserError, match="row 1"):
        from_episodes(ep.observations, ep.actions, rewards, np.zeros(3, bool), np.zeros(3, bool), np.array([3]))


def test_other_lengths_and_nothing_are_refused():
    data = transitions([episode(5, "terminal")])
    with pytest.raises(UserError, match="rewards 4"):
        replace(data, rewards=data.rewards[:4])
    with pytest.raises(UserError, match="no transitions"):
        Transitions(*(getattr(data, name)[:0] for name in data.__dataclass_fields__))


def test_other_shapes_are_refused():
    data = transitions([episode(5, "terminal")])
    with pytest.raises(UserError, match=r"rewards must have one value for each transition, but have shape \(5, 1\)"):
        replace(data, rewards=data.rewards[:, None])
    with pytest.raises(UserError, match=r"actions must have a row for each transition, but have shape \(5,\)"):
        replace(data, actions=data.actions[:, 0])
    with pytest.raises(UserError, match="observations and next_observations must be alike"):
        replace(data, next_observations=data.next_observations[:, :1])


def test_normalization_is_exact_and_constants_become_zero():
    rng = np.random.default_rng(0)
    # More rows than are summed at a time; a large mean that float32 sums would lose; two constants.
    observations = np.stack(
        [rng.normal(3, 2, 70_000), rng.normal(5000, 0.5, 70_000), np.full(70_000, 0.3), np.zeros(70_000)], axis=1
    ).astype(np.float32)
    fitted = Normalization.fit(observations)
    np.testing.assert_allclose(fitted.mean, observations.mean(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(fitted.std[:2], observations[:, :2].std(0, dtype=np.float64), rtol=1e-5)
    assert list(fitted.std[2:]) == [1, 1]
    normalised = fitted.apply(observations)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised[:, 2:], 0, atol=1e-6)


def test_a_tiny_spread_is_not_blown_up():
    observations = np.random.default_rng(0).normal(0, 1e-5, (1000, 1)).astype(np.float32)
    assert Normalization.fit(observations).std[0] == np.float32(1e-3)


def test_identity_leaves_observations():
    observations = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(Normalization.identity(3).apply(observations), observations)


def test_batches_are_normalised_rows_drawn_uniformly():
    made = [episode(6, "terminal"), episode(6, "timeout", 1), episode(1, "open", 2)]
    data = transitions(made)
    normalization = Normalization.fit(data.observations)
    buffer = ReplayBuffer(data, normalization)
    assert len(buffer) == 13
    generator, sample = torch.Generator().manual_seed(0), buffer.sampler(13)
    counts = np.zeros(13)
    for _ in range(500):
        batch = sample(generator)
        assert [tuple(field.shape) for field in batch] == [
            (13, OBSERVATIONS),
            (13, ACTIONS),
            (13, 1),
            (13, OBSERVATIONS),
            (13, 1),
        ]
        assert all(field.dtype == torch.float32 for field in batch)
        rows = [int(np.argmin(np.abs(data.rewards - float(reward)))) for reward in batch.rewards]
        counts += np.bincount(rows, minlength=13)
        np.testing.assert_array_equal(batch.observations.numpy(), normalization.apply(data.observations[rows]))
        np.testing.assert_array_equal(
            batch.next_observations.numpy(), normalization.apply(data.next_observations[rows])
        )
        np.testing.assert_array_equal(batch.actions.numpy(), data.actions[rows])
        np.testing.assert_array_equal(batch.terminated.numpy()[:, 0], data.terminated[rows])
    assert counts.min() > 400  # 500 expected of each, standard deviation 21
    assert counts.max() < 600


def test_a_batch_depends_on_the_generator_alone():
    buffer = ReplayBuffer(transitions([episode(30, "terminal")]), Normalization.identity(OBSERVATIONS))
    first = buffer.sampler(8)(torch.Generator().manual_seed(3))
    torch.manual_seed(123)
    second = buffer.sampler(8)(torch.Generator().manual_seed(3))
    other = buffer.sampler(8)(torch.Generator().manual_seed(4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.rewards, other.rewards)


def test_a_batch_larger_than_the_data_is_refused():
    buffer = ReplayBuffer(transitions([episode(5, "terminal")]), Normalization.identity(OBSERVATIONS))
    with pytest.raises(UserError, match=r"batch_size=6 .* 5 transitions"):
        buffer.require(6, "batch_size")
    buffer.require(5, "batch_size")


def test_the_mean_return_is_that_of_whole_episodes():
    """Returns 3 and 7 of two whole episodes; the third, of 100 so far, is cut off by the end of the data."""
    zeros = np.zeros((6, 2), np.float32)
    rewards = np.array([1, 2, 3, 4, 60, 40], np.float32)
    ends = np.array([0, 1, 0, 0, 0, 0], bool), np.array([0, 0, 0, 1, 0, 0], bool)
    assert mean_return(Transitions(zeros, zeros, rewards, zeros, *ends)) == 5.0
    assert mean_return(Transitions(zeros, zeros, rewards, zeros, *ends).head(4)) == 5.0
    assert mean_return(Transitions(zeros, zeros, rewards, zeros, *ends).head(1)) is None
