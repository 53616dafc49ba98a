"""Policy files that something is wrong with, and what reading them comes to."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import strategies as st
from policy_samples import signed

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.policy.content import PolicyContent
from sparse_offline_rl.policy.format import read_policy


def refusal(folder, data):
    """The sentence with which ``data`` is refused."""
    path = folder / "refused.sorl"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_policy(path)
    sentence = str(error.value)
    assert str(path) in sentence and "\n" not in sentence and sentence.endswith(".")
    return sentence


def measured_refusal(folder, data):
    """The sentence with which ``data`` is refused, and the bytes that reading took at its peak."""
    tracemalloc.start()
    sentence = refusal(folder, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return sentence, peak


def assert_a_changed_byte_is_refused_or_read(folder, sound, data):
    """A byte anywhere, below a checksum that is right: a sentence or a policy, nothing else."""
    damaged = bytearray(sound[:-32])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    (folder / "odd.sorl").write_bytes(signed(damaged))
    with contextlib.suppress(UserError):
        assert isinstance(read_policy(folder / "odd.sorl"), PolicyContent)
