"""What keys and values may be, and how long."""

from __future__ import annotations

import array
import mmap
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support import RECORD_HEADER, random_bytes, size_class_boundaries


def anonymous_map(content: bytes) -> mmap.mmap:
    area = mmap.mmap(-1, len(content))
    area[:] = content
    return area


FORMS: dict[str, Any] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "read-write memoryview": lambda b: memoryview(bytearray(b)),
    "slice of a memoryview": lambda b: memoryview(b"12" + b + b"3")[2:-1],
    "mmap": anonymous_map,
    "array of bytes": lambda b: array.array("B", b),
    "array of words": lambda b: array.array("I", b),
    "two dimensions": lambda b: memoryview(b).cast("B", (4, 3)),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_any_bytes_like_object(store: Any, form: Any) -> None:
    key, value = b"twelve bytes", b"as many more"
    store[form(key)] = form(value)
    assert store[key] == value
    assert store[form(key)] == value
    assert type(store[form(key)]) is bytes
    assert list(store) == [key]
    assert type(next(iter(store))) is bytes
    assert form(key) in store
    assert store.get(form(key)) == value
    assert store.get_many([form(key)]) == [value]
    buffer = bytearray(12)
    assert store.get_into(form(key), buffer) == 12
    assert buffer == value
    store.put(form(key), form(value))
    assert store.put_many([(form(key), form(value))]) == 1
    assert store.setdefault(form(key), form(b"another text")) == value
    assert store.pop(form(key)) == value
    assert store.setdefault(form(key), form(value)) == value
    assert store.add(form(key), form(value)) is False
    assert store.replace(form(key), form(value)) is True
    assert store.compare_and_swap(form(key), form(value), form(key)) is True
    assert store.compare_and_swap(form(key), form(key), form(value)) is True
    assert store.incr(form(value)) == 1
    del store[value]
    del store[form(key)]
    store.update([(form(key), form(value))])
    assert store.delete(form(key)) is True
    store[key] = value
    assert store.delete_many([form(key)]) == 1
    assert len(store) == 0


def test_a_value_is_copied(store: Any) -> None:
    value = bytearray(b"before")
    store[b"k"] = value
    value[:] = b"after!"
    assert store[b"k"] == b"before"


def test_a_buffer_is_released(store: Any) -> None:
    key, value = bytearray(b"key"), bytearray(b"value" * 20_000)
    store[key] = value
    store.get(key)
    store.put_many([(key, value)])
    store.get_into(key, value)
    key.append(1)  # BufferError while an export is left
    value.append(1)


WRONG = {"str": "text", "int": 7, "None": None, "list": [1, 2], "tuple": (b"a",), "float": 1.5, "object": object()}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_wrong_types(store: Any, wrong: Any) -> None:
    store[b"k"] = b"v"
    for use in (
        lambda: store[wrong],
        lambda: store.__setitem__(wrong, b"v"),
        lambda: store.__setitem__(b"k", wrong),
        lambda: store.__delitem__(wrong),
        lambda: wrong in store,
        lambda: store.get(wrong),
        lambda: store.get(wrong, b"default"),
        lambda: store.put(wrong, b"v"),
        lambda: store.put(b"k", wrong),
        lambda: store.delete(wrong),
        lambda: store.pop(wrong),
        lambda: store.pop(wrong, None),
        lambda: store.setdefault(wrong, b"v"),
        lambda: store.setdefault(b"new", wrong),
        lambda: store.add(wrong, b"v"),
        lambda: store.add(b"new", wrong),
        lambda: store.replace(wrong, b"v"),
        lambda: store.replace(b"k", wrong),
        lambda: store.compare_and_swap(wrong, b"v", b"w"),
        lambda: store.compare_and_swap(b"k", b"v", wrong if wrong is not None else 1),
        lambda: store.compare_and_swap(b"k", wrong if wrong is not None else 1, b"w"),
        lambda: store.incr(wrong),
        lambda: store.update([(wrong, b"v")]),
        lambda: store.update([(b"k", wrong)]),
        lambda: store.get_into(wrong, bytearray(9)),
        lambda: store.get_into(b"k", wrong),
        lambda: store.get_many([wrong]),
        lambda: store.put_many([(wrong, b"v")]),
        lambda: store.put_many([(b"k", wrong)]),
        lambda: store.delete_many([wrong]),
    ):
        with pytest.raises(TypeError):
            use()
    assert dict(store) == {b"k": b"v"}


@pytest.mark.parametrize("place", ["key", "value"])
def test_a_str_is_told_the_way_out(store: Any, place: str) -> None:
    with pytest.raises(TypeError, match=r"encode|codec"):
        if place == "key":
            store["text"] = b"v"
        else:
            store[b"k"] = "text"
    with pytest.raises(TypeError, match=r"encode|codec"):
        store["text"]


