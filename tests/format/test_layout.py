"""docs/format.md, format.h and the compiled engine say the same, each compared with the others in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.format import document, formulas
from tests.format.document import DOCUMENT, HEADER, SIZES, Structure

TEXT = DOCUMENT.read_text()
STRUCTURES = document.structures_of(TEXT)
CLASSES = 60
ORDERS = 5


@pytest.fixture(scope="module")
def compiled() -> dict[str, int]:
    """What the engine says of itself: sizes and offsets as "structure" and "structure.field", formulas as calls."""
    from mmkv._native import ffi, lib

    name, value = ffi.new("char[]", 128), ffi.new("uint64_t *")
    found: dict[str, int] = {}
    while lib.mmkv_layout(len(found), name, 128, value):
        text = ffi.string(name).decode()
        assert text not in found or "(" in text, f"{text} is listed twice"
        # Formulas may come twice with the same arguments; a number keeps the count right.
        found[text if text not in found else f"{text} #{len(found)}"] = value[0]
    return found


def differences(expected: Mapping[str, object], actual: Mapping[str, object]) -> list[str]:
    """What is missing on either side, and what differs."""
    return [
        f"{name}: {expected.get(name, 'missing')} in the document, {actual.get(name, 'missing')} in the engine"
        for name in sorted({*expected, *actual})
        if expected.get(name) != actual.get(name)
    ]


def layout_of(structures: Mapping[str, Structure]) -> dict[str, int]:
    """The document's structures in the engine's words."""
    layout = {name: structure.size for name, structure in structures.items()}
    for name, structure in structures.items():
        layout |= {f"{name}.{field.name}": field.offset for field in structure.fields}
    return layout


def gaps(structures: Mapping[str, Structure]) -> list[str]:
    """Where the rows of a table do not follow each other, or a size is not that of its type."""
    found = []
    for name, structure in structures.items():
        end = 0
        for field in structure.fields:
            if field.offset != end:
                found.append(f"{name}.{field.name} at {field.offset}, not {end}")
            match = re.fullmatch(r"(\w+?)(?:\[(\d+)\])?", field.type)
            assert match is not None, f"{name}.{field.name}: type {field.type!r}"
            base = SIZES[match[1]] if match[1] in SIZES else structures[match[1]].size
            if field.size != base * int(match[2] or 1):
                found.append(f"{name}.{field.name}: {field.type} does not have {field.size} bytes")
            end = field.offset + field.size
        if end != structure.size:
            found.append(f"{name} has {structure.size} bytes and fields for {end}")
    return found


def types_of(structures: Mapping[str, Structure]) -> dict[str, str]:
    return {f"{name}.{field.name}": field.type for name, structure in structures.items() for field in structure.fields}


def header_types(text: str) -> dict[str, str]:
    fields = document.header_fields(text)
    return {f"{name}.{field}": kind for name, types in fields.items() for field, kind in types.items()}


# ---- structures ----


def test_every_structure_has_one_table() -> None:
    assert document.structure_headings(TEXT) == list(STRUCTURES)


def test_fields_follow_each_other_without_gaps() -> None:
    assert gaps(STRUCTURES) == []


def test_document_and_engine_have_the_same_layout(compiled: dict[str, int]) -> None:
    offsets = {name: value for name, value in compiled.items() if "(" not in name}
    assert differences(layout_of(STRUCTURES), offsets) == []


def test_document_and_header_have_the_same_fields_and_types() -> None:
    """So that a field missing from the engine's own table is missed too."""
    assert differences(types_of(STRUCTURES), header_types(HEADER.read_text())) == []


def test_document_and_header_have_the_same_constants() -> None:
    assert differences(document.constants_of(TEXT), document.header_constants(HEADER.read_text())) == []


def test_header_pins_every_structure_that_it_has() -> None:
    text = document.header_code(HEADER.read_text())
    pinned = dict(re.findall(r"FMT_SIZE\((fmt_\w+), (\d+)\)", text))
    assert (
        differences(
            {name: structure.size for name, structure in STRUCTURES.items()},
            {name: int(size) for name, size in pinned.items()},
        )
        == []
    )


