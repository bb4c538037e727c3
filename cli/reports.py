"""How `check` and `salvage` print what they found."""

from __future__ import annotations

from typing import Any

import mmkv

from .streams import binary_stdout
from .text import dump_json, json_field

__all__ = ["print_check", "print_json", "print_text"]


def _print(text: str) -> None:
    binary_stdout().write(f"{text}\n".encode("utf-8", "backslashreplace"))


def print_check(report: mmkv.Report) -> None:
    """Print the report of a check as it is."""
    _print(str(report))


def print_text(verb: str, report: mmkv.Report) -> None:
    """Print a report of something that was done, problem by problem."""
    # The report's own heading is the check's: that a store *is* damaged.
    heading, *lines = str(report).split("\n")
    _print("\n".join([f"{verb}: {heading.partition(': ')[2]}", *lines]))


def print_json(report: mmkv.Report, **more: Any) -> None:
    """Print a report as one JSON object."""
    errors = [
        {"kind": kind, **({} if key is None else json_field("key", key)), "offset": offset, "text": text}
        for kind, key, offset, text in report.errors
    ]
    binary_stdout().write(dump_json({"ok": report.ok, "records": report.records, "errors": errors, **more}))
