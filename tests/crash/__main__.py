"""The crash rig from the command line: see docs/testing.md.

python -m tests.crash [--seconds N | --images N] [--seed S] [--sectors] [--jobs N]
python -m tests.crash --only SEED [--sectors]
python -m tests.crash --seeded [NAME ...]
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

from tests.crash import seeded
from tests.crash.run import IMAGES_OF_A_RUN, Task, engine, run
from tests.rig.runs import until


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--seconds", type=float, help="go on for so long")
    parser.add_argument("--images", type=int, help="go on until so many images have been tried")
    parser.add_argument("--seed", type=int, help="of the first run; the next ones count up (default: by chance)")
    parser.add_argument("--sectors", action="store_true", help="each sector of 512 bytes for itself, not each page")
    parser.add_argument("--only", type=int, metavar="SEED", help="one run, of this seed")
    parser.add_argument(
        "--run-images", type=int, default=IMAGES_OF_A_RUN, help="images of one run, those of images apart"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--directory", type=Path, help="for the files (default: in memory)")
    parser.add_argument("--seeded", nargs="*", metavar="NAME", help="run the seeded bugs, or those named")
    return parser.parse_args()


def main() -> int:
    """Run; 0 if all was well."""
    options = arguments()
    if options.seeded is not None:
        return seeded.main(options.seeded, options.jobs)
    start = time.monotonic()
    library = engine()
    print(f"built in {time.monotonic() - start:.1f} s", flush=True)
    total: Counter[str] = Counter()
    asked = options.seed if options.only is None else options.only
    first = random.SystemRandom().randrange(1 << 32) if asked is None else asked
    seeds = itertools.count(first) if options.only is None else [first]
    tasks = (Task(seed, options.sectors, options.run_images) for seed in seeds)
    over = until(options.seconds) if options.seconds else lambda: False
    enough = options.images if options.images else sys.maxsize if options.seconds else 1000
    start, runs, read = time.monotonic(), 0, 0
    for outcome in run(library, tasks, jobs=options.jobs, reader_of=40, done=over, directory=options.directory):
        runs += 1
        read += outcome.read
        total += outcome.counts
        if outcome.failure:
            print(f"{outcome.failure}run again: {outcome.task.command()}", flush=True)
            return 1
        if total["images"] >= enough:
            break
    seconds = time.monotonic() - start
    print(f"{runs} runs from seed {first}, {'sectors' if options.sectors else 'pages'}: all well")
    print(f"{total['images']} images in {seconds:.0f} s, {read} of them read by the independent reader too")
    print(" ".join(f"{name}={number}" for name, number in total.items()))
    return 0


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent.parent)
    sys.exit(main())
