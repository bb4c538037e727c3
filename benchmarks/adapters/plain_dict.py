"""The ceiling: a `dict`, which shares nothing, stores nothing, and copies neither key nor value."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from benchmarks.adapters.base import Adapter, Operations


class PlainDict(Adapter):
    """For each operation the fastest way that can be called with the arguments alone.

    `pop` rather than `__delitem__` and `__contains__` rather than `has`: slot wrappers build a tuple of the arguments,
    methods do not. For storing there is only `__setitem__`, a slot wrapper; `d[k] = v` is a third faster, hence the
    workload `fill-subscript` beside `fill`.
    """

    name: ClassVar[str] = "dict"
    summary: ClassVar[str] = "the ceiling: plain dict"
    on_disk: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._dict: dict[bytes, bytes] = {}

    @classmethod
    def version(cls) -> str:
        return platform.python_version()

    def open(self, directory: Path, payload_bytes: int) -> None:
        self.directory = directory
        self._dict = {}

    def begin(self, *, write: bool) -> Operations:
        get = self._dict.get

        def get_many(keys: Sequence[bytes]) -> list[bytes | None]:
            return list(map(get, keys))

        return Operations(
            get=get,
            contains=self._dict.__contains__,
            put=self._dict.__setitem__,
            delete=self._dict.pop,
            get_many=get_many,
            put_many=self._dict.update,
            keys=self._dict.__iter__,
            items=lambda: iter(self._dict.items()),
        )

    def mapping(self) -> dict[bytes, bytes]:
        return self._dict

    def close(self) -> None:
        self._dict = {}
