"""An independent reader of mmkv files, written from docs/format.md alone: no engine, no header, only struct and mmap.

`read_checkpoint` gives what recovery would give (sections Liveness and Reading a file): every record as of the winning
checkpoint slot. `read_current` gives what a file holds now whose volatile state is to be believed, that of a store that
is open but idle or of one that was closed; it also walks the index and compares it, the counters and the free maps with
what is found in the heap.

    python -m tests.format.reader [--current] FILE
"""

from __future__ import annotations

import mmap
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path

from xxhash import xxh3_64_intdigest as xxh3

U64 = (1 << 64) - 1
EPOCH = (1 << 48) - 1
PAGE = 4096
SLOTS = (0x1000, 0x2000)
CONTROL, ALLOCATOR, ZONES, ZONE_STATES, SHARDS = 0x3000, 0x14000, 0x18000, 0x28000, 0x30000
HEAP, INDEX = 1, 2
CHUNK, VALUE = 1, 2
CLASSES = 60
ALONE = 7

SUPERBLOCK = struct.Struct("<8sIIQQQ16sQIIQQ32xQ")
SLOT = struct.Struct("<8sQQQQQQQQ48xQQ")
ZONE = struct.Struct("<QQIIQ")
EXTENT = struct.Struct("<QQIHBBQ")
EPOCHS = struct.Struct("<QQ")
CHUNK_HEADER = struct.Struct("<QQIIIIQHBBIQQ")
TABLE_HEADER = struct.Struct("<QII24s24x")
LINE = struct.Struct("<8s7Q")


class Refused(Exception):
    """The file cannot be read at all."""


