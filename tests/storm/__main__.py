"""The command line: python -m tests.storm."""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests.storm import seeded
from tests.storm.world import SCENES, Failed, storm


def main() -> int:
    """Parse, run, say what was done."""
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long to run")
    parser.add_argument("--seed", default=None, help="of all chance; the order of events still differs from run to run")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--directory", type=Path, default=None, help="where the stores are made")
    parser.add_argument("--scenes", nargs="+", default=[], choices=[scene.name for scene in SCENES], metavar="NAME")
    parser.add_argument(
        "--seeded", nargs="*", metavar="NAME", help="instead: engines with a bug seeded, all or those named"
    )
    arguments = parser.parse_args()
    seed = arguments.seed or str(random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}", flush=True)
    if arguments.seeded is not None:
        return seeded.main(arguments.seeded, arguments.seconds, seed)
    scenes = [scene for scene in SCENES if not arguments.scenes or scene.name in arguments.scenes]
    print(storm(arguments.seconds, seed, scenes, processes=arguments.processes, directory=arguments.directory))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit("\n".join(["FAILED", *getattr(error, "__notes__", []), str(error)]))
