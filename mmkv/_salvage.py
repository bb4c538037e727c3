"""Salvage: every record that is still whole, out of a file that may be damaged anywhere, into a new store.

The file is read with `pread` alone, so that nothing in it, nor a disk that fails, can do more than be reported. Sizes
and offsets come from the engine (`mmkv_layout`); what they mean is said in docs/format.md. In three steps, the later
ones only where the earlier left something missing:

1. what the zone table, the descriptors and the epoch words lead to: what a reader of a sound file does;
2. chunks that no descriptor leads to, found by their headers; the epoch words in them say what lives;
3. records whose epoch words are gone: whole, but perhaps deleted or replaced before the damage. They are taken only
   for keys that were not found otherwise, and each is reported.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import secrets
import stat
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

from xxhash import xxh3_64_intdigest as xxh3

from mmkv._native import failure as make_error
from mmkv._native import ffi, layout, lib
from mmkv.stats import Problem, Report
from mmkv.store import Store

PAGE = 4096
U64 = (1 << 64) - 1
EPOCH = (1 << 48) - 1
ALONE = 7
CHUNK, VALUE = 1, 2
HEAP = 1
SUPERBLOCKS = (0x0, 0x16000)
SLOTS = (0x1000, 0x2000)
CONTROL, ZONES, SHARDS = 0x3000, 0x18000, 0x30000
LOCK_ATTACH, LOCK_PROCESS, PROCESSES = 1 << 62, (1 << 62) + 0x1000, 1024
SUPERBLOCK = struct.Struct("<8sIIQQQ16sQIIQQ32xQ")
SLOT = struct.Struct("<8sQQQQ80xQQ")
ZONE = struct.Struct("<QQIIQ")
EXTENT = struct.Struct("<QQIHBBQ")
CHUNK_HEADER = struct.Struct("<40xHBBI")
ENTRY = struct.Struct("<QQ")
TRANSACTION = struct.Struct("<8sQII")
SEGMENT = struct.Struct("<QQII")
FLOCK = struct.Struct("@hhqqi4x")
PIECE = 1 << 20
LOG_ENTRIES = 351
BATCH_BYTES, BATCH_RECORDS = 1 << 20, 1000


def _stamp(epoch: int, offset: int) -> int:
    return epoch | (((epoch * 0x9E3779B97F4A7C15 + offset * 0xD6E8FEB86659FD93) & U64) >> 48) << 48


def _good(word: int, offset: int) -> bool:
    return _stamp(word & EPOCH, offset) == word


@cache
def _class_size(class_: int) -> int:
    return layout()[f"fmt_class_size({class_})"]


@cache
def _blocks(order: int, class_: int) -> int:
    return layout()[f"fmt_chunk_blocks({order},{class_})"]


def _epochs_at(blocks: int) -> int:
    return 64 + -(-8 * -(-blocks // 64) // 16) * 16


def _blocks_at(blocks: int) -> int:
    return -(-(_epochs_at(blocks) + 16 * blocks) // 64) * 64


class _Found(NamedTuple):
    """A record that is whole."""

    offset: int
    born: int
    key: bytes
    value: bytes


class _Extent(NamedTuple):
    """What a descriptor, or a chunk's header, says."""

    offset: int
    pages: int
    shard: int
    class_: int
    type: int
    born: int

    @property
    def end(self) -> int:
        return self.offset + self.pages * PAGE


