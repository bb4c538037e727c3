"""A program with types: what it may write, and what it may not, by `mypy --strict`; it is not run.

Where an error is wanted there is a `type: ignore`, which mypy reports when it is of no use.
"""

from __future__ import annotations

import array
import asyncio
import pickle
import shelve
from collections import ChainMap
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, assert_type

import mmkv


def opens(path: Path, mode: str, seconds: int) -> None:
    with mmkv.open(path, "r", sync=seconds) as db:
        assert_type(db, mmkv.Store)
    mmkv.open(path, mode)  # type: ignore[arg-type]


def reads(db: mmkv.Store) -> None:
    assert_type(db[b"k"], bytes)
    assert_type(db.get(bytearray(b"k")), bytes | None)
    assert_type(db.get(b"k", None), bytes | None)
    assert_type(db.get(b"k", b""), bytes)
    assert_type(db.get(b"k", default=1), bytes | int)
    assert_type(db.get_many([b"k"]), list[bytes | None])
    assert_type(db.wait(b"k", old=None, timeout=1), bytes | None)
    assert_type(list(db), list[bytes])
    assert_type(list(db.items()), list[tuple[bytes, bytes]])
    assert_type(db.stats().records, int)
    assert_type([error.key for error in db.verify().errors], list[bytes | None])
    db["k"]  # type: ignore[index]


def writes(db: mmkv.Store, values: dict[bytes, bytes], views: dict[bytes, memoryview], names: dict[str, bytes]) -> None:
    db[b"k"] = array.array("d")
    assert_type(db.pop(b"k"), bytes)
    assert_type(db.pop(b"k", None), bytes | None)
    assert_type(db.setdefault(b"k", memoryview(b"v")), bytes)
    assert_type(db.incr(b"k", -1, initial=5), int)
    db.update({b"k": b"v"})
    db.update(values)
    db.update(views)
    db.update([(b"k", b"v")])
    db.put_many({b"k": b"v"})
    db.put_many(values)
    db.put_many((b"%d" % i, bytearray(i)) for i in range(3))
    db |= {b"k": b"v"}
    db |= values
    db |= [(b"k", b"v")]
    assert_type(db, mmkv.Store)
    db[b"k"] = "v"  # type: ignore[assignment]
    db.update(names)  # type: ignore[type-var]
    db.update(k=b"v")  # type: ignore[arg-type]


def transfers(t: mmkv.Transaction, values: dict[bytes, bytes]) -> int:
    t.update(values)
    t.update({b"k": b"v"})
    assert_type(t[b"k"], bytes)
    assert_type(t.pop(b"k", None), bytes | None)
    return t.incr(b"k")


async def awaits(db: mmkv.Store) -> None:
    assert_type(await asyncio.to_thread(db.get, b"k"), bytes | None)
    assert_type(await asyncio.to_thread(db.wait, b"k", old=None), bytes | None)
    assert_type(await asyncio.to_thread(db.incr, b"k", 2), int)


def goes_in(db: mmkv.Store) -> tuple[Any, ...]:
    assert_type(db.atomically(lambda t: t.get(b"k")), bytes | None)
    assert_type(db.atomically(lambda t: transfers(t, {})), int)
    with mmkv.Lock(db, b"lock", timeout=0.5) as lock:
        assert_type(lock, mmkv.Lock)
    fixed: Mapping[bytes, bytes] = db
    mutable: MutableMapping[bytes, bytes] = db
    shelf: shelve.Shelf[int] = shelve.Shelf(db)
    return fixed, mutable, shelf, dict(db), db | {b"k": b"v"}, ChainMap({}, db), pickle.dumps(db)
