"""No single flipped bit gets past the checks of epoch words and descriptors.

A proof and a search. The proof: let K be the multiplier and b the bit that flips. The sum whose top 16 bits are the
check changes by d = +-(K << b) mod 2^64. Adding d changes the top 16 bits by d >> 48, or by that and the carry 1 out of
the low 48 bits, mod 2^16. They stay as they were only if d >> 48 is 0 and nothing is carried, or 0xffff and 1 is.
If (K << b) >> 48 is neither 0 nor 0xffff, then neither is (-(K << b)) >> 48, except that it is 0xffff when the low 48
bits are 0 and the top half is 1; but where the low bits are 0 nothing is ever carried. So the check must change, and
the word, whose check did not, is bad. A bit that flips in the check itself leaves everything that the check was
computed from as it was.
"""

from __future__ import annotations

import random

import pytest

from tests.format import formulas
from tests.format.formulas import EPOCH_K, EPOCH_MASK, PLACE_K, WORD

EPOCHS = [0, 1, 2, 3, 255, 256, 65_535, 1 << 20, (1 << 24) - 1, 1 << 32, (1 << 47) + 1, EPOCH_MASK - 1, EPOCH_MASK]
OFFSETS = [0, 8, 0x1080, 0x2080, 0xB1000, 0xC3480, 0xC3488, 1 << 31, (1 << 40) + 8, (1 << 47) - 16, (1 << 47) - 8]


def survivors(word: int, offset: int) -> list[int]:
    """The bits of an epoch word that could flip unnoticed."""
    return [bit for bit in range(64) if formulas.good(word ^ 1 << bit, offset)]


@pytest.mark.parametrize("multiplier", [EPOCH_K, PLACE_K], ids=["epoch", "place"])
def test_no_shift_of_the_multiplier_has_an_empty_top(multiplier: int) -> None:
    tops = [(multiplier << bit) % WORD >> 48 for bit in range(64)]
    assert [bit for bit, top in enumerate(tops) if top in (0, 0xFFFF)] == []


@pytest.mark.parametrize("multiplier", [EPOCH_K, PLACE_K], ids=["epoch", "place"])
def test_the_argument_about_carries_holds(multiplier: int) -> None:
    """For each bit, both directions, and the sums just before and after a carry: the top 16 bits always change."""
    for bit in range(64):
        for change in ((multiplier << bit) % WORD, -(multiplier << bit) % WORD):
            low = change & EPOCH_MASK
            edges = {0, 1, EPOCH_MASK, EPOCH_MASK - 1, (1 << 48) - low & EPOCH_MASK, EPOCH_MASK - low}
            for top in (0, 1, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF):
                for edge in edges:
                    before = top << 48 | edge
                    assert (before + change) % WORD >> 48 != top, (bit, change, before)


def test_a_stamp_is_good() -> None:
    for epoch in EPOCHS:
        for offset in OFFSETS:
            word = formulas.stamp(epoch, offset)
            assert formulas.good(word, offset)
            assert word & EPOCH_MASK == epoch


def test_no_single_flipped_bit_of_an_epoch_word_goes_unnoticed() -> None:
    for epoch in EPOCHS:
        for offset in OFFSETS:
            assert survivors(formulas.stamp(epoch, offset), offset) == [], (epoch, offset)


def test_no_single_flipped_bit_of_random_epoch_words_goes_unnoticed(rng: random.Random) -> None:
    for _ in range(5_000):
        epoch, offset = rng.getrandbits(rng.randint(1, 48)), rng.getrandbits(rng.randint(4, 47)) & ~7
        assert survivors(formulas.stamp(epoch, offset), offset) == [], (epoch, offset)


def test_a_word_is_bad_in_its_neighbours_place(rng: random.Random) -> None:
    """born taken for dead, and any position that differs by a power of two."""
    for _ in range(2_000):
        epoch, offset = rng.getrandbits(48), rng.getrandbits(46) & ~7
        word = formulas.stamp(epoch, offset)
        for bit in range(3, 47):
            assert not formulas.good(word, offset + (1 << bit)), (epoch, offset, bit)
            assert not formulas.good(word, offset ^ 1 << bit), (epoch, offset, bit)


def test_one_flipped_bit_makes_born_nothing_only_where_the_document_says(rng: random.Random) -> None:
    """A bare 0 is not checked: a born word with a single 1 bit is the one case, and its epoch is a power of two."""
    for _ in range(5_000):
        epoch, offset = rng.randint(1, EPOCH_MASK), rng.getrandbits(46) & ~7
        word = formulas.stamp(epoch, offset)
        if word.bit_count() == 1:
            assert epoch.bit_count() == 1
            assert word >> 48 == 0
    k_inverse = pow(PLACE_K, -1, WORD)
    offset = -EPOCH_K * k_inverse % WORD  # makes the sum 0, so that the check is 0 too; no file is that long
    assert formulas.stamp(1, offset) == 1


def test_no_single_flipped_bit_of_a_descriptor_goes_unnoticed(rng: random.Random) -> None:
    words = [0, 1, 0x0112000300000001, 0x0200003F00000100, WORD - 1]
    words += [rng.getrandbits(64) for _ in range(1_000)]
    offsets = [0, 0xB1000, 0xB1200, (1 << 47) - 32] + [rng.getrandbits(47) & ~31 for _ in range(5)]
    for word in words:
        for offset in offsets:
            check = formulas.extent_check(word, offset)
            assert [bit for bit in range(64) if formulas.extent_check(word ^ 1 << bit, offset) == check] == []
            assert check & EPOCH_MASK == 0  # the 48 bits below are free for the link


def test_a_flipped_bit_would_be_found_if_it_could_pass() -> None:
    """With a multiplier that is too small the search above does fail."""

    def weak(epoch: int, offset: int) -> int:
        return epoch | ((epoch * 0x9E37 + offset * PLACE_K) % WORD >> 48) << 48

    word = weak(7, 0xC3480)
    flipped = [word ^ 1 << bit for bit in range(48)]
    assert any(weak(w & EPOCH_MASK, 0xC3480) == w for w in flipped)


def test_no_flipped_bit_of_a_record_goes_unnoticed() -> None:
    """Every bit of header, key and value of a small record."""
    seed, key, value, flags = 0x0123456789ABCDEF, b"some key", b"and its value", 2
    word = len(key) | flags << 16 | len(value) << 24
    checksum = formulas.record_checksum(key, value, flags, 0, seed)
    record = checksum.to_bytes(4, "little") + word.to_bytes(8, "little") + key + value

    def holds(data: bytes) -> bool:
        key_length, flags = int.from_bytes(data[4:6], "little"), data[6]
        value_length = int.from_bytes(data[7:12], "little")
        start = 12 + (8 if flags & 8 else 0)
        if flags >> 4 or start + key_length + value_length > len(data):
            return False
        expiry = int.from_bytes(data[12:20], "little") if flags & 8 else 0
        key = data[start : start + key_length]
        value = data[start + key_length : start + key_length + value_length]
        expected = formulas.record_checksum(key, value, flags, expiry, seed)
        return int.from_bytes(data[:4], "little") == expected

    block = record.ljust(4096, b"\xa5")
    assert holds(block)
    for bit in range(8 * len(record)):
        damaged = bytearray(block)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not holds(bytes(damaged)), bit