def test_areas_follow_each_other_and_are_where_the_constants_say() -> None:
    rows = document.table_after(TEXT, "From")
    constants = document.constants_of(TEXT)
    areas = {row[2]: row[0].strip("`") for row in rows}
    fixed = [row for row in rows if re.fullmatch(r"`0x[0-9a-f]+`", row[1])]
    for row, following in zip(fixed, rows[1:], strict=False):
        assert row[1] == following[0]
    named = {
        "superblock": "FMT_SUPERBLOCK_AT",
        "slot A": "FMT_SLOT_A_AT",
        "slot B": "FMT_SLOT_B_AT",
        "control": "FMT_CONTROL_AT",
        "processes": "FMT_PROCESSES_AT",
        "page allocator": "FMT_ALLOCATOR_AT",
        "zone table": "FMT_ZONES_AT",
        "zone states": "FMT_ZONE_STATES_AT",
        "shards": "FMT_SHARDS_AT",
    }
    assert {area: int(areas[area], 16) for area in named} == {area: constants[name] for area, name in named.items()}
    assert constants["FMT_PROCESSES"] * STRUCTURES["fmt_process"].size == 0x14000 - 0x4000
    assert constants["FMT_ZONES"] * STRUCTURES["fmt_zone"].size == 0x28000 - 0x18000
    assert constants["FMT_ZONES"] * STRUCTURES["fmt_zone_state"].size == 0x30000 - 0x28000


def test_examples_of_zones() -> None:
    examples = re.findall(r"P = ([\d,]+): D = ([\d,]+), M = (\d+)(?: in a heap zone)? and (\d+)", TEXT)
    assert len(examples) == 3
    for example in examples:
        pages, descriptors, heap, index = (int(number.replace(",", "")) for number in example)
        assert (descriptors, heap, index) == formulas.zone_geometry(pages)


def test_what_must_change_as_one_lies_in_one_sector() -> None:
    assert STRUCTURES["fmt_slot"].size <= 512
    for name in ("fmt_zone", "fmt_extent", "fmt_epochs"):
        assert 512 % STRUCTURES[name].size == 0


