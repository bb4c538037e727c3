"""Two builds of mmkv against each other, in turns, on copies of one store: what did a change cost?

    python -m benchmarks.builds OLD NEW [--pairs N] [--rounds N] [--records N]

OLD and NEW are checkouts with the extension built in place. A pair is a process of each, which takes turns with the
other; a pair's ratio is of the two first quartiles over its rounds, above 1 when NEW is faster. Pairs differ, by where
code and data happen to lie, more than the rounds of one do: what counts is the median over the pairs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import mmkv

WORKLOADS = ("hot", "hits", "misses", "overwrite")
OPERATIONS_MAX = 20_000

# Says the time of an operation in nanoseconds for each name of a workload that it reads.
SESSION = """
import random, sys, time
sys.path.insert(0, sys.argv[1])
import mmkv
assert mmkv.__file__.startswith(sys.argv[1]), mmkv.__file__
records, operations = int(sys.argv[3]), int(sys.argv[4])
db = mmkv.open(sys.argv[2], "w", sync="manual")
keys = [b"%016d" % i for i in range(records)]
random.Random(1).shuffle(keys)
absent = [b"absent" + key for key in keys[:operations]]
for turn, line in enumerate(sys.stdin):
    first = turn * operations % (records - operations + 1)
    work = {"hot": keys[:50] * (operations // 50), "misses": absent}.get(line.strip(), keys[first : first + operations])
    value = b"v" * 32
    start = time.perf_counter()
    if line == "overwrite\\n":
        for key in work:
            db[key] = value
    else:
        for key in work:
            db.get(key)
    print((time.perf_counter() - start) / len(work) * 1e9, flush=True)
"""


def run_pair(trees: list[str], store: Path, records: int, rounds: int) -> dict[str, float]:
    """The ratios of one pair of processes."""
    sessions = []
    for number, tree in enumerate(trees):
        copy = shutil.copy(store, f"{store}-{number}")
        numbers = [str(records), str(min(records, OPERATIONS_MAX))]
        command = [sys.executable, "-P", "-c", SESSION, tree, str(copy), *numbers]
        sessions.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    ratios = {}
    for workload in WORKLOADS:
        times: list[list[float]] = [[], []]
        for turn in range(rounds):
            for number in (0, 1) if turn % 2 else (1, 0):
                session = sessions[number]
                assert session.stdin is not None
                assert session.stdout is not None
                session.stdin.write(workload + "\n")
                session.stdin.flush()
                times[number].append(float(session.stdout.readline()))
        old, new = (statistics.quantiles(each, method="inclusive")[0] for each in times)
        ratios[workload] = old / new
    for session in sessions:
        session.communicate()
    return ratios


def main(arguments: list[str] | None = None) -> int:
    """Compare and print; the command's status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.builds", description="Compare two builds of mmkv.")
    parser.add_argument("old", type=Path, help="checkout with the extension built in place")
    parser.add_argument("new", type=Path, help="another one")
    parser.add_argument("--pairs", type=int, default=14, help="pairs of processes (14)")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each workload in a pair (30)")
    parser.add_argument("--records", type=int, default=200_000, help="records in the store (200,000)")
    options = parser.parse_args(arguments)
    trees = [os.path.realpath(options.old), os.path.realpath(options.new)]
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        store = Path(directory) / "store"
        with mmkv.open(store) as db:
            db.put_many((b"%016d" % i, b"%032d" % i) for i in range(options.records))
        results = [run_pair(trees, store, options.records, options.rounds) for _ in range(options.pairs)]
    for workload in WORKLOADS:
        ratios = sorted(result[workload] for result in results)
        print(f"{workload:10} median {statistics.median(ratios):.3f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
