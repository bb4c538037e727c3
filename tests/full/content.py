"""What is put into a store until it is full, kept beside it in a dict."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import mmkv
from tests.support import check_report

# Sizes of values: of small records, of records of all classes, of a page each, of values with extents of their own.
SIZES: dict[str, Callable[[random.Random], int]] = {
    "small": lambda rng: rng.randrange(200),
    "all classes": lambda rng: int(20_000 ** rng.random()),
    "pages": lambda rng: rng.randrange(3000, 4000),
    "large": lambda rng: rng.randrange(20_000, 400_000),
}
MISSES = 20  # a store is full when so many records had no room: a full ext4 takes its time to say so


def laws_for(kind: str) -> list[str]:
    """Large values only on btrfs, which reserves metadata for each page that is stored to: slow when it is full."""
    return ["large"] if kind == "btrfs" else ["small", "all classes", "large"]


class Content:
    """A store and the dict that it has to be like."""

    def __init__(self, db: Any, rng: random.Random, law: str = "all classes") -> None:
        self.db = db
        self.expected: dict[bytes, bytes] = {}
        self._rng = rng
        self._size = SIZES[law]

    def pair(self) -> tuple[bytes, bytes]:
        """A key that was not there, and a value."""
        return b"%d" % self._rng.randrange(10**12), self._rng.randbytes(self._size(self._rng))

    def put(self, count: int) -> None:
        """Put so many records."""
        for _ in range(count):
            key, value = self.pair()
            self.db[key] = self.expected[key] = value

    def fill(self) -> int:
        """Put records until there is no room; the bytes of what went in."""
        stored = missed = 0
        while missed < MISSES:
            key, value = self.pair()
            try:
                self.db[key] = value
            except mmkv.StoreFullError as caught:
                error = caught
                assert key not in self.db
                missed += 1
            else:
                self.expected[key] = value
                stored += len(key) + len(value)
        assert self.db.path in str(error)
        return stored

    def others(self, law: str) -> Content:
        """More of the same store, to be filled with values of another law."""
        return Content(self.db, self._rng, law)

    def delete(self, part: float) -> None:
        """Delete a part of the records, anywhere."""
        keys = self._rng.sample(list(self.expected), int(len(self.expected) * part))
        for key in keys:
            del self.db[key]
            del self.expected[key]

    def check(self, db: Any = None) -> None:
        """Everything is there, as it was put, and nothing else; in this store or another handle."""
        db = self.db if db is None else db
        assert len(db) == len(self.expected)
        for key, value in self.expected.items():
            assert db[key] == value
        check_report(db.verify(), db.path)

    def reopen(self, **options: Any) -> None:
        """Close and open again."""
        path = self.db.path
        self.db.close()
        self.db = mmkv.open(path, "w", **options)


def expect_full(call: Callable[[], object]) -> mmkv.StoreFullError:
    """The StoreFullError that a call raises."""
    with pytest.raises(mmkv.StoreFullError) as caught:
        call()
    return caught.value
