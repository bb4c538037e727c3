"""The kill rig from the command line: see docs/testing.md.

python -m tests.kill [--seconds N] [--seed N] [--operation NAME ...] [--skip N] [--jobs N]
python -m tests.kill --operation NAME --seed N --part N    # or --chains N: one run again, as a failure prints it
python -m tests.kill --seeded [NAME ...]
python -m tests.kill --list
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

from tests.kill import seeded
from tests.kill.run import PARTS, Task, engine, operations, run
from tests.rig.runs import until


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.kill", description=__doc__)
    parser.add_argument("--seconds", type=float, help="begin nothing after so long")
    parser.add_argument("--seed", type=int, help="of who goes on, and how (default: by chance)")
    parser.add_argument("--operation", nargs="*", metavar="NAME", help="those to kill (default: all)")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first parts, which an earlier run had")
    parser.add_argument("--part", type=int, help="one part of each operation")
    parser.add_argument("--chains", type=int, default=0, help="deaths of each at places chosen by chance, not all")
    parser.add_argument("--jobs", type=int, default=1, help="operations at a time")
    parser.add_argument("--seeded", nargs="*", metavar="NAME", help="run the seeded bugs, or those named")
    parser.add_argument("--list", action="store_true", help="name the operations")
    return parser.parse_args()


def main() -> int:
    """Run; 0 if all was well."""
    options = arguments()
    if options.seeded is not None:
        return seeded.main(options.seeded, options.jobs)
    names = options.operation or operations()
    if options.list:
        print("\n".join(names))
        return 0
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    if options.chains:
        tasks = [Task(name, seed, options.chains) for name in names]
    else:
        parts = range(PARTS) if options.part is None else [options.part]
        tasks = [Task(name, seed, 0, part) for name, part in itertools.product(names, parts)]
        random.Random(seed).shuffle(tasks)
    over = until(options.seconds) if options.seconds else lambda: False
    total: Counter[str] = Counter()
    start, done = time.monotonic(), 0
    for outcome in run(engine(), tasks[options.skip :], jobs=options.jobs, done=over):
        if outcome.failure:
            print(f"{outcome.failure}run again: {outcome.task.command()}", flush=True)
            return 1
        done += 1
        total += outcome.counts
    seconds = time.monotonic() - start
    print(f"seed {seed}, parts {options.skip} to {options.skip + done} of {len(tasks)}, {seconds:.0f} s: all well")
    print(" ".join(f"{name}={number}" for name, number in total.items()))
    return 0


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent.parent)
    sys.exit(main())
