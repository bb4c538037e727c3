"""The formulas of docs/format.md, written down again from the document."""

from __future__ import annotations

import xxhash

WORD = 1 << 64
EPOCH_MASK = (1 << 48) - 1
EPOCH_K = 0x9E3779B97F4A7C15
PLACE_K = 0xD6E8FEB86659FD93
RECORD_PLACE_K = 0x9E3779B1


def xxh3(data: bytes, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(data, seed)


def stamp(epoch: int, offset: int) -> int:
    """The epoch word of an epoch at a position."""
    return epoch | ((epoch * EPOCH_K + offset * PLACE_K) % WORD >> 48) << 48


def good(word: int, offset: int) -> bool:
    """Does the check of an epoch word hold?"""
    return stamp(word & EPOCH_MASK, offset) == word


def extent_check(word: int, offset: int) -> int:
    """The check of a descriptor's bytes 16 to 23, in place: in the high 16 bits."""
    return ((word * EPOCH_K + offset * PLACE_K) % WORD >> 48) << 48


def class_size(number: int) -> int:
    """Bytes of a block of a size class."""
    if number < 8:
        return 16 * (number + 1)
    if number < 48:
        doubling = (number - 8) // 8
        return (128 << doubling) + (16 << doubling) * ((number - 8) % 8 + 1)
    blocks = 15 - (number - 48)
    return (65536 - blocks_at(blocks)) // blocks // 16 * 16


def epochs_at(blocks: int) -> int:
    """Where the epoch words of a chunk begin."""
    return 64 + (8 * -(-blocks // 64) + 15) // 16 * 16


def blocks_at(blocks: int) -> int:
    """Where the blocks of a chunk begin."""
    return (epochs_at(blocks) + 16 * blocks + 63) // 64 * 64


def chunk_blocks(order: int, size: int) -> int:
    """How many blocks a chunk holds."""
    blocks = 0
    while blocks_at(blocks + 1) + (blocks + 1) * size <= 4096 << order:
        blocks += 1
    return blocks


def zone_geometry(pages: int) -> tuple[int, int, int]:
    """Where a zone's descriptors begin, and how many pages are its own: in a heap zone, in an index zone."""
    descriptors = 64 * -(-16 * -(-pages // 64) // 64)
    return descriptors, -(-(descriptors + 32 * pages) // 4096), -(-descriptors // 4096)


def hash_parts(key: bytes, hash_seed: int, shard_count: int) -> tuple[int, int, int, int]:
    """Shard, depth bits, tag and home bucket of a key."""
    h = xxh3(key, hash_seed)
    s = shard_count.bit_length() - 1
    return (
        h >> (64 - s),
        (h << s) % WORD >> 44,
        ((h << (s + 20)) % WORD >> 57) or 1,
        (h & 0xFFFFFF) * 60 >> 24,
    )


def record_checksum(key: bytes, value: bytes, flags: int, expiry: int, hash_seed: int) -> int:
    """The checksum of a record."""
    word = len(key) | (flags & ~7) << 16 | len(value) << 24
    seed = (xxh3(key, hash_seed) + word + expiry) % WORD
    return (xxh3(value, seed) % (1 << 32) + (flags & 7) * RECORD_PLACE_K) % (1 << 32)
