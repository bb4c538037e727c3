"""How long the first open after a power cut takes: `python -m benchmarks.recovery --records N`.

A store is filled and synced; each round makes its identity void, as another boot does, and times the open that recovers
it, with the file in the page cache and without. Beside it: reading the file from one end to the other.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import mmkv

IDENTITY_AT, IDENTITY_BYTES = 0x3000, 16  # docs/format.md, fmt_control.boot_id


def fill(path: Path, records: int, seed: int) -> None:
    """Make the store: keys of 16 bytes, values of 100."""
    rng = random.Random(seed)
    value = rng.randbytes(100)
    with mmkv.open(path, "n", sync="manual") as db:
        for start in range(0, records, 10_000):
            db.put_many((rng.randbytes(16), value) for _ in range(min(10_000, records - start)))
        db.sync()


def forget_the_boot(path: Path) -> None:
    """Void the identity, durably."""
    with open(path, "r+b") as file:
        file.seek(IDENTITY_AT)
        file.write(bytes(IDENTITY_BYTES))
        file.flush()
        os.fsync(file.fileno())


def drop_cache(path: Path) -> None:
    """Take the file out of the page cache."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def recover(path: Path) -> float:
    """Seconds until the store is open."""
    start = time.perf_counter()
    db = mmkv.open(path, "w", sync="manual")
    seconds = time.perf_counter() - start
    db.close()
    return seconds


def read(path: Path) -> None:
    """Read the whole file."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description="Measure recovery.")
    parser.add_argument("--records", type=int, default=1_000_000, metavar="N", help="records in the store (1,000,000)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (5)")
    parser.add_argument("--seed", type=int, default=1, help="of the keys (1)")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where the file is made")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        path = Path(directory) / "store.mmkv"
        fill(path, options.records, options.seed)
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.rounds):
            for cache in ("warm", "cold"):
                for name in ("recovery", "reading"):
                    forget_the_boot(path)
                    read(path)
                    if cache == "cold":
                        drop_cache(path)
                    seconds = recover(path) if name == "recovery" else timed(lambda: read(path))
                    times.setdefault((cache, name), []).append(seconds)
        print(f"{options.records:,} records, {path.stat().st_size:,} bytes, {options.rounds} rounds, medians")
        for cache in ("warm", "cold"):
            recovery, reading = (statistics.median(times[cache, name]) for name in ("recovery", "reading"))
            rate = options.records / recovery / 1e6
            print(
                f"{cache}: recovery {recovery:.3f} s, {rate:.2f} million records/s; "
                f"reading {reading:.3f} s, ratio {recovery / reading:.1f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
