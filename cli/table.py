"""CSV and TSV: quoted as RFC 4180 says, UTF-8, the first row names the columns.

Export writes the columns key, value, encoding; `encoding` is `utf-8` or, for rows that text cannot carry, `base64`.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from collections.abc import Callable, Iterator
from typing import BinaryIO

from .errors import BadData, Failure
from .files import Replacement, open_input
from .text import escape_text, quote

__all__ = ["TableSink", "TableSource"]

COLUMNS = ["key", "value", "encoding"]
# Characters in one field. Where a closing quote is missing the rest of the file would be one field: this bounds it.
FIELD_MAX = 64 << 20

DELIMITERS = {"csv": ",", "tsv": "\t"}


class TableSource:
    """Records from CSV or TSV. Memory: one row."""

    def __init__(self, path: str, kind: str, *, key: str | None, value: str | None) -> None:
        self._name = "standard input" if path == "-" else path
        self._file, self.total = open_input(path)
        self._text = io.TextIOWrapper(self._file, encoding="utf-8-sig", newline="")
        csv.field_size_limit(FIELD_MAX)
        self._rows = csv.reader(self._text, delimiter=DELIMITERS[kind], strict=True)
        self._key, self._value = key, value
        self.skipped = 0

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the records; blank lines are passed over. Raises BadData."""
        try:
            header = next(self._rows, None)
            if header is None:
                return
            convert = self._converter(header)
            for row in self._rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise self._bad(f"{len(row)} fields where the first row has {len(header)}")
                yield convert(row)
        except UnicodeDecodeError:
            raise self._bad("not UTF-8 (there or shortly after)") from None
        except csv.Error as error:
            raise self._bad(str(error)) from None

    def where(self) -> str:
        """Return the file and line."""
        return f"{self._name}, line {self._rows.line_num}"

    def position(self) -> int:
        """Return the bytes read, ahead of the records by a buffer."""
        return self._file.tell() if self.total is not None else 0

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def _converter(self, header: list[str]) -> Callable[[list[str]], tuple[bytes, bytes]]:
        """Return the function that makes a record of a row, chosen by the columns there are and those asked for."""
        if len(set(header)) < len(header):
            raise self._bad("two columns have the same name")
        if self._key is None and self._value is None and sorted(header) == sorted(COLUMNS):
            places = [header.index(name) for name in COLUMNS]
            return lambda row: self._decode(*(row[place] for place in places))
        key_at = self._column(header, "key" if self._key is None else self._key, "--key")
        if self._value is None and len(header) == 2 and "value" in header:
            value_at = header.index("value")
        elif self._value is not None:
            value_at = self._column(header, self._value, "--value")
        else:
            return lambda row: (row[key_at].encode(), _rest(header, row, key_at))
        return lambda row: (row[key_at].encode(), row[value_at].encode())

    def _column(self, header: list[str], name: str, option: str) -> int:
        try:
            return header.index(name)
        except ValueError:
            known = ", ".join(header)
            raise self._bad(f"no column {name!r} among {known}; name one with {option}") from None

    def _decode(self, key: str, value: str, encoding: str) -> tuple[bytes, bytes]:
        if encoding == "utf-8":
            return key.encode(), value.encode()
        if encoding != "base64":
            raise self._bad(f"encoding {encoding!r} is neither utf-8 nor base64")
        try:
            return base64.b64decode(key, validate=True), base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._bad(f"base64: {error}") from None

    def _bad(self, text: str) -> BadData:
        return BadData(f"{escape_text(self.where())}: {text}")


def _rest(header: list[str], row: list[str], key_at: int) -> bytes:
    fields = {name: field for place, (name, field) in enumerate(zip(header, row, strict=True)) if place != key_at}
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


class TableSink:
    """Records as CSV or TSV."""

    def __init__(self, path: str, kind: str) -> None:
        self._replacement = Replacement(path)
        self._delimiter = DELIMITERS[kind]

    def open(self) -> None:
        """Create the file and name the columns."""
        self._replacement.open()
        encoder = _Encoder(self._replacement.file)
        self._writer = csv.writer(encoder, delimiter=self._delimiter, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def check(self, key: bytes) -> None:
        """Accept: every key can be written."""

    def write(self, key: bytes, value: bytes) -> None:
        """Write one row."""
        row = _plain_row(key, value)
        if row is None:
            row = (base64.b64encode(key).decode(), base64.b64encode(value).decode(), "base64")
        if len(row[1]) > FIELD_MAX:
            size = f"{FIELD_MAX >> 20} MiB"
            raise Failure(f"the value of {quote(key)} is over {size}, too long for a field; JSON Lines has no limit")
        self._writer.writerow(row)

    def commit(self) -> None:
        """Put the file in its place."""
        self._replacement.commit()

    def abort(self) -> None:
        """Remove the unfinished file."""
        self._replacement.abort()


def _plain_row(key: bytes, value: bytes) -> tuple[str, str, str] | None:
    # Programs that read CSV tend to change a carriage return, and to stop at a NUL.
    if any(byte in data for data in (key, value) for byte in (b"\r", b"\0")):
        return None
    try:
        return key.decode("utf-8"), value.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return None


class _Encoder:
    """What csv.writer wants to write to: a TextIOWrapper would close or detach the file behind it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        return self._file.write(text.encode("utf-8"))
