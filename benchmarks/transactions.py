"""What a transaction costs: the processor time of one over that of the same operations without it.

    python -m benchmarks.transactions [--records N] [--rounds N] [--operations N]

Of a store in memory, keys in random order, medians of the ratios of rounds in which all take turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mmkv

Work = Callable[[mmkv.Store, list[bytes], bytes], None]


def two_puts(db: mmkv.Store, keys: list[bytes], value: bytes) -> None:
    """Neither needs the other."""
    for i in range(0, len(keys), 2):
        db[keys[i]] = value
        db[keys[i + 1]] = value


def put_two(db: mmkv.Store, keys: list[bytes], value: bytes) -> None:
    """The same, as one step."""
    for i in range(0, len(keys), 2):
        with db.transaction() as t:
            t[keys[i]] = value
            t[keys[i + 1]] = value


def commit_two(db: mmkv.Store, keys: list[bytes], value: bytes) -> None:
    """Its end alone."""
    for i in range(0, len(keys), 2):
        db._commit({}, {keys[i]: value, keys[i + 1]: value})


def two_gets_and_puts(db: mmkv.Store, keys: list[bytes], value: bytes) -> None:
    """What a transfer does, for whoever is alone."""
    for i in range(0, len(keys), 2):
        a, b = db[keys[i]], db[keys[i + 1]]
        db[keys[i]], db[keys[i + 1]] = b, a


def transfer(db: mmkv.Store, keys: list[bytes], value: bytes) -> None:
    """The same, for everybody."""
    for i in range(0, len(keys), 2):
        with db.transaction() as t:
            a, b = t[keys[i]], t[keys[i + 1]]
            t[keys[i]], t[keys[i + 1]] = b, a


def put_thousand(db: mmkv.Store, keys: list[bytes], value: bytes) -> None:
    """Many as one step."""
    for i in range(0, len(keys), 1000):
        with db.transaction() as t:
            t.update(dict.fromkeys(keys[i : i + 1000], value))


PAIRS: list[tuple[str, Work, Work]] = [
    ("two puts", put_two, two_puts),
    ("two puts, the end alone", commit_two, two_puts),
    ("two gets and two puts", transfer, two_gets_and_puts),
    ("1,000 puts", put_thousand, two_puts),
]


def seconds(work: Work, db: mmkv.Store, keys: list[bytes], value: bytes) -> float:
    """The processor time of one round: others may be busy, too."""
    start = time.process_time()
    work(db, keys, value)
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transactions", description=__doc__)
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
        mmkv.open(Path(directory) / "store", sync="manual") as db,
    ):
        keys = [b"%016d" % i for i in range(options.records)]
        db.put_many((key, b"v" * 100) for key in keys)
        for name, work, plain in PAIRS:
            ratios, times = [], []
            for _ in range(options.rounds):
                some = random.sample(keys, options.operations)
                times.append(seconds(work, db, some, b"w" * 100))
                ratios.append(times[-1] / seconds(plain, db, some, b"w" * 100))
            each = statistics.median(times) / options.operations * 2e6
            print(f"{name}: {statistics.median(ratios):.1f} times as long ({each:.1f} us for two keys)", flush=True)


if __name__ == "__main__":
    main()
