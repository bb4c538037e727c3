"""mmkv itself, through the methods a program would use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from benchmarks.adapters.base import Adapter, Operations


class Mmkv(Adapter):
    """Default options. Every put is visible to every process when it returns; there is nothing to commit."""

    name: ClassVar[str] = "mmkv"
    summary: ClassVar[str] = "default options; each operation atomic and visible to other processes at once"
    module: ClassVar[str | None] = "mmkv"
    needs: ClassVar[str | None] = "open"

    options: ClassVar[dict[str, Any]] = {}

    _store: Any

    @classmethod
    def version(cls) -> str:
        return str(getattr(cls.package(), "__version__", "unknown"))

    def open(self, directory: Path, payload_bytes: int) -> None:
        self.directory = directory
        self._store = self.package().open(str(directory / "store.mmkv"), "n", **self.options)

    def begin(self, *, write: bool) -> Operations:
        store = self._store
        return Operations(
            get=store.get,
            contains=store.__contains__,
            put=store.put,
            delete=store.delete,
            get_many=store.get_many,
            put_many=store.put_many,
            keys=store.__iter__,
            items=lambda: iter(store.items()),
        )

    def sync(self) -> None:
        self._store.sync()

    def mapping(self) -> Any:
        return self._store

    def damage(self) -> str | None:
        report = self._store.verify()
        return None if report.ok else str(report)

    def close(self) -> None:
        self._store.close()


class MmkvVerified(Mmkv):
    """Every read checks the record's checksum."""

    name: ClassVar[str] = "mmkv-verified"
    summary: ClassVar[str] = "as mmkv, with verify_reads=True: each read checks the record's checksum"
    options: ClassVar[dict[str, Any]] = {"verify_reads": True}
