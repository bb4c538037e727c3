"""A store that does nothing: what the loop, the call and the clock cost by themselves."""

from __future__ import annotations

import operator
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.adapters.base import Adapter, Operations, Pair


def _nothing(_batch: Sequence[object]) -> list[bytes | None]:
    return []


def _empty() -> Iterator[bytes]:
    return iter(())


def _empty_pairs() -> Iterator[Pair]:
    return iter(())


class Floor(Adapter):
    """Built-in functions with the right number of arguments that do next to nothing. Never part of a ratio."""

    name: ClassVar[str] = "floor"
    summary: ClassVar[str] = "no store: built-in functions that do nothing (cost of loop, call and clock)"
    on_disk: ClassVar[bool] = False

    @classmethod
    def version(cls) -> str:
        return platform.python_version()

    def open(self, directory: Path, payload_bytes: int) -> None:
        self.directory = directory

    def begin(self, *, write: bool) -> Operations:
        return Operations(
            get=operator.not_,  # type: ignore[arg-type]  # cheap, and one argument
            contains=operator.not_,
            put=operator.is_,
            delete=operator.not_,
            get_many=_nothing,
            put_many=_nothing,
            keys=_empty,
            items=_empty_pairs,
        )

    def close(self) -> None:
        pass