class _Source:
    """The damaged file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.restored: dict[int, int] = {}  # words that a rollback of killed writers would restore
        self.restored_at: list[int] = []  # where they are, in order
        self.unreadable: set[int] = set()  # pages
        self.quiet = False  # a walk that is not the first tells nothing twice
        self.unsure = 0  # damaged epoch words
        self.chunks: list[_Extent] = []
        self.strays: list[_Extent] = []  # those that no descriptor leads to
        self.covered: list[tuple[int, int]] = []  # ranges that extents and the zones' own pages account for
        self.lost = 0  # records that were live and are damaged
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(self.descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise make_error(lib.MMKV_NOT_A_STORE, 0, 0, 0, "not a regular file", path)
            self.size = status.st_size
            self._lock()
            self._superblock()
        except BaseException:
            os.close(self.descriptor)
            raise
        self._choose()
        self._zones()

    # ---- reading ----

    def read(self, offset: int, length: int) -> bytes:
        """So many bytes, with zeros for what cannot be read."""
        data = b""
        try:
            data = os.pread(self.descriptor, length, offset)
        except OSError as error:
            data = self._read_around(offset, length, error)
        data += bytes(length - len(data))
        first = bisect_left(self.restored_at, offset)
        last = bisect_right(self.restored_at, offset + length - 8, first)
        if first < last:
            changed = bytearray(data)
            for at in self.restored_at[first:last]:
                struct.pack_into("<Q", changed, at - offset, self.restored[at])
            data = bytes(changed)
        return data

    def _read_around(self, offset: int, length: int, error: OSError) -> bytes:
        # Page by page: what can be read of it.
        if error.errno not in (errno.EIO, errno.EBADMSG, errno.EUCLEAN):
            raise error
        pieces = []
        end = offset + length
        while offset < end:
            step = min(end, (offset // PAGE + 1) * PAGE) - offset
            try:
                piece = os.pread(self.descriptor, step, offset)
            except OSError as page_error:
                piece = b""
                if offset // PAGE not in self.unreadable:
                    self.unreadable.add(offset // PAGE)
                    reason = os.strerror(page_error.errno or errno.EIO)
                    self.problems.append(
                        Problem("unreadable", None, offset // PAGE * PAGE, f"a page cannot be read: {reason}")
                    )
            pieces.append(piece + bytes(step - len(piece)))
            offset += step
        return b"".join(pieces)

    def u64(self, offset: int) -> int:
        """The integer at an offset."""
        return int.from_bytes(self.read(offset, 8), "little")

    def tell(self, kind: str, key: bytes | None, offset: int, text: str) -> None:
        """Report something, once."""
        if not self.quiet:
            self.problems.append(Problem(kind, key, offset, text))

    # ---- what it is ----

    def _lock(self) -> None:
        # Writers that come meanwhile wait. Where there are no such locks, there are no writers either.
        held = FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, LOCK_ATTACH, 1, 0)
        asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, LOCK_PROCESS, PROCESSES, 0)
        try:
            fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLKW, held)
            answer = fcntl.fcntl(self.descriptor, fcntl.F_OFD_GETLK, asked)
        except OSError:
            return
        if FLOCK.unpack(answer)[0] != fcntl.F_UNLCK:
            text = "a salvage needs that nobody has the store open for writing"
            raise make_error(lib.MMKV_IN_USE, 0, 0, 0, text, self.path)

    def _superblock(self) -> None:
        seen = False
        for at in SUPERBLOCKS:
            raw = self.read(at, SUPERBLOCK.size)
            magic, version, page, _, _, incompat, _, seed, shards, processes, _, start, checksum = SUPERBLOCK.unpack(
                raw
            )
            seen |= magic == b"\x89MMKV\r\n\x1a"
            if magic != b"\x89MMKV\r\n\x1a" or xxh3(raw[:120], 0) != checksum:
                self.tell(
                    "superblock", None, at, "the superblock's copy is damaged" if at else "the superblock is damaged"
                )
                continue
            if version != 1 or incompat:
                raise make_error(lib.MMKV_VERSION, 0, 0, 0, "", self.path)
            if page == PAGE and processes == PROCESSES and shards in [1 << s for s in range(11)]:
                self.seed, self.shards, self.start = seed, shards, start
                self.shift = 64 - (shards.bit_length() - 1)
                return
        code = lib.MMKV_CORRUPT if seen else lib.MMKV_NOT_A_STORE
        text = (
            "neither the superblock nor its copy is whole, and without the hash seed no record can be told from noise"
        )
        raise make_error(code, 0, 0, 0, text if seen else "", self.path)

    def _choose(self) -> None:
        # C, the state to salvage, and what is known of it: how long the file was, how many records there were.
        slots: list[tuple[int, int, int, int, bool]] = []
        torn = []
        for at in SLOTS:
            raw = self.read(at, SLOT.size)
            magic, epoch, length, count, _, checksum, clean = SLOT.unpack(raw)
            if magic == b"mmkvCKPT" and xxh3(raw[:120], self.seed ^ at) == checksum and 1 <= epoch < EPOCH:
                slots.append((epoch, -at, length, count, clean == _stamp(epoch, at + 128)))
            elif any(magic) or not any(raw[:128]):  # without a magic, its writer died at it, or its flush failed
                torn.append(at)
        control = self.read(CONTROL, PAGE)
        now, durable, _, marked = struct.unpack_from("<QQQI", control, 64)
        newest, _, self.limit, count, clean = max(slots, default=(0, 0, self.size, 0, False))
        self.epoch, self.expected = newest, count if slots else None
        for at in torn:
            if newest != 1:  # at first one of them is zeros
                self.tell("slot", None, at, "a checkpoint slot is damaged")
        if clean:
            return
        if newest < now < EPOCH and self._same_memory(control):
            self.epoch = now
            self._roll_back()
        elif marked == 1 and newest < durable < EPOCH:
            self.epoch = durable
        elif torn or not slots:
            self.epoch, self.expected, self.limit = EPOCH, None, self.size
            if newest != 1:
                text = "which checkpoint was the last is not known: of each key the youngest record is taken"
                self.tell("slot", None, (torn or SLOTS)[0], text)
            return
        else:
            return
        self.limit = self.size
        self.expected = self._counted()

    def _same_memory(self, control: bytes) -> bool:
        # Does it belong to this file, in this boot? By the engine's own comparison; where it cannot tell, it does not.
        same = ffi.new("int *")
        return not lib.mmkv_same_memory(self.descriptor, control, same) and bool(same[0])

    def _counted(self) -> int:
        total = 0
        for shard in range(self.shards):
            at = SHARDS + shard * layout()["fmt_shard"]
            total += self.u64(at + layout()["fmt_shard.count"] + 8 * (self.u64(at + layout()["fmt_shard.epoch"]) & 1))
        return total

    def _roll_back(self) -> None:
        # Killed writers' undo logs, read as a writer that comes would roll them back.
        restored: dict[int, int] = {}
        room = self.size // ENTRY.size  # logs do not overlap: all of them together are no longer than the file
        for shard in range(self.shards):
            at = SHARDS + shard * layout()["fmt_shard"] + layout()["fmt_shard.log"]
            log = self._log(shard, at)
            whole = log is not None and log[1] <= room
            if log is not None and whole:
                room -= log[1]
                for word, old in self._entries(*log):
                    if word % 8 == 0 and CONTROL <= word <= self.size - 8:
                        restored[word] = old
                    else:
                        whole = False
            if not whole:
                text = f"a killed writer's log is damaged: shard {shard} may have something that was half done"
                self.tell("operation", None, at, text)
        self.restored, self.restored_at = restored, sorted(restored)

    def _entries(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        # Of an undo log: words and what they were, the last one first.
        while count:
            first = max(0, count - PIECE // ENTRY.size)
            data = self.read(start + ENTRY.size * first, ENTRY.size * (count - first))
            count = first
            yield from reversed(list(ENTRY.iter_unpack(data))) if any(data) else [(0, 0)]

    def _log(self, shard: int, at: int) -> tuple[int, int] | None:
        # Where the entries of a shard's undo log begin, and how many there are; None if it is damaged. While a
        # transaction is under way that log is a segment of its, and once it is committed there is nothing to undo.
        count, transaction = struct.unpack("<QQ", self.read(at, 16))
        if not transaction:
            return (at + 16, count) if count <= LOG_ENTRIES else None
        number = transaction % PAGE
        begin = transaction - number
        if not self.start <= begin <= self.size - PAGE:
            return None
        magic, committed, words, segments = TRANSACTION.unpack(self.read(begin, TRANSACTION.size))
        segments_at = begin + TRANSACTION.size + 8 * words
        if magic != b"mmkvTRAN" or number >= segments or segments_at + SEGMENT.size * segments > self.size:
            return None
        count, entries, capacity, owner = SEGMENT.unpack(self.read(segments_at + SEGMENT.size * number, SEGMENT.size))
        fits = entries % 8 == 0 and begin + entries + ENTRY.size * capacity <= self.size and count <= capacity
        if not fits or owner != shard:
            return None
        return begin + entries, 0 if committed else count

    def _zones(self) -> None:
        # Each entry that holds is believed, whatever its neighbours say.
        self.zones: list[tuple[int, int, int, int]] = []  # offset, pages, own pages, where the descriptors are
        self.covered.clear()
        end = self.start
        table = self.read(ZONES, 2048 * ZONE.size)
        for number in range(2048):
            raw = table[number * ZONE.size : (number + 1) * ZONE.size]
            offset, pages, kind, _, checksum = ZONE.unpack(raw)
            at = ZONES + number * ZONE.size
            if not any(raw):
                continue
            if xxh3(raw[:24], self.seed ^ at) != checksum or offset % PAGE or not 64 <= pages < 1 << 32:
                self.tell("zone", None, at, f"the entry of zone {number} is damaged")
                continue
            if not end <= offset < min(self.limit, self.size):
                continue  # of a lost future, or lost with the file's end
            end = offset + pages * PAGE
            descriptors = 64 * -(-16 * -(-pages // 64) // 64)
            own = -(-(descriptors + (32 * pages if kind == HEAP else 0)) // PAGE)
            if kind == HEAP:
                self.zones.append((offset, pages, own, offset + descriptors))
                self.covered.append((offset, offset + own * PAGE))
            else:
                self.covered.append((offset, end))

    # ---- records ----

    def parse(self, data: bytes, at: int, room: int, place: int) -> tuple[bytes, bytes] | None:
        """The record at a position of `data`, if it is whole."""
        if room < 12 or at + 12 > len(data):
            return None
        checksum, word = struct.unpack_from("<IQ", data, at)
        flags = word >> 16 & 0xFF
        key_length, value_length = word & 0xFFFF, word >> 24
        start = at + (20 if flags & 8 else 12)
        end = start + key_length + value_length
        if flags & ~8 != place or end - at > room or end > len(data):
            return None
        expiry = int.from_bytes(data[at + 12 : at + 20], "little") if flags & 8 else 0
        key = data[start : start + key_length]
        value = data[start + key_length : end]
        seed = (xxh3(key, self.seed) + (word & ~0x70000) + expiry) & U64
        if checksum != (xxh3(value, seed) + place * 0x9E3779B1) & 0xFFFFFFFF:
            return None
        return key, value

    def key_of(self, data: bytes, at: int, room: int, shard: int) -> bytes | None:
        """The key of a damaged record, where it seems whole: it is of the shard, and not the empty one of zeros."""
        if at + 12 > len(data):
            return None
        word = int.from_bytes(data[at + 4 : at + 12], "little")
        start = at + (20 if word >> 16 & 8 else 12)
        key = data[start : start + (word & 0xFFFF)]
        fits = start - at + (word & 0xFFFF) + (word >> 24) <= room
        return key if key and fits and len(key) == word & 0xFFFF and self.shard_of(key) == shard else None

    def shard_of(self, key: bytes) -> int:
        """The shard that a key belongs to."""
        return int(xxh3(key, self.seed) >> self.shift)

    # ---- step 1 ----

    def _verdict(self, born: int, dead: int, offset: int) -> bool | None:
        # Live or not; None if that cannot be told.
        if not born:
            return False
        if not _good(born, offset) or not born & EPOCH:
            return None
        if born & EPOCH > self.epoch:
            return False
        if not _good(dead, offset + 8):
            return None
        return dead & EPOCH == 0 or dead & EPOCH > self.epoch

    def led_to(self) -> Iterator[_Found]:
        """The records that descriptors and epoch words lead to."""
        for offset, pages, own, descriptors in self.zones:
            page = own
            while page < pages and offset + page * PAGE < self.size:
                first = page // 4096 * 4096
                piece = self.read(descriptors + 32 * first, 32 * min(4096, pages - first))
                while page < min(first + 4096, pages):
                    extent = self._extent(
                        piece, page - first, descriptors + 32 * page, offset + page * PAGE, pages - page
                    )
                    page += extent.pages if extent else 1
                    if extent:
                        yield from self._records(extent)

    def _extent(self, piece: bytes, index: int, at: int, offset: int, most: int) -> _Extent | None:
        born, dead, pages, shard, class_, type_, link = EXTENT.unpack_from(piece, 32 * index)
        if not born:
            return None
        live = self._verdict(born, dead, at)
        if live is False:
            return None
        word = int.from_bytes(piece[32 * index + 16 : 32 * index + 24], "little")
        check = ((word * 0x9E3779B97F4A7C15 + at * 0xD6E8FEB86659FD93) & U64) >> 48
        good = link >> 48 == check and 1 <= pages <= most and shard < self.shards and type_ in (CHUNK, VALUE)
        if good and type_ == CHUNK:
            good = pages in (1, 2, 4, 8, 16) and class_ < 60 and _blocks(pages.bit_length() - 1, class_) > 0
        if live is None or not good:
            self.tell("descriptor", None, at, "a descriptor is damaged")
            return None
        return _Extent(offset, pages, shard, class_, type_, born & EPOCH)

    def _records(self, extent: _Extent) -> Iterator[_Found]:
        if not self.quiet:
            self.covered.append((extent.offset, extent.end))
        if extent.type == CHUNK:
            yield from self._chunk(extent)
            return
        found = self.alone(extent.offset, extent.pages * PAGE)
        if found is not None:
            yield _Found(extent.offset, extent.born, *found)
            return
        self._damaged(self.read(extent.offset, PAGE + 65536), 0, extent.pages * PAGE, extent.shard, extent.offset)

    def alone(self, offset: int, room: int) -> tuple[bytes, bytes] | None:
        """The record in an extent of its own."""
        word = int.from_bytes(self.read(offset + 4, 8), "little")
        size = (20 if word >> 16 & 8 else 12) + (word & 0xFFFF) + (word >> 24)
        if word >> 16 & 0xF7 != ALONE or size > room or offset + size > self.size:
            return None
        return self.parse(self.read(offset, size), 0, size, ALONE)

    def _damaged(self, data: bytes, at: int, room: int, shard: int, offset: int) -> None:
        self.lost += 1
        self.tell("record", self.key_of(data, at, room, shard), offset, "the record is damaged")

    def _chunk(self, extent: _Extent) -> Iterator[_Found]:
        order = extent.pages.bit_length() - 1
        size, blocks = _class_size(extent.class_), _blocks(order, extent.class_)
        data = self.read(extent.offset, extent.pages * PAGE)
        words_at, first = _epochs_at(blocks), _blocks_at(blocks)
        words = struct.unpack_from(f"<{2 * blocks}Q", data, words_at)
        if not self.quiet:
            self.chunks.append(extent)
        for block in range(blocks):
            born = words[2 * block]
            if not born:
                continue
            live = self._verdict(born, words[2 * block + 1], extent.offset + words_at + 16 * block)
            at = first + block * size
            if live:
                found = self.parse(data, at, size, order)
                if found is not None and self.shard_of(found[0]) == extent.shard:
                    yield _Found(extent.offset + at, born & EPOCH, *found)
                else:
                    self._damaged(data, at, size, extent.shard, extent.offset + at)
            elif live is None:
                self.unsure += 1
                self.tell("epoch", None, extent.offset + words_at + 16 * block, "an epoch word is damaged")

    # ---- steps 2 and 3 ----

    def uncovered(self) -> Iterator[tuple[int, int]]:
        """Ranges of whole pages that nothing accounts for."""
        at = self.start
        for start, end in sorted(self.covered):
            if start > at:
                yield at, start
            at = max(at, end)
        if at < (end := -(-min(self.size, self.limit) // PAGE) * PAGE):
            yield at, end

    def stray_chunks(self) -> Iterator[_Found]:
        """Live records of chunks that no descriptor leads to."""
        for start, end in list(self.uncovered()):
            offset = start
            while offset < end:
                shard, class_, order, blocks = CHUNK_HEADER.unpack(self.read(offset, CHUNK_HEADER.size))
                length = PAGE << order if order <= 4 else 0
                plausible = (
                    length and not offset % length and offset + length <= end and class_ < 60 and shard < self.shards
                )
                if plausible and blocks and blocks == _blocks(order, class_):
                    taken = 0
                    self.covered.append((offset, offset + length))
                    self.strays.append(_Extent(offset, 1 << order, shard, class_, CHUNK, 0))
                    for found in self._chunk(self.strays[-1]):
                        taken += 1
                        yield found
                    if taken:
                        self.tell("scan", None, offset, f"a chunk without a descriptor had {taken} live records")
                    offset += length
                else:
                    offset += PAGE

    def strays_again(self) -> Iterator[_Found]:
        """The same once more."""
        for extent in self.strays:
            yield from self._chunk(extent)

    def unsure_records(self) -> Iterator[_Found]:
        """Records that are whole, of which nothing says whether they live."""
        for extent in self.chunks:
            order = extent.pages.bit_length() - 1
            size, blocks = _class_size(extent.class_), _blocks(order, extent.class_)
            data = self.read(extent.offset, extent.pages * PAGE)
            words = struct.unpack_from(f"<{2 * blocks}Q", data, _epochs_at(blocks))
            for block in range(blocks):
                at = extent.offset + _epochs_at(blocks) + 16 * block
                born = words[2 * block]  # 0: never used, or overwritten with zeros
                if born and self._verdict(born, words[2 * block + 1], at) is not None:
                    continue
                at = _blocks_at(blocks) + block * size
                found = self.parse(data, at, size, order)
                if found is not None and self.shard_of(found[0]) == extent.shard:
                    yield _Found(extent.offset + at, 0, *found)
        for start, end in list(self.uncovered()):
            yield from self._scan(start, end)

    def _scan(self, start: int, end: int) -> Iterator[_Found]:
        # Records begin at multiples of 16.
        for piece_at in range(start, end, PIECE):
            data = self.read(piece_at, min(PIECE + 65536, end - piece_at))
            for page in range(0, min(PIECE, end - piece_at), PAGE):
                if not any(data[page : page + PAGE]):
                    continue
                alone = self.alone(piece_at + page, end - piece_at - page)
                if alone is not None:
                    yield _Found(piece_at + page, 0, *alone)
                for at in range(page, page + PAGE, 16):
                    flags = data[at + 6]
                    if flags & 0xF7 > 4 or data[at + 10] or data[at + 11] or not any(data[at : at + 12]):
                        continue
                    found = self.parse(data, at, 65536, flags & 7)
                    if found is not None:
                        yield _Found(piece_at + at, 0, *found)


class _Target:
    """The new store."""

    def __init__(self, store: Store, progress: Callable[[int, int], object] | None, expected: int) -> None:
        self.store = store
        self.waiting: dict[bytes, bytes] = {}
        self.size = 0
        self.contested: set[bytes] = set()
        self.progress, self.expected = progress, expected

    def __contains__(self, key: bytes) -> bool:
        return key in self.waiting or key in self.store

    def put(self, found: _Found) -> None:
        """Take a record; of those with one key the first, until `settle`."""
        if found.key in self:
            self.contested.add(found.key)
            return
        self.waiting[found.key] = found.value
        self.size += len(found.key) + len(found.value)
        if len(self.waiting) >= BATCH_RECORDS or self.size >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Store what waits."""
        self.store.put_many(self.waiting.items())
        self.waiting.clear()
        self.size = 0
        if self.progress is not None:
            self.progress(len(self.store), max(self.expected, len(self.store)))

    def settle(self, source: _Source) -> None:
        """Of several live records of one key, the youngest: another walk, for those keys."""
        self.flush()
        if not self.contested:
            return
        source.quiet, lost = True, source.lost
        best: dict[bytes, _Found] = {}
        for found in itertools.chain(source.led_to(), source.strays_again()):
            if found.key in self.contested and (found.key not in best or found.born > best[found.key].born):
                best[found.key] = found
        source.quiet, source.lost = False, lost
        for key, found in best.items():
            self.store[key] = found.value
            source.tell("duplicate", key, found.offset, "several live records had this key; the youngest was taken")
        self.contested.clear()


