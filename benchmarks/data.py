"""The seeded keys and values of a session."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

KeyObjects = Literal["same", "fresh"]

HOT_KEYS = 1_000
ZIPF_EXPONENT = 0.99
"""YCSB's constant (Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010)."""
KEY_BYTES_MIN = 8
"""Shorter random keys would collide: with 8 bytes two million keys have a chance of 1 in 10 million to."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    records: int = 1_000_000
    operations: int = 1_000_000
    """Of each workload on a filled store; those that touch each key once do at most `records`."""
    key_bytes: int = 16
    value_bytes: int = 100
    get_batch: int = 100
    put_batch: int = 1_000
    sync_every: int = 100_000

    def __post_init__(self) -> None:
        if self.key_bytes < KEY_BYTES_MIN:
            raise ValueError(f"keys need at least {KEY_BYTES_MIN} bytes")
        if min(self.records, self.operations, self.value_bytes, self.get_batch, self.put_batch, self.sync_every) < 1:
            raise ValueError("sizes must be at least 1")

    @property
    def once(self) -> int:
        """Operations of a workload that touches no key twice."""
        return min(self.records, self.operations)


def split(blob: bytes, width: int) -> list[bytes]:
    """Cut `blob` into new bytes objects of `width` bytes; neighbours in the list are neighbours in memory.

    >>> split(b"aabbcc", 2)
    [b'aa', b'bb', b'cc']
    """
    return [blob[start : start + width] for start in range(0, len(blob), width)]


class Data:
    """Keys and values of one session, and the orders in which they are used.

    `keys[i]` is the i-th record put into an empty store, with `values[i]`. The keys are random, so the order of
    insertion is random for a store that sorts and for one that hashes. Every store of a round gets the same data (same
    seed).

    Args:
        sizes: how many, how long.
        seed: of this round.
        key_objects: whether a key looked up is the very object that was put (`same`) or an equal one (`fresh`).
    """

    def __init__(self, sizes: Sizes, seed: int, key_objects: KeyObjects) -> None:
        self.sizes = sizes
        self.key_objects = key_objects
        self._seed = seed
        source = random.Random(seed)
        self.keys = split(source.randbytes(sizes.records * sizes.key_bytes), sizes.key_bytes)
        self.values = split(source.randbytes(sizes.records * sizes.value_bytes), sizes.value_bytes)

    def random(self, name: str) -> random.Random:
        """A generator of its own for a workload, so that leaving one out does not change the others."""
        return random.Random(f"{self._seed} {name}")

    def objects(self, keys: list[bytes]) -> list[bytes]:
        """The keys as a program would hold them: these, or newly made ones in the order of use."""
        if self.key_objects == "same":
            return keys
        return split(b"".join(keys), self.sizes.key_bytes)

    def shuffled(self, name: str) -> list[bytes]:
        """Stored keys in random order, each at most once."""
        return self.objects(self.random(name).sample(self.keys, self.sizes.once))

    def missing(self, name: str) -> list[bytes]:
        """Keys of the same length that were never put."""
        count = self.sizes.once
        return split(self.random(name).randbytes(count * self.sizes.key_bytes), self.sizes.key_bytes)

    def hot(self, name: str) -> list[bytes]:
        """`operations` draws, uniform, from 1,000 of the keys."""
        source = self.random(name)
        few = source.sample(self.keys, min(HOT_KEYS, self.sizes.records))
        return self.objects(source.choices(few, k=self.sizes.operations))

    def zipf(self, name: str) -> list[bytes]:
        """`operations` draws in which the key of rank r has a chance in proportion to r ** -0.99.

        Exact, by bisecting the cumulative weights (`random.choices`); the usual approximation (Gray et al., "Quickly
        Generating Billion-Record Synthetic Databases", SIGMOD 1994) is for when these do not fit in memory. Ranks are
        dealt to the keys at random, so that popular ones are not neighbours.
        """
        source = self.random(name)
        ranked = source.sample(self.keys, self.sizes.records)
        weights = list(accumulate(rank**-ZIPF_EXPONENT for rank in range(1, self.sizes.records + 1)))
        return self.objects(source.choices(ranked, cum_weights=weights, k=self.sizes.operations))

    def other_values(self, count: int) -> list[bytes]:
        """`count` values in order of memory, each for another key than when the store was filled."""
        half = len(self.values) // 2
        return (self.values[half:] + self.values[:half])[:count]
