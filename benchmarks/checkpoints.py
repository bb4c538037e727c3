"""What a checkpoint costs others, and what sharing one saves: `python -m benchmarks.checkpoints flush`, `... group`.

`flush`: one process makes much data dirty and calls sync() while another one writes. Each round the writer's rate is
taken for a while with nothing else going on (the process with the dirty data waits), then during the flush; every
single put is timed. The ratio of the two rates, and the longest put beside the time of the flush, are the figures.

`group`: how many operations a second become durable with sync="always", for one process and for several on one store,
turn by turn.

Both want a directory on a disk (`--directory`): a tmpfs has nothing to flush.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import machine

BATCH = 2_000
"""Puts between two looks at whether the flush is over; a few milliseconds."""
PAYLOAD = 100
"""Bytes of a small value."""


def _mmkv() -> Any:
    import mmkv

    return mmkv


@contextmanager
def _started(target: Any, *arguments: Any) -> Iterator[Connection]:
    """A process of its own, with a connection to it; it ends when its function does."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(there, *arguments))
    process.start()
    there.close()
    try:
        yield here
        process.join()
        if process.exitcode:
            raise RuntimeError(f"{target.__name__} ended with {process.exitcode}")
    finally:
        process.kill()
        process.join()


# flush


def _dirty_maker(pipe: Connection, path: str, size: int, value_bytes: int, rounds: int) -> None:
    """Each round: overwrite all records, say so; when told, sync and say how long it took."""
    with _mmkv().open(path, "w", sync="manual") as db:
        for round_ in range(rounds):
            value = random.Random(round_).randbytes(value_bytes)
            db.put_many((b"dirty-%010d" % i, value) for i in range(size // value_bytes))
            pipe.send("dirty")
            pipe.recv()
            start = time.perf_counter_ns()
            db.sync()
            pipe.send(time.perf_counter_ns() - start)
            pipe.recv()


def _timed_puts(db: Any, keys: Sequence[bytes], at: int, value: bytes, elapsed: array[int]) -> None:
    put, clock = db.put, time.perf_counter_ns
    count = len(keys)
    for i in range(at, at + BATCH):
        start = clock()
        put(keys[i % count], value)
        elapsed.append(clock() - start)


def _writer(pipe: Connection, path: str, rounds: int, records: int) -> None:
    """Each round: put until told to stop, twice; the number of puts, the time, and the longest put each time."""
    source = random.Random(7)
    keys = [b"writer-%010d" % i for i in range(records)]
    source.shuffle(keys)
    at = 0
    with _mmkv().open(path, "w", sync="manual") as db:
        db.put_many((key, bytes(PAYLOAD)) for key in keys)
        pipe.send("ready")
        for _ in range(2 * rounds):
            pipe.recv()
            elapsed = array("q")
            value = source.randbytes(PAYLOAD)
            start = time.perf_counter_ns()
            while not elapsed or not pipe.poll():
                _timed_puts(db, keys, at, value, elapsed)
                at += BATCH
            wall = time.perf_counter_ns() - start
            pipe.recv()
            pipe.send((len(elapsed), wall, max(elapsed)))


def flush(options: argparse.Namespace, directory: str) -> None:
    """Run the rounds and print them."""
    path = str(Path(directory) / "store.mmkv")
    _mmkv().open(path, "n").close()
    size, rounds = options.mib << 20, options.rounds
    ratios, stalls = [], []
    with (
        _started(_writer, path, rounds, options.records) as writer,
        _started(_dirty_maker, path, size, options.value_bytes, rounds) as maker,
    ):
        writer.recv()

        def write_while(wait: Any) -> tuple[float, int]:
            writer.send("go")
            wait()
            writer.send("stop")
            count, wall, longest = writer.recv()
            return count / wall * 1e9, longest

        for round_ in range(rounds):
            maker.recv()
            alone, longest_alone = write_while(lambda: time.sleep(options.seconds))
            took = []

            def checkpoint(took: list[int] = took) -> None:
                maker.send("sync")
                took.append(maker.recv())

            during, longest = write_while(checkpoint)
            maker.send("next")
            ratios.append(during / alone)
            stalls.append(longest / took[0])
            print(
                f"round {round_ + 1}: flush {took[0] / 1e6:,.0f} ms; puts a second: {alone:,.0f} without, "
                f"{during:,.0f} during, ratio {during / alone:.2f}; longest put {longest_alone / 1e6:.1f} ms without, "
                f"{longest / 1e6:.1f} ms during, {longest / took[0]:.3f} of the flush"
            )
    print(f"mean ratio {statistics.mean(ratios):.2f}, longest put at most {max(stalls):.3f} of its flush")


# group


def _durable_writer(pipe: Connection, path: str, name: int, seconds: float) -> None:
    """When told, put for so many seconds; how many puts became durable."""
    with _mmkv().open(path, "w", sync="always") as db:
        done = 0
        db[b"%d-warm" % name] = bytes(PAYLOAD)
        pipe.send("ready")
        pipe.recv()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            db[b"%d-%d" % (name, done)] = bytes(PAYLOAD)
            done += 1
        pipe.send(done)


def _group_rate(path: str, processes: int, seconds: float, name: int) -> float:
    with ExitStack() as stack:
        pipes = [stack.enter_context(_started(_durable_writer, path, name + i, seconds)) for i in range(processes)]
        for pipe in pipes:
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        return sum(pipe.recv() for pipe in pipes) / seconds


def group(options: argparse.Namespace, directory: str) -> None:
    """Run the rounds and print them."""
    path = str(Path(directory) / "store.mmkv")
    with _mmkv().open(path, "n") as db:
        db.put_many((b"%d" % i, bytes(PAYLOAD)) for i in range(options.records))
        db.sync()
        ratios = []
        for round_ in range(options.rounds):
            rates = []
            for processes in (1, options.processes):
                before = db.stats().checkpoints
                rate = _group_rate(path, processes, options.seconds, 1000 * round_ + 100 * processes)
                shared = rate * options.seconds / (db.stats().checkpoints - before)
                rates.append(rate)
                print(f"round {round_ + 1}: {processes} processes: {rate:,.0f} a second, {shared:.2f} a checkpoint")
            ratios.append(rates[1] / rates[0])
            print(f"round {round_ + 1}: ratio {ratios[-1]:.2f}")
    print(f"median ratio {statistics.median(ratios):.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description="Measure checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("flush", help="a writer's rate during a large flush")
    one.add_argument("--mib", type=int, default=1024, help="dirty data (1024)")
    one.add_argument("--value-bytes", type=int, default=1000, help="size of the dirty values (1000)")
    one.add_argument(
        "--records", type=int, default=500_000, help="what the writer overwrites, in random order (500,000)"
    )
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--seconds", type=float, default=2.0, help="how long the rate without is taken (2)")
    one.set_defaults(run=flush)
    other = commands.add_parser("group", help="durable operations of several processes")
    other.add_argument("--processes", type=int, default=4)
    other.add_argument("--records", type=int, default=0, help="records in the store beforehand (0)")
    other.add_argument("--rounds", type=int, default=5)
    other.add_argument("--seconds", type=float, default=2.0, help="for each measurement (2)")
    other.set_defaults(run=group)
    for command in (one, other):
        command.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="on a disk")
    options = parser.parse_args(arguments)
    for name, fact in machine.facts(options.directory).items():
        print(f"{name}: {fact}")
    with tempfile.TemporaryDirectory(dir=options.directory, prefix="mmkv-benchmark-") as directory:
        options.run(options, directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