# ---- the comparison can fail ----


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"^\| 56 \| 8 \| u64 \| hash_seed", "| 57 | 8 | u64 | hash_seed"),  # an offset
        (r"^\| 56 \| 8 \| u64 \| hash_seed", "| 56 | 8 | u64 | hashseed"),  # a name
        (r"^### `fmt_slot` \(136 bytes\)", "### `fmt_slot` (128 bytes)"),  # a size
        (r"^\| 20 \| 4 \| u32 \| reserved .*\n", ""),  # a field of the engine's that the document has not
        (r"^(\| 24 \| 8 \| u64 \| checksum .*\n)", r"\1| 32 | 8 | u64 | more | | never | |\n"),  # the other way round
        (r"^### `fmt_epochs` \(16 bytes\)", "### `fmt_stamps` (16 bytes)"),  # a structure
    ],
)
def test_a_changed_layout_is_noticed(pattern: str, replacement: str, compiled: dict[str, int]) -> None:
    changed, count = re.subn(pattern, replacement, TEXT, count=1, flags=re.MULTILINE)
    assert count == 1
    offsets = {name: value for name, value in compiled.items() if "(" not in name}
    assert differences(layout_of(document.structures_of(changed)), offsets) != []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("`FMT_BUCKETS` | `60`", "`FMT_BUCKETS` | `61`"),
        ("| `FMT_BUCKETS` | `60` | lines | home buckets of a table |\n", ""),
        ("`6d 6d 6b 76 43 4b 50 54`", "`6d 6d 6b 76 43 4b 50 55`"),
        ("`FMT_KEY_MAX`", "`FMT_KEY_MOST`"),
    ],
)
def test_a_changed_constant_is_noticed(old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    constants = document.constants_of(TEXT.replace(old, new))
    assert differences(constants, document.header_constants(HEADER.read_text())) != []


def test_a_table_of_fields_without_its_structure_is_noticed() -> None:
    with pytest.raises(AssertionError, match="a table of fields under"):
        document.structures_of(TEXT.replace("### `fmt_epochs` (16 bytes)", "### Epochs"))


def test_a_changed_type_is_noticed() -> None:
    changed = TEXT.replace("| 20 | 2 | u16 | shard |", "| 20 | 2 | u8[2] | shard |")
    assert changed != TEXT
    assert gaps(document.structures_of(changed)) == []
    assert differences(types_of(document.structures_of(changed)), header_types(HEADER.read_text())) != []


# ---- formulas ----


def classes() -> list[list[int]]:
    """The rows of the document's table of size classes."""
    return [[int(cell.replace(",", "")) for cell in row] for row in document.table_after(TEXT, "Class")]


def test_size_classes_are_what_the_formula_gives() -> None:
    expected = []
    for number in range(CLASSES):
        size = formulas.class_size(number)
        blocks = [formulas.chunk_blocks(order, size) for order in range(ORDERS)]
        expected.append([number, size, *blocks, formulas.blocks_at(blocks[-1])])
    assert classes() == expected


def test_size_classes_are_what_the_engine_has(compiled: dict[str, int]) -> None:
    for number, size, *blocks, first in classes():
        assert compiled[f"fmt_class_size({number})"] == size
        for order in range(ORDERS):
            assert compiled[f"fmt_chunk_blocks({order},{number})"] == blocks[order]
        assert compiled[f"fmt_chunk_blocks_at({blocks[-1]})"] == first
    assert sum(name.startswith("fmt_class_size(") for name in compiled) == len(classes()) == CLASSES


def test_size_classes_grow_in_units_and_fill_their_chunks() -> None:
    sizes = [row[1] for row in classes()]
    assert sizes == sorted(set(sizes))
    for size in sizes:
        assert size % 16 == 0
        for order in range(ORDERS):
            blocks = formulas.chunk_blocks(order, size)
            assert formulas.blocks_at(blocks) % 64 == 0
            assert formulas.epochs_at(blocks) % 16 == 0
            assert formulas.epochs_at(blocks) >= 64 + -(-blocks // 8)
            assert formulas.blocks_at(blocks) >= formulas.epochs_at(blocks) + 16 * blocks
            if blocks:
                assert formulas.blocks_at(blocks) + blocks * size <= 4096 << order


def test_worked_stamps_and_checks(compiled: dict[str, int]) -> None:
    rows = {row[0].strip("`"): int(row[1].strip("`"), 16) for row in document.table_after(TEXT, "Formula")}
    for call, value in rows.items():
        match = re.fullmatch(r"fmt_(stamp|extent_check)\((0x[0-9a-f]+),(0x[0-9a-f]+)\)", call)
        assert match is not None, call
        formula = formulas.stamp if match[1] == "stamp" else formulas.extent_check
        assert formula(int(match[2], 16), int(match[3], 16)) == value, call
    printed = {name: value for name, value in compiled.items() if name.startswith(("fmt_stamp(", "fmt_extent_check("))}
    assert differences(rows, printed) == []


def test_worked_hash() -> None:
    match = re.search(
        r"The hash of `(\w+)` with `hash_seed` = `(0x\w+)` is `(0x\w+)`\. In a store of (\d+) shards \(s = (\d)\): "
        r"shard (\d+), depth bits `(0x\w+)`, tag (\d+), home bucket (\d+)\.",
        TEXT,
    )
    assert match is not None
    key, seed, shards = match[1].encode(), int(match[2], 16), int(match[4])
    assert formulas.xxh3(key, seed) == int(match[3], 16)
    assert 1 << int(match[5]) == shards
    parts = formulas.hash_parts(key, seed, shards)
    assert parts == (int(match[6]), int(match[7], 16), int(match[8]), int(match[9]))


def test_worked_records() -> None:
    match = re.search(r"The hash of `(\w+)` with `hash_seed` = `(0x\w+)`", TEXT)
    assert match is not None
    key, seed = match[1].encode(), int(match[2], 16)
    values = {"`value`": b"value", "empty": b"", "20,000 zero bytes": bytes(20_000)}
    rows = document.table_after(TEXT, "Value")
    assert {row[0] for row in rows} == set(values)
    for name, place, expiry, header, checksum in rows:
        value = values[name]
        flags = int(place) | (0 if expiry == "none" else 8)
        at = 0 if expiry == "none" else int(expiry.replace(",", ""))
        expected = formulas.record_checksum(key, value, flags, at, seed)
        assert int(checksum.strip("`"), 16) == expected
        word = len(key) | flags << 16 | len(value) << 24
        assert bytes.fromhex(header.strip("`")) == expected.to_bytes(4, "little") + word.to_bytes(8, "little")
