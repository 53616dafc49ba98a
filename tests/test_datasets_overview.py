"""What is said of a dataset when it is loaded."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import TINY
from dataset_files import episode, write_minari
from test_datasets_minari import new_id

from sparse_offline_rl.datasets.overview import overview, suspect_values
from sparse_offline_rl.datasets.transitions import Transitions


def transitions(count: int = 1000, **changes: np.ndarray) -> Transitions:
    rng = np.random.default_rng(0)
    observations, ends = rng.normal(size=(count + 1, 3)).astype(np.float32), np.zeros(count, bool)
    actions, rewards = rng.uniform(-1, 1, (count, 2)).astype(np.float32), rng.normal(size=count).astype(np.float32)
    values = {"observations": observations[:-1], "next_observations": observations[1:], "actions": actions}
    return Transitions(**{**values, "rewards": rewards, "terminated": ends, "truncated": ends, **changes})


def with_value(values: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    changed = values.copy()
    changed[place] = value
    return changed


def test_the_line_holds_minimum_mean_and_maximum():
    rewards, actions = np.array([1, 2, 6], np.float32), np.array([[-1], [0], [0.25]], np.float32)
    line = overview("made-up", transitions(3, rewards=rewards, actions=actions))
    assert line == "dataset: made-up, 3 transitions; rewards 1 to 6 (mean 3); actions -1 to 0.25 (mean -0.25)"


@pytest.mark.parametrize(
    ("name", "place", "value", "words"),
    [
        ("rewards", (412,), 1e30, "the rewards hold 1e+30 in row 412, while 98 %"),
        ("rewards", (3,), -700.0, "the rewards hold -700 in row 3, while 98 %"),
        ("observations", (7, 2), 600.0, "the observations hold 600 in row 7, dimension 2, while 98 %"),
        ("next_observations", (999, 0), -2e6, "the next observations hold -2e+06 in row 999, dimension 0"),
    ],
)
def test_a_value_far_from_the_others_is_named(name, place, value, words):
    whole = transitions()
    assert suspect_values(whole) == []
    (sentence,) = suspect_values(transitions(**{name: with_value(getattr(whole, name), place, value)}))
    assert words in sentence


def test_sparse_rewards_and_few_rows_are_judged_by_size_alone():
    sparse = with_value(np.zeros(1000, np.float32), (5,), 100.0)
    assert suspect_values(transitions(rewards=sparse)) == []
    assert "1e+07 in row 5:" in suspect_values(transitions(rewards=sparse * np.float32(1e5)))[0]
    few = transitions(50)
    assert suspect_values(transitions(50, rewards=with_value(few.rewards, (5,), 9e5))) == []


def test_a_run_says_it_once_and_warns(cli, tmp_path):
    made = episode(200, "timeout")
    made.rewards[150] = 1e30
    dataset_id = new_id()
    write_minari(dataset_id, [made])
    small = [part for part in TINY if not part.startswith(("env", "dataset", "updates"))]
    run = [*small, "dataset=minari", f"dataset.id={dataset_id}", "updates=1", f"run_dir={tmp_path / 'run'}"]
    _, out, err = cli(*run)
    assert out.count(f"dataset: {dataset_id}, 200 transitions; rewards ") == 1
    assert err.count("warning: the rewards hold 1e+30 in row 150") == 1
