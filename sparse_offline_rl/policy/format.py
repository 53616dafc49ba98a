"""The policy file, ``policy.sorl``: one versioned binary file without pickle. Its bytes are laid out in docs/policy_format.md."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparse_offline_rl.errors import UserError
from sparse_offline_rl.files import write_bytes
from sparse_offline_rl.policy.content import PolicyContent, PolicyLayer, PolicyNetwork
from sparse_offline_rl.policy.deflate import deflate, inflate
from sparse_offline_rl.policy.floats import RAW_BYTES, join_floats, split_floats
from sparse_offline_rl.policy.header import (
    MAX_POSITIONS,
    MAX_POSITIONS_PER_BYTE,
    Header,
    LayerSizes,
    VectorSizes,
    describe,
    parse,
)
from sparse_offline_rl.policy.levels import Codes, Levels
from sparse_offline_rl.policy.rice import decode_mask, encode_mask
from sparse_offline_rl.types import FloatArray

MAGIC = b"\x89SORL\r\n\x1a"  # not text, and mangled visibly by a transfer that converts line ends
# A file has the version of the youngest part in it, so that older software reads what it can.
_PLAIN, _WITH_LEVELS, _WITH_LINEAR, _WITH_HASHES = 2, 3, 4, 5
VERSION = _WITH_HASHES
MAX_HEADER_BYTES = 2**20  # of a header that is deflated
_PREFIX = struct.Struct("<8sIQI")  # magic, version, length of the whole file, length of the JSON header
_DIGEST_BYTES = 32

Array = TypeVar("Array", FloatArray, NDArray[np.uint8])


def write_policy(path: Path, content: PolicyContent) -> int:
    """Write ``content`` to ``path``, all or nothing, and return the number of bytes.

    Raises UserError if the disk refuses, ValueError for a policy beyond the limits of the format.
    """
    layers = [layer for network in content.networks.values() for layer in network.layers]
    if sum(layer.mask.size for layer in layers) > MAX_POSITIONS:
        raise ValueError(f"a policy of more than {MAX_POSITIONS} weights does not fit the format")
    version = _version(content)
    vectors = [vector for layer in layers for vector in layer.vectors]
    codes = b"" if all(levels is None for _, levels in vectors) else deflate(_planes(vectors))
    masks = [b"" if layer.hashing else encode_mask(layer.mask) for layer in layers]
    spaces = [content.observation_mean, content.observation_std, content.action_low, content.action_high]
    values = [vector if levels is None else levels.floats for vector, levels in vectors]
    raw, exponents = split_floats(np.concatenate([*spaces, *values]))
    sizes = [len(code) for code in masks]
    facts = describe(content, len(exponents), None if version < _WITH_LEVELS else len(codes), sizes)
    header = json.dumps(facts, allow_nan=False).encode()
    if version >= _WITH_LEVELS:
        if len(header) > MAX_HEADER_BYTES:
            raise ValueError(f"a header of more than {MAX_HEADER_BYTES} bytes does not fit the format")
        header = zlib.compress(header, 9)
    body = b"".join([header, raw, exponents, codes, *masks])
    data = _PREFIX.pack(MAGIC, version, _PREFIX.size + len(body) + _DIGEST_BYTES, len(header)) + body
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


def _version(content: PolicyContent) -> int:
    """That of the youngest part in it."""
    parts = [_PLAIN]
    for network in content.networks.values():
        parts += [_WITH_LINEAR] * bool(network.linear)
        for layer in network.layers:
            parts += [_WITH_LEVELS] * (layer.weight_levels is not None or layer.bias_levels is not None)
            parts += [_WITH_HASHES] * (layer.hashing is not None)
    return max(parts)


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
    text = data[_PREFIX.size : _PREFIX.size + header_bytes]
    if version >= _WITH_LEVELS:
        text = _inflated_header(text)
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("its header is not JSON") from None
    header = parse(values, version)
    if header.positions > len(data) * MAX_POSITIONS_PER_BYTE:
        raise ValueError(f"its header claims {header.positions} weights, more than {len(data)} bytes can hold")
    claimed = RAW_BYTES * header.floats + header.exponent_bytes + header.code_bytes
    claimed += sum(layer.mask_bytes for layer in header.layers)
    if claimed != available - header_bytes:
        raise ValueError(
            f"its header claims {claimed} bytes of values and masks, and there are {available - header_bytes}"
        )
    return header


def _content(data: bytes, header: Header, start: int) -> PolicyContent:
    lengths = [RAW_BYTES * header.floats, header.exponent_bytes, header.code_bytes]
    ends = np.cumsum([start, *lengths, *(it.mask_bytes for it in header.layers)])
    raw, exponents, codes, *masks = (data[begin:end] for begin, end in pairwise(ends))
    floats = _Reader(join_floats(raw, exponents))
    integers = _Reader(np.frombuffer(inflate(codes, header.codes, "integers") if codes else b"", np.uint8))
    if header.codes > len(integers):
        raise ValueError("it holds no integers for its levels")
    parts = _Parts(floats, integers, iter(masks))
    state, action = header.observation_dim, header.action_dim
    mean, std, low, high = (floats.take(count) for count in (state, state, action, action))
    networks = {}
    for sizes in header.networks:
        hidden, heads = (tuple(_layer(it, parts) for it in group) for group in (sizes.hidden, sizes.heads))
        linear = frozenset(it.name for it in sizes.hidden if it.linear)
        networks[sizes.name] = PolicyNetwork(sizes.name, hidden, heads, linear)
    return PolicyContent(
        networks=networks, observation_mean=mean, observation_std=std, action_low=low, action_high=high, **header.fields
    )


class _Reader(Generic[Array]):
    """Consecutive pieces of one vector."""

    def __init__(self, values: Array) -> None:
        self._values: Array = values
        self._position = 0

    def __len__(self) -> int:
        return len(self._values)

    def take(self, count: int) -> Array:
        self._position += count
        piece: Array = self._values[self._position - count : self._position].copy()
        return piece


class _Parts(NamedTuple):
    """What the layers of a file are put together from, each read from where the last layer ended."""

    floats: _Reader[FloatArray]
    integers: _Reader[NDArray[np.uint8]]
    masks: Iterator[bytes]


def _layer(sizes: LayerSizes, parts: _Parts) -> PolicyLayer:
    code, shape, hashing = next(parts.masks), (sizes.outputs, sizes.inputs), sizes.hashing
    mask = np.ones(shape, np.bool_) if hashing else decode_mask(code, shape)
    if hashing is None and np.count_nonzero(mask) != sizes.weights.count:
        raise ValueError(f"the mask of layer {sizes.name} does not keep {sizes.weights.count} weights")
    values, weight_levels = _vector(sizes.weights, parts)
    bias, bias_levels = _vector(sizes.biases, parts)
    if hashing is None:
        weight = np.zeros(shape, dtype=np.float32)
        weight[mask] = values
    else:
        weight = hashing.expand(values)
    return PolicyLayer(sizes.name, weight, mask, bias, weight_levels, bias_levels, hashing)


def _vector(sizes: VectorSizes, parts: _Parts) -> tuple[FloatArray, Levels | None]:
    floats = parts.floats.take(sizes.floats)
    levels = sizes.levels(floats)
    if levels is None:
        return floats, None
    codes = np.zeros(sizes.count, np.uint16)
    for plane in range(sizes.planes):
        codes |= parts.integers.take(sizes.count).astype(np.uint16) << np.uint16(8 * plane)
    return levels.decode(codes), levels


def _planes(vectors: Sequence[tuple[FloatArray, Levels | None]]) -> list[bytes]:
    """The integers of each vector that has levels: the low byte of all its integers, then the high byte if there is one."""
    planes = []
    for values, levels in vectors:
        if levels is not None:
            codes: Codes = levels.encode(values)
            planes += [(codes >> np.uint16(8 * plane)).astype(np.uint8).tobytes() for plane in range(levels.planes)]
    return planes


def _inflated_header(deflated: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(deflated, MAX_HEADER_BYTES)
    except zlib.error:
        raise ValueError("its header cannot be inflated") from None
    if not unpacker.eof or unpacker.unused_data:
        raise ValueError("its header is no whole stream")
    return text
