"""verify_reads=True: what a read returns has been held against its checksum; what is damaged is named, not returned."""

from __future__ import annotations

import pickle
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.support import Child

KEY = b"the key"
SIZES = [0, 8, 2000, 12_000, 100_000]

READS: dict[str, Callable[[Any], object]] = {
    "[]": lambda db: db[KEY],
    "get": lambda db: db.get(KEY),
    "get_into": lambda db: db.get_into(KEY, bytearray(200_000)),
    "get_into, too short": lambda db: db.get_into(KEY, bytearray(3)),
    "get_many": lambda db: db.get_many([KEY]),
    "items": lambda db: list(db.items()),
    "values": lambda db: list(db.values()),
    "setdefault": lambda db: db.setdefault(KEY, b"default"),
    "compare_and_swap": lambda db: db.compare_and_swap(KEY, b"other", b"new"),
    "==": lambda db: db == dict.fromkeys((KEY, *(b"%d" % i for i in range(50))), b""),
}
TAKES: dict[str, Callable[[Any], object]] = {
    "pop": lambda db: db.pop(KEY),
    "popitem": lambda db: [db.popitem() for _ in range(51)],
}


def value_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def make(open_store: Any, path: Path, size: int) -> bytes:
    """A closed store with the key among others; returns its bytes. The test may damage it."""
    with open_store() as db:
        db.put_many((b"%d" % i, b"") for i in range(50))
        db[KEY] = value_of(size)
    open_store.expect_damage(path)
    return path.read_bytes()


def flip(path: Path, content: bytes, at: int, bit: int) -> None:
    damaged = bytearray(content)
    damaged[at] ^= 1 << bit
    path.write_bytes(damaged)


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("read", [*READS, *TAKES])
def test_a_damaged_value_is_an_error_that_names_the_key(open_store: Any, path: Path, read: str, size: int) -> None:
    content = make(open_store, path, size)
    record = content.index(KEY + value_of(size)) - 12
    flip(path, content, record + 12 + len(KEY) + size // 2, 3)
    with mmkv.open(path, "w", sync="manual", verify_reads=True) as db:
        with pytest.raises(mmkv.CorruptStoreError, match="the key") as raised:
            {**READS, **TAKES}[read](db)
        assert raised.value.offset == record
        assert str(record) in str(raised.value)
        assert str(path) in str(raised.value)
        assert KEY in db, "what is damaged stays"
        assert db.get(b"1", b"") == b"", "the others can be read, if popitem() has left them"


@pytest.mark.parametrize("mode", ["r", "w", "p"])
@pytest.mark.parametrize("size", SIZES)
def test_every_bit_of_a_record(open_store: Any, path: Path, rng: random.Random, mode: str, size: int) -> None:
    """Of checksum, lengths, flags, key and value: no read gives anything but the truth, or says that it cannot."""
    content = make(open_store, path, size)
    record = content.index(KEY + value_of(size)) - 12
    whole = (12 + len(KEY)) * 8
    bits = list(range(whole)) if mode == "r" else rng.sample(range(whole), 20)
    bits += [rng.randrange(whole, whole + size * 8) for _ in range(10 if size else 0)]
    for bit in bits:
        flip(path, content, record + bit // 8, bit % 8)
        with mmkv.open(path, mode, sync="manual", verify_reads=True) as db:
            for name, read in READS.items():
                if name == "==" or (name in ("setdefault", "compare_and_swap") and mode == "r"):
                    continue
                with pytest.raises(mmkv.CorruptStoreError):
                    pytest.fail(f"bit {bit}, {name}: {read(db)!r:.200}")


@pytest.mark.parametrize("size", SIZES)
def test_a_damaged_key_is_not_listed(open_store: Any, path: Path, size: int) -> None:
    content = make(open_store, path, size)
    at = content.index(KEY + value_of(size))
    for bit in range(len(KEY) * 8):
        flip(path, content, at + bit // 8, bit % 8)
        with mmkv.open(path, "r", verify_reads=True) as db, pytest.raises(mmkv.CorruptStoreError):
            pytest.fail(f"bit {bit}: {list(db)}")


def test_without_it_reads_do_not_look(open_store: Any, path: Path) -> None:
    """The default: the damage is verify()'s to find. Else the tests above would prove nothing of the option."""
    content = make(open_store, path, 2000)
    flip(path, content, content.index(value_of(2000)) + 1000, 0)
    with mmkv.open(path, "r") as db:
        assert db[KEY] != value_of(2000)
        assert not db.verify().ok


def test_a_sound_store_reads_as_ever(open_store: Any) -> None:
    model = {b"%d" % i: value_of(size) for i, size in enumerate(SIZES * 20)}
    with open_store(verify_reads=True) as db:
        db.update(model)
        assert dict(db) == model
        assert db == model
        assert db.get_many([*model, b"absent"]) == [*model.values(), None]
        assert sorted(db) == sorted(model)
        for key, value in model.items():
            buffer = bytearray(len(value))
            assert db.get_into(key, buffer) == len(value)
            assert buffer == value
            assert db.pop(key) == value
        assert len(db) == 0


def test_the_option_travels_with_the_store(open_store: Any, path: Path) -> None:
    content = make(open_store, path, 8)
    flip(path, content, content.index(value_of(8)), 0)
    with mmkv.open(path, "r", verify_reads=True) as db:
        again = pickle.loads(pickle.dumps(db))
    with again, pytest.raises(mmkv.CorruptStoreError):
        again[KEY]


WRITER = """
import random, sys, mmkv
with mmkv.open(sys.argv[1], "w", sync="manual") as db:
    rng = random.Random(1)
    print("ready", flush=True)
    while True:
        for key in (b"a", b"b", b"c"):
            db[key] = rng.randbytes(1) * rng.choice((5, 60, 3000, 20_000, 60_000))
"""


@pytest.mark.parametrize("mode", ["r", "w"])
def test_a_torn_copy_is_made_again_and_not_reported(open_store: Any, path: Path, mode: str) -> None:
    """While another process overwrites the keys without end, nothing is ever called damaged."""
    with open_store(shards=1) as db:
        db.update(dict.fromkeys((b"a", b"b", b"c"), b"start"))
    errors: list[BaseException] = []

    def read(db: Any) -> None:
        try:
            for _ in range(700):
                for value in (*db.get_many([b"a", b"b", b"c"]), *db.values()):
                    assert len(set(value)) == 1 or value == b"start"
        except BaseException as error:
            errors.append(error)

    with Child(WRITER, path) as writer:
        assert writer.line() == "ready"
        with mmkv.open(path, mode, sync="manual", verify_reads=True) as db:
            threads = [threading.Thread(target=read, args=(db,)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert errors == []
