"""The formats of `import` and `export`: which there are, how one is found, and what readers and writers offer."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Literal, Protocol, get_args

import click

__all__ = ["FORMATS", "Format", "Sink", "Source", "find_export_format", "find_import_format"]

Format = Literal["dir", "jsonl", "csv", "tsv", "mmkv"]
FORMATS: tuple[str, ...] = get_args(Format)

SUFFIXES: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".mmkv": "mmkv"}
MAGIC = b"\x89MMKV\r\n\x1a"  # the first bytes of every store (docs/format.md)


class Source(Protocol):
    """Records to import, one after the other."""

    skipped: int
    """What could not be a record: symbolic links, devices."""
    total: int | None
    """Bytes of input, if known."""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield keys and values. Raises BadData."""
        ...

    def where(self) -> str:
        """Say where the last record came from, for an error message."""
        ...

    def position(self) -> int:
        """Return the bytes of input used up."""
        ...

    def close(self) -> None:
        """Give back files and stores."""
        ...


class Sink(Protocol):
    """Where exported records go. Nothing is visible under the target's name before `commit`, but for a directory."""

    def open(self) -> None:
        """Create what records are written to. Apart from construction, so that `abort` can follow an interrupt here."""
        ...

    def check(self, key: bytes) -> None:
        """Raise UnsafeKey for a key that `write` would refuse."""
        ...

    def write(self, key: bytes, value: bytes) -> None:
        """Write one record. Raises UnsafeKey."""
        ...

    def commit(self) -> None:
        """Finish: all of it is there, under the target's name."""
        ...

    def abort(self) -> None:
        """Give back files and remove what is unfinished; after `commit` there is nothing left to do."""
        ...


def find_import_format(source: str) -> Format:
    """Return the format of an existing source: a directory, a store by its first bytes, else by the name's ending.

    Raises: FileNotFoundError, and UsageError if the name does not say.
    """
    if source == "-":
        return "jsonl"
    mode = os.stat(source).st_mode
    if stat.S_ISDIR(mode):
        return "dir"
    if stat.S_ISREG(mode) and _is_store(source):
        return "mmkv"
    return _by_suffix(source, "'SOURCE'")


def find_export_format(target: str) -> Format:
    """Return the format for a target that may not exist yet; a name that ends with a slash means a directory."""
    if target == "-":
        return "jsonl"
    if target.endswith("/") or os.path.isdir(target):
        return "dir"
    if os.path.isfile(target) and _is_store(target):
        return "mmkv"
    return _by_suffix(target, "'TARGET'")


def _by_suffix(path: str, name: str) -> Format:
    suffix = os.path.splitext(path)[1].lower()
    try:
        return SUFFIXES[suffix]
    except KeyError:
        known = ", ".join(SUFFIXES)
        text = f"the name {path!r} does not tell the format: it ends with none of {known}; use --format"
        raise click.BadParameter(text, param_hint=name) from None


def _is_store(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC
