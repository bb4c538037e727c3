"""Inputs of the fuzz target, as fuzz.h has them: patches, in the terms of the format, on one of a few stores."""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple

from tests.format.document import DOCUMENT, structures_of

STRUCTURES = structures_of(DOCUMENT.read_text())
STORES = ["clean", "one", "dirty", "lost", "large", "deep", "empty"]
MODES = {"w": 0, "r": 1, "p": 2}
FIX = 16
MASK = (1 << 64) - 1


class Area(enum.IntEnum):
    """What a patch can aim at."""

    SUPERBLOCK, SLOT, CONTROL, PROCESS, ALLOCATOR, ALLOCATOR_LOG, ZONE, ZONE_STATE, SHARD, CLASS = range(10)
    EMBEDDED, SHARD_LOG, BITMAP, EXTENT, CHUNK, EPOCHS, RECORD, TABLE, DIRECTORY, RAW = range(10, 20)


class Op(enum.IntEnum):
    """How a patch changes what is there."""

    SET, XOR, ADD, POINT = range(4)


STRUCTURE_OF = {
    Area.SUPERBLOCK: "fmt_superblock",
    Area.SLOT: "fmt_slot",
    Area.CONTROL: "fmt_control",
    Area.PROCESS: "fmt_process",
    Area.ALLOCATOR: "fmt_allocator",
    Area.ALLOCATOR_LOG: "fmt_log",
    Area.ZONE: "fmt_zone",
    Area.ZONE_STATE: "fmt_zone_state",
    Area.SHARD: "fmt_shard",
    Area.CLASS: "fmt_class",
    Area.SHARD_LOG: "fmt_log",
    Area.EXTENT: "fmt_extent",
    Area.CHUNK: "fmt_chunk",
    Area.EPOCHS: "fmt_epochs",
    Area.RECORD: "fmt_record",
    Area.TABLE: "fmt_table",
}


class Patch(NamedTuple):
    """One change: `width` bytes (1, 2, 4 or 8) at an offset in structure number `index` of an area."""

    area: Area
    index: int
    offset: int
    value: int
    width: int = 8
    op: Op = Op.SET
    fix: bool = True

    def pack(self) -> bytes:
        how = self.width.bit_length() - 1 | self.op << 2 | (FIX if self.fix else 0)
        return struct.pack("<BBHIQ", self.area, how, self.index, self.offset, self.value & MASK)


def field(
    area: Area, name: str, value: int, *, index: int = 0, item: int = 0, op: Op = Op.SET, fix: bool = True
) -> Patch:
    """A patch of a field, or of one item of an array; `fix` makes the check over it good again."""
    found = next(f for f in STRUCTURES[STRUCTURE_OF[area]].fields if f.name == name)
    width = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}.get(found.type.split("[")[0], 8)
    return Patch(area, index, found.offset + width * item, value, width, op, fix)


def to(area: Area, index: int = 0, more: int = 0) -> int:
    """The value for Op.POINT: the offset of a structure, and more."""
    return area | index << 8 | (more & 0xFFFFFFFF) << 32


def pack(patches: list[Patch], store: str = "clean", mode: str = "w", length: int = 0) -> bytes:
    """An input. `length`: pages that the file is shorter; from 128 on, pages of noise after it."""
    header = struct.pack("<BBBB", STORES.index(store), MODES[mode], length, 0)
    return header + b"".join(patch.pack() for patch in patches)


def describe(data: bytes) -> str:
    """An input as Python, to be made a named one of."""
    if len(data) < 4:
        return repr(data)
    store, mode, length = STORES[data[0] % len(STORES)], "wrpw"[data[1] & 3], data[2]
    lines = [f"pack(..., store={store!r}, mode={mode!r}, length={length})" + (", raw" if data[1] & 4 else "")]
    for at in range(4, len(data) - 15, 16):
        area, how, index, offset, value = struct.unpack_from("<BBHIQ", data, at)
        lines.append(
            f"    Patch(Area.{Area(area % 20).name}, {index}, {offset}, {value:#x}, {1 << (how & 3)}, "
            f"Op.{Op(how >> 2 & 3).name}, {bool(how & FIX)}),"
        )
    return "\n".join(lines)
