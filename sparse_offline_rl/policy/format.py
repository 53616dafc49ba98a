"""The policy file, ``policy.sorl``: one versioned binary file without pickle. Its bytes are laid out in docs/policy_format.md."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import write_bytes
from sparse_offline_rl.policy.content import PolicyContent, PolicyLayer, PolicyNetwork
from sparse_offline_rl.policy.floats import RAW_BYTES, join_floats, split_floats
from sparse_offline_rl.policy.header import MAX_POSITIONS, MAX_POSITIONS_PER_BYTE, Header, LayerSizes, describe, parse
from sparse_offline_rl.policy.rice import decode_mask, encode_mask
from sparse_offline_rl.types import FloatArray

MAGIC = b"\x89SORL\r\n\x1a"  # not text, and mangled visibly by a transfer that converts line ends
VERSION = 2  # of the files that are written; older ones are read
_PREFIX = struct.Struct("<8sIQI")  # magic, version, length of the whole file, length of the JSON header
_DIGEST_BYTES = 32


def write_policy(path: Path, content: PolicyContent) -> int:
    """Write ``content`` to ``path``, all or nothing, and return the number of bytes.

    Raises UserError if the disk refuses, ValueError for a policy beyond the limits of the format.
    """
    layers = [layer for network in content.networks.values() for layer in network.layers]
    if sum(layer.mask.size for layer in layers) > MAX_POSITIONS:
        raise ValueError(f"a policy of more than {MAX_POSITIONS} weights does not fit the format")
    masks = [encode_mask(layer.mask) for layer in layers]
    values = [part for layer in layers for part in (layer.weight[layer.mask], layer.bias)]
    vectors = [content.observation_mean, content.observation_std, content.action_low, content.action_high]
    raw, exponents = split_floats(np.concatenate([*vectors, *values]))
    header = json.dumps(describe(content, len(exponents), [len(code) for code in masks]), allow_nan=False).encode()
    body = b"".join([header, raw, exponents, *masks])
    data = _PREFIX.pack(MAGIC, VERSION, _PREFIX.size + len(body) + _DIGEST_BYTES, len(header)) + body
    data += hashlib.sha256(data).digest()
    write_bytes(Path(path), data)
    return len(data)


def read_policy(path: Path) -> PolicyContent:
    """Read a policy file, bit for bit what was written.

    Raises UserError with one sentence that names the file if it is missing, truncated, damaged, foreign or of a later version.
    Nothing is allocated on the word of the file alone: its claims are held against its length first.
    """
    path = Path(path)
    try:
        data, version, header_bytes = _read_whole(path)
        header = _header(data, version, header_bytes)
        return _content(data, header, _PREFIX.size + header_bytes)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): give the path of a policy file.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not a usable policy file: {error}; export it again or restore it from a copy."
        ) from None


def _read_whole(path: Path) -> tuple[bytes, int, int]:
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
            raise ValueError("it does not begin like one")
        _, version, length, header_bytes = _PREFIX.unpack(prefix)
        if not 1 <= version <= VERSION:
            raise ValueError(f"it has format version {version} and this software reads versions 1 to {VERSION}")
        size = path.stat().st_size
        if size != length:
            raise ValueError(f"it is {size} bytes long and should be {length}")
        data = prefix + file.read()
    if hashlib.sha256(data[:-_DIGEST_BYTES]).digest() != data[-_DIGEST_BYTES:]:
        raise ValueError("it is damaged, for its checksum does not match")
    return data, version, header_bytes


def _header(data: bytes, version: int, header_bytes: int) -> Header:
    available = len(data) - _PREFIX.size - _DIGEST_BYTES
    if not 0 <= header_bytes <= available:
        raise ValueError("its header is longer than the file")
    try:
        values: Any = json.loads(data[_PREFIX.size : _PREFIX.size + header_bytes])
    except (ValueError, RecursionError):
        raise ValueError("its header is not JSON") from None
    header = parse(values, version)
    if header.positions > len(data) * MAX_POSITIONS_PER_BYTE:
        raise ValueError(f"its header claims {header.positions} weights, more than {len(data)} bytes can hold")
    claimed = RAW_BYTES * header.floats + header.exponent_bytes + sum(layer.mask_bytes for layer in header.layers)
    if claimed != available - header_bytes:
        raise ValueError(
            f"its header claims {claimed} bytes of values and masks, and there are {available - header_bytes}"
        )
    return header


def _content(data: bytes, header: Header, start: int) -> PolicyContent:
    ends = np.cumsum(
        [start, RAW_BYTES * header.floats, header.exponent_bytes, *(it.mask_bytes for it in header.layers)]
    )
    raw, exponents, *masks = (data[begin:end] for begin, end in pairwise(ends))
    floats, codes = _Reader(join_floats(raw, exponents)), iter(masks)
    state, action = header.observation_dim, header.action_dim
    mean, std, low, high = (floats.take(count) for count in (state, state, action, action))
    networks = {}
    for sizes in header.networks:
        hidden, heads = (tuple(_layer(it, floats, codes) for it in group) for group in (sizes.hidden, sizes.heads))
        networks[sizes.name] = PolicyNetwork(sizes.name, hidden, heads)
    return PolicyContent(
        networks=networks, observation_mean=mean, observation_std=std, action_low=low, action_high=high, **header.fields
    )


def _layer(sizes: LayerSizes, floats: _Reader, codes: Iterator[bytes]) -> PolicyLayer:
    mask = decode_mask(next(codes), (sizes.outputs, sizes.inputs))
    if np.count_nonzero(mask) != sizes.kept:
        raise ValueError(f"the mask of layer {sizes.name} does not keep {sizes.kept} weights")
    weight = np.zeros(mask.shape, dtype=np.float32)
    weight[mask] = floats.take(sizes.kept)
    return PolicyLayer(sizes.name, weight, mask, floats.take(sizes.outputs))


class _Reader:
    """Consecutive pieces of one vector."""

    def __init__(self, values: FloatArray) -> None:
        self._values = values
        self._position = 0

    def take(self, count: int) -> FloatArray:
        self._position += count
        return self._values[self._position - count : self._position].copy()
