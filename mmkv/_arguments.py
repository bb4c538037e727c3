"""What operations take: keys and values as bytes, numbers of 64 bits. As the native class checks them (hot.h)."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["load", "load_key", "load_number"]

_KEY_MAX = 65535


def load(data: Buffer, what: str) -> bytes:
    """Return a copy of it, unless it is bytes already: other objects could change between checksum and store."""
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        raise TypeError(f"{what}s are bytes, not str: encode it first, as in {what}.encode()")
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(f"{what}s are bytes or bytes-like objects, not {type(data).__name__}") from None
    if not view.c_contiguous:
        raise BufferError(f"{what}s must be contiguous in memory")
    return view.tobytes()


def load_key(key: Buffer) -> bytes:
    """Return a key as bytes that are not too long for one."""
    data = load(key, "key")
    if len(data) > _KEY_MAX:
        raise ValueError(f"a key is at most 65,535 bytes long, not {len(data)}")
    return data


def load_number(number: object, what: str) -> int:
    """Return an integer that fits in 64 bits, with its sign."""
    value = operator.index(number)  # type: ignore[arg-type]
    if not -(2**63) <= value < 2**63:
        raise OverflowError(f"{what} is a signed 64-bit integer, not {value!r}")
    return value
