"""One process of a storm: it does things to the store by chance and logs each before and after, until it is killed."""

from __future__ import annotations

import mmap
import os
import random
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmkv
from tests.storm.history import (
    COUNTERS,
    TIMEOUT,
    Log,
    key_of,
    number_of,
    number_of_key,
    read_counter,
    read_item,
    read_value,
    value_of,
)
from tests.storm.owner import KEYS, PREFIX, name_of, steps_of

NOW = time.monotonic_ns

# How often a process of each role does what.
ROLES: dict[str, dict[str, int]] = {
    "mixed": {
        "add": 5,
        "replace": 5,
        "swap": 5,
        "incr": 5,
        "get": 30,
        "contains": 5,
        "put": 25,
        "delete": 10,
        "pop": 10,
        "setdefault": 10,
        "get_many": 2,
        "put_many": 2,
    },
    "bulk": {"put_many": 10, "delete_many": 5, "get_many": 2, "put": 2},
    "reader": {"get": 40, "contains": 5, "get_many": 10, "items": 1, "keys": 1},
    "writer": {"put": 20, "delete": 8, "pop": 2},
    "popper": {"pop": 10, "put": 10, "get": 5},
    "swapper": {"swap": 10, "add": 10, "replace": 10, "delete": 10, "get": 10},
    "counter": {"incr": 50, "get_counter": 10, "pop_counter": 1},
    "waiter": {"wait": 5, "put": 1},
    "transactor": {"transact": 6, "atomically": 6, "get": 1, "get_many": 1},
    "exchanger": {"exchange": 5, "get": 1, "items": 1},
    "watcher": {"get": 5, "items": 5, "keys": 1, "sync": 1},
    "keeper": {"put": 10, "get": 10, "sync": 3, "items": 2, "keys": 2},
    "owner": {},
    "clearer": {"put": 100, "get": 100, "put_many": 10, "popitem": 20, "clear": 1},
}

COUNTERS_USED = 2
ROOM_FOR_TRIES = 1 << 17
"""Bytes of a log: who tries again and again, with everybody else at work, logs each try."""


class GaveUp(Exception):
    """What a function raises that does not want its transaction to happen."""


@dataclass
class Plan:
    """What all processes of a round have in common."""

    path: Path
    keys: int
    sizes: tuple[int, ...]
    many: int
    options: dict[str, Any] = field(default_factory=dict)


