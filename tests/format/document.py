"""Reading docs/format.md and format.h as data: structures, fields, constants, tables."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "format.md"
HEADER = ROOT / "mmkv" / "engine" / "format.h"

COLUMNS = ["Offset", "Size", "Type", "Name", "Unit", "Written when", "Valid when"]
SIZES = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}


class Field(NamedTuple):
    """One row of a structure's table."""

    name: str
    type: str
    offset: int
    size: int


class Structure(NamedTuple):
    """A structure of the document: its total size and its rows."""

    size: int
    fields: list[Field]


def tables(text: str) -> list[tuple[str, list[str], list[list[str]]]]:
    """All tables of a page, each with the heading above it, its column titles and its rows."""
    found: list[tuple[str, list[str], list[list[str]]]] = []
    heading, rows = "", None
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if rows is None:
            rows = []
            found.append((heading, cells, rows))
        elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            assert len(cells) == len(found[-1][1]), f"a row with another number of columns: {line}"
            rows.append(cells)
    return found


def table_after(text: str, first_column: str) -> list[list[str]]:
    """The rows of the one table whose first column has this title."""
    matches = [rows for _, titles, rows in tables(text) if titles[0] == first_column]
    assert len(matches) == 1, f"{len(matches)} tables begin with a column {first_column!r}"
    return matches[0]


def structures_of(text: str) -> dict[str, Structure]:
    """The structures that the document describes, by name."""
    found: dict[str, Structure] = {}
    for heading, titles, rows in tables(text):
        match = re.fullmatch(r"`(fmt_\w+)` \(([\d,]+) bytes\)", heading)
        if match is None:
            assert titles != COLUMNS, f"a table of fields under the heading {heading!r}"
            continue
        name, size = match[1], int(match[2].replace(",", ""))
        if titles != COLUMNS:
            continue
        assert name not in found, f"{name} is described twice"
        found[name] = Structure(size, [Field(row[3], row[2], int(row[0]), int(row[1])) for row in rows])
    return found


def structure_headings(text: str) -> list[str]:
    """The structures that have a heading, with a table below it or not."""
    return re.findall(r"^#+ `(fmt_\w+)`", text, flags=re.MULTILINE)


def constants_of(text: str) -> dict[str, int | bytes]:
    """The constants that the document lists, by name."""
    matches = [rows for heading, _, rows in tables(text) if heading == "Constants"]
    assert len(matches) == 1
    found: dict[str, int | bytes] = {}
    for row in matches[0]:
        name, value = row[0].strip("`"), row[1].strip("`")
        assert name not in found, f"{name} is listed twice"
        found[name] = bytes.fromhex(value) if " " in value else int(value, 0)
    return found


# ---- format.h, as text ----


def header_code(text: str) -> str:
    """The header without comments."""
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)


def _number(expression: str, defines: dict[str, str], depth: int = 0) -> int:
    """The value of an expression of whole numbers, operators and names of the header."""
    assert depth < 10, f"{expression} goes round in circles"
    plain = re.sub(r"\b(0[xX][0-9a-fA-F]+|\d+)[uUlL]*\b", r"\1", expression)
    plain = re.sub(r"\bFMT_\w+\b", lambda match: str(_number(defines[match[0]], defines, depth + 1)), plain)
    assert re.fullmatch(r"[0-9a-fA-FxX\s()+*/<>|&~-]+", plain), f"not an expression of numbers: {expression!r}"
    return int(eval(plain.strip(), {"__builtins__": {}}))


def header_defines(text: str) -> dict[str, str]:
    """Every macro of the header that has a value and no arguments, as text."""
    found = re.findall(r"^#define (FMT_\w+)[ \t]+(\S.*?)\s*$", header_code(text), flags=re.MULTILINE)
    return dict(found)


def header_constants(text: str) -> dict[str, int | bytes]:
    """The same, evaluated."""
    defines = header_defines(text)
    return {
        name: ast.literal_eval("b" + value) if value.startswith('"') else _number(value, defines)
        for name, value in defines.items()
    }


def header_fields(text: str) -> dict[str, dict[str, str]]:
    """For each structure of the header the type of each field, in the document's spelling."""
    defines = header_defines(text)
    found: dict[str, dict[str, str]] = {}
    for name, body in re.findall(r"\bstruct (fmt_\w+) \{(.*?)\}\s*;", header_code(text), flags=re.DOTALL):
        fields = found[name] = {}
        for declaration in filter(None, (part.strip() for part in body.split(";"))):
            match = re.fullmatch(r"(?:u?int(\d+)_t|struct (\w+))\s+(.*)", declaration, flags=re.DOTALL)
            assert match is not None, f"{name}: {declaration!r}"
            base = f"u{match[1]}" if match[1] else match[2]
            for item in match[3].split(","):
                part = re.fullmatch(r"\s*(\w+)(?:\[(.*)\])?\s*", item, flags=re.DOTALL)
                assert part is not None, f"{name}: {declaration!r}"
                fields[part[1]] = base if part[2] is None else f"{base}[{_number(part[2], defines)}]"
    return found
