"""The storm: rounds of processes at work on one store, some killed at any moment, and the check of what all saw."""

from __future__ import annotations

import mmap
import os
import random
import select
import signal
import sys
import tempfile
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmkv
from tests.storm import linear, serial, worker
from tests.storm.history import COUNTERS, Call, History, Log, calls_of, read_item, transactions_of
from tests.storm.owner import PREFIX, differences, owner_of, steps_of
from tests.storm.remains import Remains, Words
from tests.storm.worker import COUNTERS_USED, NOW, Plan

LOG_BYTES = 1 << 19
PATIENCE = 120.0
"""Seconds after which a process that was told to stop is taken to be hanging."""
LONG = {"sync", "wait", "items", "keys", "clear", "popitem"}
"""Operations that take long by themselves, and so say nothing about waiting for the dead."""
SETTLING = 200_000_000
"""Nanoseconds after a death in which operations are looked at for how long they were held up."""


class Failed(Exception):
    """Something was seen that must not be."""


@dataclass(frozen=True)
class Scene:
    """One kind of storm."""

    name: str
    shards: int
    keys: int
    sizes: tuple[int, ...]
    roles: tuple[str, ...]
    many: int = 50
    """The most keys of one get_many or put_many."""
    sync: str | float = "manual"
    pause: float = 0.01
    """Seconds between kills, about."""
    guard: bool = False


SCENES = [
    Scene("three keys", 1, 3, (8, 30, 700), ("mixed", "popper", "swapper", "reader", "owner"), many=3),
    Scene("counters and waiters", 1, 2, (8, 200), ("counter", "waiter", "mixed", "counter", "swapper"), many=2),
    Scene("large values", 1, 3, (3000, 17_000, 40_000, 150_000), ("popper", "swapper", "reader", "owner"), many=3),
    Scene("few keys", 2, 24, (8, 100, 2000, 17_000), ("mixed", "bulk", "reader", "clearer"), many=24),
    Scene("many keys", 4, 2000, (8, 16, 60, 300), ("bulk", "mixed", "reader", "clearer"), many=150),
    Scene("growth", 2, 3000, (100, 400, 1500, 5000, 30_000), ("owner", "bulk", "owner", "reader", "keeper"), many=100),
    Scene("checkpoints", 64, 300, (8, 100, 1000, 20_000), ("owner", "keeper", "mixed", "reader"), many=60, sync=0.05),
    Scene("transactions", 4, 8, (8, 60, 700), ("transactor", "transactor", "exchanger", "watcher"), many=5),
    Scene("large transactions", 2, 4, (60, 5000, 20_000, 50_000), ("transactor", "transactor", "watcher"), many=4),
    Scene("guarded", 2, 12, (8, 700, 20_000), ("mixed", "owner", "reader", "keeper"), many=12, guard=True),
    Scene("one lock", 1, 50, (8, 60), ("owner", "writer", "writer"), many=8),
    Scene("owners", 8, 8, (8, 60, 60, 60, 700), ("owner", "owner", "owner", "mixed"), many=8, pause=0.003),
]


LONG_RUN = Scene(
    "long run",
    16,
    3000,
    (8, 30, 100, 400, 1500, 5000, 30_000, 150_000),
    (
        "owner",
        "mixed",
        "bulk",
        "reader",
        "keeper",
        "owner",
        "writer",
        "reader",
        "popper",
        "swapper",
        "counter",
        "waiter",
    ),
    many=60,
    sync=1.0,
    pause=0.05,
)
"""Everything at once, for tests/soak.py."""


@dataclass
class Death:
    """One process killed: when it was gone, and what it left."""

    gone: int
    remains: Remains
    stall: int = 0
    """The longest, in nanoseconds, that an operation of a survivor took after that."""


@dataclass
class Tally:
    """What a storm did."""

    operations: Counter[str] = field(default_factory=Counter)
    deaths: list[Death] = field(default_factory=list)
    rounds: int = 0
    checkpoints: int = 0
    largest: int = 0
    emptied: int = 0
    """The most bytes on disk of a store that was emptied at its end."""

    def calls(self) -> int:
        return sum(self.operations.values())

    def __str__(self) -> str:
        held = [death for death in self.deaths if death.remains.locks]
        lines = [
            f"{self.rounds} rounds, {self.calls():,} calls",
            "calls: " + ", ".join(f"{name} {count:,}" for name, count in self.operations.most_common()),
            f"{len(self.deaths):,} processes killed: {len(held):,} held a lock, "
            f"{sum(bool(death.remains.halves) for death in self.deaths):,} of them in the middle of an operation, "
            f"{sum(death.remains.checkpoint for death in self.deaths):,} led a checkpoint",
            f"{self.checkpoints:,} checkpoints; the largest file {self.largest / 1e6:.1f} MB; "
            f"emptied, a store took {self.emptied / 1e6:.1f} MB at most",
            "longest wait of a survivor's operation after a death, ms:",
            spread("  who held a lock", [death.stall for death in held]),
            spread("  who held none", [death.stall for death in self.deaths if not death.remains.locks]),
        ]
        return "\n".join(lines)


