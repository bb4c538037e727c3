"""What guard=True costs: the same calls on two handles, one opened with it, in turns.

    python -m benchmarks.guard [--sizes MIB,MIB,...] [--rounds N] [--directory DIR]

Prints, for each size of the store, how many times as long a call takes with it as without: the median over the rounds
of the ratio of two times that were taken one after the other. All of the store is in the page cache and in both maps.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mmkv

VALUE = b"v" * 1000
CALLS = {"get": 5000, "put": 100, "put of 100 KB": 20, "pop and put": 50, "put_many of 100": 1}
LARGE = b"l" * 100_000


def work(db: mmkv.Store, name: str, keys: list[bytes]) -> Callable[[], object]:
    """What is timed: a number of calls, on these keys."""

    def each(call: Callable[[bytes], object]) -> Callable[[], object]:
        return lambda: [call(key) for key in keys]

    def put(key: bytes) -> None:
        db[key] = VALUE

    def put_large(key: bytes) -> None:
        db[b"large " + key[-1:]] = LARGE

    def pop_and_put(key: bytes) -> None:
        db[key] = db.pop(key)

    if name == "put_many of 100":
        pairs = [(random.choice(keys), VALUE) for _ in range(100)]
        return lambda: db.put_many(pairs)
    return each({"get": db.get, "put": put, "put of 100 KB": put_large, "pop and put": pop_and_put}[name])


def seconds(call: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(folder: Path, mebibytes: int, rounds: int) -> dict[str, tuple[float, float]]:
    """For each kind of call: the ratio, and microseconds for one call with the guard."""
    plain, guarded = folder / "plain", folder / "guarded"
    keys = [b"%016d" % i for i in range(mebibytes * 960)]
    with mmkv.open(plain, "n", sync="manual") as db:
        db.put_many((key, VALUE) for key in keys)
        db.sync()
    shutil.copy(plain, guarded)
    figures = {}
    with mmkv.open(plain, "w", sync="manual") as one, mmkv.open(guarded, "w", sync="manual", guard=True) as other:
        assert len(dict(one.items())) == len(dict(other.items()))
        chance = random.Random(1)
        for name, count in CALLS.items():
            ratios, times = [], []
            for turn in range(rounds + 1):
                chosen = chance.choices(keys, k=count)
                calls = [work(db, name, chosen) for db in (one, other)]
                order = [0, 1] if turn % 2 else [1, 0]
                taken = dict(zip(order, [seconds(calls[i]) for i in order], strict=True))
                if turn:  # the first round warms up
                    ratios.append(taken[1] / taken[0])
                    times.append(taken[1] / count * 1e6)
            figures[name] = statistics.median(ratios), statistics.median(times)
    return figures


def main() -> None:
    """Measure each size, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description="What guard=True costs.")
    parser.add_argument("--sizes", default="1,100,1000", help="of the store, in MiB")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--directory", help="where the stores are made")
    options = parser.parse_args()
    print("| MiB | " + " | ".join(CALLS) + " |\n| ---: |" + " ---: |" * len(CALLS))
    for size in map(int, options.sizes.split(",")):
        with tempfile.TemporaryDirectory(dir=options.directory) as folder:
            figures = measure(Path(folder), size, options.rounds)
        print(f"| {size} | " + " | ".join(f"x {r:.3g} ({t:.3g} us)" for r, t in figures.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
