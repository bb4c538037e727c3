"""Grow a store from empty to many records by single puts, and say what that cost.

    python tests/grow.py --records 20000000 [--directory DIR] [--seed S]

Prints the rate, the longest single put, the file's size and bytes per record, reads a sample back, and ends with
verify(). Not part of the suite: 20 million records take some minutes and 4 GB.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import mmkv


def grow(records: int, directory: Path | None, seed: int, key_size: int, value_size: int) -> bool:
    """Returns whether everything was as it should be."""
    rng = random.Random(seed)
    value = rng.randbytes(value_size)
    clock = time.perf_counter_ns
    slowest: list[tuple[int, int]] = []  # (ns, at record), the ten longest
    threshold = 0
    with tempfile.TemporaryDirectory(prefix="mmkv-grow-", dir=directory) as name:
        path = Path(name) / "store.mmkv"
        with mmkv.open(path, sync="manual") as db:
            start = clock()
            for i in range(records):
                key = i.to_bytes(8, "little") + rng.randbytes(key_size - 8)
                before = clock()
                db[key] = value
                took = clock() - before
                if took > threshold:
                    slowest = sorted([*slowest, (took, i)], reverse=True)[:10]
                    threshold = slowest[-1][0] if len(slowest) == 10 else 0
                if i % 1_000_000 == 999_999:
                    print(f"  {i + 1:>12,} records, {(clock() - start) / (i + 1):.0f} ns each", flush=True)
            seconds = (clock() - start) / 1e9
            size = path.stat().st_size
            on_disk = os.stat(path).st_blocks * 512
            print(f"records            {len(db):,}")
            print(f"rate               {records / seconds:,.0f} puts a second, the making of the keys included")
            print("longest puts       " + ", ".join(f"{ns / 1e6:.2f} ms at {i:,}" for ns, i in slowest[:5]))
            print(f"file               {size:,} bytes, {on_disk:,} on the disk")
            print(f"bytes per record   {on_disk / records:.1f}, for {key_size + value_size} of key and value")
            again = random.Random(seed)
            again.randbytes(value_size)
            wrong = 0
            for i in range(records):
                key = i.to_bytes(8, "little") + again.randbytes(key_size - 8)
                wrong += i % 97 == 0 and db.get(key) != value
            start = clock()
            report = db.verify()
            print(f"verify             {(clock() - start) / 1e9:.1f} s: {report}")
            good = report.ok and not wrong and len(db) == records == report.records
            if wrong:
                print(f"WRONG              {wrong:,} of the records that were read back")
        return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000_000)
    parser.add_argument("--key-size", type=int, default=16, help="bytes, at least 8")
    parser.add_argument("--value-size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=None, help="where the store is made")
    arguments = parser.parse_args()
    good = grow(arguments.records, arguments.directory, arguments.seed, arguments.key_size, arguments.value_size)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