def spread(name: str, times: list[int]) -> str:
    """A distribution in one line."""
    if not times:
        return f"{name}: none"
    times = sorted(times)
    points = [("median", 0.5), ("90 %", 0.9), ("99 %", 0.99)]
    parts = [f"{label} {times[min(len(times) - 1, int(len(times) * q))] / 1e6:.1f}" for label, q in points]
    return f"{name}: {', '.join(parts)}, most {times[-1] / 1e6:.1f} (of {len(times):,})"


@dataclass
class Running:
    """A process of the round."""

    who: int
    pid: int
    role: str
    log: Log
    fd: int
    killed: bool = False
    gone: int = 0


class Round:
    """One round: processes start, some are killed and replaced, the rest stop; then there is a history."""

    def __init__(self, storm: Storm, processes: int, errors: Path) -> None:
        self.storm = storm
        self.rng = storm.rng
        self.errors = errors
        self.stop = mmap.mmap(-1, 1)
        self.alive: dict[int, Running] = {}
        self.poll = select.poll()
        self.over: list[Running] = []
        self.deaths: list[Death] = []
        roles = storm.scene.roles
        for i in range(processes):
            self.spawn(roles[i % len(roles)])

    def spawn(self, role: str) -> None:
        self.storm.who += 1
        who = self.storm.who
        log = Log(LOG_BYTES + self.storm.scene.keys * 200)
        seed = f"{self.storm.seed} {who}"
        pid = worker.start(self.storm.plan, who, role, log, seed, self.stop, self.errors)
        one = Running(who, pid, role, log, os.pidfd_open(pid))
        self.alive[one.fd] = one
        self.poll.register(one.fd, select.POLLIN)

    def reap(self, one: Running) -> None:
        """It is gone: note when, and what it left."""
        _, status = os.waitpid(one.pid, 0)
        one.gone = NOW()
        code = os.waitstatus_to_exitcode(status)
        self.poll.unregister(one.fd)
        os.close(one.fd)
        del self.alive[one.fd]
        self.over.append(one)
        if one.killed:
            self.deaths.append(Death(one.gone, self.storm.words.of(one.pid)))
        elif code:
            file = self.errors / str(one.who)
            raise Failed(file.read_text() if file.exists() else f"worker {one.who} ({one.role}) ended with {code}")

    def wait(self, seconds: float) -> list[Running]:
        """Those that are gone, as soon as there are some; or nobody when the time is up."""
        gone = [self.alive[fd] for fd, _ in self.poll.poll(max(0, seconds) * 1000)]
        for one in gone:
            self.reap(one)
        return gone

    def kill(self, one: Running) -> None:
        one.killed = True
        os.kill(one.pid, signal.SIGKILL)

    def aim(self, *, at_holder: bool) -> Running:
        """One that is seen to hold a lock, or one that is seen to be in a call: some microseconds after that."""
        end = time.perf_counter() + 0.002
        found: list[Running] = []
        rest = self.rest()
        while not found and time.perf_counter() < end:
            holders = self.storm.words.holders() if at_holder else ()
            found = [one for one in rest if (one.pid in holders if at_holder else one.log.in_call)]
        until = time.perf_counter() + (0 if at_holder else self.rng.random() * 50e-6)
        while time.perf_counter() < until:
            pass
        return self.rng.choice(found or rest)

    def rest(self) -> list[Running]:
        """All that have not been killed."""
        return [one for one in self.alive.values() if not one.killed]

    def run(self, seconds: float, pause: float) -> None:
        """Kill some every `pause` seconds or so, and replace who is gone."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            shot = now + self.rng.random() * 2 * pause
            while (left := shot - time.monotonic()) > 0:
                for one in self.wait(left):
                    self.spawn(one.role)
            chance = self.rng.random()
            if chance < 0.01:
                victims = self.rest()
            elif chance < 0.06:
                victims = self.rest()[::2]
            elif self.rest():
                victims = [self.aim(at_holder=chance < 0.5) if chance < 0.75 else self.rng.choice(self.rest())]
            else:
                victims = []
            for one in victims:
                self.kill(one)

    def finish(self) -> None:
        """Tell all to stop, and wait until they have."""
        self.stop[0] = 1
        end = time.monotonic() + PATIENCE
        while any(one.killed for one in self.alive.values()):
            self.wait(end - time.monotonic())
        # A reader may be waiting for a shard that a writer left half-written, which only one who writes puts right.
        mmkv.open(self.storm.path, "w", sync="manual").close()
        while self.alive:
            self.wait(end - time.monotonic())
            if time.monotonic() > end:
                last = [list(one.log.entries())[-1:] for one in self.alive.values()]
                raise Failed(f"{len(self.alive)} processes hang; the last entries of their logs: {last}")

    def close(self) -> None:
        for one in self.alive.values():
            self.kill(one)
        while self.alive:
            self.wait(PATIENCE)
        for one in self.over:
            one.log.close()

    def calls(self) -> list[Call]:
        """Of all but owners."""
        return [call for one in self.over if one.role != "owner" for call in calls_of(one.who, one.log, one.gone)]

    def check_owners(self, found: dict[bytes, bytes]) -> int:
        """Hold what owners left against what was found of theirs; returns the number of their calls."""
        theirs: dict[int, dict[int, bytes]] = {one.who: {} for one in self.over if one.role == "owner"}
        for name, value in found.items():
            who, key = owner_of(name)
            if who not in theirs:
                raise Failed(f"{name!r} of an earlier round is back")
            theirs[who][key] = value
        calls = 0
        for one in self.over:
            if one.role != "owner":
                continue
            steps = steps_of(f"{self.storm.seed} {one.who}", one.who, self.storm.scene.sizes)
            if wrong := differences(steps, one.log, theirs[one.who]):
                raise Failed(f"owner {one.who}: {wrong}")
            calls += sum(entry[0] == "call" for entry in one.log.entries())
        return calls


def measure_stalls(deaths: list[Death], calls: list[Call]) -> None:
    """For each death, the longest that an operation under way then, or soon after, went on after it."""
    deaths.sort(key=lambda death: death.gone)
    times = [death.gone for death in deaths]
    for call in calls:
        if call.killed or call.name in LONG:
            continue
        for death in deaths[bisect_left(times, call.called - SETTLING) : bisect_left(times, call.returned)]:
            death.stall = max(death.stall, call.returned - max(call.called, death.gone))


class Storm:
    """One store and what goes on with it."""

    def __init__(self, scene: Scene, path: Path, seed: str, tally: Tally) -> None:
        self.scene = scene
        self.path = path
        self.seed = seed
        self.tally = tally
        self.rng = random.Random(seed)
        self.who = 0
        self.checker = 0
        self.content: dict[int, Any] = {}
        mmkv.open(path, "n", shards=scene.shards, sync="manual").close()
        self.words = Words(path, scene.shards)
        options = {"sync": scene.sync, "lock_timeout": PATIENCE, "guard": scene.guard}
        self.plan = Plan(path, scene.keys, scene.sizes, scene.many, options)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Sometimes with the store open in the parent, and so by inheritance in all."""
        if self.rng.random() < 0.3:
            with mmkv.open(self.path, "w", sync="manual"):
                yield
        else:
            yield

    def round(self, processes: int, seconds: float, *, aside: bool = False) -> None:
        """One round and its check; `aside`: the check goes on beside what comes next."""
        with tempfile.TemporaryDirectory(prefix="mmkv-storm-") as errors, self.held():
            this = Round(self, processes, Path(errors))
            try:
                this.run(seconds, self.scene.pause)
                this.finish()
                calls = this.calls()
                self.tally.operations["own"] += this.check_owners(self.take_owned())
            finally:
                this.close()
        measure_stalls(this.deaths, calls)
        self.tally.deaths += this.deaths
        self.tally.operations.update(call.name for call in calls)
        self.tally.rounds += 1
        content = self.settle(calls)
        (self.check_aside if aside else self.check)(calls)
        self.content = content

    def take_owned(self) -> dict[bytes, bytes]:
        """The keys of owners and their values, and away with them."""
        with mmkv.open(self.path, "w", sync="manual") as db:
            found = {key: value for key, value in db.items() if key.startswith(PREFIX)}
            self.tally.largest = max(self.tally.largest, db.stats().file_bytes)
            db.delete_many(found)
        return found

    def settle(self, calls: list[Call]) -> dict[int, Any]:
        """The store as it is now that nobody is there, which is also the last that anybody saw."""
        called = NOW()
        with mmkv.open(self.path, "w", sync="manual") as db:
            verified(db)
            found = [read_item(key, value) for key, value in db.items()]
            if len(db) != len(found):
                raise Failed(f"len() is {len(db)} with {len(found)} records")
            self.stats = db.stats()
        self.tally.largest = max(self.tally.largest, self.stats.file_bytes)
        calls.append(Call(0, called, NOW(), "items", (), found))
        return dict(found)

    def check(self, calls: list[Call]) -> None:
        """Everything that anybody saw has to fit together."""
        history = History(self.content)
        keys = [*range(self.scene.keys), *range(COUNTERS, COUNTERS + COUNTERS_USED)]
        for call in calls:
            history.add(call, keys)
        for key, ops in history.keys.items():
            try:
                linear.check(ops, self.content.get(key))
            except (linear.NotLinearizable, linear.Undecided) as error:
                raise Failed(f"key {key}: {error}") from None
        if any(call.name == "txn" for call in calls):
            self.check_transactions(calls)

    def check_transactions(self, calls: list[Call]) -> None:
        """Where there are transactions nobody writes what he has not read, so that all can be checked together."""
        keys = range(self.scene.keys)
        try:
            serial.check((one for call in calls for one in transactions_of(call, keys)), self.content)
        except serial.NotSerialisable as error:
            raise Failed(f"transactions: {error}") from None

    def check_aside(self, calls: list[Call]) -> None:
        """The same in another process, while the storm goes on; the one before has to have come to its end."""
        self.wait_for_check()
        self.checker = os.fork()
        if not self.checker:
            code = 1
            try:
                self.check(calls)
                code = 0
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            finally:
                os._exit(code)

    def wait_for_check(self) -> None:
        checker, self.checker = self.checker, 0
        if checker and os.waitpid(checker, 0)[1]:
            raise Failed("the check of the round before failed; it said why above")

    def end(self) -> None:
        """Empty the store: everything has to come back."""
        self.wait_for_check()
        with mmkv.open(self.path, "w", sync="manual") as db:
            self.tally.checkpoints += db.stats().checkpoints
            db.clear()
            db.sync()
            db.sync()
            verified(db)
            stats = db.stats()
            if stats.records or stats.chunks or stats.tables or stats.waiting_bytes:
                raise Failed(f"emptied, it is not empty: {stats}")
            slots = self.words.in_use()
            if len(slots) != 1:
                raise Failed(f"process slots {slots} are in use by one handle")
            self.tally.emptied = max(self.tally.emptied, stats.used_bytes)
        self.words.close()
        self.path.unlink()


