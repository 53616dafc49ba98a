"""A second reader of the policy file, written bit by bit from docs/policy_format.md alone."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib

import numpy as np
import pytest
from policy_samples import heavy_tailed_mask, make_policy

from sparse_offline_rl.policy.format import read_policy, write_policy
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


def read_document(data):
    """Header, the four vectors, and (network, layer, mask, weights, biases) of each layer."""
    magic, version, length, header_bytes = struct.unpack_from("<8sIQI", data)
    assert (magic, version, length) == (b"\x89SORL\r\n\x1a", 2, len(data))
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    header = json.loads(data[24 : 24 + header_bytes])
    listed = [(net["name"], it) for net in header["networks"] for it in net["hidden"] + net["heads"]]
    sizes = [header["observation_dim"]] * 2 + [header["action_dim"]] * 2
    count = sum(sizes) + sum(it["kept"] + it["out"] for _, it in listed)
    raw, position = data[24 + header_bytes :], 3 * count
    exponents = zlib.decompress(raw[position : position + header["exponent_bytes"]])
    values = []
    for i in range(count):
        r = int.from_bytes(raw[3 * i : 3 * i + 3], "little")
        values.append(struct.unpack("<f", struct.pack("<I", (r >> 23) << 31 | exponents[i] << 23 | r & 0x7FFFFF))[0])
    position += header["exponent_bytes"]
    vectors = [[values.pop(0) for _ in range(size)] for size in sizes]
    layers = []
    for network, it in listed:
        mask = read_mask(raw[position : position + it["mask_bytes"]], it["out"], it["in"])
        position += it["mask_bytes"]
        weights = [values.pop(0) for _ in range(it["kept"])]
        layers.append((network, it["name"], mask, weights, [values.pop(0) for _ in range(it["out"])]))
    assert not values and position == len(raw) - 32
    return header, vectors, layers


@pytest.mark.parametrize("density", [0.0, 0.08, 0.9, 1.0])
def test_the_document_describes_the_file(tmp_path, density):
    write_policy(tmp_path / "p.sorl", make_policy("bcq", density, hidden=(40, 30)))
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
