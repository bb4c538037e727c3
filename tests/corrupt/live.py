"""Which bits of a store's file are live: all that something reads and believes.

The rest, by name, with the reason why it is not: a bit flipped there changes no answer, which the test checks too.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator

from tests.format.document import DOCUMENT, structures_of
from tests.format.formulas import blocks_at, chunk_blocks, class_size, epochs_at, zone_geometry

PAGE = 4096
STRUCTURES = structures_of(DOCUMENT.read_text())
EPOCH = (1 << 48) - 1

NOT_LIVE = {
    "fmt_slot (older)": "its magic, checksum and clean mark are looked at; it is read only when the newer one fails",
    "fmt_control.identity": "of a clean file stamped anew by whoever attaches; of a dirty one a flip means recovery",
    "fmt_control.epoch": "only upwards: an epoch that is skipped does no harm",
    "fmt_control.file_length": "only upwards, to what the file really has: it is a limit",
    "fmt_control.clean": "of a clean file set by whoever attaches",
    "fmt_control.durable": "of a dirty file, downwards: a leader may have died before he stored it; reuse waits longer",
    "fmt_control.failed": "of a dirty file a flip means recovery",
    "fmt_control.checkpoint_lock": "names a dead owner, from whom it is taken over; of a clean file it is cleared",
    "fmt_control.attach_count": "a count for private copies to see a change of",
    "fmt_control.checkpoint_count": "for people",
    "fmt_process.incarnation": "any will do, so long as the next is another",
    "fmt_process.pid": "for people",
    "fmt_process.start_ns": "compared with itself only, by those who hold an mmkv.Lock against it",
    "fmt_process.state": "in use by one who is dead: settled by the next to attach",
    "fmt_process.reserved_extent": "1 means a word in use, which is cleared with its owner's slot",
    "fmt_lockable.lock": "as checkpoint_lock",
    "fmt_lockable.waiting": "any will do: a bit that is set costs one call to the kernel",
    "fmt_lockable.version": "but for its lowest bit: it only has to move",
    "fmt_log_entry": "beyond the log's count",
    "fmt_allocator.last_zone": "a hint: where to look first",
    "fmt_allocator.intent": "only while the log has entries",
    "fmt_zone_state.run_max": "only upwards: it is a bound",
    "fmt_zone_state.hint": "only downwards: it is a bound",
    "holes of free pages": "a page punched or reserved once more than needed: only the file system knows which it is",
    "descriptors of free extents": "born = 0, or dead and collected: nothing else of it is read",
    "fmt_extent.link": "the version that published a value is compared with itself only",
    "fmt_chunk.waiting_epoch": "while no block waits",
    "fmt_chunk.prev, next": "of a chunk in no list",
    "fmt_chunk.hint": "while no block is free, and downwards: it is a bound",
    "fmt_epochs.dead": "of a block never published",
    "record bytes": "of a block that is free, or was dead at the last checkpoint",
    "fmt_bucket.entry": "where the tag is 0",
    "fmt_bucket.tags": "byte 7: access bits",
    "fmt_table_header.stash_tags": "where the stash line's tag is 0",
    "fmt_shard.count, sum": "those of the other parity, which only a cut under way reads",
    "fmt_shard.epoch": "a flip that leaves a later trace, or turns the parity, is found; others move a checkpoint",
    "fmt_class": "60 to 73 are not used",
    "fmt_shard.embedded": "beyond the directory's words",
    "reserved": "fields kept for later, padding, the ends of blocks and pages",
}

Bits = dict[str, list[int]]


class Live:
    """The live bits of a file, by the name of what they are in."""

    def __init__(self, content: bytes, *, clean: bool) -> None:
        self.content = content
        self.clean = clean
        self.bits: Bits = defaultdict(list)
        self.shards = self.u32(64)
        self._fixed()
        for i in range(self.zone_count):
            self._zone(i)
        for i in range(self.shards):
            self._shard(i)

    def u64(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self.content, at)[0])

    def u32(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.content, at)[0])

    def add(self, name: str, at: int, size: int, mask: int = -1) -> None:
        """`size` bytes are live, or of an integer there the bits in `mask`."""
        self.bits[name] += [8 * at + bit for bit in range(8 * size) if mask >> bit & 1]

    def whole(self, structure: str, at: int, *names: str) -> None:
        for field in STRUCTURES[structure].fields:
            if field.name in names or not names:
                self.add(f"{structure}.{field.name}", at + field.offset, field.size)

    def _fixed(self) -> None:
        self.whole("fmt_superblock", 0)
        slots = sorted((0x1000, 0x2000), key=lambda at: self.u64(at + 8))
        self.add("fmt_slot (newer)", slots[1], 136)
        self.add("fmt_slot (older) clean", slots[0] + 128, 8)
        if self.u64(slots[0]):
            self.add("fmt_slot (older)", slots[0], 128)
        self.add("fmt_control.clean", 0x3000 + 88, 4, ~self.u32(0x3000 + 88))
        if self.clean:
            self.whole("fmt_control", 0x3000, "epoch", "durable", "failed")
        else:
            self.add("fmt_control.durable", 0x3000 + 72, 8, ~self.u64(0x3000 + 72))
        self._lockable("fmt_allocator", 0x14000, 0x14000 + 2560)
        queue = ("waiting_head", "waiting_tail", "waiting_pages")
        self.whole("fmt_allocator", 0x14000, "zone_count", *queue, "free_pages", "harvesting")
        self.zone_count = self.u64(0x14000 + 16)

    def _lockable(self, name: str, at: int, log: int) -> None:
        self.add(f"{name}.version", at + 8, 8, 1)
        self.add(f"{name}.log.count", log, 8)

    def _zone(self, i: int) -> None:
        entry, state = 0x18000 + 32 * i, 0x28000 + 16 * i
        self.whole("fmt_zone", entry)
        self.whole("fmt_zone_state", state, "free")
        start, pages, kind = self.u64(entry), self.u64(entry + 8), self.u32(entry + 16)
        words = (pages + 63) // 64
        self.add("free bitmap", start, 8 * words)
        extents, first_heap, first_index = zone_geometry(pages)
        first = first_heap if kind == 1 else first_index
        for page in range(first, pages):
            if not self.content[start + page // 8] >> page % 8 & 1:
                self.bits["hole bitmap"].append(8 * (start + 8 * words) + page)
        if kind != 1:
            return
        page = first
        while page < pages:
            at = start + extents + 32 * page
            born, dead = self.u64(at), self.u64(at + 8)
            live = born and not dead & EPOCH
            if live:
                self._extent(at, start + PAGE * page)
            page += self.u32(at + 16) if live else 1

    def _extent(self, at: int, offset: int) -> None:
        self.whole("fmt_extent", at, "born", "dead", "pages", "shard", "class_", "type")
        chunk = self.content[at + 23] == 1
        self.add("fmt_extent.link", at + 24, 8, -1 if chunk else -1 << 48)
        if chunk:
            self._chunk(offset, self.u32(at + 16).bit_length() - 1, class_size(self.content[at + 22]))
        else:
            self._record(offset)

    def _chunk(self, offset: int, order: int, size: int) -> None:
        blocks = chunk_blocks(order, size)
        self.whole("fmt_chunk", offset, "live", "free", "waiting", "list", "shard", "class_", "order", "blocks")
        if self.u32(offset + 28):
            self.whole("fmt_chunk", offset, "next", "prev")
        if self.u32(offset + 24):
            self.whole("fmt_chunk", offset, "waiting_epoch")
        self.add("chunk bitmap", offset + 64, 8 * ((blocks + 63) // 64))
        durable = self.u64(0x3000 + 72)
        for i in range(blocks):
            at = offset + epochs_at(blocks) + 16 * i
            born, dead = self.u64(at), self.u64(at + 8)
            self.add("fmt_epochs.born", at, 8)
            if born:
                self.add("fmt_epochs.dead", at + 8, 8)
            if born and (not dead & EPOCH or born & EPOCH <= durable < dead & EPOCH):
                self._record(offset + blocks_at(blocks) + size * i)

    def _record(self, at: int) -> None:
        word = self.u64(at + 4)
        self.add("record", at, 12 + (word & 0xFFFF) + (word >> 24))

    def _shard(self, i: int) -> None:
        at = 0x30000 + 8192 * i
        self._lockable("fmt_shard", at, at + 2560)
        self.whole("fmt_shard", at, "directory", "reserve", "release", "failed", "bytes", "tables", "chunks")
        now = self.u64(at + 96) & 1
        self.add("fmt_shard.count", at + 104 + 8 * now, 8)
        self.add("fmt_shard.sum", at + 120 + 8 * now, 8)
        self.add("fmt_class", at + 256, 60 * 24)
        directory = self.u64(at + 16)
        if not directory:
            return
        words, count = directory & ~63, 1 << (directory & 63)
        for j in range(count):
            self.add("directory", words + 8 * j, 8, ~63)
            self.add("directory (depth)", words + 8 * j, 1, 63)
        for table in {self.u64(words + 8 * j) & ~63 for j in range(count)}:
            self._table(table)

    def _table(self, table: int) -> None:
        self.whole("fmt_table_header", table, "prefix", "depth", "shard")
        for line in range(1, 64):
            at = table + 64 * line
            self.add("fmt_bucket.tags", at, 7)
            for i in range(7):
                if self.content[at + i] & 0x7F:
                    self.add("fmt_bucket.entry", at + 8 + 8 * i, 8)
                    if line >= 61:
                        self.add("fmt_table_header.stash_tags", table + 16 + 8 * (line - 61) + i, 1, 0x7F)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        for name, bits in self.bits.items():
            for bit in bits:
                yield name, bit
