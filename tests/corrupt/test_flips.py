"""Any single flipped bit: found by the open or by verify(), or without consequence. Never a wrong answer."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest

import mmkv
from tests.corrupt.live import Live
from tests.support import random_bytes

State = Literal["clean", "dirty"]
PARTS = 8  # of the long run, for pytest -n
SIZES = (0, 5, 30, 100, 250, 700, 1500, 3000, 5000, 17_000)


class Sample(NamedTuple):
    """A store's file, what it holds, and what the checkpoint before held."""

    content: bytes
    model: dict[bytes, bytes]
    before: dict[bytes, bytes]


def make(path: Path, state: State, seed: int = 1) -> Sample:
    """Records of several classes and of extents of their own, dead ones that wait, free pages, split tables."""
    rng = random.Random(seed)
    model = {b"%s %d" % (b"key" * (i % 5), i): random_bytes(rng, size) for i, size in enumerate(SIZES)}
    db = mmkv.open(path, "n", shards=2, sync="manual" if state == "dirty" else "close")
    try:
        db.update(model)
        while db.stats().tables < 5:  # one shard has three, so that two words of its directory lead to one of them
            more = {b"%d" % i: b"" for i in range(len(model), len(model) + 10)}
            db.update(more)
            model.update(more)
        db[b"goes"] = bytes(40_000)
        db.sync()
        del db[b"goes"]
        before = dict(db)
        db.sync()
        for key in rng.sample(sorted(model), 60):
            model[key] = random_bytes(rng, rng.choice(SIZES[:5]))
            db[key] = model[key]
        for key in rng.sample(sorted(model), 40):
            del db[key], model[key]
        assert db.verify().ok
    finally:
        db.close()
    return Sample(path.read_bytes(), model, before)


class File:
    """The file, in which one bit at a time is other than it was."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content
        # In place: the identity of a dirty file is that of its inode.
        self.fd = os.open(path, os.O_RDWR)

    def restore(self) -> None:
        os.pwrite(self.fd, self.content, 0)

    def flip(self, bit: int) -> None:
        at = bit // 8
        os.pwrite(self.fd, bytes([self.content[at] ^ 1 << bit % 8]), at)

    def mend(self, bit: int) -> None:
        os.pwrite(self.fd, self.content[bit // 8 : bit // 8 + 1], bit // 8)

    def close(self) -> None:
        os.close(self.fd)


def look(path: Path, mode: Any, *models: dict[bytes, bytes]) -> mmkv.Report | None:
    """Open and verify: None when refused. A store that is called sound has to hold exactly one of the models."""
    try:
        with mmkv.open(path, mode, lock_timeout=1) as db:
            report: mmkv.Report = db.verify()
            if report.ok:
                assert dict(db) in models
                keys = list(models[0])
                assert dict(zip(keys, db.get_many(keys), strict=True)) in ({k: m.get(k) for k in keys} for m in models)
            return report
    except (mmkv.CorruptStoreError, mmkv.NotAStoreError, mmkv.VersionError, mmkv.ReadOnlyError):
        return None


def sampled(live: Live, rng: random.Random, each: int) -> Iterator[tuple[str, int]]:
    for name, bits in live.bits.items():
        for bit in rng.sample(bits, min(each, len(bits))):
            yield name, bit


def run(path: Path, state: State, bits_of: Callable[[Live], Iterable[tuple[str, int]]]) -> None:
    sample = make(path, state)
    live = Live(sample.content, clean=state == "clean")
    file = File(path, sample.content)
    missed: list[str] = []
    try:
        assert (report := look(path, "r", sample.model)) is not None
        assert report.ok
        for name, bit in bits_of(live):
            file.flip(bit)
            report = look(path, "r", sample.model)
            file.mend(bit)
            if report is not None and report.ok:
                missed.append(f"{name} at {bit // 8:#x} bit {bit % 8}")
    finally:
        file.close()
    assert not missed, "\n".join(missed)


@pytest.mark.parametrize("state", ["clean", "dirty"])
def test_a_flipped_bit_of_what_is_live_is_found(path: Path, rng: random.Random, state: State) -> None:
    run(path, state, lambda live: sampled(live, rng, each=10))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("state", ["clean", "dirty"])
def test_every_flipped_bit_of_what_is_live_is_found(path: Path, state: State, part: int) -> None:
    run(path, state, lambda live: itertools.islice(live, part, None, PARTS))


@pytest.mark.parametrize("state", ["clean", "dirty"])
def test_no_flipped_bit_anywhere_gives_a_wrong_answer(path: Path, rng: random.Random, state: State) -> None:
    """Live or not."""
    sample = make(path, state)
    file = File(path, sample.content)
    used = [at for at in range(len(sample.content)) if sample.content[at]]
    for _ in range(150):
        bit = 8 * rng.choice((rng.choice(used), rng.randrange(len(sample.content)))) + rng.randrange(8)
        file.flip(bit)
        look(path, "r", sample.model)
        file.mend(bit)
    file.close()


def test_a_flipped_bit_is_found_by_recovery_or_mended(path: Path, rng: random.Random) -> None:
    """After a power cut: what is durable is refused or as it was; what is not is made anew."""
    sample = make(path, "dirty")
    lost = bytearray(sample.content)
    lost[0x3000:0x3010] = bytes(16)  # the identity
    path.write_bytes(lost)
    with mmkv.open(path, "p") as db:
        checkpoint = dict(db)
    file = File(path, bytes(lost))
    outcomes = set()
    for name, bit in sampled(Live(bytes(lost), clean=False), rng, 4):
        file.flip(bit)
        # A newer slot that does not hold is taken for one that was being written when the power failed.
        older = (sample.before,) if name == "fmt_slot (newer)" else ()
        report = look(path, "p", checkpoint, *older)
        # The other slot is written by the next checkpoint; until then it is reported.
        assert report is None or report.ok or name.startswith("fmt_slot"), f"{name}: recovered, and yet {report}"
        outcomes.add(report is None)
        file.mend(bit)
    file.close()
    assert outcomes == {True, False}


def test_a_damaged_record_is_named(path: Path, rng: random.Random) -> None:
    """Its key where that can be read, and where it lies."""
    sample = make(path, "clean")
    live = Live(sample.content, clean=True)
    file = File(path, sample.content)
    for bit in rng.sample(live.bits["record"], 60):
        file.flip(bit)
        report = look(path, "r", sample.model)
        file.mend(bit)
        assert report is not None
        named = [e for e in report.errors if e.kind in ("checksum", "record")]
        assert named, f"bit {bit % 8} of {bit // 8:#x}: {report}"
        assert 0 <= bit // 8 - named[0].offset < 12 + 30 + max(SIZES)
        start = named[0].offset + 12
        length = int.from_bytes(sample.content[start - 8 : start - 6], "little")
        if bit // 8 >= start + length:  # of the value
            assert sample.content[start : start + length] in [e.key for e in report.errors]
    file.close()