@pytest.mark.parametrize("view", [memoryview(b"abcdef")[::2], memoryview(b"abcdef")[::-1]], ids=["step", "reversed"])
def test_a_view_with_gaps_is_refused(store: Any, view: memoryview) -> None:
    store[b"k"] = b"v"
    for use in (
        lambda: store.__setitem__(view, b"v"),
        lambda: store.__setitem__(b"k", view),
        lambda: store[view],
        lambda: store.get_into(b"k", memoryview(bytearray(8))[::2]),
    ):
        with pytest.raises((BufferError, ValueError, TypeError)):
            use()
    assert dict(store) == {b"k": b"v"}


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 7, 8, 255, 256, 4096, 16384, 65534, 65535])
def test_key_lengths(open_store: Any, length: int) -> None:
    key = bytes(i * 7 & 255 for i in range(length))
    other = key[:-1] + b"\xaa" if length else b"\xaa"
    with open_store() as db:
        db[key] = b"value"
        db[other] = b""
        assert db[key] == b"value"
        assert db[other] == b""
        assert set(db) == {key, other}
        assert db.verify().ok
    with open_store() as db:
        assert db.pop(key) == b"value"
        assert list(db.items()) == [(other, b"")]


@pytest.mark.parametrize("length", [65536, 65537, 1 << 20])
def test_a_key_too_long(store: Any, length: int) -> None:
    key = bytes(length)
    for use in (
        lambda: store.__setitem__(key, b"v"),
        lambda: store[key],
        lambda: store.get(key),
        lambda: key in store,
        lambda: store.__delitem__(key),
        lambda: store.delete(key),
        lambda: store.pop(key, None),
        lambda: store.put_many([(key, b"v")]),
        lambda: store.get_many([key]),
        lambda: store.delete_many([key]),
        lambda: store.get_into(key, bytearray(3)),
    ):
        with pytest.raises(ValueError, match=r"65,?535"):
            use()
    assert len(store) == 0


def test_keys_differ_by_their_length_alone(store: Any) -> None:
    keys = [bytes(n) for n in range(300)]
    store.put_many((key, b"%d" % len(key)) for key in keys)
    assert len(store) == 300
    assert [store[key] for key in keys] == [b"%d" % n for n in range(300)]


def test_every_byte_in_keys_and_values(store: Any) -> None:
    every = bytes(range(256))
    store[every] = every[::-1]
    for i in range(256):
        store[bytes([i])] = bytes([255 - i]) * 3
    assert store[every] == every[::-1]
    assert all(store[bytes([i])] == bytes([255 - i]) * 3 for i in range(256))


def sizes_to_try() -> list[int]:
    """All around where something changes: the block sizes, the page, the GIL and the extent thresholds, 1 MiB."""
    edges = {0, 1, 2, 4096, 16384, 32768, 65536, 1 << 20}
    for size in size_class_boundaries():
        edges |= {size, size - RECORD_HEADER, size - RECORD_HEADER - len(b"key")}
    return sorted({edge + step for edge in edges for step in (-1, 0, 1) if edge + step >= 0})


@pytest.mark.parametrize("shards", [1, 64])
def test_value_sizes(open_store: Any, rng: random.Random, shards: int) -> None:
    model = {}
    with open_store(shards=shards) as db:
        for size in sizes_to_try():
            key = b"%d" % size
            model[key] = random_bytes(rng, size)
            db[key] = model[key]
            assert db[key] == model[key]
            buffer = bytearray(size)
            assert db.get_into(key, buffer) == size
            assert buffer == model[key]
        assert db == model
        assert db.verify().ok
    with open_store() as db:
        assert db == model
        for size in sizes_to_try():  # each at the size of its neighbour
            key = b"%d" % size
            model[key] = random_bytes(rng, max(0, size + rng.choice((-1, 1))))
            db[key] = model[key]
            assert db[key] == model[key]
        assert db == model
        for key in list(model):
            assert db.pop(key) == model.pop(key)
            assert key not in db
        assert len(db) == 0


def test_one_key_through_every_size(store: Any, rng: random.Random) -> None:
    sizes = sizes_to_try()
    rng.shuffle(sizes)
    for size in sizes:
        value = random_bytes(rng, size)
        store[b"key"] = value
        assert store[b"key"] == value
    assert len(store) == 1


@pytest.mark.parametrize("size", [1 << 20, 5 << 20, 33 << 20])
def test_large_values(open_store: Any, rng: random.Random, size: int) -> None:
    value = rng.randbytes(size)
    with open_store() as db:
        db[b"large"] = value
        assert db[b"large"] == value
        assert db.get_many([b"large", b"none"]) == [value, None]
        assert next(iter(db.items())) == (b"large", value)
        db[b"large"] = value[1:]
    with open_store() as db:
        assert db.pop(b"large") == value[1:]
        assert len(db) == 0


@pytest.mark.slow
def test_a_value_beyond_4_gib(open_store: Any, tmp_path: Path) -> None:
    import os
    import shutil

    size = (4 << 30) + 12345
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if shutil.disk_usage(tmp_path).free < 2 * size or available < size:
        pytest.skip("needs 9 GB of disk and 5 GB of memory")
    source = mmap.mmap(-1, size)  # zeros without memory behind them, but for what is written here
    marks = {0: b"begin", 1 << 31: b"two", (1 << 32) - 2: b"edge", size - 3: b"end"}
    for at, text in marks.items():
        source[at : at + len(text)] = text
    with open_store(sync="manual") as db:
        db[b"huge"] = source
        db[b"small"] = b"s"
        source.close()
        target = mmap.mmap(-1, size)
        assert db.get_into(b"huge", target) == size
        for at, text in marks.items():
            assert target[at : at + len(text)] == text
        assert target[1000 : 1 << 20] == bytes((1 << 20) - 1000)
        target.close()
        assert db[b"small"] == b"s"
        assert db.delete(b"huge")
        db.sync()
        assert os.stat(tmp_path / "store.mmkv").st_blocks * 512 < size // 10
