"""Mask codes and float planes: exact, small, and safe on any bytes."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_samples import heavy_tailed_mask

from sparse_offline_rl.policy import rice
from sparse_offline_rl.policy.floats import join_floats, split_floats
from sparse_offline_rl.policy.rice import decode_mask, encode_mask


def entropy_bytes(mask):
    p = mask.mean()
    return -mask.size * (p * np.log2(p) + (1 - p) * np.log2(1 - p)) / 8


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_any_mask_comes_back(rows, columns, density, seed):
    mask = np.random.default_rng(seed).random((rows, columns)) < density
    again = decode_mask(encode_mask(mask), mask.shape)
    assert again.dtype == bool and again.shape == mask.shape and np.array_equal(again, mask)


@pytest.mark.parametrize("position", [0, 1, 999_999])
def test_one_weight_in_a_million(position):
    mask = np.zeros((1000, 1000), bool)
    mask.flat[position] = True
    code = encode_mask(mask)
    assert len(code) < 12 and np.array_equal(decode_mask(code, mask.shape), mask)


@pytest.mark.parametrize("value", [False, True])
def test_uniform_masks_take_a_few_bytes(value):
    mask = np.full((750, 750), value)
    assert len(encode_mask(mask)) <= 5 and np.array_equal(decode_mask(encode_mask(mask), mask.shape), mask)


@pytest.mark.parametrize("density", [0.01, 0.05, 0.2, 0.5, 0.95])
def test_random_masks_cost_at_most_four_percent_more_than_their_entropy(density):
    mask = np.random.default_rng(0).random((750, 750)) < density
    assert len(encode_mask(mask)) < 1.04 * entropy_bytes(mask)


def test_rice_at_five_percent_is_within_one_and_a_half_percent_of_the_entropy():
    mask = np.random.default_rng(0).random((750, 750)) < 0.05
    assert len(encode_mask(mask)) < 1.015 * entropy_bytes(mask)


def test_masks_of_uneven_density_cost_less_than_random_positions():
    mask = heavy_tailed_mask(np.random.default_rng(0), (750, 750), 20_000, tail=0.6)
    code = encode_mask(mask)
    assert len(code) < 0.8 * entropy_bytes(mask) and np.array_equal(decode_mask(code, mask.shape), mask)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_grouped_codes_come_back_whether_they_pay_or_not(rows, columns, seed, share):
    mask = heavy_tailed_mask(np.random.default_rng(seed), (rows, columns), round(share * rows * columns))
    assert np.array_equal(decode_mask(rice._encode_grouped(mask), mask.shape), mask)


def test_the_bytes_are_those_of_the_documentation():
    mask = np.zeros((2, 8), bool)
    mask[0, 5] = mask[1, 3] = True  # gaps 5 and 5: k = 1, low bits 1 and 1, quotients 2 and 2
    assert encode_mask(mask) == bytes([0x01, 2, 0, 0, 0, 0b11, 0b100100])
    assert encode_mask(~mask) == bytes([0x81, 2, 0, 0, 0, 0b11, 0b100100])


@settings(max_examples=300)
@given(st.sampled_from([b"", b"\x40"]), st.binary(max_size=200), st.integers(0, 60), st.integers(0, 60))
def test_foreign_bytes_are_refused_or_give_a_mask(start, code, rows, columns):
    code = start + code
    with contextlib.suppress(ValueError):
        assert decode_mask(code, (rows, columns)).shape == (rows, columns)


@given(st.data())
def test_damaged_codes_are_refused_or_give_a_mask(data):
    mask = heavy_tailed_mask(np.random.default_rng(data.draw(st.integers(0, 99))), (30, 40), 60)
    code = bytearray(data.draw(st.sampled_from([encode_mask, rice._encode_grouped]))(mask))
    code[data.draw(st.integers(0, len(code) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ValueError):
        assert decode_mask(bytes(code), mask.shape).shape == mask.shape


@pytest.mark.parametrize(
    "claim",
    [
        struct.pack("<BI", 0, 2**32 - 1),
        struct.pack("<BI", 63, 1),
        struct.pack("<BI", 8, 9000),
        b"\x04\x01",
        b"",
        b"\x40",
    ],
)
def test_claims_beyond_the_code_are_refused(claim):
    with pytest.raises(ValueError, match="mask code"):
        decode_mask(claim, (100_000, 100_000))


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_all_bit_patterns_of_float32_come_back(bits):
    values = np.array(bits, np.uint32).view(np.float32)
    assert join_floats(*split_floats(values)).tobytes() == values.tobytes()


def test_exponents_beyond_their_number_are_not_inflated():
    _, bomb = split_floats(np.zeros(10_000_000, np.float32))
    tracemalloc.start()
    with pytest.raises(ValueError, match="as many exponents"):
        join_floats(bytes(3), bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000 + len(bomb)  # zlib keeps what it has not read


@pytest.mark.parametrize("damage", [lambda z: z[:-1], lambda z: z + b"x", lambda z: b"not zlib", lambda z: b""])
def test_damaged_exponents_are_refused(damage):
    raw, exponents = split_floats(np.arange(100, dtype=np.float32))
    with pytest.raises(ValueError, match="exponents"):
        join_floats(raw, damage(exponents))
