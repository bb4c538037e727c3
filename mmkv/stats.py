"""What `Store.stats` and `Store.verify` return."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple


@dataclasses.dataclass(frozen=True)
class Stats:
    """Figures about a store at one moment. Sizes are in bytes; "whole pages" are those that belong to no record.

    Example:
        >>> import mmkv, os, tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with mmkv.open(os.path.join(directory, "store")) as db:
        ...         db[b"key"] = b"value"
        ...         stats = db.stats()
        >>> stats.records, stats.data_bytes
        (1, 8)
    """

    records: int
    """Live records; exact when nobody writes."""
    data_bytes: int
    """Bytes of the live records' keys and values."""
    file_bytes: int
    """The length of the file, holes included."""
    hole_bytes: int
    """How much of the file has been given back to the file system."""
    free_bytes: int
    """Whole pages that can be used again now."""
    waiting_bytes: int
    """Whole pages that can be used again after a checkpoint."""
    heap_bytes: int
    """The part of the file that is laid out for records."""
    index_bytes: int
    """The part of the file that is laid out for the hash index."""
    chunks: int
    """Extents that hold records of one size class."""
    tables: int
    """Tables of the hash index."""
    zones: int
    """Steps in which the file has grown."""
    epoch: int
    """The epoch being written."""
    durable_epoch: int
    """The last epoch known to be durable."""
    checkpoints: int
    """Checkpoints made since the file was last recovered."""
    shards: int
    """Independent parts of the store, each with a lock of its own; fixed at creation."""
    attached: int
    """Handles open for writing, in all processes."""
    created_ns: int
    """When the store was made, in nanoseconds since 1970."""
    hash_seed: int
    """The seed of the store's hash function."""
    uuid: str
    """The store's identity, 32 hexadecimal digits."""

    @property
    def used_bytes(self) -> int:
        """What the file takes up on disk, nearly: its length without the holes."""
        return self.file_bytes - self.hole_bytes

    def as_dict(self) -> dict[str, int | str]:
        """The fields by name, as numbers and strings that JSON can hold."""
        return dataclasses.asdict(self)


class Problem(NamedTuple):
    """One thing that `Store.verify` found wrong."""

    kind: str
    """A short fixed word."""
    key: bytes | None
    """The key of the record concerned, where there is one."""
    offset: int
    """The byte position in the file."""
    text: str
    """What is wrong, for people."""


class Report(NamedTuple):
    """The outcome of `Store.verify`.

    Example:
        >>> print(Report(True, 3, []))
        ok: 3 records, no errors
        >>> print(Report(False, 2, [Problem("record", b"key", 4096, "checksum differs")]))
        damaged: 2 records, 1 error
          record at offset 4096, key b'key': checksum differs
    """

    ok: bool
    """True when nothing is wrong."""
    records: int
    """Live records seen."""
    errors: list[Problem]
    """What was found: tuples of (kind, key or None, offset, text)."""

    def __str__(self) -> str:
        def count(number: int, word: str) -> str:
            return f"{number:,} {word}{'' if number == 1 else 's'}"

        errors = count(len(self.errors), "error") if self.errors else "no errors"
        lines = [f"{'ok' if self.ok else 'damaged'}: {count(self.records, 'record')}, {errors}"]
        for problem in self.errors:
            key = "" if problem.key is None else f", key {problem.key!r}"
            lines.append(f"  {problem.kind} at offset {problem.offset}{key}: {problem.text}")
        return "\n".join(lines)

    def __bool__(self) -> Any:
        """Whether the store is sound, so that `assert db.verify()` says what it seems to."""
        return self.ok
