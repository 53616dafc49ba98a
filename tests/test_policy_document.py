"""A second reader of the policy file, written bit by bit from docs/policy_format.md alone."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib

import numpy as np
import pytest
from policy_samples import compressed_policy, hashed_policy, heavy_tailed_mask, make_policy

from sparse_offline_rl.networks.hashing import LayerHash
from sparse_offline_rl.policy.format import read_policy, write_policy
from sparse_offline_rl.policy.levels import LinearLevels
from sparse_offline_rl.policy.rice import _encode_grouped, encode_mask


class BitStream:
    def __init__(self, data):
        self.data, self.position = data, 0

    def bit(self):
        value = self.data[self.position // 8] >> (self.position % 8) & 1
        self.position += 1
        return value

    def number(self, bits):
        return sum(self.bit() << i for i in range(bits))

    def unary(self):
        zeros = 0
        while not self.bit():
            zeros += 1
        return zeros

    def rest(self):
        return self.data[(self.position + 7) // 8 :]


def read_blocks(blocks, data):
    """``blocks`` are (first byte, count, n); their bits as lists."""
    low = BitStream(data)
    lows = [[low.number(first & 31) for _ in range(count)] for first, count, _ in blocks]
    unary = BitStream(low.rest())
    for (first, _, n), parts in zip(blocks, lows, strict=True):
        coded = 0 if first & 128 else 1
        bits, position = [1 - coded] * n, -1
        for part in parts:
            position += (unary.unary() << (first & 31)) + part + 1
            bits[position] = coded
        yield bits


def read_mask(code, outputs, inputs):
    if code[0] != 64:
        (bits,) = read_blocks([(code[0], int.from_bytes(code[1:5], "little"), outputs * inputs)], code[5:])
        return [bits[i * inputs : (i + 1) * inputs] for i in range(outputs)]
    stream = BitStream(code[1:])
    rows = [stream.number(2) for _ in range(outputs)]
    columns = BitStream(stream.rest())
    groups = [columns.number(2) for _ in range(inputs)]
    data, blocks, places = columns.rest(), [], []
    for a in range(4):
        for b in range(4):
            first, count, digits = data[0], 0, 1
            while True:
                count |= (data[digits] & 127) << 7 * (digits - 1)
                digits += 1
                if data[digits - 1] < 128:
                    break
            data = data[digits:]
            places.append([(i, j) for i in range(outputs) if rows[i] == a for j in range(inputs) if groups[j] == b])
            blocks.append((first, count, len(places[-1])))
    mask = [[0] * inputs for _ in range(outputs)]
    for bits, cells in zip(read_blocks(blocks, data), places, strict=True):
        for bit, (i, j) in zip(bits, cells, strict=True):
            mask[i][j] = bit
    return mask


def float_count(levels, size):
    return size if levels is None else levels.get("shared", 1)


def read_values(levels, size, floats, integers):
    """The next weights or biases, taken from the front of ``floats`` and ``integers``."""
    own = [floats.pop(0) for _ in range(float_count(levels, size))]
    if levels is None:
        return own
    low = [integers.pop(0) for _ in range(size)]
    if "shared" in levels:
        return [own[i] for i in low]
    bits, whole = levels["bits"], 8
    if bits > 8:
        low, whole = [i + 256 * integers.pop(0) for i in low], 16
    numbers = [i - 2**whole if i >= 2 ** (whole - 1) else i for i in low]
    assert all(abs(n) < 2 ** (bits - 1) for n in numbers)
    return [float(np.float32(own[0]) * np.float32(n)) for n in numbers]


def hash_of(seed, position, count):
    """Which of ``count`` values the weight at ``position`` has, and its sign."""
    whole = 2**64
    z = (seed * 2**32 + position + 0x9E3779B97F4A7C15) % whole
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % whole
    z = (z ^ z >> 27) * 0x94D049BB133111EB % whole
    z ^= z >> 31
    return (z >> 32) * count >> 32, -1 if z & 1 else 1


def hashed_weights(hashed, size, values):
    places = (hash_of(hashed["seed"], position, hashed["values"]) for position in range(size))
    return [sign * values[bucket] for bucket, sign in places]


def read_document(data):
    """Header, the four vectors, and (network, layer, mask, weights, biases) of each layer."""
    magic, version, length, header_bytes = struct.unpack_from("<8sIQI", data)
    assert (magic, length) == (b"\x89SORL\r\n\x1a", len(data)) and version in (2, 3, 4, 5)
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    text = data[24 : 24 + header_bytes]
    header = json.loads(zlib.decompress(text) if version >= 3 else text)
    listed = [(net["name"], it) for net in header["networks"] for it in net["hidden"] + net["heads"]]
    sizes = [header["observation_dim"]] * 2 + [header["action_dim"]] * 2
    kept = [it["hashed"]["values"] if "hashed" in it else it["kept"] for _, it in listed]
    parts = [
        part
        for (_, it), count in zip(listed, kept, strict=True)
        for part in ((it.get("weights"), count), (it.get("biases"), it["out"]))
    ]
    count = sum(sizes) + sum(float_count(levels, size) for levels, size in parts)
    raw, position = data[24 + header_bytes :], 3 * count
    exponents = zlib.decompress(raw[position : position + header["exponent_bytes"]])
    values = []
    for i in range(count):
        r = int.from_bytes(raw[3 * i : 3 * i + 3], "little")
        values.append(struct.unpack("<f", struct.pack("<I", (r >> 23) << 31 | exponents[i] << 23 | r & 0x7FFFFF))[0])
    position += header["exponent_bytes"]
    code_bytes = header.get("code_bytes", 0)
    integers = list(zlib.decompress(raw[position : position + code_bytes])) if code_bytes else []
    position += code_bytes
    vectors = [[values.pop(0) for _ in range(size)] for size in sizes]
    layers = []
    for network, it in listed:
        weights, biases = (read_values(*parts.pop(0), values, integers) for _ in range(2))
        if "hashed" in it:
            mask, weights = [[1] * it["in"]] * it["out"], hashed_weights(it["hashed"], it["in"] * it["out"], weights)
        else:
            mask = read_mask(raw[position : position + it["mask_bytes"]], it["out"], it["in"])
            position += it["mask_bytes"]
        layers.append((network, it["name"], mask, weights, biases))
    assert not values and not integers and position == len(raw) - 32
    return header, vectors, layers


def linear_layers(header):
    return [(net["name"], it["name"]) for net in header["networks"] for it in net["hidden"] if it.get("linear", False)]


SIZES = {"hidden": (40, 30)}
POLICIES = {f"density {density}": make_policy("bcq", density, **SIZES) for density in (0.0, 0.08, 0.9, 1.0)}
POLICIES |= {f"{bits} bits": compressed_policy("bcq", bits, density=0.08, **SIZES) for bits in (4, 8, 16)}
POLICIES |= {f"linear {density}": make_policy("bcq", density, linear=["hidden1"], **SIZES) for density in (0.08, 1.0)}
POLICIES |= {"linear, 8 bits": compressed_policy("bcq", 8, density=0.08, linear=["hidden0"], **SIZES)}
POLICIES |= {"shared": compressed_policy("bcq", density=0.08, **SIZES), "nothing": compressed_policy(density=0.0)}
POLICIES |= {"hashed": hashed_policy(**SIZES), "hashed, 4 bits": hashed_policy(bits=4, **SIZES)}


def test_the_example_of_the_hash():
    assert hashed_weights({"seed": 7, "values": 2}, 6, [1.0, 2.0]) == [-2, 1, -2, 2, 2, 2]
    assert LayerHash(2, 3, 2, 7).expand(np.array([1, 2], np.float32)).tolist() == [[-2, 1, -2], [2, 2, 2]]


def test_the_example_of_levels():
    levels = LinearLevels(4, np.float32(0.25))
    codes = levels.encode(np.array([-0.5, 0.25, 0], np.float32))
    assert codes.astype(np.uint8).tobytes() == bytes([0xFE, 1, 0])


@pytest.mark.parametrize("name", POLICIES)
def test_the_document_describes_the_file(tmp_path, name):
    write_policy(tmp_path / "p.sorl", POLICIES[name])
    data = (tmp_path / "p.sorl").read_bytes()
    content = read_policy(tmp_path / "p.sorl")
    header, vectors, layers = read_document(data)
    expected = [content.observation_mean, content.observation_std, content.action_low, content.action_high]
    assert [it.tolist() for it in expected] == vectors
    assert (header["acting"]["candidates"], header["env_id"]) == (7, "HalfCheetah-v5")
    assert list(header["acting"]) == [
        "propose",
        "latent_dim",
        "latent_clip",
        "perturb",
        "perturbation",
        "rank",
        "candidates",
    ]
    assert linear_layers(header) == [(name, it) for name, net in content.networks.items() for it in sorted(net.linear)]
    known = [(name, layer) for name, network in content.networks.items() for layer in network.layers]
    for (network, name, mask, weights, biases), (known_network, layer) in zip(layers, known, strict=True):
        assert (network, name) == (known_network, layer.name)
        assert np.array_equal(np.array(mask, bool), layer.mask)
        assert layer.weight[layer.mask].tolist() == weights and layer.bias.tolist() == biases


@pytest.mark.parametrize("kept", [0, 5, 300, 2000, 2400])
@pytest.mark.parametrize("encode", [encode_mask, _encode_grouped])
def test_the_document_describes_both_codes_of_a_mask(encode, kept):
    mask = heavy_tailed_mask(np.random.default_rng(0), (40, 60), kept, tail=0.4)
    assert np.array_equal(np.array(read_mask(encode(mask), 40, 60), bool), mask)
