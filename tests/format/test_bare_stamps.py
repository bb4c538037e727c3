"""At one position in 65,536 the stamp of epoch 0, "alive", is a bare 0: what lives there is as alive as elsewhere.

Each test brings the descriptor of an extent to such a position: a zone whose pages are all free, one value that fills
them up to the page wanted, and then what is to live there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.corrupt.damage import flip, forget_the_boot
from tests.format.formulas import stamp
from tests.format.reader import HEAP, PAGE, Zone, read_checkpoint, read_current

ZONE = 16 << 20
CONTENTS = {"chunk": b"small", "value": b"large" * 4000}


def pages_for(key: bytes, pages: int) -> bytes:
    """A value that, with its key, has an extent of so many pages."""
    return bytes(pages * PAGE - len(key) - 12)


@dataclass
class Spot:
    """A store with free pages up to one whose descriptor is at such a position."""

    db: mmkv.Store
    path: Path
    zone: Zone
    page: int

    @property
    def descriptor(self) -> int:
        """Where it is in the file."""
        return self.zone.offset + self.zone.descriptors + 32 * self.page

    def words(self) -> tuple[int, int]:
        """Its born and its dead."""
        with open(self.path, "rb") as file:
            data = os.pread(file.fileno(), 16, self.descriptor)
        return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")

    def settle(self, content: bytes) -> None:
        """Put a record there."""
        self.db[b"before"] = pages_for(b"before", self.page - self.zone.own)
        self.db[b"there"] = content
        born, dead = self.words()
        assert born, "the record's extent is elsewhere"
        assert dead == 0


@pytest.fixture
def spot(open_store: Callable[..., mmkv.Store], tmp_path: Path) -> Spot:
    """The first store, by the length of what comes before its zone, that has such a position in the zone."""
    for filler in count(1):
        path = tmp_path / f"{filler}.mmkv"
        db = open_store(path, shards=1, sync="manual")
        db[b"filler"] = pages_for(b"filler", 64 + 16 * filler)
        db[b"large"] = bytes(ZONE)
        zone = max((z for z in read_current(path).zones if z.kind == HEAP), key=lambda z: z.pages)
        at = zone.offset + zone.descriptors + 8
        # Not the first page: something has to come before it.
        for page in range(zone.own + 1, zone.own + ZONE // PAGE - 10):
            if stamp(0, at + 32 * page) == 0:
                del db[b"large"]
                db.sync()
                return Spot(db, path, zone, page)
        db.close()
        path.unlink()
    raise AssertionError


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_lives_there_is_sound_and_damage_to_it_is_found(spot: Spot, kind: str) -> None:
    spot.settle(CONTENTS[kind])
    assert spot.db.verify().errors == []
    spot.db.sync()
    assert read_current(spot.path).problems == []
    assert read_checkpoint(spot.path).records[b"there"] == CONTENTS[kind]
    value = read_current(spot.path).offsets[b"there"] + 12 + len(b"there")
    flip(spot.path, value, 0)
    assert {problem.kind for problem in spot.db.verify().errors} == {"checksum"}
    flip(spot.path, value, 0)


@pytest.mark.parametrize("kind", CONTENTS)
def test_what_lived_there_at_the_checkpoint_is_recovered(spot: Spot, open_store: Any, kind: str) -> None:
    spot.settle(CONTENTS[kind])
    spot.db.sync()
    del spot.db[b"there"]
    assert spot.db.verify().errors == []
    spot.db.close()  # without a checkpoint
    forget_the_boot(spot.path)
    recovered = open_store(spot.path)
    assert recovered[b"there"] == CONTENTS[kind]
