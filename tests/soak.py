"""A long random run of stores against a dict, with everything at once; the same seed makes the same run.

    python -m tests.soak --seconds 600 --seed 1 [--directory DIR]
    python -m tests.soak --seconds 1800 --processes 24

It exits with 0 when the time is up and nothing differed, else it prints the seed, the step and the difference. With
`--processes` it is one store and so many processes, some of which are killed; see tests/storm.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mmkv
from tests.storm.world import long_run


class Difference(Exception):
    """Store and dict disagree."""


class Run:
    """One store, one dict and one source of chance."""

    def __init__(self, path: Path, seed: str) -> None:
        self.rng = random.Random(seed)
        self.path = path
        self.model: dict[bytes, bytes] = {}
        self.steps = 0
        self.key_range = self.rng.choice((10, 300, 5000, 100_000))
        self.size_max = self.rng.choice((20, 300, 5000, 40_000, 300_000))
        self.options: dict[str, Any] = {"sync": self.rng.choice(("manual", "close", 0.2))}
        self.db = mmkv.open(path, "n", shards=self.rng.choice((1, 2, 64, 1024)), **self.options)

    def key(self) -> bytes:
        number = self.rng.randrange(self.key_range)
        return b"%d" % number + b"." * (number % 37 if number % 50 else 3000)

    def value(self) -> bytes:
        size = int(self.size_max ** self.rng.random())
        return (self.rng.randbytes(8) * (size // 8 + 1))[:size]

    def expect(self, what: str, got: object, expected: object) -> None:
        if got != expected:
            raise Difference(f"{what}: got {got!r:.200}, expected {expected!r:.200}")

    def step(self) -> None:
        rng, db, model = self.rng, self.db, self.model
        self.steps += 1
        act = rng.random()
        key = self.key()
        if act < 0.35:
            value = self.value()
            db[key] = value
            model[key] = value
        elif act < 0.5:
            self.expect("delete", db.delete(key), model.pop(key, None) is not None)
        elif act < 0.55:
            self.expect("pop", db.pop(key, None), model.pop(key, None))
        elif act < 0.6:
            value = self.value()
            self.expect("setdefault", db.setdefault(key, value), model.setdefault(key, value))
        elif act < 0.8:
            self.expect("get", db.get(key), model.get(key))
        elif act < 0.85:
            keys = [self.key() for _ in range(rng.randrange(200))]
            self.expect("get_many", db.get_many(keys), [model.get(key) for key in keys])
        elif act < 0.9:
            pairs = [(self.key(), self.value()) for _ in range(rng.randrange(100))]
            self.expect("put_many", db.put_many(pairs), len(pairs))
            model.update(pairs)
        elif act < 0.93:
            keys = [self.key() for _ in range(rng.randrange(200))]
            self.expect("delete_many", db.delete_many(keys), sum(model.pop(key, None) is not None for key in keys))
        elif act < 0.97:
            self.expect("len", len(db), len(model))
        elif act < 0.985:
            db.sync(wait=rng.random() < 0.7)
        elif act < 0.99:
            self.expect("items", dict(db.items()), model)
        elif act < 0.993:
            self.change_while_iterating()
        elif act < 0.996:
            self.reopen()
        elif act < 0.998:
            self.check()
        elif rng.random() < 0.3:
            db.clear()
            model.clear()

    def change_while_iterating(self) -> None:
        touched = {self.key(): self.value() for _ in range(50)}
        seen = []
        stays = self.model.keys() - touched.keys()
        changes = iter(touched.items())
        for key in self.db:
            seen.append(key)
            change = next(changes, None)
            if change is None:
                continue
            if self.rng.random() < 0.5:
                self.db[change[0]] = self.model[change[0]] = change[1]
            else:
                self.expect("delete", self.db.delete(change[0]), self.model.pop(change[0], None) is not None)
        self.expect("keys that came twice", len(seen) - len(set(seen)), 0)
        self.expect("keys that did not come", stays - set(seen), set())

    def reopen(self) -> None:
        self.db.close()
        with mmkv.open(self.path, "r") as reader:
            self.expect("content, read-only", dict(reader), self.model)
        self.db = mmkv.open(self.path, "w", **self.options)

    def check(self) -> None:
        report = self.db.verify()
        self.expect("verify", (report.ok, report.records, str(report.errors)), (True, len(self.model), "[]"))

    def finish(self) -> None:
        self.check()
        self.reopen()
        self.check()
        self.expect("content", dict(self.db), self.model)
        self.db.close()


def soak(seconds: float, seed: int, directory: Path | None = None) -> int:
    """Run after run until the time is up; returns the number of steps."""
    end = time.monotonic() + seconds
    steps = number = 0
    with tempfile.TemporaryDirectory(prefix="mmkv-soak-", dir=directory) as name:
        while time.monotonic() < end:
            path = Path(name) / "store.mmkv"
            run = Run(path, f"{seed} {number}")
            try:
                for _ in range(run.rng.randrange(500, 20_000)):
                    run.step()
                    if time.monotonic() >= end:
                        break
                run.finish()
            except BaseException:
                print(f"seed {seed}, run {number}, step {run.steps}", file=sys.stderr)
                raise
            steps += run.steps
            number += 1
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--directory", type=Path, default=None, help="where the store is made")
    parser.add_argument("--processes", type=int, default=None, help="how many at once, at one store, some killed")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    if arguments.processes:
        print(long_run(arguments.seconds, str(seed), arguments.processes, arguments.directory))
        return
    print(f"{soak(arguments.seconds, seed, arguments.directory):,} steps, no difference")


if __name__ == "__main__":
    main()
