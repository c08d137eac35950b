"""Ids and keys of ours are hex digits: the first 16 of them as numbers, a whole column at once."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from typing import Any

import numpy as np
import pyarrow as pa

_PLAIN = re.compile(r"[0-9a-f]{16,}")
_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint8)


def id_of(text: str) -> int:
    """The first 16 hex digits as a number; of a text that has none, those of its hash."""
    plain = text if _PLAIN.fullmatch(text) else hashlib.sha256(text.encode()).hexdigest()
    return int(plain[:16], 16)


def ids_of(texts: pa.ChunkedArray | pa.Array) -> np.ndarray[Any, Any]:
    """(n,) uint64: `id_of` of every text, 0 for a missing one."""
    column = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    plain = _hex_ids(column) if column.null_count == 0 else None
    if plain is not None:
        return plain
    return np.fromiter((0 if text is None else id_of(text) for text in column.to_pylist()), np.uint64, len(column))


def _hex_ids(column: pa.StringArray) -> np.ndarray[Any, Any] | None:
    """The same without a Python object a text, where all have one length and hex digits alone."""
    n, offset = len(column), column.offset
    _, offsets, data = column.buffers()
    if n == 0 or data is None:
        return np.empty(0, np.uint64) if n == 0 else None
    at = np.frombuffer(offsets, np.int32)[offset : offset + n + 1]
    width = int(at[1] - at[0])
    if width < 16 or not (np.diff(at) == width).all():
        return None
    nibbles = _NIBBLES[np.frombuffer(data, np.uint8)[at[0] : at[-1]].reshape(n, width)]
    if (nibbles == 255).any():
        return None
    found = np.zeros(n, np.uint64)
    for place in range(16):
        found = (found << np.uint64(4)) | nibbles[:, place]
    return found


def new_run_id() -> str:
    """Name of a run: sorts by time, unique."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(3)
