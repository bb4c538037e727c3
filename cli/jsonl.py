"""JSON Lines: one object a line, `{"key": text, "value": text}`, or `key_b64` and `value_b64` in base64.

Each of the two is text where its bytes are UTF-8 and base64 where not, so every record has exactly one form on export.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from .errors import BadData
from .files import Replacement, open_input
from .text import dump_json, escape_text, json_field

__all__ = ["JsonLinesSink", "JsonLinesSource"]

BOM = b"\xef\xbb\xbf"
FIRST = 1 << 16  # bytes of a line that are read before it has to look like JSON


class JsonLinesSource:
    """Records from JSON Lines. Memory: one line."""

    def __init__(self, path: str) -> None:
        self._name = "standard input" if path == "-" else path
        self._file, self.total = open_input(path)
        self._line = 0
        self._position = 0
        self.skipped = 0

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records; blank lines are passed over. Raises BadData."""
        while line := self._next_line(self._file):
            self._line += 1
            self._position += len(line)
            if self._line == 1:
                line = line.removeprefix(BOM)
            if not line.isspace() and line:
                yield self._record(line)

    def where(self) -> str:
        """Return the file and line."""
        return f"{self._name}, line {self._line}"

    def position(self) -> int:
        """Return the bytes of all lines so far."""
        return self._position

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _next_line(self, file: BinaryIO) -> bytes:
        line = file.readline(FIRST)
        if len(line) < FIRST or line.endswith(b"\n"):
            return line
        # A long line. Some other file, perhaps without a newline in gigabytes, must not be read in as one.
        if not line.removeprefix(BOM).lstrip().startswith(b"{"):
            self._line += 1
            raise self._bad("not a JSON object")
        return line + file.readline()

    def _record(self, line: bytes) -> tuple[bytes, bytes]:
        try:
            fields = json.loads(line.decode("utf-8"))  # given bytes, json would guess at UTF-16
        except UnicodeDecodeError:
            raise self._bad("not UTF-8; other bytes go as base64 into key_b64 and value_b64") from None
        except json.JSONDecodeError as error:
            raise self._bad(f"not JSON: {error.msg} (column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise self._bad(f"not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise self._bad("not a JSON object")
        key, value = self._take(fields, "key"), self._take(fields, "value")
        if fields:
            raise self._bad(f"unknown field {next(iter(fields))!r}")
        return key, value

    def _take(self, fields: dict[str, Any], name: str) -> bytes:
        coded = f"{name}_b64"
        if (name in fields) == (coded in fields):
            raise self._bad(f"needs either {name!r} or {coded!r}")
        is_coded = coded in fields
        text = fields.pop(coded if is_coded else name)
        if not isinstance(text, str):
            raise self._bad(f"{coded if is_coded else name!r} is not a string")
        try:
            return base64.b64decode(text, validate=True) if is_coded else text.encode("utf-8")
        except (binascii.Error, UnicodeEncodeError, ValueError) as error:
            raise self._bad(f"{coded if is_coded else name!r}: {error}") from None

    def _bad(self, text: str) -> BadData:
        return BadData(f"{escape_text(self._name)}, line {self._line}: {text}")


class JsonLinesSink:
    """Records as JSON Lines."""

    def __init__(self, path: str) -> None:
        self._replacement = Replacement(path)

    def open(self) -> None:
        """Create the file."""
        self._replacement.open()

    def check(self, key: bytes) -> None:
        """Accept: every key can be written."""

    def write(self, key: bytes, value: bytes) -> None:
        """Write one line."""
        self._replacement.file.write(dump_json({**json_field("key", key), **json_field("value", value)}))

    def commit(self) -> None:
        """Put the file in its place."""
        self._replacement.commit()

    def abort(self) -> None:
        """Remove the unfinished file."""
        self._replacement.abort()