def verified(db: mmkv.Store) -> None:
    """Raise unless it passes verify()."""
    report = db.verify()
    if not report.ok:
        raise Failed(f"verify: {report}")


def storm(
    seconds: float,
    seed: str,
    scenes: Sequence[Scene] = SCENES,
    *,
    processes: int = 8,
    directory: Path | None = None,
) -> Tally:
    """Storm after storm until the time is up."""
    tally = Tally()
    rng = random.Random(seed)
    end = time.monotonic() + seconds
    number = 0
    with tempfile.TemporaryDirectory(prefix="mmkv-storm-", dir=directory) as name:
        while time.monotonic() < end:
            for scene in rng.sample(scenes, len(scenes)):
                number += 1
                this = Storm(scene, Path(name) / "store.mmkv", f"{seed} {number}", tally)
                try:
                    for _ in range(rng.randint(1, 3)):
                        this.round(processes, 1.0)
                    this.end()
                except Exception as error:
                    error.add_note(f"seed {seed}, storm {number}: {scene.name}")
                    raise
                if time.monotonic() >= end:
                    break
    return tally


def long_run(seconds: float, seed: str, processes: int, directory: Path | None = None) -> str:
    """One store, and round after round with it, until the time is up; returns, and says on the way, what was done."""
    tally = Tally()
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="mmkv-storm-", dir=directory) as name:
        this = Storm(LONG_RUN, Path(name) / "store.mmkv", seed, tally)
        while time.monotonic() < end:
            this.round(processes, min(8.0, max(0.5, end - time.monotonic())), aside=True)
            if tally.rounds % 20 == 0:
                print(f"{tally}\n", flush=True)
        last = this.stats
        this.end()
    return (
        f"{tally}\nat the end verify() was clean: {last.records:,} records, {last.data_bytes / 1e6:.1f} MB of data; "
        f"file {last.file_bytes / 1e6:.1f} MB, grown in {last.zones} steps, on disk {last.used_bytes / 1e6:.1f} MB"
    )
