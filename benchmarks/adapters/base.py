"""What every store must offer to be measured."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

BLOCK_BYTES = 512
"""The unit of `st_blocks`, whatever the file system's own block size (stat(2))."""

Pair = tuple[bytes, bytes]


@dataclass(frozen=True)
class Operations:
    """The callables of one phase, as directly bound to the store as can be: the loop calls nothing in between.

    An absent key gives None (`get`, `get_many`) or false (`contains`); `delete` is called for present keys only.
    """

    get: Callable[[bytes], bytes | None]
    contains: Callable[[bytes], object]
    put: Callable[[bytes, bytes], object]
    delete: Callable[[bytes], object]
    get_many: Callable[[Sequence[bytes]], Sequence[bytes | None]]
    put_many: Callable[[Sequence[Pair]], object]
    keys: Callable[[], Iterator[bytes]]
    items: Callable[[], Iterator[Pair]]


@dataclass(frozen=True)
class Footprint:
    """Space on disk, in bytes."""

    blocks: int
    """What is allocated, as `du` counts."""
    length: int
    """The sum of the files' lengths, holes included."""


class Adapter(ABC):
    """A store in one of its settings. The session calls `open`, then phases of `begin` ... `commit`, then `close`."""

    name: ClassVar[str]
    summary: ClassVar[str]
    """The setting, in a line for the report."""
    module: ClassVar[str | None] = None
    """The package that must be installed."""
    needs: ClassVar[str | None] = None
    """A name the package must have, to tell it from an empty shell of the same name."""
    on_disk: ClassVar[bool] = True

    def __init__(self) -> None:
        self.directory = Path()

    @classmethod
    def unavailable(cls) -> str | None:
        """Why this store cannot be measured here, or None."""
        if cls.module is None:
            return None
        try:
            module = importlib.import_module(cls.module)
        except ImportError as error:
            return f"cannot import {cls.module}: {error}"
        if cls.needs is not None and not hasattr(module, cls.needs):
            return f"{cls.module} has no {cls.needs}"
        return None

    @classmethod
    def package(cls) -> ModuleType:
        """The store's package; only if it is not `unavailable`. (Imported late: all of them are optional.)"""
        assert cls.module is not None
        return importlib.import_module(cls.module)

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The version of what is measured."""

    @abstractmethod
    def open(self, directory: Path, payload_bytes: int) -> None:
        """Make an empty store in an empty directory; it will get that many bytes of keys and values."""

    @abstractmethod
    def begin(self, *, write: bool) -> Operations:
        """Start a phase, outside the clock: whatever a program does once before many operations.

        What `begin` returned before is used no more.
        """

    def commit(self) -> None:  # noqa: B027  (most stores have nothing to do)
        """End a phase of writes, on the clock: afterwards others see them."""

    def sync(self) -> None:  # noqa: B027  (stores in memory have nothing to do)
        """Make what was written survive a power cut; ends the phase."""

    def mapping(self) -> Any:
        """The store as an object for `store[key]` and `store[key] = value`, or None if it is not one."""
        return None

    def damage(self) -> str | None:
        """What the store's own check of the file finds wrong, off the clock; None if nothing, or if it has no check."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Give everything back. The caller deletes the files."""

    def bytes_on_disk(self) -> Footprint | None:
        """All files of the store, locks and logs included; None for a store in memory."""
        if not self.on_disk:
            return None
        states = [path.stat() for path in self.directory.rglob("*") if path.is_file()]
        blocks = sum(state.st_blocks for state in states) * BLOCK_BYTES
        return Footprint(blocks, sum(state.st_size for state in states))
