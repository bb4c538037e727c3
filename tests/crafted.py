"""Keys made for a hash: what chance does not bring about, such as a directory as deep as it goes."""

from __future__ import annotations

import struct

from xxhash import xxh3_64_intdigest

WORD = 2**64 - 1
PRIME_INVERSE = pow(0x9FB21C651E98DF25, -1, 2**64)


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & WORD


def _unmixed(word: int) -> int:
    # XXH3 of 8 bytes is one word that is mixed by steps each of which can be taken back.
    word ^= word >> 28 ^ word >> 56
    word = word * PRIME_INVERSE & WORD
    word ^= (word >> 35) + 8
    word = word * PRIME_INVERSE & WORD
    for _ in range(63):  # x ^ x.rotated(49) ^ x.rotated(24), 64 times, is x again
        word ^= _rotated(word, 49) ^ _rotated(word, 24)
    return word


def key_of(hashed: int, seed: int) -> bytes:
    """The key of 8 bytes that has a hash, in a store with a hash seed."""
    word = _unmixed(hashed) ^ _unmixed(xxh3_64_intdigest(bytes(8), seed))
    key = struct.pack("<II", word >> 32, word & 0xFFFFFFFF)
    assert xxh3_64_intdigest(key, seed) == hashed
    return key
