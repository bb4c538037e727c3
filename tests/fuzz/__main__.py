"""Fuzz the engine for a while:  python -m tests.fuzz --seconds 3600

Coverage-guided, by libFuzzer, where clang is installed (Debian: clang, libclang-rt-dev); else mutated by chance and
a seed. Under AddressSanitizer and UndefinedBehaviorSanitizer either way. Ends with 1 when an input broke something: the
input is kept, and printed as Python for tests/fuzz/seeds.py.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz import build, inputs, seeds


def guided(scratch: Path, corpus: Path, keep: Path, seconds: int, seed: int) -> int:
    """Run libFuzzer."""
    command = [
        str(build.fuzzer(scratch)), str(corpus), f"-max_total_time={seconds}", f"-seed={seed}", "-timeout=10",
        "-rss_limit_mb=3000", "-print_final_stats=1", f"-artifact_prefix={keep}/",
    ]  # fmt: skip
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    print("\n".join(done.stderr.splitlines()[-40 if done.returncode else -12 :]))
    return done.returncode


def plain(scratch: Path, corpus: Path, keep: Path, seconds: int, seed: int) -> int:
    """Run the driver."""
    current = keep / "crash-current"
    files = sorted(str(path) for path in corpus.iterdir())
    command = [str(build.driver(scratch)), str(seed), str(10**12), str(seconds * 1000), str(current), *files]
    done = subprocess.run(command, check=False)
    if done.returncode == 0:
        current.unlink()
    return done.returncode


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, default=1, help="of chance (1)")
    parser.add_argument("--plain", action="store_true", help="the plain driver even where there is libFuzzer")
    parser.add_argument("--corpus", type=Path, help="a directory to go on from and to add to")
    parser.add_argument("--keep", type=Path, default=Path(), metavar="DIR", help="where to keep what broke something")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    use_plain = options.plain or not build.has_libfuzzer()
    if use_plain and not options.plain:
        print("no libFuzzer here (clang, libclang-rt): the plain driver, which coverage does not guide", flush=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        corpus: Path = options.corpus or scratch / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        seeds.write(corpus)
        before = set(options.keep.iterdir())
        code = (plain if use_plain else guided)(scratch, corpus, options.keep, options.seconds, options.seed)
        if code:
            for path in sorted(set(options.keep.iterdir()) - before):
                print(f"{path}:\n{inputs.describe(path.read_bytes())}")
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main())