class Worker:
    """The life of one process."""

    def __init__(self, plan: Plan, who: int, role: str, log: Log, seed: str) -> None:
        self.plan = plan
        self.who = who
        self.log = log
        self.rng = random.Random(seed)
        self.count = 0
        self.reads = role == "reader"
        self.steps = steps_of(seed, who, plan.sizes) if role == "owner" else []
        self.acts = [getattr(self, name) for name in ROLES[role]]
        self.weights = list(ROLES[role].values())
        self.db: Any = None

    # -- by chance --

    def key(self) -> int:
        return int(self.rng.random() * self.plan.keys)

    def some_keys(self) -> list[int]:
        most = min(self.plan.keys, self.plan.many)
        return self.rng.sample(range(self.plan.keys), self.rng.randint(1, most))

    def value(self) -> int:
        """The number of a new one."""
        self.count += 1
        return number_of(self.who, self.count, self.rng.choice(self.plan.sizes))

    # -- what it does: log, do, log --

    def call(
        self, work: Callable[[], Any], name: str, *arguments: Any, result: Callable[[Any], Any] | None = None
    ) -> None:
        self.log.add(NOW(), name, *arguments)
        self.log.in_call = True
        called = NOW()
        got = work()
        returned = NOW()
        self.log.in_call = False
        self.log.add(called, returned, result(got) if result else got)

    def get(self) -> None:
        key = self.key()
        name = key_of(key)
        self.call(lambda: self.db.get(name), "get", key, result=read_value)

    def contains(self) -> None:
        key = self.key()
        name = key_of(key)
        self.call(lambda: name in self.db, "contains", key)

    def put(self) -> None:
        key, number = self.key(), self.value()
        name, value = key_of(key), value_of(number)
        self.call(lambda: self.db.put(name, value), "put", key, number)

    def delete(self) -> None:
        key = self.key()
        name = key_of(key)
        self.call(lambda: self.db.delete(name), "delete", key)

    def pop(self) -> None:
        key = self.key()
        name = key_of(key)
        self.call(lambda: self.db.pop(name, None), "pop", key, result=read_value)

    def setdefault(self) -> None:
        key, number = self.key(), self.value()
        name, value = key_of(key), value_of(number)
        self.call(lambda: self.db.setdefault(name, value), "setdefault", key, number, result=read_value)

    def add(self) -> None:
        key, number = self.key(), self.value()
        name, value = key_of(key), value_of(number)
        self.call(lambda: self.db.add(name, value), "add", key, number)

    def replace(self) -> None:
        key, number = self.key(), self.value()
        name, value = key_of(key), value_of(number)
        self.call(lambda: self.db.replace(name, value), "replace", key, number)

    def swap(self) -> None:
        """Of what is there, in most cases, for something new, in most cases."""
        key, new = self.key(), self.value() if self.rng.random() < 0.9 else None
        name = key_of(key)
        expected = self.db.get(name) if self.rng.random() < 0.9 else None
        value = None if new is None else value_of(new)
        swap = lambda: self.db.compare_and_swap(name, expected, value)  # noqa: E731
        self.call(swap, "compare_and_swap", key, read_value(expected), new)

    def wait(self) -> None:
        """For a change of what is there."""
        key = self.key()
        name = key_of(key)
        old = self.db.get(name)

        def work() -> bytes | str | None:
            try:
                return self.db.wait(name, old=old, timeout=0.02)  # type: ignore[no-any-return]
            except TimeoutError:
                return TIMEOUT

        self.call(work, "wait", key, read_value(old), result=lambda got: got if got == TIMEOUT else read_value(got))

    def exchange(self) -> None:
        """A swap that has seen what it swaps, for keys that transactions use."""
        key, new = self.key(), self.value()
        name, value = key_of(key), value_of(new)
        expected = self.db.get(name)
        swap = lambda: self.db.compare_and_swap(name, expected, value)  # noqa: E731
        self.call(swap, "compare_and_swap", key, read_value(expected), new)

    def transact(self) -> None:
        """Read some keys, and write new values to some of those."""
        keys = self.some_keys()
        count = self.rng.randint(0, len(keys))
        since = NOW()
        with self.db.transaction() as t:
            reads = [(key, read_value(t.get(key_of(key)))) for key in keys]
            writes = [(key, self.value()) for key in keys[:count]]
            for key, number in writes:
                t.put(key_of(key), value_of(number))
            if self.rng.random() < 0.05:
                t.abort()
                return

            def commit() -> bool:
                try:
                    t.__exit__(None, None, None)
                except mmkv.ConflictError:
                    return False
                return True

            self.call(commit, "txn", since, reads, writes)
            t.abort()

    def atomically(self) -> None:
        """The same, tried until it happens. Each try is a transaction; what comes before another try was in vain.

        Some raise an exception, which is passed on only if what they have read was so at some moment: they count as
        transactions that only read, and nobody may see what they would have written.
        """
        if not self.log.room(ROOM_FOR_TRIES):
            return
        keys = self.some_keys()
        count = self.rng.randint(0, len(keys))
        gives_up = self.rng.random() < 0.1
        called = 0

        def ended(*, happened: bool) -> None:
            self.log.in_call = False
            self.log.add(called, NOW(), happened)

        def attempt(t: mmkv.Transaction) -> None:
            nonlocal called
            if called:
                ended(happened=False)
            since = NOW()
            reads = [(key, read_value(t.get(key_of(key)))) for key in keys]
            writes = [(key, self.value()) for key in keys[:count]]
            for key, number in writes:
                t.put(key_of(key), value_of(number))
            self.log.add(NOW(), "txn", since, reads, [] if gives_up else writes)
            self.log.in_call = True
            called = NOW()
            if gives_up:
                raise GaveUp

        with suppress(GaveUp):
            self.db.atomically(attempt)
        ended(happened=True)

    def incr(self) -> None:
        key, delta = COUNTERS + self.rng.randrange(COUNTERS_USED), self.rng.randint(1, 3)
        name = key_of(key)
        self.call(lambda: self.db.incr(name, delta, initial=100), "incr", key, delta, 100)

    def get_counter(self) -> None:
        key = COUNTERS + self.rng.randrange(COUNTERS_USED)
        name = key_of(key)
        self.call(lambda: self.db.get(name), "get", key, result=read_counter)

    def pop_counter(self) -> None:
        key = COUNTERS + self.rng.randrange(COUNTERS_USED)
        name = key_of(key)
        self.call(lambda: self.db.pop(name, None), "pop", key, result=read_counter)

    def get_many(self) -> None:
        keys = self.some_keys()
        names = [key_of(key) for key in keys]
        self.call(
            lambda: self.db.get_many(names), "get_many", keys, result=lambda got: [read_value(one) for one in got]
        )

    def put_many(self) -> None:
        pairs = [(key, self.value()) for key in self.some_keys()]
        named = [(key_of(key), value_of(number)) for key, number in pairs]
        self.call(lambda: self.db.put_many(named), "put_many", pairs)

    def delete_many(self) -> None:
        keys = self.some_keys()
        names = [key_of(key) for key in keys]
        self.call(lambda: self.db.delete_many(names), "delete_many", keys)

    def items(self) -> None:
        def numbers(got: list[tuple[bytes, bytes]]) -> Any:
            return [read_item(key, value) for key, value in got if not key.startswith(PREFIX)]

        self.call(lambda: list(self.db.items()), "items", result=numbers)

    def keys(self) -> None:
        def numbers(got: list[bytes]) -> list[int]:
            return [number_of_key(key) for key in got if not key.startswith(PREFIX)]

        self.call(lambda: list(self.db), "keys", result=numbers)

    def popitem(self) -> None:
        def work() -> tuple[bytes, bytes] | None:
            try:
                return self.db.popitem()  # type: ignore[no-any-return]
            except KeyError:
                return None

        def numbers(got: tuple[bytes, bytes] | None) -> Any:
            return got and read_item(*got)

        self.call(work, "popitem", result=numbers)

    def clear(self) -> None:
        self.call(lambda: self.db.clear(), "clear")

    def sync(self) -> None:
        self.call(lambda: self.db.sync(), "sync")

    def own(self, stop: mmap.mmap) -> None:
        """What an owner does; see owner.py."""
        names = {key: name_of(self.who, key) for key in range(KEYS)}
        work: list[tuple[Any, list[Any]]] = []
        for step in self.steps:
            if step.deletes:
                work.append((self.db.delete_many, [names[key] for key in step.keys]))
            else:
                pairs = zip(step.keys, step.numbers, strict=True)
                work.append((self.db.put_many, [(names[key], value_of(number)) for key, number in pairs]))
        while not stop[0] and self.log.room(1000):
            for call, argument in work:
                self.log.add("call")
                self.log.in_call = True
                call(argument)
                self.log.in_call = False
                self.log.add("return")

    # -- its life --

    def run(self, stop: mmap.mmap) -> None:
        try:
            self.db = mmkv.open(self.plan.path, "r" if self.reads else "w", **self.plan.options)
        except mmkv.ReadOnlyError:
            if self.reads:  # no writer is there at the moment to settle what the dead left
                return
            raise
        if self.steps:
            self.own(stop)
        while not self.steps and not stop[0] and self.log.room(self.plan.keys * 100):
            for act in self.rng.choices(self.acts, self.weights, k=10):
                act()
        self.db.close()


def start(plan: Plan, who: int, role: str, log: Log, seed: str, stop: mmap.mmap, errors: Path) -> int:
    """Fork a process; what goes wrong in it is written to a file in `errors`. Returns its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    os.nice(3)  # the one who kills is to be on time
    try:
        Worker(plan, who, role, log, seed).run(stop)
        code = 0
    except BaseException as error:
        (errors / f"{who}").write_text(f"{role} {who}: {type(error).__name__}: {error}\n{traceback.format_exc()}")
    finally:
        os._exit(code)