def _fill(source: _Source, target: _Target) -> None:
    for found in source.led_to():
        target.put(found)
    target.flush()
    complete = source.expected is not None and len(target.store) + source.lost == source.expected and not source.unsure
    if not complete:
        for found in source.stray_chunks():
            target.put(found)
    target.settle(source)
    if complete:
        return
    sure = len(target.store)
    for found in source.unsure_records():
        if found.key not in target:
            target.put(found)
            text = "found by scanning: it may have been deleted, or be an older value"
            source.tell("scan", found.key, found.offset, text)
    target.flush()
    missing = (source.expected or 0) - sure - source.lost
    if missing > 0:
        text = f"{missing} more records were counted; some may be among those found by scanning"
        source.tell("missing", None, 0, text)


def copy_whole(
    source: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    target: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    progress: Callable[[int, int], object] | None,
) -> Report:
    """What `mmkv.salvage` does, which see."""
    new = os.path.abspath(os.fsdecode(target))
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    damaged = _Source(os.path.abspath(os.fsdecode(source)))
    unfinished = f"{new}.salvage-{secrets.token_hex(8)}"
    try:
        with Store(unfinished, "n", shards=damaged.shards) as store:
            store_target = _Target(store, progress, damaged.expected or 0)
            _fill(damaged, store_target)
            records = len(store)
        os.link(unfinished, new)  # unlike a rename it takes nobody's place
        _flush_directory(os.path.dirname(new))
    finally:
        os.close(damaged.descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
    return Report(not damaged.problems, records, damaged.problems)


def _flush_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
