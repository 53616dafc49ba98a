"""Policies whose weights lie on levels: exact in the file, near their entropy, and safe on any bytes."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_damage import assert_a_changed_byte_is_refused_or_read, measured_refusal, refusal
from policy_samples import assert_same, compressed_policy, edit_header, make_policy, with_header

from sparse_offline_rl.compression.quantize import kmeans, linear_levels
from sparse_offline_rl.policy.content import PolicyLayer, PolicyNetwork
from sparse_offline_rl.policy.deflate import deflate, inflate
from sparse_offline_rl.policy.format import MAX_HEADER_BYTES, read_policy, write_policy
from sparse_offline_rl.policy.levels import LinearLevels, SharedLevels

HOW = [{"clusters": 16}, {"bits": 4}, {"bits": 8}, {"bits": 16}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("levels")


@pytest.fixture(scope="module", params=HOW, ids=str)
def sound(folder, request):
    """The bytes of a small sound file."""
    write_policy(folder / "sound.sorl", compressed_policy(hidden=(8, 6), **request.param))
    return (folder / "sound.sorl").read_bytes()


@st.composite
def vectors(draw, count):
    """``count`` values on some levels, and the levels."""
    if draw(st.booleans()):
        bits = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=256)
        levels = SharedLevels(np.array(draw(bits), np.uint32).view(np.float32))
        codes = st.integers(0, len(levels.values) - 1)
    else:
        step = np.float32(draw(st.floats(2.0**-149, 2.0**100, width=32)))
        levels = LinearLevels(draw(st.integers(2, 16)), step)
        codes = st.integers(-levels.highest, levels.highest)
    drawn = np.array(draw(st.lists(codes, min_size=count, max_size=count)), np.int32)
    if isinstance(levels, SharedLevels):
        return levels.values[drawn], levels
    return levels.step * drawn.astype(np.float32), levels


@st.composite
def layers(draw):
    mask = np.array(draw(st.lists(st.booleans(), min_size=12, max_size=12)), bool).reshape(4, 3)
    values, weight_levels = draw(vectors(int(mask.sum())))
    weight = np.zeros(mask.shape, np.float32)
    weight[mask] = values
    bias, bias_levels = draw(vectors(4))
    return PolicyLayer("out", weight, mask, bias, weight_levels, draw(st.sampled_from([bias_levels, None])))


def actor_of(layer):
    content = make_policy("actor", state=3, action=4, hidden=())
    return replace(content, networks={"actor": PolicyNetwork("actor", (), (layer,))})


@settings(max_examples=150, deadline=None)
@given(layers())
def test_any_levels_come_back_bit_for_bit(folder, layer):
    write_policy(folder / "any.sorl", actor_of(layer))
    assert_same(actor_of(layer), read_policy(folder / "any.sorl"))


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("kind", ["bcq", "bc", "actor"])
def test_compressed_policies_come_back_bit_for_bit(tmp_path, kind, how):
    content = compressed_policy(kind, **how)
    write_policy(tmp_path / "p.sorl", content)
    assert_same(content, read_policy(tmp_path / "p.sorl"))
    assert (tmp_path / "p.sorl").read_bytes()[8] == 3


def test_policies_without_levels_stay_files_of_version_2(tmp_path):
    write_policy(tmp_path / "p.sorl", make_policy())
    assert (tmp_path / "p.sorl").read_bytes()[8] == 2


def test_values_between_levels_are_not_written(tmp_path):
    layer = compressed_policy("actor", hidden=()).networks["actor"].heads[0]
    for levels in (SharedLevels(np.ones(2, np.float32)), LinearLevels(8, np.float32(1))):
        with pytest.raises(ValueError, match="a value is no"):
            write_policy(tmp_path / "p.sorl", actor_of(PolicyLayer("out", *_off(layer), levels)))
    assert not list(tmp_path.iterdir())


def _off(layer):
    return np.full((4, 3), 0.3, np.float32), np.ones((4, 3), bool), np.zeros(4, np.float32)


@pytest.mark.parametrize("count", [0, 257])
def test_a_codebook_has_1_to_256_values(count):
    with pytest.raises(ValueError, match="1 to 256 values"):
        SharedLevels(np.zeros(count, np.float32))


@pytest.mark.parametrize(
    ("bits", "step"), [(1, 1.0), (17, 1.0), (8, -1.0), (8, 0.0), (8, np.nan), (8, np.inf), (16, np.float32(1e38))]
)
def test_impossible_steps_are_refused(bits, step):
    with pytest.raises(ValueError, match="linear levels have"):
        LinearLevels(bits, np.float32(step))


def test_integers_beyond_the_levels_are_refused():
    with pytest.raises(ValueError, match="beyond the codebook"):
        SharedLevels(np.ones(3, np.float32)).decode(np.array([3], np.uint16))
    for bits, code in ((4, 8), (4, 256 - 8), (8, 128), (16, 2**15)):
        with pytest.raises(ValueError, match=f"more than {bits} bits"):
            LinearLevels(bits, np.float32(1)).decode(np.array([code], np.uint16))


def entropy_bytes(codes):
    counts = np.unique(codes, return_counts=True)[1]
    return -(counts * np.log2(counts / counts.sum())).sum() / 8


@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform"])
def test_integers_cost_at_most_four_percent_more_than_their_entropy(draw):
    values = getattr(np.random.default_rng(0), draw)(size=20_000).astype(np.float32)
    shared = kmeans(values, 16)[1].astype(np.uint8)
    for codes in (
        shared,
        *(linear_levels(values, bits).encode(values_on(values, bits)).astype(np.uint8) for bits in (4, 8)),
    ):
        assert len(deflate([codes.tobytes()])) < 1.04 * entropy_bytes(codes)


def values_on(values, bits):
    return linear_levels(values, bits).nearest(values)


def test_each_layer_gets_a_code_of_its_own_where_that_takes_less():
    rng = np.random.default_rng(0)
    parts = [rng.binomial(15, p, 5000).astype(np.uint8) for p in (0.3, 0.7)]
    together = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    one = together.compress(b"".join(part.tobytes() for part in parts)) + together.flush()
    stream = deflate([part.tobytes() for part in parts])
    assert len(stream) < 0.9 * len(one) and len(stream) < 1.03 * sum(map(entropy_bytes, parts))
    assert inflate(stream, 10_000, "integers") == b"".join(part.tobytes() for part in parts)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_changed_byte_anywhere_is_refused(folder, sound, data):
    damaged = bytearray(sound)
    damaged[data.draw(st.integers(0, len(sound) - 1))] ^= data.draw(st.integers(1, 255))
    refusal(folder, bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_one_changed_byte_below_a_right_checksum_is_refused_or_read(folder, sound, data):
    assert_a_changed_byte_is_refused_or_read(folder, sound, data)


def _levels(key, value):
    return lambda header: header["networks"][0]["hidden"][0].update({key: value})


@pytest.mark.parametrize("key", ["weights", "biases"])
@pytest.mark.parametrize(
    "value",
    [
        {"shared": 0}, {"shared": 257}, {"shared": 2**40}, {"shared": 2.0}, {"bits": 1}, {"bits": 17}, {"bits": True},
        {"shared": 2, "bits": 8}, {}, {"colour": 3}, "text", 8, {"bits": None}, {"shared": 255}, {"bits": 9}, None,
    ],
    ids=str,
)  # fmt: skip
def test_claims_of_levels_are_checked_before_memory_is_taken(folder, sound, key, value):
    assert measured_refusal(folder, edit_header(sound, _levels(key, value)))[1] < 2_000_000


@pytest.mark.parametrize("value", [0, 1, -1, 2**27, 2**40, None, "1"])
def test_claims_of_integers_are_checked_before_memory_is_taken(folder, sound, value):
    assert measured_refusal(folder, edit_header(sound, lambda header: header.update(code_bytes=value)))[1] < 2_000_000


@pytest.mark.parametrize("change", [-1, 1])
def test_other_numbers_of_integers_are_refused(folder, sound, change):
    def count(header):
        header["networks"][0]["hidden"][1]["kept"] += change

    assert "as many integers as values" in refusal(folder, edit_header(sound, count))


def test_a_deflated_header_is_bounded(folder, sound):
    length = int.from_bytes(sound[20:24], "little")
    for text, word in (
        (zlib.compress(b" " * (64 * MAX_HEADER_BYTES)), "no whole stream"),
        (zlib.compress(b"[" * 100_000), "not JSON"),
        (zlib.compress(b"{}") + b"x", "no whole stream"),
        (zlib.compress(b"{}")[:-1], "no whole stream"),
        (b"{}", "cannot be inflated"),
        (b"", "no whole stream"),
    ):
        sentence, peak = measured_refusal(folder, with_header(sound, text, sound[24 + length : -32]))
        assert word in sentence and peak < 3 * MAX_HEADER_BYTES


def test_integers_beyond_their_number_are_not_inflated(folder, sound):
    length = int.from_bytes(sound[20:24], "little")
    bomb = zlib.compress(bytes(50_000_000))

    def claim(header):
        header["code_bytes"] = len(bomb)

    grown = edit_header(sound, claim)
    start = 24 + int.from_bytes(grown[20:24], "little")
    floats = sound[24 + length :]
    header = read_header(sound)
    before = 3 * float_count(header) + header["exponent_bytes"]
    body = floats[:before] + bomb + floats[before + header["code_bytes"] : -32]
    sentence, peak = measured_refusal(folder, with_header(grown, grown[24:start], body))
    assert "as many integers as values" in sentence and peak < 2_000_000


def read_header(data):
    found = {}
    edit_header(data, found.update)
    return found


def float_count(header):
    count = 2 * header["observation_dim"] + 2 * header["action_dim"]
    for network in header["networks"]:
        for layer in network["hidden"] + network["heads"]:
            for key, size in (("weights", layer["kept"]), ("biases", layer["out"])):
                levels = layer.get(key)
                count += size if levels is None else levels.get("shared", 1)
    return count
