"""One adapter per store; `ADAPTERS` names them all, in the order of tables."""

from __future__ import annotations

from benchmarks.adapters.base import Adapter, Footprint, Operations
from benchmarks.adapters.floor import Floor
from benchmarks.adapters.lmdb import LmdbCall, LmdbDurable, LmdbLong
from benchmarks.adapters.mmkv import Mmkv, MmkvVerified
from benchmarks.adapters.plain_dict import PlainDict
from benchmarks.adapters.sqlite import SqliteNormal, SqliteOff

ADAPTERS: dict[str, type[Adapter]] = {
    adapter.name: adapter
    for adapter in (Mmkv, MmkvVerified, PlainDict, LmdbLong, LmdbCall, LmdbDurable, SqliteOff, SqliteNormal, Floor)
}

__all__ = ["ADAPTERS", "Adapter", "Footprint", "Operations"]
