"""Real files, read by a reader that knows nothing but docs/format.md, hold exactly what a dict holds."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xxhash import xxh3_64_intdigest as xxh3

from tests.format import reader
from tests.support import Child, check_report, random_bytes

SHARDS = (1, 64, 1024)
HEADER = 12
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "format.md"


def check_open(db: Any, path: Path, expected: dict[bytes, bytes], durable: dict[bytes, bytes] | None = None) -> None:
    """What is in an idle, open store now and, in a copy that has lost all else, what its last checkpoint has."""
    contents = reader.read_current(path)
    assert contents.problems == []
    assert contents.records == expected
    if durable is not None:
        contents = reader.read_checkpoint(copied(path))
        assert contents.problems == []
        assert contents.records == durable
        assert contents.epoch == db.durable_epoch
    check_report(db.verify(), path)


def check_closed(path: Path, expected: dict[bytes, bytes]) -> reader.Contents:
    """A store that was closed is its checkpoint, and nothing else."""
    contents = reader.read_checkpoint(path)
    assert contents.problems == []
    assert contents.clean
    assert contents.records == expected
    current = reader.read_current(path)
    assert current.problems == []
    assert current.records == expected
    return contents


def copied(path: Path) -> Path:
    """A copy of a file that may be in use: what is in the page cache, under another identity."""
    return Path(shutil.copyfile(path, path.with_name("copy.mmkv")))


def change(rng: random.Random, db: Any, model: dict[bytes, bytes], operations: int) -> None:
    """Puts, overwrites and deletes, alike in store and model; one value in a hundred has a place of its own."""
    for _ in range(operations):
        kind = rng.random()
        if model and kind < 0.3:
            key = rng.choice(list(model)) if len(model) < 100 else b"%d" % rng.randrange(4000)
            if model.pop(key, None) is not None:
                del db[key]
            continue
        key = b"%d" % rng.randrange(4000)
        if kind > 0.99:
            size = rng.randrange(16_000, 300_000)
        else:
            size = int(2 ** rng.uniform(0, 12)) - 1
        value = random_bytes(rng, size)
        db.put(key, value)
        model[key] = value


def test_worked_stamps() -> None:
    """Also far behind the end of any file of these tests."""
    rows = re.findall(r"^\| `fmt_stamp\((0x\w+),(0x\w+)\)` \| `(0x\w+)` \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert len(rows) >= 5
    for epoch, offset, value in rows:
        assert reader.stamp(int(epoch, 16), int(offset, 16)) == int(value, 16)


def test_the_table_of_size_classes() -> None:
    rows = re.findall(r"^\| (\d+(?: \| \d+){7}) \|$", DOCUMENT.read_text(), re.MULTILINE)
    expected = []
    for class_ in range(reader.CLASSES):
        size = reader.class_size(class_)
        blocks = [reader.chunk_blocks(4096 << order, size) for order in range(5)]
        expected.append([class_, size, *blocks, reader.blocks_at(blocks[-1])])
    assert [[int(cell) for cell in row.split(" | ")] for row in rows] == expected


# ---- what a file holds ----


@pytest.mark.parametrize("shards", SHARDS)
def test_an_empty_store(shards: int, open_store: Any, path: Path) -> None:
    with open_store(shards=shards) as db:
        check_open(db, path, {}, {})
    contents = check_closed(path, {})
    assert (contents.epoch, contents.shards, contents.zones) == (1, shards, [])


@pytest.mark.parametrize("shards", SHARDS)
def test_one_record(shards: int, open_store: Any, path: Path) -> None:
    with open_store(shards=shards) as db:
        db.put(b"key", b"value")
        check_open(db, path, {b"key": b"value"}, {})
        db.sync()
        check_open(db, path, {b"key": b"value"}, {b"key": b"value"})
    assert check_closed(path, {b"key": b"value"}).epoch >= 2


@pytest.mark.parametrize("shards", SHARDS)
def test_records_around_the_size_of_every_class(shards: int, open_store: Any, path: Path, rng: random.Random) -> None:
    model: dict[bytes, bytes] = {}
    for class_ in range(reader.CLASSES):
        # The first few of a long class have places of their own.
        for size in [reader.class_size(class_) + more for more in (-1, 0, 1)] * 12:
            key = random_bytes(rng, rng.randrange(2, min(size - HEADER, 300) + 1))
            while key in model:
                key = random_bytes(rng, len(key))
            model[key] = random_bytes(rng, size - HEADER - len(key))
    with open_store(shards=shards) as db:
        db.update(model)
        check_open(db, path, model, {})
    extents = check_closed(path, model).extents
    classes = {extent.class_ for extent in extents if extent.type == reader.CHUNK}
    assert any(extent.type == reader.VALUE for extent in extents)
    if shards == 1:
        assert classes == set(range(reader.CLASSES))


@pytest.mark.parametrize("shards", SHARDS)
def test_the_shortest_and_the_longest(shards: int, open_store: Any, path: Path, rng: random.Random) -> None:
    model = {b"": b"", b"k": b"", bytes(1): bytes(1), b"\xff" * 65_535: b"", b"\xfe" * 65_535: b"v"}
    for size in (16 << 10, 16_336 - HEADER - 2, 65_535, 65_536, 1 << 20, (3 << 20) + 1, 5_000_000):
        model[b"%d" % size] = random_bytes(rng, size)
    model[b"\xfd" * 65_535] = random_bytes(rng, 2 << 20)
    with open_store(shards=shards) as db:
        db.update(model)
        db.sync()
        check_open(db, path, model, model)
        for key in list(model):
            model[key] = model[key] * 2 + b"x"
            db.put(key, model[key])
        check_open(db, path, model)
    check_closed(path, model)


@pytest.mark.parametrize("shards", SHARDS)
def test_changes_with_checkpoints_between(shards: int, open_store: Any, path: Path, rng: random.Random) -> None:
    """After each sync follow changes that are not synced: the checkpoint keeps what they remove and overwrite."""
    model: dict[bytes, bytes] = {}
    durable: dict[bytes, bytes] = {}
    db = open_store(shards=shards)
    for turn in range(8):
        change(rng, db, model, rng.choice([1, 30, 1500]))
        check_open(db, path, model, durable)
        if turn % 2 == 0:
            db.sync()
            durable = dict(model)
            check_open(db, path, model, durable)
        elif turn % 4 == 1:
            db.close()
            check_closed(path, model)
            db = open_store()
            durable = dict(model)
            check_open(db, path, model, durable)
    # The engine's recovery and the reader find the same.
    change(rng, db, model, 300)
    check_open(db, path, model, durable)
    with open_store("copy.mmkv") as recovered:
        assert dict(recovered) == durable
        check_open(recovered, path.with_name("copy.mmkv"), durable)
        change(rng, recovered, durable, 300)
        check_open(recovered, path.with_name("copy.mmkv"), durable)
    check_closed(path.with_name("copy.mmkv"), durable)
    db.close()
    check_closed(path, model)


@pytest.mark.parametrize("shards", SHARDS)
def test_growth(shards: int, open_store: Any, path: Path, rng: random.Random) -> None:
    model = {b"%d" % i: random_bytes(rng, rng.randrange(40)) for i in range(40_000)}
    with open_store(shards=shards) as db:
        db.update(model)
        if shards == 1:
            directory = int.from_bytes(path.read_bytes()[0x30010:0x30018], "little")
            assert directory & 63 > 6, "the directory has not outgrown the shard"
        check_open(db, path, model, {})
        db.sync()
        durable = dict(model)
        for key in rng.sample(list(model), 30_000):
            del model[key]
            del db[key]
        check_open(db, path, model, durable)
    check_closed(path, model)
    with open_store() as db:
        check_open(db, path, model, model)
        db.update(durable)
        check_open(db, path, durable, model)
    check_closed(path, durable)


@pytest.mark.parametrize("shards", SHARDS)
def test_clear(shards: int, open_store: Any, path: Path, rng: random.Random) -> None:
    model: dict[bytes, bytes] = {}
    with open_store(shards=shards) as db:
        change(rng, db, model, 2000)
        db.sync()
        db.clear()
        check_open(db, path, {}, model)
        db.put(b"after", b"it")
        check_open(db, path, {b"after": b"it"}, model)
        db.sync()
        check_open(db, path, {b"after": b"it"}, {b"after": b"it"})
        db.clear()
    check_closed(path, {})


def test_closed_without_a_checkpoint(open_store: Any, path: Path, rng: random.Random) -> None:
    """A file that is dirty, and that nobody has open, still has everything as long as its pages are cached."""
    model: dict[bytes, bytes] = {}
    with open_store(sync="manual") as db:
        change(rng, db, model, 500)
        db.sync()
        durable = dict(model)
        change(rng, db, model, 500)
        check_open(db, path, model, durable)
    assert reader.read_current(path).records == model
    if (contents := reader.read_checkpoint(path)).clean:
        assert contents.records == model
    else:
        assert contents.records == durable
    with open_store("store.mmkv", "w") as db:
        check_open(db, path, model)
    check_closed(path, model)


@pytest.mark.parametrize("shards", SHARDS)
def test_pages_of_different_moments(shards: int, open_store: Any, path: Path, rng: random.Random) -> None:
    """What a power cut leaves: each page as it was at some moment after the checkpoint."""
    model: dict[bytes, bytes] = {}
    copy = path.with_name("copy.mmkv")
    with open_store(shards=shards) as db:
        change(rng, db, model, 1500)
        for _ in range(2):
            db.sync()
            durable = dict(model)
            moments = [path.read_bytes()]
            for _ in range(3):
                change(rng, db, model, 500)
                moments.append(path.read_bytes())
            check_open(db, path, model, durable)
            for _ in range(2):
                # Of what the file has grown by, any part may be missing.
                length = rng.choice([len(moment) for moment in moments])
                with open(copy, "wb") as file:
                    for page in range(0, length, 4096):
                        piece = rng.choice(moments)[page : page + 4096]
                        if any(piece):
                            os.pwrite(file.fileno(), piece, page)
                    file.truncate(length)
                contents = reader.read_checkpoint(copy)
                assert contents.problems == []
                assert contents.records == durable
                with open_store("copy.mmkv", "w") as recovered:
                    check_open(recovered, copy, durable)
                check_closed(copy, durable)
    check_closed(path, model)


def test_a_killed_writer(open_store: Any, path: Path) -> None:
    code = """
        import sys, mmkv
        db = mmkv.open(sys.argv[1])
        for i in range(3000):
            db[b"%d" % i] = b"x" * (i % 300)
            if i == 1500:
                db.sync()
        for i in range(1000):
            del db[b"%d" % i]
        print("done")
        sys.stdin.read()
    """
    model = {b"%d" % i: b"x" * (i % 300) for i in range(3000)}
    with Child(code, path) as child:
        assert child.line() == "done"
        child.kill()
    contents = reader.read_checkpoint(path)
    assert contents.problems == []
    assert not contents.clean
    assert contents.records == dict(list(model.items())[:1501])
    contents = reader.read_current(path)
    assert contents.problems == []
    assert contents.records == dict(list(model.items())[1000:])
    with open_store() as db:
        check_open(db, path, contents.records)
    check_closed(path, contents.records)


@pytest.mark.parametrize("filler", ["zeros", "ones", "noise"])
def test_nothing_volatile_is_needed(filler: str, open_store: Any, path: Path, rng: random.Random) -> None:
    """Promise 6, for the areas that the document calls volatile: reader and recovery are both indifferent to them."""
    model: dict[bytes, bytes] = {}
    with open_store(shards=8) as db:
        change(rng, db, model, 1500)
        db.sync()
        durable = dict(model)
        change(rng, db, model, 500)
        check_open(db, path, model, durable)
    # The last copy is of a dirty file.
    copy = path.with_name("copy.mmkv")
    contents = reader.read_checkpoint(copy)
    assert not contents.clean
    areas = [(0x3000, 0x16000), (0x28000, 0x30000 + 8 * 8192)]
    for zone in contents.zones:
        own = zone.offset + zone.descriptors
        areas.append((zone.offset, own if zone.kind == reader.HEAP else zone.end))
    for extent in contents.extents:
        if extent.type == reader.CHUNK:
            blocks = reader.chunk_blocks(extent.pages * 4096, reader.class_size(extent.class_))
            areas.append((extent.offset, extent.offset + reader.epochs_at(blocks)))
    fillers = {"zeros": bytes, "ones": lambda size: b"\xff" * size, "noise": rng.randbytes}
    with open(copy, "r+b") as file:
        for start, end in areas:
            os.pwrite(file.fileno(), fillers[filler](end - start), start)
    contents = reader.read_checkpoint(copy)
    assert contents.problems == []
    assert contents.records == durable
    with open_store("copy.mmkv", "w") as db:
        check_open(db, copy, durable)
    check_closed(copy, durable)


# ---- what the reader does not let pass ----


@pytest.fixture
def damaged(open_store: Any, path: Path) -> Callable[..., Path]:
    """Make a copy of a good file, and change one byte of it."""
    model = {b"%d" % i: b"%d" % i * (i % 50) for i in range(1000)} | {b"long": b"v" * 100_000, b"short": b"value"}
    with open_store(shards=4) as db:
        db.update(model)
        db.sync()
        check_open(db, path, model, model)
    check_closed(path, model)

    def flip(offset: int, mask: int = 1) -> Path:
        copy = copied(path)
        with open(copy, "r+b") as file:
            byte = os.pread(file.fileno(), 1, offset)[0]
            os.pwrite(file.fileno(), bytes([byte ^ mask]), offset)
        return copy

    return flip


@pytest.mark.parametrize("key", [b"short", b"long"])
def test_a_flipped_byte_in_a_record(key: bytes, damaged: Callable[..., Path], path: Path, rng: random.Random) -> None:
    good = reader.read_checkpoint(path)
    length = HEADER + len(key) + len(good.records[key])
    offsets = range(length) if length < 100 else [*range(20), length - 1, *rng.sample(range(length), 20)]
    for at in offsets:
        contents = reader.read_checkpoint(damaged(good.offsets[key] + at, 1 << rng.randrange(8)))
        assert any(f"{good.offsets[key]:#x}" in problem for problem in contents.problems), f"byte {at}"
        assert any("count and sum" in problem for problem in contents.problems), f"byte {at}"
        assert contents.records == {k: v for k, v in good.records.items() if k != key}
        # What is behind the record in its block has no meaning.
    if key == b"short":
        assert reader.read_checkpoint(damaged(good.offsets[key] + length)).problems == []


def test_flipped_bits_of_epoch_words(damaged: Callable[..., Path], path: Path, rng: random.Random) -> None:
    good = reader.read_checkpoint(path)
    chunk = next(extent for extent in good.extents if good.offsets[b"short"] in extent.records)
    blocks = reader.chunk_blocks(chunk.pages * 4096, reader.class_size(chunk.class_))
    block = (good.offsets[b"short"] - chunk.offset - reader.blocks_at(blocks)) // reader.class_size(chunk.class_)
    for bit in range(128):
        at = chunk.offset + reader.epochs_at(blocks) + 16 * block
        contents = reader.read_checkpoint(damaged(at + bit // 8, 1 << bit % 8))
        # Where born is a single bit it may look like one that was never published: then the count tells.
        assert contents.problems, f"bit {bit}"
        assert b"short" not in contents.records
    for extent in (chunk, next(extent for extent in good.extents if extent.type == reader.VALUE)):
        zone = next(zone for zone in good.zones if zone.offset <= extent.offset < zone.end)
        at = zone.offset + zone.descriptors + 32 * ((extent.offset - zone.offset) // 4096)
        for bit in (*range(192), *range(240, 256)):  # all but the volatile part of link
            contents = reader.read_checkpoint(damaged(at + bit // 8, 1 << bit % 8))
            assert contents.problems, f"bit {bit}"
            assert contents.records.keys() == good.records.keys() - set(extent.records.values())
        assert reader.read_checkpoint(damaged(at + 24 + rng.randrange(6))).problems == []


@pytest.mark.parametrize("field", ["superblock", "zone"])
def test_what_cannot_be_read_is_refused(field: str, damaged: Callable[..., Path]) -> None:
    start, size = {"superblock": (0, 128), "zone": (0x18000, 32)}[field]
    for at in range(start, start + size):
        reason = "not a store" if at < 8 else "other version" if at < 12 else "corrupt"
        with pytest.raises(reader.Refused, match=reason):
            reader.read_checkpoint(damaged(at))


def test_a_clean_word_counts_only_where_it_is_whole(damaged: Callable[..., Path], path: Path) -> None:
    good = reader.read_checkpoint(path)
    at = 0x1000 if good.epoch % 2 else 0x2000
    for bit in range(64):
        contents = reader.read_checkpoint(damaged(at + 128 + bit // 8, 1 << bit % 8))
        assert (contents.epoch, contents.clean, contents.problems) == (good.epoch, False, [])


def test_a_truncated_file_is_refused(damaged: Callable[..., Path], path: Path) -> None:
    end = reader.read_checkpoint(path).zones[-1].end
    for length in (0, 100, 128, 4096, 0x30000, end - 4096, end - 1):
        copy = copied(path)
        os.truncate(copy, length)
        with pytest.raises(reader.Refused):
            reader.read_checkpoint(copy)
    copy = copied(path)
    os.truncate(copy, end)
    assert reader.read_checkpoint(copy).problems == []


def test_the_older_slot_stands_in_for_a_damaged_one(open_store: Any, path: Path) -> None:
    with open_store() as db:
        db[b"key"] = b"value"
        db.sync()
        check_open(db, path, {b"key": b"value"}, {b"key": b"value"})
        assert db.durable_epoch == 2
        copy = copied(path)
    open_store.expect_damage(copy)
    with open(copy, "r+b") as file:
        os.pwrite(file.fileno(), b"\xff", 0x2000 + 32)
        contents = reader.read_checkpoint(copy)
        assert (contents.epoch, contents.clean, contents.records, contents.problems) == (1, False, {}, [])
        os.pwrite(file.fileno(), b"\xff", 0x1000 + 32)
    with pytest.raises(reader.Refused):
        reader.read_checkpoint(copy)


def test_flipped_bits_of_the_index(damaged: Callable[..., Path], path: Path) -> None:
    """Of the volatile state only `read_current` takes notice."""
    good = reader.read_checkpoint(path)
    data = path.read_bytes()

    def word(offset: int) -> int:
        return int.from_bytes(data[offset : offset + 8], "little")

    shard = 0x30000 + 8192 * (xxh3(b"short", word(56)) >> 62)
    directory, depth = word(shard + 16) & ~63, word(shard + 16) & 63
    tables = {word(directory + 8 * i) & ~63 for i in range(1 << depth)}
    entries = (line + 8 * i for table in tables for line in range(table + 64, table + 4096, 64) for i in range(1, 8))
    place = good.offsets[b"short"] // 16
    # The entry counts where its tag byte is not 0.
    entry = next(at for at in entries if word(at) % (1 << 43) == place and data[at // 64 * 64 + at % 64 // 8 - 1] % 128)
    now = 8 * (word(shard + 96) & 1)
    zone = next(zone for zone in good.zones if zone.kind == reader.INDEX)
    for offset in (
        *(entry, entry + 5, entry + 7, entry // 64 * 64 + entry % 64 // 8 - 1, min(tables), min(tables) + 8),
        *(shard + 16, shard + 104 + now, shard + 120 + now, shard + 136, shard + 144, shard + 152),
        *(0x14010, 0x14030, 0x28000, zone.offset + 2),
    ):
        copy = damaged(offset)
        assert reader.read_checkpoint(copy).problems == []
        contents = reader.read_current(copy)
        assert contents.problems != [], f"at {offset:#x}"
        if offset != 0x14010:  # what zone_count does not count is not looked for
            assert contents.records == good.records
