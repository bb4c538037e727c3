"""Values: from the command line or standard input, and to standard output."""

from __future__ import annotations

import os

import click

from .options import parse_bytes
from .streams import binary_stdin, binary_stdout
from .text import dump_json, json_field

__all__ = ["check_forms", "print_value", "read_value"]


def read_value(value: str | None, hex_value: bool) -> bytes:
    """Return what the argument VALUE stands for or, without one, all of standard input.

    To be called before the store is opened: it is neither made nor held open for input that never comes.
    """
    if value is not None:
        return parse_bytes(value, hex_value, "VALUE")
    data = binary_stdin().read()
    return parse_bytes(os.fsdecode(data), hex_value, "VALUE") if hex_value else data


def check_forms(*, as_json: bool, hex_value: bool) -> None:
    """Refuse two forms at once."""
    if as_json and hex_value:
        raise click.UsageError("--json and --hex-value exclude each other")


def print_value(key: bytes, value: bytes, *, as_json: bool, hex_value: bool) -> None:
    """Print a value: its bytes, and nothing added, or in another form."""
    out = binary_stdout()
    if as_json:
        out.write(dump_json({**json_field("key", key), **json_field("value", value)}))
    elif hex_value:
        out.write(value.hex().encode("ascii") + b"\n")
    else:
        out.write(value)
