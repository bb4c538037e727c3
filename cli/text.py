"""Bytes as people, shells and JSON see them: escaping, hexadecimal, and the lossless JSON form."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

__all__ = ["dump_json", "escape", "escape_text", "json_field", "quote"]


def escape_text(text: str | bytes, *, backslash: bool = True) -> str:
    r"""Return text with everything unprintable as `\xNN`, one for each byte of its UTF-8 form.

    With `backslash` (the default) a backslash is doubled, so that two different texts never look the same.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    if text.isprintable() and not (backslash and "\\" in text):
        return text
    shown: list[str] = []
    for character in text:
        if character == "\\" and backslash:
            shown.append("\\\\")
        elif character.isprintable():
            shown.append(character)
        else:
            # surrogatepass is for half surrogates in a message; those of surrogateescape stand for one byte each.
            half = "\udc80" <= character <= "\udcff"
            raw = character.encode("utf-8", "surrogateescape" if half else "surrogatepass")
            shown.extend(f"\\x{byte:02x}" for byte in raw)
    return "".join(shown)


def escape(key: bytes, *, encoding: str = "utf-8") -> str:
    r"""Return a key for a terminal: printable UTF-8 as it is, other bytes as `\xNN`, a backslash doubled.

    Spaces at the ends, which nobody would see, are escaped as well. Where the terminal's encoding lacks a character,
    its bytes are escaped.
    """
    shown = escape_text(key)
    core = shown.strip(" ")
    if core != shown:
        if not core:
            return "\\x20" * len(shown)
        head = len(shown) - len(shown.lstrip(" "))
        shown = "\\x20" * head + core + "\\x20" * (len(shown) - head - len(core))
    try:
        shown.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        shown = "".join(c if c.isascii() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in shown)
    return shown


def quote(key: bytes) -> str:
    """Return a key for an error message: escaped, in quotes, and not longer than a line can bear."""
    shown = escape_text(key[:120])
    return f"'{shown}'" if len(key) <= 120 else f"'{shown}'... ({len(key):,} bytes)"


def json_field(name: str, data: bytes) -> dict[str, str]:
    """Return `{name: text}` for UTF-8 and `{name_b64: base64}` for all other bytes: lossless either way."""
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_b64": base64.b64encode(data).decode("ascii")}


def dump_json(value: Any) -> bytes:
    """Return one line of JSON in UTF-8, with its newline."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # a path that is not UTF-8, as half surrogates: JSON can spell those in ASCII
        return json.dumps(value, default=_plain).encode("ascii") + b"\n"


def _plain(value: object) -> object:
    # Stats and reports may hold bytes and paths, which JSON does not know.
    if isinstance(value, (bytes, bytearray, memoryview)):
        return escape_text(bytes(value))
    if isinstance(value, os.PathLike):
        return escape_text(os.fspath(value))
    return str(value)
