"""The named inputs: files made by hand to lie, and what the fuzzer once found. Each is tried on every store."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz.inputs import MODES, STORES, Area, Op, Patch, field, pack, to

HUGE = [1 << 62, (1 << 64) - 1, (1 << 64) - 4096, 1 << 47, (1 << 47) - 16]
WILD = [1, 8, 4096, 0x3000, 0x30000, *HUGE]

SEEDS: dict[str, list[Patch]] = {
    "nothing": [],
    # the superblock
    "shards-not-a-power": [field(Area.SUPERBLOCK, "shard_count", 3)],
    "more-shards-than-there-are": [
        field(Area.SUPERBLOCK, "shard_count", 1024),
        field(Area.SUPERBLOCK, "zones_start", 0x830000),
    ],
    "another-hash-seed": [field(Area.SUPERBLOCK, "hash_seed", 1)],
    "features-to-come": [field(Area.SUPERBLOCK, "incompat", 1 << 40)],
    # slots and control
    "slot-epoch-last": [field(Area.SLOT, "epoch", (1 << 48) - 2, index=i) for i in (0, 1)],
    "slot-length-huge": [field(Area.SLOT, "file_length", HUGE[0], index=i) for i in (0, 1)],
    "slot-length-below-zones": [field(Area.SLOT, "file_length", 0x10FF, index=i) for i in (0, 1)],
    "slot-length-inside-a-zone": [field(Area.SLOT, "file_length", -4096, index=i, op=Op.ADD) for i in (0, 1)],
    "slot-counts-more": [field(Area.SLOT, "record_count", 1 << 60, index=i) for i in (0, 1)],
    "both-slots-one-epoch": [field(Area.SLOT, "epoch", 9, index=i) for i in (0, 1)],
    "control-length-huge": [field(Area.CONTROL, "file_length", HUGE[2])],
    "control-epoch-last": [field(Area.CONTROL, "epoch", (1 << 64) - 1), field(Area.CONTROL, "durable", (1 << 64) - 2)],
    "checkpoint-locked-by-oneself": [
        field(Area.PROCESS, "state", 0),
        field(Area.CONTROL, "checkpoint_lock", 1 | 2 << 12),
    ],
    "checkpoint-locked-by-oneself-once": [
        field(Area.PROCESS, "state", 0),
        field(Area.CONTROL, "checkpoint_lock", 1 | 1 << 12),
    ],
    # locks and logs
    "all-locked-by-oneself": [field(Area.PROCESS, "state", 0)]
    + [field(Area.SHARD, "l", 1 | 1 << 12, index=i) for i in range(4)],
    "allocator-locked-by-oneself": [field(Area.PROCESS, "state", 0), field(Area.ALLOCATOR, "l", 1 | 2 << 12)],
    "locked-by-nobody": [field(Area.SHARD, "l", 0xFFE | 7 << 12, index=i) for i in range(4)],
    "versions-odd": [Patch(Area.SHARD, i, 8, 1, 8, Op.XOR) for i in range(4)],
    "log-longer-than-it-is": [field(Area.SHARD_LOG, "count", 352), field(Area.ALLOCATOR_LOG, "count", (1 << 64) - 1)],
    "log-points-anywhere": [
        field(Area.SHARD, "l", 0xFFE),
        field(Area.SHARD_LOG, "count", 9),
        *(Patch(Area.SHARD_LOG, 0, 16 + 16 * i, at) for i, at in enumerate(WILD[:9])),
    ],
    "log-into-the-log": [
        field(Area.SHARD, "l", 0xFFE),
        field(Area.SHARD_LOG, "count", 3),
        *(Patch(Area.SHARD_LOG, 0, 16 + 16 * i, to(Area.SHARD_LOG), 8, Op.POINT) for i in range(3)),
        *(Patch(Area.SHARD_LOG, 0, 24 + 16 * i, 300) for i in range(3)),
    ],
    "log-undoes-the-directory": [
        field(Area.SHARD, "l", 0xFFE),
        field(Area.SHARD_LOG, "count", 1),
        Patch(Area.SHARD_LOG, 0, 16, to(Area.SHARD, 0, 16), 8, Op.POINT),
        Patch(Area.SHARD_LOG, 0, 24, to(Area.SHARD, 0, 20), 8, Op.POINT),
    ],
    "intent-outside": [
        field(Area.ALLOCATOR, "l", 0xFFE),
        field(Area.ALLOCATOR_LOG, "count", 1),
        field(Area.ALLOCATOR, "intent_offset", HUGE[2]),
        field(Area.ALLOCATOR, "intent_pages", HUGE[0]),
    ],
    # zones
    "zone-outside-the-file": [field(Area.ZONE, "offset", HUGE[3])],
    "zone-longer-than-the-file": [field(Area.ZONE, "pages", (1 << 32) - 16)],
    "zones-overlap": [
        field(Area.ZONE, "offset", to(Area.ZONE), index=1, op=Op.POINT),
        field(Area.ZONE, "offset", 0x40000, index=1),
    ],
    "zones-of-the-other-kind": [field(Area.ZONE, "kind", 3, index=i, op=Op.XOR) for i in (0, 1)],
    "more-zones-than-the-table": [field(Area.ALLOCATOR, "zone_count", 1 << 40)],
    "fewer-zones": [field(Area.ALLOCATOR, "zone_count", 0)],
    "zone-state-lies": [Patch(Area.ZONE_STATE, i, 0, (1 << 64) - 1) for i in (0, 1)],
    "zone-hint-outside": [field(Area.ZONE_STATE, "hint", (1 << 32) - 1, index=i) for i in (0, 1)],
    "all-pages-free": [Patch(Area.BITMAP, i, 8 * j, (1 << 64) - 1) for i in (0, 1) for j in (0, 1)],
    # the allocator's words
    "waiting-queue-loops": [
        field(Area.ALLOCATOR, "waiting_head", 0x50),
        field(Area.ALLOCATOR, "waiting_tail", 0x50),
        *(Patch(Area.EXTENT, i, 24, 0x50) for i in range(8)),
    ],
    "waiting-queue-elsewhere": [
        field(Area.ALLOCATOR, "waiting_head", HUGE[0]),
        field(Area.ALLOCATOR, "waiting_tail", 1),
    ],
    "harvesting-anything": [field(Area.ALLOCATOR, "harvesting", 0x40001)],
    "harvesting-a-live-extent": [field(Area.ALLOCATOR, "harvesting", to(Area.CHUNK), op=Op.POINT)],
    "reserved-anything": [
        field(Area.PROCESS, "state", 1),
        *(field(Area.PROCESS, "reserved_extent", value, item=i) for i, value in enumerate(WILD[2:6])),
    ],
    "reserved-a-live-extent": [
        field(Area.PROCESS, "state", 1),
        field(Area.PROCESS, "reserved_extent", to(Area.RECORD), op=Op.POINT),
        field(Area.PROCESS, "reserved_extent", to(Area.TABLE), item=1, op=Op.POINT),
    ],
    "reserved-by-all": [field(Area.PROCESS, "reserved_extent", 1, index=i, item=j) for i in range(7) for j in range(4)],
    "release-anything": [field(Area.SHARD, "release", value, item=i) for i, value in enumerate(WILD[:5])],
    "release-a-table-in-use": [field(Area.SHARD, "release", to(Area.TABLE, 0, 1), op=Op.POINT)],
    "reserve-low-bits": [field(Area.SHARD, "reserve", 7)],
    # descriptors
    "extents-overlap": [field(Area.EXTENT, "pages", 16, index=i) for i in range(6)],
    "extent-past-its-zone": [field(Area.EXTENT, "pages", (1 << 32) - 1, index=i) for i in range(3)],
    "extent-of-no-pages": [field(Area.EXTENT, "pages", 0, index=i) for i in range(3)],
    "extent-of-another-shard": [field(Area.EXTENT, "shard", 1, index=i, op=Op.XOR) for i in range(3)],
    "extent-of-no-shard": [field(Area.EXTENT, "shard", 0xFFFF, index=i) for i in range(3)],
    "extent-of-no-class": [field(Area.EXTENT, "class_", 255, index=i) for i in range(3)],
    "extent-of-no-type": [field(Area.EXTENT, "type", 9, index=i) for i in range(3)],
    "chunks-are-values": [field(Area.EXTENT, "type", 2, index=i) for i in range(4)],
    "values-are-chunks": [field(Area.EXTENT, "type", 1, index=i) for i in range(12)],
    "extent-born-to-come": [field(Area.EXTENT, "born", (1 << 48) - 2, index=i) for i in range(2)],
    # chunks
    "chunk-list-is-a-ring": [
        Patch(Area.CHUNK, 0, 0, to(Area.CHUNK), 8, Op.POINT),
        Patch(Area.CHUNK, 0, 8, to(Area.CHUNK), 8, Op.POINT),
    ],
    "chunk-list-elsewhere": [field(Area.CHUNK, "next", value, index=i) for i, value in enumerate(HUGE)],
    "chunk-lists-cross": [Patch(Area.CHUNK, i, 0, to(Area.CHUNK, i + 1), 8, Op.POINT) for i in range(6)],
    "chunk-of-more-blocks": [field(Area.CHUNK, "blocks", 0xFFFF, index=i) for i in range(4)],
    "chunk-of-no-blocks": [field(Area.CHUNK, "class_", 59, index=i) for i in range(4)],
    "chunk-counts-none-live": [field(Area.CHUNK, "live", 0, index=i) for i in range(8)],
    "chunk-counts-free-ones": [field(Area.CHUNK, "free", 1 << 20, index=i) for i in range(8)],
    "chunk-hint-outside": [field(Area.CHUNK, "hint", HUGE[1], index=i) for i in range(8)],
    "chunk-has-no-free-bits": [Patch(Area.CHUNK, i, 64, 0) for i in range(8)],
    "chunk-has-only-free-bits": [Patch(Area.CHUNK, i, 64, (1 << 64) - 1) for i in range(8)],
    "all-waiting": [field(Area.CHUNK, "waiting", 60, index=i) for i in range(8)],
    "class-lists-lead-to-tables": [Patch(Area.CLASS, i, 8 * (i % 2), to(Area.TABLE), 8, Op.POINT) for i in range(8)],
    "classes-share-a-list": [Patch(Area.CLASS, i, 0, to(Area.CHUNK), 8, Op.POINT) for i in range(8)],
    "class-lists-elsewhere": [Patch(Area.CLASS, i, 8 * (i % 2), HUGE[i % 5]) for i in range(8)],
    # records
    "record-longer-than-the-file": [Patch(Area.RECORD, i, 7, (1 << 32) - 1, 4) for i in range(8)],
    "key-longer-than-the-block": [field(Area.RECORD, "key_length", 0xFFFF, index=i) for i in range(8)],
    "record-names-another-place": [field(Area.RECORD, "flags", i, index=i) for i in range(8)],
    "record-with-expiry": [field(Area.RECORD, "flags", 8, index=i, op=Op.XOR) for i in range(8)],
    "one-key-twice": [Patch(Area.RECORD, 1, 8 * i, 0x6B01020304050607, 8) for i in range(3)]
    + [Patch(Area.RECORD, 2, 8 * i, 0x6B01020304050607, 8) for i in range(3)],
    "all-records-live-again": [Patch(Area.EPOCHS, i, 8, 0) for i in range(60)],
    "all-records-dead": [Patch(Area.EPOCHS, i, 8, 2) for i in range(60)],
    # the index
    "directory-too-deep": [Patch(Area.SHARD, i, 16, 21 + 20 * i, 1, Op.XOR) for i in range(3)],
    "directory-elsewhere": [field(Area.SHARD, "directory", value, index=i) for i, value in enumerate(HUGE)],
    "directory-is-a-record": [field(Area.SHARD, "directory", to(Area.RECORD, 3, 2), op=Op.POINT)],
    "directory-deeper-than-it-is": [field(Area.SHARD, "directory", 3, index=i, op=Op.ADD) for i in range(4)],
    "directory-of-one-table": [Patch(Area.DIRECTORY, 0, 8 * i, to(Area.TABLE), 8, Op.POINT) for i in range(64)],
    "directory-of-itself": [Patch(Area.DIRECTORY, 0, 8 * i, to(Area.DIRECTORY), 8, Op.POINT) for i in range(8)],
    "directory-of-deep-tables": [Patch(Area.DIRECTORY, i, 8 * j, 63, 1, Op.XOR) for i in range(4) for j in range(2)],
    "tables-of-another-shard": [Patch(Area.TABLE, i, 12, 1, 4, Op.XOR) for i in range(4)],
    "table-counts-too-many": [
        Patch(Area.TABLE, i, 64 * j, 0x8080808080808000, 8, Op.XOR) for i in range(2) for j in range(1, 12)
    ],
    "table-is-full-of-one-record": [
        *(Patch(Area.TABLE, 0, 64 * j, 0x01010101010101) for j in range(1, 61)),
        *(Patch(Area.TABLE, 0, 64 * j + 8, (1 << 43) - 1) for j in range(1, 61)),
    ],
    "stash-of-no-home": [Patch(Area.TABLE, 0, 64 * j, 0x7F7F7F7F7F7F7F) for j in (61, 62, 63)],
    "entries-lead-anywhere": [
        Patch(Area.TABLE, 0, 64 * j + 8 * k, 0x5A5A5A5A5A5A5A5A, 8, Op.XOR) for j in range(1, 9) for k in range(1, 8)
    ],
    "counts-wrap": [field(Area.SHARD, "count", (1 << 64) - 1, item=i) for i in (0, 1)]
    + [field(Area.SHARD, "tables", (1 << 64) - 1), field(Area.SHARD, "chunks", 0)],
    "counts-none": [field(Area.SHARD, "count", 0, index=i, item=j) for i in range(4) for j in (0, 1)],
    "free-pages-wrap": [field(Area.ALLOCATOR, "free_pages", (1 << 64) - 1)],
}

LENGTHS = {"shorter-by-a-page": 1, "shorter-by-half": 60, "longer-by-noise": 140}

FOUND: dict[str, bytes] = {
    # Recovery cut the file to a length that no zone ends at, below what it had mapped: SIGBUS.
    "recovery-cuts-below-the-zones": pack(
        [Patch(Area.SLOT, i, 17, to(Area.RECORD, 0, 0x32), 8, Op.POINT) for i in range(2)], store="empty", mode="w"
    ),
    # A lock that named the slot which the next to attach got: sync() waited for itself without end.
    "locked-by-the-next-to-attach": pack(
        [field(Area.PROCESS, "state", 0), field(Area.CONTROL, "checkpoint_lock", 1 | 2 << 12)], store="dirty"
    ),
    # A queue of dead extents that led back to itself was collected again and again, without end.
    "collected-without-end": pack(
        [
            field(Area.ALLOCATOR, "waiting_head", 0x50),
            Patch(Area.EXTENT, 5, 24, 0x50),
            Patch(Area.ZONE_STATE, 36, 1300, 0xBD0, 2, Op.XOR),
        ],
        store="large",
        mode="p",
    ),
    # verify() of a read-only handle waited ten seconds whatever lock_timeout said.
    "read-only-verify-waits": pack([Patch(Area.SHARD, 0, 8, 1)], store="deep", mode="p"),
}


def write(directory: Path, stores: list[str] | None = None, modes: list[str] | None = None) -> list[Path]:
    """Every input as a file, named after what it is."""
    inputs = {
        f"{name}.{store}.{mode}": pack(patches, store, mode)
        for name, patches in SEEDS.items()
        for store in stores or STORES
        for mode in modes or MODES
    }
    inputs.update(
        {f"{name}.{store}": pack([], store, length=length) for name, length in LENGTHS.items() for store in STORES}
    )
    paths = []
    for name, data in {**inputs, **FOUND}.items():
        paths.append(directory / name)
        paths[-1].write_bytes(data)
    return paths
