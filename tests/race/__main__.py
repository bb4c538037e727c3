"""The race rig from the command line: see docs/testing.md.

python -m tests.race [--seconds N] [--seed N] [--threads N]
python -m tests.race --seeded [NAME ...]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

from tests.race import seeded
from tests.race.run import THREADS, engine, missing, run, suppressions


def main() -> int:
    """Run; 0 if all was well."""
    parser = argparse.ArgumentParser(prog="python -m tests.race", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long to run; with --seeded, each at most")
    parser.add_argument("--seed", type=int, help="of what each thread does (default: by chance)")
    parser.add_argument("--threads", type=int, default=THREADS, help="up to 16, half of them with each handle")
    parser.add_argument("--seeded", nargs="*", metavar="NAME", help="run the seeded bugs, or those named")
    options = parser.parse_args()
    if why := missing():
        print(why)
        return 2
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    if options.seeded is not None:
        return seeded.main(options.seeded, options.seconds, seed)
    outcome = run(engine(), options.seconds, seed, options.threads)
    print(outcome.failure, end="")
    print(f"seed {seed}, {outcome.calls:,} calls: {'see above' if outcome.failure else 'all well'}")
    print(f"reports of which a stack was lost: {outcome.lost}")
    print("suppressed:", ", ".join(f"{name} {outcome.used.get(name, 0)}" for name in suppressions()))
    return 1 if outcome.failure else 0


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent.parent)
    sys.exit(main())