@dataclass
class Zone:
    """An entry of the zone table, with what follows from it."""

    number: int
    offset: int
    pages: int
    kind: int

    @property
    def end(self) -> int:
        """Where the next zone begins."""
        return self.offset + self.pages * PAGE

    @property
    def descriptors(self) -> int:
        """D of the document: the descriptors' distance from the start of the zone."""
        return 64 * -(-16 * -(-self.pages // 64) // 64)

    @property
    def own(self) -> int:
        """M of the document: the number of pages that are the zone's own."""
        return -(-(self.descriptors + (32 * self.pages if self.kind == HEAP else 0)) // PAGE)


@dataclass
class Extent:
    """A live extent and where its live records are."""

    offset: int
    pages: int
    shard: int
    class_: int
    type: int
    records: dict[int, bytes] = field(default_factory=dict)  # offset of the record -> key
    blocks: int = 0  # bit b: block b is live


@dataclass
class Contents:
    """What was found in a file."""

    epoch: int
    """That of the winning slot."""
    clean: bool
    """Whether the file was closed in an orderly way."""
    shards: int
    zones: list[Zone] = field(default_factory=list)
    extents: list[Extent] = field(default_factory=list)
    records: dict[bytes, bytes] = field(default_factory=dict)
    offsets: dict[bytes, int] = field(default_factory=dict)
    """Where in the file each record begins."""
    problems: list[str] = field(default_factory=list)
    """One line for each contradiction; none in a good file."""


def stamp(epoch: int, offset: int) -> int:
    """The epoch word for `epoch` at `offset`."""
    return epoch | (((epoch * 0x9E3779B97F4A7C15 + offset * 0xD6E8FEB86659FD93) & U64) >> 48) << 48


def blocks_at(blocks: int) -> int:
    """Where the first block begins in a chunk of so many."""
    return -(-(epochs_at(blocks) + 16 * blocks) // 64) * 64


def epochs_at(blocks: int) -> int:
    """Where the epoch words begin in a chunk of so many blocks."""
    return 64 + -(-8 * -(-blocks // 64) // 16) * 16


@cache
def class_size(class_: int) -> int:
    """The size of the blocks of a class."""
    if class_ < 8:
        return 16 * (class_ + 1)
    if class_ < 48:
        doubling, step = divmod(class_ - 8, 8)
        return (128 << doubling) + (16 << doubling) * (step + 1)
    blocks = 15 - (class_ - 48)
    return (65536 - blocks_at(blocks)) // blocks // 16 * 16


@cache
def chunk_blocks(length: int, size: int) -> int:
    """How many blocks of `size` bytes a chunk of `length` bytes has."""
    blocks = length // size
    while blocks and blocks_at(blocks) + blocks * size > length:
        blocks -= 1
    return blocks


def bits(first: int, count: int) -> int:
    """`count` bits from bit `first` on."""
    return ((1 << count) - 1) << first


class Reader:
    """One file, mapped; `read` does the work."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        if len(data) < SUPERBLOCK.size:
            raise Refused("not a store: too short")
        (magic, version, page, _, _, incompat, _, self.seed, self.shards, processes, _, self.zones_start, checksum) = (
            SUPERBLOCK.unpack_from(data)
        )
        if magic != b"\x89MMKV\r\n\x1a":
            raise Refused("not a store: magic")
        if version != 1:
            raise Refused(f"other version: {version}")
        if xxh3(data[:120], 0) != checksum:
            raise Refused("corrupt: superblock")
        if incompat:
            raise Refused(f"other version: incompat features {incompat:#x}")
        if page != PAGE or processes != 1024 or self.shards not in [1 << s for s in range(11)]:
            raise Refused("corrupt: a field of the superblock")
        if self.zones_start != -(-(SHARDS + self.shards * 8192) // 65536) * 65536:
            raise Refused("corrupt: zones_start")
        if len(data) < self.zones_start:
            raise Refused("truncated")
        self.shift = self.shards.bit_length() - 1
        self.file_length, self.record_count, self.record_sum = 0, 0, 0
        self.contents = self._winner()
        self.problems = self.contents.problems

    def u32(self, offset: int) -> int:
        """The 32-bit integer at `offset`."""
        return int.from_bytes(self.data[offset : offset + 4], "little")

    def u64(self, offset: int) -> int:
        """The 64-bit integer at `offset`."""
        return int.from_bytes(self.data[offset : offset + 8], "little")

    def _winner(self) -> Contents:
        # The newest valid slot.
        valid = []
        for at in SLOTS:
            magic, epoch, *_, checksum, _ = SLOT.unpack_from(self.data, at)
            good = magic == b"mmkvCKPT" and xxh3(self.data[at : at + 120], self.seed ^ at) == checksum
            if good and 1 <= epoch <= EPOCH - 1:
                valid.append((epoch, -at))
        if not valid:
            raise Refused("corrupt: no valid slot")
        epoch, at = max(valid)
        at = -at
        slot = SLOT.unpack_from(self.data, at)
        _, _, self.file_length, self.record_count, self.record_sum, _, _, length, user, _, clean = slot
        contents = Contents(epoch, clean == stamp(epoch, at + 128), self.shards)
        if length > 3584 or (length and xxh3(self.data[at + 512 : at + 512 + length], self.seed ^ at) != user):
            contents.problems.append("user metadata are damaged")
        return contents

    def read(self, current: bool) -> Contents:
        """Read everything, as of the winning slot or as of now."""
        limit, count = (self.u64(CONTROL + 80), self.u64(ALLOCATOR + 16)) if current else (self.file_length, 2048)
        if len(self.data) < limit:
            raise Refused(f"truncated: {len(self.data)} bytes of {limit}")
        self.contents.zones = list(islice(self._zones(limit), min(count, 2048)))
        end = self.contents.zones[-1].end if self.contents.zones else self.zones_start
        if not current and end != limit:
            raise Refused(f"corrupt: the zones end at {end:#x}, not at {limit:#x}")
        # Dead now is the same as dead at an epoch that no death is above.
        epoch = EPOCH if current else self.contents.epoch
        for zone in self.contents.zones:
            if zone.kind == HEAP:
                self.contents.extents += self._extents(zone, epoch)
        total = 0
        for extent in self.contents.extents:
            for offset, key in extent.records.items():
                total = (total + self.u32(offset)) & U64
                if key in self.contents.offsets:
                    self.problems.append(f"{key[:40]!r} is in the heap twice")
                self.contents.offsets[key] = offset
        found = (sum(len(extent.records) for extent in self.contents.extents), total)
        if not current and found != (self.record_count, self.record_sum):
            self.problems.append(f"count and sum {found}, not {(self.record_count, self.record_sum)} as the slot says")
        if current:
            self._check_volatile()
        return self.contents

    # ---- durable ----

    def _zones(self, limit: int) -> Iterator[Zone]:
        end = self.zones_start
        for number in range(2048):
            at = ZONES + 32 * number
            offset, pages, kind, _, checksum = ZONE.unpack_from(self.data, at)
            zone = Zone(number, offset, pages, kind)
            if xxh3(self.data[at : at + 24], self.seed ^ at) != checksum or offset != end or kind not in (HEAP, INDEX):
                return
            if not 64 <= pages < 1 << 32 or pages % 16 or zone.end > limit:
                return
            yield zone
            end = zone.end

    def _live(self, offset: int, epoch: int) -> bool:
        # The section Liveness, for the two epoch words at `offset`.
        born, dead = EPOCHS.unpack_from(self.data, offset)
        if born == 0:
            return False
        if born & EPOCH == 0 or stamp(born & EPOCH, offset) != born:
            self.problems.append(f"bad born {born:#x} at {offset:#x}")
            return False
        if born & EPOCH > epoch:
            return False
        if stamp(dead & EPOCH, offset + 8) != dead:
            self.problems.append(f"bad dead {dead:#x} at {offset + 8:#x}")
            return False
        return bool(dead & EPOCH == 0 or dead & EPOCH > epoch)

    def _extents(self, zone: Zone, epoch: int) -> Iterator[Extent]:
        page = zone.own
        while page < zone.pages:
            at = zone.offset + zone.descriptors + 32 * page
            page += 1
            if not self._live(at, epoch):
                continue
            _, _, pages, shard, class_, type_, link = EXTENT.unpack_from(self.data, at)
            check = ((self.u64(at + 16) * 0x9E3779B97F4A7C15 + at * 0xD6E8FEB86659FD93) & U64) >> 48
            in_zone = pages >= 1 and page - 1 + pages <= zone.pages
            if link >> 48 != check or type_ not in (CHUNK, VALUE) or shard >= self.shards or not in_zone:
                self.problems.append(f"bad descriptor at {at:#x}")
                continue
            extent = Extent(zone.offset + (page - 1) * PAGE, pages, shard, class_, type_)
            page += pages - 1
            if type_ == VALUE:
                self._read_record(extent, extent.offset, ALONE, pages * PAGE)
            elif not self._read_chunk(extent, epoch):
                continue
            yield extent

    def _read_chunk(self, extent: Extent, epoch: int) -> bool:
        length = extent.pages * PAGE
        order = extent.pages.bit_length() - 1
        good = extent.pages in (1, 2, 4, 8, 16) and extent.offset % length == 0 and extent.class_ < CLASSES
        if not good or not (blocks := chunk_blocks(length, class_size(extent.class_))):
            self.problems.append(f"bad chunk at {extent.offset:#x}")
            return False
        size = class_size(extent.class_)
        for block in range(blocks):
            if self._live(extent.offset + epochs_at(blocks) + 16 * block, epoch):
                extent.blocks |= 1 << block
                self._read_record(extent, extent.offset + blocks_at(blocks) + block * size, order, size)
        return True

    def _read_record(self, extent: Extent, offset: int, place: int, room: int) -> None:
        if (record := self._record(offset, place, room)) is None:
            return
        key, value = record
        if (shard := self._parts(key)[0]) != extent.shard:
            self.problems.append(f"the record at {offset:#x} is of shard {shard}, not {extent.shard}")
            return
        extent.records[offset] = key
        self.contents.records[key] = value

    def _record(self, offset: int, place: int, room: int) -> tuple[bytes, bytes] | None:
        checksum, word = self.u32(offset), self.u64(offset + 4)
        key_length, flags, value_length = word & 0xFFFF, word >> 16 & 0xFF, word >> 24
        key_at = offset + (20 if flags & 8 else 12)
        if flags & ~8 != place or key_at - offset + key_length + value_length > room:
            self.problems.append(f"bad header of the record at {offset:#x}")
            return None
        expiry = self.u64(offset + 12) if flags & 8 else 0
        key = self.data[key_at : key_at + key_length]
        value = self.data[key_at + key_length : key_at + key_length + value_length]
        seed = (xxh3(key, self.seed) + (word & ~0x70000) + expiry) & U64
        if checksum != (xxh3(value, seed) + place * 0x9E3779B1) & 0xFFFFFFFF:
            self.problems.append(f"bad checksum of the record at {offset:#x}")
            return None
        return key, value

    def _parts(self, key: bytes) -> tuple[int, int, int, int]:
        # Of the key's hash: shard, depth bits, tag, home bucket.
        h = xxh3(key, self.seed)
        below = h << self.shift & U64
        tag = (below << 20 & U64) >> 57
        return h >> (64 - self.shift), below >> 44, tag or 1, (h & 0xFFFFFF) * 60 >> 24

    # ---- volatile ----

    def _check(self, what: str, found: object, expected: object) -> None:
        if found != expected:
            self.problems.append(f"{what}: {found}, not {expected}")

    def _check_volatile(self) -> None:
        records: list[dict[int, bytes]] = [{} for _ in range(self.shards)]
        chunks = [0] * self.shards
        for extent in self.contents.extents:
            records[extent.shard] |= extent.records
            if extent.type == CHUNK:
                chunks[extent.shard] += 1
                self._check_chunk(extent)
        self._check_pages()
        for shard in range(self.shards):
            at = SHARDS + 8192 * shard
            idle = (self.u32(at), self.u64(at + 8) & 1, self.u64(at + 2560))
            self._check(f"shard {shard}: lock, odd version, log", idle, (0, 0, 0))
            now = self.u64(at + 96) & 1
            sums = sum(self.u32(offset) for offset in records[shard]) & U64
            sizes = sum(len(key) + len(self.contents.records[key]) for key in records[shard].values())
            found, tables = self._index(shard, records[shard])
            self._check(f"shard {shard}: count", self.u64(at + 104 + 8 * now), len(records[shard]))
            self._check(f"shard {shard}: sum", self.u64(at + 120 + 8 * now), sums)
            self._check(f"shard {shard}: bytes", self.u64(at + 136), sizes)
            self._check(f"shard {shard}: tables", self.u64(at + 144), tables)
            self._check(f"shard {shard}: chunks", self.u64(at + 152), chunks[shard])
            for offset in found ^ records[shard].keys():
                where = "the index" if offset in found else "the heap"
                self.problems.append(f"shard {shard}: the record at {offset:#x} is in {where} only")

    def _check_pages(self) -> None:
        # What is live is not free, and the free pages are as many as is said.
        free = 0
        self._check("zone_count", self.u64(ALLOCATOR + 16), len(self.contents.zones))
        for zone in self.contents.zones:
            bitmap = int.from_bytes(self.data[zone.offset : zone.offset + 8 * -(-zone.pages // 64)], "little")
            taken = bits(0, zone.own)
            for extent in self.contents.extents:
                if zone.offset <= extent.offset < zone.end:
                    taken |= bits((extent.offset - zone.offset) // PAGE, extent.pages)
            self._check(f"zone {zone.number}: pages both taken and free", (taken & bitmap).bit_count(), 0)
            self._check(f"zone {zone.number}: free", self.u32(ZONE_STATES + 16 * zone.number), bitmap.bit_count())
            self._check(f"zone {zone.number}: bits behind its pages", bitmap >> zone.pages, 0)
            free += bitmap.bit_count()
        self._check("free_pages", self.u64(ALLOCATOR + 48), free)

    def _check_chunk(self, extent: Extent) -> None:
        where = f"chunk at {extent.offset:#x}"
        header = CHUNK_HEADER.unpack_from(self.data, extent.offset)
        _, _, live, free, waiting, _, _, shard, class_, order, blocks, _, _ = header
        expected = chunk_blocks(extent.pages * PAGE, class_size(extent.class_))
        bitmap = int.from_bytes(self.data[extent.offset + 64 : extent.offset + 64 + 8 * -(-expected // 64)], "little")
        found = (shard, class_, 1 << order, blocks)
        wanted = (extent.shard, extent.class_, extent.pages, expected)
        self._check(f"{where}: shard, class, pages, blocks", found, wanted)
        self._check(f"{where}: live", live, extent.blocks.bit_count())
        self._check(f"{where}: free", free, bitmap.bit_count())
        self._check(f"{where}: blocks", live + free + waiting, expected)
        self._check(f"{where}: both live and free", bitmap & extent.blocks, 0)
        self._check(f"{where}: free behind the last", bitmap >> expected, 0)

    def _index(self, shard: int, records: dict[int, bytes]) -> tuple[set[int], int]:
        # The offsets of the records that the index of a shard leads to, and the number of its tables.
        found: set[int] = set()
        tables = 0
        if not (word := self.u64(SHARDS + 8192 * shard + 16)):
            return found, tables
        directory, depth = word & ~63, word & 63
        index, count = 0, 1 << depth
        if depth > 20 or (directory != SHARDS + 8192 * shard + 2048 and not self._in_index(directory, 8 * count)):
            self.problems.append(f"shard {shard}: bad directory {word:#x}")
            return found, tables
        while index < count:
            word = self.u64(directory + 8 * index)
            table, bits_here = word & ~63, word & 63
            if bits_here > depth or table % PAGE or not self._in_index(table, PAGE):
                self.problems.append(f"shard {shard}: bad word {word:#x} of the directory")
                return found, tables
            same = 1 << (depth - bits_here)
            words = {self.u64(directory + 8 * i) for i in range(index, index + same)}
            self._check(f"table at {table:#x}: words that point to it", words, {word})
            self._table(table, (index << 20 >> depth, bits_here, shard), records, found)
            index += same
            tables += 1
        return found, tables

    def _in_index(self, offset: int, length: int) -> bool:
        return any(
            zone.kind == INDEX and zone.offset + zone.own * PAGE <= offset and offset + length <= zone.end
            for zone in self.contents.zones
        )

    def _table(self, table: int, identity: tuple[int, int, int], records: dict[int, bytes], found: set[int]) -> None:
        *header, stash_tags = TABLE_HEADER.unpack_from(self.data, table)
        self._check(f"table at {table:#x}: prefix, depth, shard", tuple(header), identity)
        next_line, stash = [0] * 60, [0] * 60  # by home bucket, entries that lie there
        stated = []
        for line in range(1, 64):
            tags, *entries = LINE.unpack_from(self.data, table + 64 * line)
            top = sum((tags[i] >> 7) << i for i in range(7))
            stated.append((top & 7, top >> 3))
            for i, entry in enumerate(entries):
                if not (tag := tags[i] & 127):
                    continue
                offset, displaced, depth_bits = (entry & bits(0, 43)) * 16, entry >> 43 & 1, entry >> 44
                if offset in found:
                    self.problems.append(f"the record at {offset:#x} is in the index twice")
                found.add(offset)
                if (key := records.get(offset)) is None:
                    continue  # reported by the caller
                _, expected, key_tag, home = self._parts(key)
                if line >= 61:
                    self._check(f"stash of {table:#x}: home bucket", tag, home + 1)
                    tag = stash_tags[8 * (line - 61) + i]
                    stash[home] += 1
                elif displaced:
                    self._check(f"table at {table:#x}: displaced to line", line, 1 + (home + 1) % 60)
                    next_line[home] += 1
                prefix = depth_bits >> (20 - identity[1]) << (20 - identity[1])
                wanted = (key_tag, expected, int(line != 1 + home), identity[0])
                self._check(f"entry {i} of line {line} of {table:#x}", (tag, depth_bits, displaced, prefix), wanted)
        self._check(f"table at {table:#x}: displaced", stated[:60], list(zip(next_line, stash, strict=True)))
        self._check(f"table at {table:#x}: top bits of the stash", stated[60:], [(0, 0)] * 3)


def _read(path: str | Path, current: bool) -> Contents:
    with open(path, "rb") as file:
        file.seek(0, 2)
        if file.tell() < SUPERBLOCK.size:
            raise Refused("not a store: too short")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return Reader(data).read(current)


def read_checkpoint(path: str | Path) -> Contents:
    """Read the state of the newest valid checkpoint slot: what recovery would give.

    Raises:
        Refused: nothing can be read.
    """
    return _read(path, False)


def read_current(path: str | Path) -> Contents:
    """Read the present state of a file whose volatile state is trusted and that nobody is changing right now.

    Raises:
        Refused: nothing can be read.
    """
    return _read(path, True)


def main(arguments: list[str]) -> int:
    """List the records of a file; problems go to standard error."""
    contents = _read(arguments[-1], "--current" in arguments[:-1])
    for key, value in contents.records.items():
        print(f"{contents.offsets[key]:#x}\t{key!r}\t{value!r}")
    for problem in contents.problems:
        print(problem, file=sys.stderr)
    return 1 if contents.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
