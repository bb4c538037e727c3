"""Values that tell who wrote them, logs that survive a SIGKILL, and from logs the history of each key."""

from __future__ import annotations

import marshal
import mmap
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.storm.linear import ABSENT, ANY, CLEAR, KEEP, PRESENT, Add, Op, Set, State, Wants, equal, unequal
from tests.storm.serial import Transaction

# A value is its number, eight bytes, again and again: number = writer << 44 | count << 24 | size.
SIZE_MIN = 8
COUNTS = 1 << 20


def number_of(writer: int, count: int, size: int) -> int:
    """The number of a value: no other has it."""
    return writer << 44 | count % COUNTS << 24 | size


def value_of(number: int) -> bytes:
    """The value with this number."""
    size = number & 0xFFFFFF
    return (number.to_bytes(8, "little") * (size // 8 + 1))[:size]


class TornValue(Exception):
    """A value that nobody can have put there."""


def read_value(value: bytes | None) -> int | None:
    """The number of a value that was read, if it is whole."""
    if value is None:
        return None
    number = int.from_bytes(value[:8], "little")
    if len(value) < SIZE_MIN or value_of(number) != value:
        raise TornValue(f"{len(value)} bytes from {value[:24]!r} to {value[-24:]!r}")
    return number


COUNTERS = 1 << 30
"""Keys from this number on are counters."""


def key_of(number: int) -> bytes:
    """Keys of several lengths."""
    if number >= COUNTERS:
        return b"counter %d" % (number - COUNTERS)
    return b"%d" % number + b"." * (number % 37 if number % 50 != 7 else 3000)


def number_of_key(key: bytes) -> int:
    """The other way."""
    if key.startswith(b"counter "):
        return COUNTERS + int(key[8:])
    return int(key.rstrip(b"."))


def read_item(key: bytes, value: bytes) -> tuple[int, int | None]:
    """The numbers of a key and of its value; a counter's is what it counts to."""
    number = number_of_key(key)
    return number, read_counter(value) if number >= COUNTERS else read_value(value)


def read_counter(value: bytes | None) -> int | None:
    """What a counter counts to."""
    if value is not None and len(value) != 8:
        raise TornValue(f"a counter of {len(value)} bytes")
    return None if value is None else int.from_bytes(value, "little", signed=True)


class Log:
    """What one process did, in memory shared with the one that will read it. Made before the fork.

    The length is stored after what it counts, so whatever moment a SIGKILL comes at, the log is whole. Beside it is a
    word that is 1 while the process is in a call.
    """

    FIRST = 16

    def __init__(self, capacity: int) -> None:
        self.map = mmap.mmap(-1, capacity)
        self.words = memoryview(self.map)[: self.FIRST].cast("Q")
        self.at = self.FIRST
        self.end = capacity

    def add(self, *entry: Any) -> None:
        """One entry more."""
        data = marshal.dumps(entry)
        end = self.at + 4 + len(data)
        self.map[self.at : end] = struct.pack("<I", len(data)) + data
        self.at = end
        self.words[0] = end

    def room(self, least: int) -> bool:
        """Whether so many bytes are free, and some for the return of a call."""
        return self.end - self.at > least + 65_536

    @property
    def in_call(self) -> bool:
        """Whether the writer is in a call."""
        return bool(self.words[1])

    @in_call.setter
    def in_call(self, value: bool) -> None:
        self.words[1] = value

    def entries(self) -> Iterator[tuple[Any, ...]]:
        """All that was added."""
        at, end = self.FIRST, self.words[0]
        while at < end:
            (length,) = struct.unpack_from("<I", self.map, at)
            yield marshal.loads(self.map[at + 4 : at + 4 + length])
            at += 4 + length

    def close(self) -> None:
        """Give the memory back."""
        self.words.release()
        self.map.close()


@dataclass(slots=True)
class Call:
    """One call as a worker logged it."""

    who: int
    called: int
    returned: int
    name: str
    arguments: tuple[Any, ...]
    result: Any = None
    killed: bool = False


def calls_of(who: int, log: Log, gone: int) -> Iterator[Call]:
    """The calls in a log; one without a return was still on its way at `gone`, when the process was no more."""
    call: Call | None = None
    for entry in log.entries():
        if call is None:
            called, name, *arguments = entry
            call = Call(who, called, gone, name, tuple(arguments), killed=True)
        else:
            call.called, call.returned, call.result = entry
            call.killed = False
            yield _since(call)
            call = None
    if call is not None:
        yield _since(call)


def _since(call: Call) -> Call:
    """A transaction counts as one step of all the time from its beginning; one of reads need not look at them again."""
    if call.name == "txn":
        call.called = call.arguments[0]
        call.arguments = call.arguments[1:]
    return call


@dataclass
class History:
    """The operations of each key, and what the keys were before."""

    initial: dict[int, State] = field(default_factory=dict)
    keys: dict[int, list[Op]] = field(default_factory=dict)

    def add(self, call: Call, keys: Iterable[int]) -> None:
        """Take a call apart into operations on single keys; `keys` are all there are."""
        for key, wants, effect in _operations(call, keys):
            if not (call.killed and effect is KEEP):
                op = Op(call.called, call.returned, wants, effect, call.killed, call)
                self.keys.setdefault(key, []).append(op)


def _operations(call: Call, keys: Iterable[int]) -> Iterator[tuple[int, Any, Any]]:
    """(key, what it found, what it left), for each key of a call."""
    name, arguments, result = call.name, call.arguments, call.result
    if name in _MANY:
        yield from _MANY[name](call, arguments, result, keys)
        return
    key, given = arguments[0], arguments[1] if len(arguments) == 2 else arguments[1:]
    yield (key, *(_PENDING[name](given) if call.killed else _DONE[name](given, result)))


def _incremented(given: Any, result: int) -> tuple[Wants, Any]:
    delta, initial = given
    return equal(result - delta, *([None] if result == initial + delta else [])), Set(result)


def _swapped(given: Any, result: bool) -> tuple[Wants, Any]:
    expected, new = given
    return (equal(expected), Set(new)) if result else (unequal(expected), KEEP)


def _waited(old: State, result: State) -> tuple[Wants, Any]:
    if result == TIMEOUT:
        return equal(old), KEEP
    if result == old:
        raise TornValue(f"wait() for anything but {old!r} returned that")
    return equal(result), KEEP


# What each operation says when it has returned, by its argument and its result.
_DONE: dict[str, Any] = {
    "get": lambda given, result: (equal(result), KEEP),
    "contains": lambda given, result: (PRESENT if result else ABSENT, KEEP),
    "put": lambda given, result: (ANY, Set(given)),
    "delete": lambda given, result: (PRESENT, CLEAR) if result else (ABSENT, KEEP),
    "pop": lambda given, result: (ABSENT, KEEP) if result is None else (equal(result), CLEAR),
    "setdefault": lambda given, result: (ABSENT, Set(given)) if result == given else (equal(result), KEEP),
    "add": lambda given, result: (ABSENT, Set(given)) if result else (PRESENT, KEEP),
    "replace": lambda given, result: (PRESENT, Set(given)) if result else (ABSENT, KEEP),
    "compare_and_swap": _swapped,
    "incr": _incremented,
    "wait": _waited,
}
# And when its process was killed in it: done or not, it is not known what it found.
_PENDING: dict[str, Any] = {
    "get": lambda given: (ANY, KEEP),
    "contains": lambda given: (ANY, KEEP),
    "put": lambda given: (ANY, Set(given)),
    "delete": lambda given: (PRESENT, CLEAR),
    "pop": lambda given: (PRESENT, CLEAR),
    "setdefault": lambda given: (ABSENT, Set(given)),
    "add": lambda given: (ABSENT, Set(given)),
    "replace": lambda given: (PRESENT, Set(given)),
    "compare_and_swap": lambda given: (equal(given[0]), Set(given[1])),
    "incr": lambda given: (ANY, Add(*given)),
    "wait": lambda given: (ANY, KEEP),
}
TIMEOUT = "timeout"
"""What a wait() is logged to have returned that raised TimeoutError."""


def _read(result: State) -> tuple[Any, Any]:
    return equal(result), KEEP


def _get_many(call: Call, arguments: Any, result: Any, _: Any) -> Iterator[Any]:
    if not call.killed:
        for key, found in zip(arguments[0], result, strict=True):
            yield (key, *_read(found))


def _put_many(call: Call, arguments: Any, result: Any, _: Any) -> Iterator[Any]:
    for key, given in arguments[0]:
        yield key, ANY, Set(given)


def _delete_many(call: Call, arguments: Any, result: Any, _: Any) -> Iterator[Any]:
    for key in arguments[0]:
        yield key, ANY, CLEAR


def _clear(call: Call, arguments: Any, result: Any, keys: Iterable[int]) -> Iterator[Any]:
    for key in keys:
        yield key, ANY, CLEAR


def _items(call: Call, arguments: Any, result: Any, keys: Iterable[int]) -> Iterator[Any]:
    if call.killed:
        return
    found = dict(result)
    if len(found) < len(result):
        twice = sorted(key for key, _ in result if [key for key, _ in result].count(key) > 1)
        raise TornValue(f"iteration yielded keys twice: {twice[:10]}")
    for key in keys:
        yield (key, *_read(found.get(key)))


def _keys(call: Call, arguments: Any, result: Any, keys: Iterable[int]) -> Iterator[Any]:
    if call.killed:
        return
    found = set(result)
    if len(found) < len(result):
        raise TornValue("iteration yielded keys twice")
    for key in keys:
        yield key, PRESENT if key in found else ABSENT, KEEP


def _popitem(call: Call, arguments: Any, result: Any, keys: Iterable[int]) -> Iterator[Any]:
    if call.killed:  # of whichever key
        for key in keys:
            yield key, PRESENT, CLEAR
    elif result is not None:
        yield result[0], equal(result[1]), CLEAR


def _txn(call: Call, arguments: Any, result: Any, _: Any) -> Iterator[Any]:
    reads, writes = arguments
    written = dict(writes)
    if call.killed or result:  # in vain, it was one of nothing
        for key, found in reads:
            yield key, equal(found), Set(written[key]) if key in written else KEEP


def _nothing(call: Call, arguments: Any, result: Any, keys: Any) -> Iterator[Any]:
    return iter(())


_MANY: dict[str, Any] = {
    "get_many": _get_many,
    "put_many": _put_many,
    "delete_many": _delete_many,
    "clear": _clear,
    "items": _items,
    "keys": _keys,
    "popitem": _popitem,
    "sync": _nothing,
    "txn": _txn,
}


def transactions_of(call: Call, keys: Iterable[int]) -> Iterator[Transaction]:
    """The same as transactions: one of several keys is one, everything else one for each key."""
    if call.name == "txn":
        reads, writes = map(dict, call.arguments)
        conflict = not call.killed and not call.result
        yield Transaction(call.called, call.returned, reads, writes, call.killed, conflict, call)
        return
    for key, wants, effect in _operations(call, keys):
        if wants.among and (effect is not KEEP or not call.killed):
            (found,) = wants.states
            writes = {key: effect.value} if isinstance(effect, Set) else {}
            yield Transaction(call.called, call.returned, {key: found}, writes, call.killed, source=call)
