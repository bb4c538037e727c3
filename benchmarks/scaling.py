"""One store, several processes: `python -m benchmarks.scaling`, mmkv beside LMDB, SQLite, Redis and UltraDict.

Four tasks, each run for a fixed time by 1, 2 and 4 processes that begin together:

`reads`: random gets; every process over all keys.
`writes`: random overwrites; each process has keys of its own.
`counter`: all increment one counter, which has to be exact at the end.
`beside`: one process reads at random, alone and then while another one overwrites random keys as fast as it can.

Stores and numbers of processes take turns, round by round; rates are added up over the processes of a run, figures are
medians over the rounds and ratios to one process within a round. A store whose package is not installed is left out:
`pip install lmdb redis hiredis UltraDict atomics`, and a `redis-server` on the path.

What processes that write to the same memory get done rests on how long a line of it takes from one processor to the
other, and on a virtual machine that changes from minute to minute, as the host moves its processors: some 50 ns where
they share a cache, some 200 where they do not. So that time is measured (`distance.c`, if there is a C compiler) before
and after each task; rounds with the two near each other and rounds with them far apart are reported on their own, and
those in between are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks import ROOT, machine

PAYLOAD = 100
"""Bytes of a value."""
BATCH = 64
"""Operations between two looks at the clock."""
COUNTER = b"counter"
KEYS = 20_000
"""Keys that a process has made before the clock starts; it goes through them again and again."""
LMDB_BYTES = 1 << 30
NEAR_NS = 100.0
"""Processors between which a line of memory takes less are near."""


def key(i: int) -> bytes:
    """The i-th key, 16 bytes."""
    return b"key-%012d" % i


class Peer:
    """A store that several processes use: made once for a run of tasks, opened by each process."""

    name = ""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    @staticmethod
    def available() -> bool:
        """Whether its package is there."""
        return True

    def address(self) -> str:
        """What a process needs to open it."""
        return str(Path(self.directory) / self.name)

    def start(self) -> None:
        """Whatever has to run beside it."""

    def stop(self) -> None:
        """The end of that."""

    @classmethod
    @contextmanager
    def opened(cls, address: str) -> Iterator[tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]]:
        """Functions that get, put, and increment the counter and return what it is then."""
        raise NotImplementedError


class Mmkv(Peer):
    """The store of this project: default options, no checkpoint while the clock runs."""

    name = "mmkv"

    @classmethod
    @contextmanager
    def opened(cls, address: str) -> Iterator[Any]:
        import mmkv

        with mmkv.open(address, sync="manual") as db:
            yield db.get, db.put, lambda: db.incr(COUNTER)


class Lmdb(Peer):
    """writemap and no sync, as fast as it is without losing data when a process dies; one transaction a
    call, of which the package keeps those for reading to use them again."""

    name = "lmdb"

    @staticmethod
    def available() -> bool:
        return importable("lmdb")

    @classmethod
    @contextmanager
    def opened(cls, address: str) -> Iterator[Any]:
        import lmdb

        with lmdb.open(address, map_size=LMDB_BYTES, writemap=True, sync=False, metasync=False) as env:

            def get(k: bytes) -> Any:
                with env.begin() as txn:
                    return txn.get(k)

            def put(k: bytes, v: bytes) -> None:
                with env.begin(write=True) as txn:
                    txn.put(k, v)

            def increment() -> int:
                with env.begin(write=True) as txn:
                    now = int.from_bytes(txn.get(COUNTER) or bytes(8), "little") + 1
                    txn.put(COUNTER, now.to_bytes(8, "little"))
                return now

            yield get, put, increment


class Sqlite(Peer):
    """Write-ahead log, synchronous=OFF, prepared statements, each its own transaction."""

    name = "sqlite"

    @classmethod
    @contextmanager
    def opened(cls, address: str) -> Iterator[Any]:
        import sqlite3

        with contextlib.closing(sqlite3.connect(address, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")
            db.execute("CREATE TABLE IF NOT EXISTS t (k BLOB PRIMARY KEY, v) WITHOUT ROWID")
            execute = db.execute

            def get(k: bytes) -> Any:
                row = execute("SELECT v FROM t WHERE k = ?", (k,)).fetchone()
                return row and row[0]

            def put(k: bytes, v: bytes) -> None:
                execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (k, v))

            def increment() -> int:
                rows = execute(
                    "INSERT INTO t VALUES (?, 1) ON CONFLICT (k) DO UPDATE SET v = v + 1 RETURNING v", (COUNTER,)
                ).fetchall()
                return int(rows[0][0])

            yield get, put, increment


class Redis(Peer):
    """A server over a unix socket, without persistence; the C parser (hiredis)."""

    name = "redis"

    @staticmethod
    def available() -> bool:
        return importable("redis") and importable("hiredis") and shutil.which("redis-server") is not None

    def start(self) -> None:
        command = ["redis-server", "--port", "0", "--unixsocket", self.address(), "--save", "", "--appendonly", "no"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self.directory)
        while not Path(self.address()).exists():
            if self.process.poll() is not None:
                raise RuntimeError(f"redis-server ended with {self.process.returncode}")
            time.sleep(0.01)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    @classmethod
    @contextmanager
    def opened(cls, address: str) -> Iterator[Any]:
        import redis

        with contextlib.closing(redis.Redis(unix_socket_path=address)) as db:
            yield db.get, db.set, lambda: db.incr(COUNTER)


class Ultra(Peer):
    """UltraDict with a lock that processes share; each process holds a copy of all of it."""

    name = "ultradict"

    @staticmethod
    def available() -> bool:
        return importable("UltraDict") and importable("atomics")

    def address(self) -> str:
        if not hasattr(self, "unique"):
            self.unique = f"mmkv-{uuid.uuid4().hex[:12]}"
        return self.unique

    def start(self) -> None:
        from UltraDict import UltraDict  # type: ignore[import-not-found]

        self.kept = UltraDict(name=self.address(), create=True, shared_lock=True, full_dump_size=64 << 20)

    def stop(self) -> None:
        self.kept.unlink()

    @classmethod
    @contextmanager
    def opened(cls, address: str) -> Iterator[Any]:
        from UltraDict import UltraDict

        db = UltraDict(name=address, create=False, shared_lock=True, full_dump_size=64 << 20)

        def increment() -> int:
            with db.lock:
                now = db.get(COUNTER, 0) + 1
                db[COUNTER] = now
            return int(now)

        yield db.get, db.__setitem__, increment


PEERS: tuple[type[Peer], ...] = (Mmkv, Lmdb, Sqlite, Redis, Ultra)


def importable(name: str) -> bool:
    """Whether a package can be imported."""
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def fill(peer: type[Peer], address: str, records: int) -> None:
    """Put all records."""
    value = bytes(PAYLOAD)
    with peer.opened(address) as (_, put, _increment):
        for i in range(records):
            put(key(i), value)


def work(
    pipe: Connection,
    peer: type[Peer],
    address: str,
    task: str,
    number: int,
    processes: int,
    records: int,
    seconds: float,
) -> None:
    """One process of a run: opens the store, says so, waits for the word, works, and reports (operations, seconds)."""
    rng = random.Random(number)
    share = records // processes
    if task == "writes":
        keys = [key(number * share + rng.randrange(share)) for _ in range(KEYS)]
    else:
        keys = [key(rng.randrange(records)) for _ in range(KEYS)]
    value, clock = rng.randbytes(PAYLOAD), time.perf_counter
    with peer.opened(address) as (get, put, increment):
        for k in keys[:100]:
            get(k)
        pipe.send("ready")
        pipe.recv()
        done, at = 0, 0
        start = clock()
        end = start + seconds
        while (now := clock()) < end:
            if task == "counter":
                for _ in range(BATCH):
                    increment()
            elif task != "reads":
                for k in keys[at : at + BATCH]:
                    put(k, value)
            else:
                for k in keys[at : at + BATCH]:
                    get(k)
            done += BATCH
            at = (at + BATCH) % (KEYS - BATCH)
        pipe.send((done, now - start))


def run(peer: type[Peer], address: str, tasks: Sequence[str], records: int, seconds: float) -> list[tuple[int, float]]:
    """One process for each of `tasks`, all at the same time; (operations, operations a second) of each."""
    context = multiprocessing.get_context("spawn")
    pipes, children = [], []
    for number, task in enumerate(tasks):
        here, there = context.Pipe()
        child = context.Process(target=work, args=(there, peer, address, task, number, len(tasks), records, seconds))
        child.start()
        there.close()
        pipes.append(here)
        children.append(child)
    try:
        for pipe in pipes:
            pipe.recv()
        for pipe in pipes:
            pipe.send("go")
        answers = [pipe.recv() for pipe in pipes]
        return [(done, done / took) for done, took in answers]
    finally:
        for child in children:
            child.join()


def counter_of(peer: type[Peer], address: str) -> int:
    """What the counter is, found out by one more increment."""
    with peer.opened(address) as (_get, _put, increment):
        return int(increment()) - 1


class Distance:
    """The time that a line of memory takes from one processor to the other."""

    def __init__(self, directory: str) -> None:
        program = Path(directory) / "distance"
        source = ROOT / "benchmarks" / "distance.c"
        compiler = shutil.which("cc") if len(os.sched_getaffinity(0)) > 1 else None
        self.program = program if compiler else None
        if compiler:
            subprocess.run([compiler, "-O2", "-pthread", "-o", program, source], check=True)

    def nanoseconds(self) -> float | None:
        """The time now; None: one processor, or no compiler."""
        if not self.program:
            return None
        return float(subprocess.run([self.program], check=True, capture_output=True, text=True).stdout)


GROUPS = {
    "near": f"Processors near each other: a line of memory took less than {NEAR_NS:.0f} ns from one to the other",
    "far": f"Processors far from each other: a line of memory took {NEAR_NS:.0f} ns or more from one to the other",
    "": "Processors at a distance that was not measured",
}


class Rates:
    """Operations a second, by where the processors were, store, task and number of processes; an entry a round."""

    def __init__(self, distance: Distance) -> None:
        self.distance = distance
        self.rates: dict[tuple[str, str, str, int], list[float]] = defaultdict(list)
        self.distances: dict[str, list[float]] = defaultdict(list)
        self.moved = 0

    def note(self, store: str, task: str, measure: Callable[[], dict[int, float]]) -> None:
        """Measure a task of one round, unless the processors move meanwhile; numbers of processes to rates."""
        before = self.distance.nanoseconds()
        measured = measure()
        after = self.distance.nanoseconds()
        group = ""
        if before is not None and after is not None:
            if (before < NEAR_NS) != (after < NEAR_NS):
                self.moved += 1
                return
            group = "near" if before < NEAR_NS else "far"
            self.distances[group] += before, after
        for processes, rate in measured.items():
            self.rates[group, store, task, processes].append(rate)

    def median(self, group: str, store: str, task: str, processes: int) -> float | None:
        """Over the rounds; None: there was none."""
        rates = self.rates[group, store, task, processes]
        return statistics.median(rates) if rates else None

    def ratio(self, group: str, store: str, task: str, processes: int, under: int) -> float | None:
        """To the rate of another number of processes: the median of the ratios within each round."""
        rates = zip(self.rates[group, store, task, processes], self.rates[group, store, task, under], strict=True)
        ratios = [a / b for a, b in rates]
        return statistics.median(ratios) if ratios else None


ALONE, BESIDE = 1, 2
"""Numbers of processes of the task `beside`: the one that reads; with the one that writes."""


def measure(peer: type[Peer], address: str, options: argparse.Namespace, rates: Rates) -> None:
    """One round of a store."""

    def total(task: str, processes: int) -> float:
        before = counter_of(peer, address) if task == "counter" else 0
        answers = run(peer, address, [task] * processes, options.records, options.seconds)
        if task == "counter":
            made, counted = sum(done for done, _ in answers), counter_of(peer, address) - before - 1
            if made != counted:
                print(f"{peer.name}: {processes} processes made {made:,} increments, and {counted:,} were counted")
        return sum(rate for _, rate in answers)

    def reader(*tasks: str) -> float:
        return run(peer, address, tasks, options.records, options.seconds)[0][1]

    for task in ("reads", "writes", "counter"):
        rates.note(peer.name, task, lambda task=task: {n: total(task, n) for n in options.processes})  # type: ignore[misc]
    rates.note(peer.name, "beside", lambda: {ALONE: reader("reads"), BESIDE: reader("reads", "writes-all")})


def cell(value: float | None, form: str) -> str:
    """A figure of a table; there may be none."""
    return "" if value is None else format(value, form)


def report(rates: Rates, group: str, names: Sequence[str], processes: Sequence[int]) -> None:
    """Tables of Markdown: rates, and their ratios to one process and to mmkv."""
    first, last = processes[0], processes[-1]
    for task in ("reads", "writes", "counter"):
        heads = [f"{n} process{'es' * (n > 1)}, ops/s" for n in processes]
        ratios = [f"{n} : {first}" for n in processes[1:]]
        print(f"\n| {task} | {' | '.join(heads + ratios)} | mmkv x, {last} processes |")
        print("|" + " --- |" + " ---: |" * (len(heads) + len(ratios) + 1))
        ours = rates.median(group, "mmkv", task, last)
        for name in names:
            cells = [cell(rates.median(group, name, task, n), ",.0f") for n in processes]
            cells += [cell(rates.ratio(group, name, task, n, first), ".2f") for n in processes[1:]]
            theirs = None if name == "mmkv" else rates.median(group, name, task, last)
            cells.append(cell(ours / theirs if ours and theirs else None, ".1f"))
            print(f"| {name} | {' | '.join(cells)} |")
    print("\n| reads beside a writer | alone, ops/s | beside, ops/s | beside : alone |\n| --- | ---: | ---: | ---: |")
    for name in names:
        cells = [cell(rates.median(group, name, "beside", n), ",.0f") for n in (ALONE, BESIDE)]
        print(f"| {name} | {' | '.join(cells)} | {cell(rates.ratio(group, name, 'beside', BESIDE, ALONE), '.2f')} |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    known = {peer.name: peer for peer in PEERS}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description="Measure several processes.")
    parser.add_argument("--records", type=int, default=100_000, metavar="N", help="records in each store (100,000)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds (5)")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="of each run (0.5)")
    parser.add_argument("--processes", type=lambda text: [int(n) for n in text.split(",")], default=[1, 2, 4])
    parser.add_argument("--stores", type=lambda text: text.split(","), default=list(known), metavar="NAME,...")
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where the stores are made")
    options = parser.parse_args(arguments)
    peers = [known[name] for name in options.stores if known[name].available()]
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir=options.directory))
        rates = Rates(Distance(directory))
        machine.warm(Path(directory), 1 << 30)
        stores = []
        for peer in peers:
            store = peer(directory)
            store.start()
            stack.callback(store.stop)
            fill(peer, store.address(), options.records)
            stores.append(store)
        for _ in range(options.rounds):
            for store in stores:
                measure(type(store), store.address(), options, rates)
        print(f"{options.records:,} records of 16 + {PAYLOAD} bytes, {options.rounds} rounds of {options.seconds} s")
        print(", ".join(f"{name} {fact}" for name, fact in machine.facts(Path(directory)).items()))
        missing = [name for name in options.stores if known[name] not in peers]
        if missing:
            print(f"not installed: {', '.join(missing)}")
        if rates.moved:
            print(f"processors moved during {rates.moved} tasks, which do not count")
        for group in [group for group in GROUPS if any(key[0] == group for key in rates.rates)]:
            distances = rates.distances[group]
            median = f" ({statistics.median(distances):.0f} ns in the median)" if distances else ""
            print(f"\n{GROUPS[group]}{median}.")
            report(rates, group, [peer.name for peer in peers], options.processes)
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
