"""Bytes in Huffman codes: zlib (RFC 1950) without its search for repetitions, which weights do not have."""

from __future__ import annotations

import zlib
from collections.abc import Sequence


def deflate(parts: Sequence[bytes]) -> bytes:
    """``parts`` one after the other as one stream, with one Huffman code for all or one for each, whichever takes less."""
    return min((_deflate(parts, apart) for apart in (False, True)), key=len)


def inflate(deflated: bytes, length: int, name: str) -> bytes:
    """The ``length`` bytes behind ``deflated``. Raises ValueError, calling them ``name``, if they are more, fewer or none.

    No more than that is inflated, whatever the stream claims.
    """
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(deflated, length + 1)
    except zlib.error as error:
        raise ValueError(f"its {name} cannot be inflated ({error})") from None
    if len(data) != length or not unpacker.eof or unpacker.unused_data:
        raise ValueError(f"it does not hold as many {name} as values")
    return data


def _deflate(parts: Sequence[bytes], apart: bool) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    pieces = []
    for part in parts:
        pieces.append(packer.compress(part))
        if apart:
            pieces.append(packer.flush(zlib.Z_BLOCK))  # ends the block, and with it the code
    return b"".join([*pieces, packer.flush()])
