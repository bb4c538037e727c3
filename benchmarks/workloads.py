"""What is measured: each workload is a function that does the work of one store in one round.

Workloads belong to sessions. A session begins with an empty store in a fresh process and runs its workloads in the
order they have here: those that only read first, then those that change records, deletes last. The `main` session
begins with `fill` and a sync whichever workloads were chosen, so every file-backed store enters the reads with clean
pages and the same history.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks.adapters import Adapter
from benchmarks.data import Data
from benchmarks.results import CPU_METRIC, LENGTH_METRIC, SPACE_METRIC, TIME_METRIC, percentile

CHECKED = 1_000
"""How many operations are looked at, off the clock, to see that the store really does them."""
PERCENTILES = (50.0, 99.0, 99.9)
MIXED_PUT_SHARE = 0.1


class WrongAnswerError(Exception):
    """The store did not do what it was measured doing."""


# The loops. Arguments are locals, the quickest variables there are; nothing else happens between two calls.


def each(call: Callable[[bytes], object], keys: Iterable[bytes]) -> None:
    for key in keys:
        call(key)


def each_pair(call: Callable[[bytes, bytes], object], keys: Iterable[bytes], values: Iterable[bytes]) -> None:
    for key, value in zip(keys, values, strict=False):
        call(key, value)


def each_batch(call: Callable[[Any], object], batches: Iterable[Any]) -> None:
    for batch in batches:
        call(batch)


def each_mixed(
    get: Callable[[bytes], object],
    put: Callable[[bytes, bytes], object],
    keys: Iterable[bytes],
    values: Iterable[bytes | None],
) -> None:
    for key, value in zip(keys, values, strict=False):
        if value is None:
            get(key)
        else:
            put(key, value)


def each_subscript(store: Any, keys: Iterable[bytes]) -> None:
    for key in keys:
        store[key]


def each_subscript_pair(store: Any, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
    for key, value in zip(keys, values, strict=False):
        store[key] = value


def exhaust(iterator: Iterable[object]) -> int:
    count = 0
    for _ in iterator:
        count += 1
    return count


def each_timed(call: Callable[[bytes], object], keys: Sequence[bytes], elapsed: array[int]) -> None:
    clock = time.perf_counter_ns
    for index, key in enumerate(keys):
        start = clock()
        call(key)
        elapsed[index] = clock() - start


def each_pair_timed(
    call: Callable[[bytes, bytes], object], keys: Sequence[bytes], values: Sequence[bytes], elapsed: array[int]
) -> None:
    clock = time.perf_counter_ns
    for index, key in enumerate(keys):
        value = values[index]
        start = clock()
        call(key, value)
        elapsed[index] = clock() - start


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside; what there was to collect is collected before."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@dataclass
class Session:
    """A store being measured, its data, and the figures so far."""

    adapter: Adapter
    data: Data
    wanted: frozenset[str]
    figures: list[tuple[str, str, float]] = field(default_factory=list)
    """Workload, metric, value."""

    @contextmanager
    def clocked(self, workload: str, operations: int) -> Iterator[None]:
        """Time a block as that many operations, by the wall clock and in CPU time."""
        with quiet():
            cpu, wall = time.process_time_ns(), time.perf_counter_ns()
            yield
            wall = time.perf_counter_ns() - wall
            cpu = time.process_time_ns() - cpu
        self.note(workload, TIME_METRIC, wall / operations)
        self.note(workload, CPU_METRIC, cpu / operations)

    def note(self, workload: str, metric: str, value: float) -> None:
        """Keep a figure, if its workload was asked for."""
        if workload in self.wanted:
            self.figures.append((workload, metric, value))

    def note_latencies(self, workload: str, elapsed: array[int]) -> None:
        """Keep the percentiles of single calls; sorts `elapsed`."""
        ordered = sorted(elapsed)
        for percent in PERCENTILES:
            self.note(workload, f"p{percent:g} ns", percentile(ordered, percent))
        self.note(workload, "max ns", ordered[-1])

    @property
    def real(self) -> bool:
        """Whether the answers can be checked (`floor` gives none)."""
        return self.adapter.name != "floor"

    def expect(self, what: str, actual: object, expected: object) -> None:
        """Raise WrongAnswerError unless the two are equal."""
        if self.real and actual != expected:
            raise WrongAnswerError(f"{self.adapter.name}: {what}: {actual!r:.80} instead of {expected!r:.80}")

    def expect_values(self, keys: Sequence[bytes], values: Sequence[bytes | None]) -> None:
        """Look the first of these keys up."""
        get = self.adapter.begin(write=False).get
        for key, value in zip(keys[:CHECKED], values[:CHECKED], strict=True):
            self.expect(f"value of {key!r}", get(key), value)


# Session "main"


def fill(session: Session) -> None:
    data, adapter = session.data, session.adapter
    put = adapter.begin(write=True).put
    with session.clocked("fill", data.sizes.records):
        each_pair(put, data.keys, data.values)
        adapter.commit()
    session.expect_values(data.keys, data.values)
    adapter.sync()


def space(session: Session) -> None:
    footprint = session.adapter.bytes_on_disk()
    if footprint is not None:
        records = session.data.sizes.records
        session.note("space", SPACE_METRIC, footprint.blocks / records)
        session.note("space", LENGTH_METRIC, footprint.length / records)


def _reads(session: Session, workload: str, keys: list[bytes]) -> None:
    get = session.adapter.begin(write=False).get
    with session.clocked(workload, len(keys)):
        each(get, keys)


def hits(session: Session) -> None:
    _reads(session, "hits", session.data.shuffled("hits"))


def misses(session: Session) -> None:
    keys = session.data.missing("misses")
    _reads(session, "misses", keys)
    session.expect_values(keys, [None] * len(keys))


def hot(session: Session) -> None:
    _reads(session, "hot", session.data.hot("hot"))


def zipf(session: Session) -> None:
    _reads(session, "zipf", session.data.zipf("zipf"))


def contains(session: Session) -> None:
    keys = session.data.shuffled("contains")
    call = session.adapter.begin(write=False).contains
    with session.clocked("contains", len(keys)):
        each(call, keys)
    session.expect("contains", all(call(key) for key in keys[:CHECKED]), True)


def hits_subscript(session: Session) -> None:
    store = session.adapter.mapping()
    if store is not None:
        keys = session.data.shuffled("hits-subscript")
        session.adapter.begin(write=False)
        with session.clocked("hits-subscript", len(keys)):
            each_subscript(store, keys)


def get_many(session: Session) -> None:
    data = session.data
    keys = data.shuffled("get-many")
    batch = data.sizes.get_batch
    batches = [keys[start : start + batch] for start in range(0, len(keys), batch)]
    call = session.adapter.begin(write=False).get_many
    with session.clocked("get-many", len(keys)):
        each_batch(call, batches)
    first = data.keys[:batch]
    session.expect("get_many", list(call(first)), data.values[: len(first)])


def keys(session: Session) -> None:
    iterate = session.adapter.begin(write=False).keys
    with session.clocked("keys", session.data.sizes.records):
        count = exhaust(iterate())
    session.expect("number of keys", count, session.data.sizes.records)


def items(session: Session) -> None:
    iterate = session.adapter.begin(write=False).items
    with session.clocked("items", session.data.sizes.records):
        count = exhaust(iterate())
    session.expect("number of items", count, session.data.sizes.records)


def mixed(session: Session) -> None:
    data, adapter = session.data, session.adapter
    keys = data.shuffled("mixed")
    source = data.random("mixed puts")
    values = [value if source.random() < MIXED_PUT_SHARE else None for value in data.other_values(len(keys))]
    operations = adapter.begin(write=True)
    with session.clocked("mixed", len(keys)):
        each_mixed(operations.get, operations.put, keys, values)
        adapter.commit()
    written = [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]
    session.expect_values([key for key, _ in written], [value for _, value in written])


def overwrite(session: Session) -> None:
    data, adapter = session.data, session.adapter
    keys = data.shuffled("overwrite")
    values = data.other_values(len(keys))
    put = adapter.begin(write=True).put
    with session.clocked("overwrite", len(keys)):
        each_pair(put, keys, values)
        adapter.commit()
    session.expect_values(keys, values)


def overwrite_sync(session: Session) -> None:
    data, adapter = session.data, session.adapter
    adapter.sync()  # what earlier workloads wrote is not this one's to flush
    keys = data.shuffled("overwrite-sync")
    values = data.other_values(len(keys))
    every = data.sizes.sync_every
    slices = [(keys[start : start + every], values[start : start + every]) for start in range(0, len(keys), every)]
    with session.clocked("overwrite-sync", len(keys)):
        for some_keys, some_values in slices:
            each_pair(adapter.begin(write=True).put, some_keys, some_values)
            adapter.sync()
    session.expect_values(keys, values)


def delete(session: Session) -> None:
    data, adapter = session.data, session.adapter
    keys = data.shuffled("delete")
    call = adapter.begin(write=True).delete
    with session.clocked("delete", len(keys)):
        each(call, keys)
        adapter.commit()
    session.expect_values(keys, [None] * len(keys))


# The other sessions


def fill_subscript(session: Session) -> None:
    store = session.adapter.mapping()
    if store is not None:
        data = session.data
        session.adapter.begin(write=True)
        with session.clocked("fill-subscript", data.sizes.records):
            each_subscript_pair(store, data.keys, data.values)
            session.adapter.commit()
        session.expect_values(data.keys, data.values)


def put_many(session: Session) -> None:
    data, adapter = session.data, session.adapter
    pairs = list(zip(data.keys, data.values, strict=True))
    batch = data.sizes.put_batch
    batches = [pairs[start : start + batch] for start in range(0, len(pairs), batch)]
    call = adapter.begin(write=True).put_many
    with session.clocked("put-many", len(pairs)):
        each_batch(call, batches)
        adapter.commit()
    session.expect_values(data.keys, data.values)


def latency_put(session: Session) -> None:
    data, adapter = session.data, session.adapter
    elapsed = array("q", bytes(8 * data.sizes.records))
    put = adapter.begin(write=True).put
    with quiet():
        each_pair_timed(put, data.keys, data.values, elapsed)
    adapter.commit()
    session.note_latencies("latency-put", elapsed)


def latency_get(session: Session) -> None:
    keys = session.data.shuffled("latency-get")
    elapsed = array("q", bytes(8 * len(keys)))
    get = session.adapter.begin(write=False).get
    with quiet():
        each_timed(get, keys, elapsed)
    session.note_latencies("latency-get", elapsed)


@dataclass(frozen=True)
class Workload:
    """A name for the command line, what it means, and where it runs."""

    name: str
    session: str
    summary: str
    run: Callable[[Session], None]
    prepares: bool = False
    """Runs even if it was not asked for, when another of its session was."""


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("fill", "main", "single puts, random order, from an empty store", fill, prepares=True),
        Workload("space", "main", "bytes on disk per record after fill and sync", space),
        Workload("hits", "main", "get of every key once, random order", hits),
        Workload("hits-subscript", "main", "the same as store[key]", hits_subscript),
        Workload("misses", "main", "get of keys that were never put", misses),
        Workload("contains", "main", "key in store, every key once", contains),
        Workload("hot", "main", "get of 1,000 keys over and over", hot),
        Workload("zipf", "main", "get of keys drawn by Zipf's law, exponent 0.99", zipf),
        Workload("get-many", "main", "get_many in batches, every key once", get_many),
        Workload("keys", "main", "iteration over the keys", keys),
        Workload("items", "main", "iteration over keys and values", items),
        Workload("mixed", "main", "90 % get, 10 % put of present keys", mixed),
        Workload("overwrite", "main", "put of every key once, random order", overwrite),
        Workload("overwrite-sync", "main", "the same with a sync every so many", overwrite_sync),
        Workload("delete", "main", "delete of every key once, random order", delete),
        Workload("fill-subscript", "subscript", "fill as store[key] = value", fill_subscript),
        Workload("put-many", "put-many", "put_many in batches, random order, from an empty store", put_many),
        Workload("latency-put", "latency", "single puts from an empty store, each timed", latency_put, prepares=True),
        Workload("latency-get", "latency", "gets of every key once, each timed", latency_get),
    )
}
