"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from textwrap import dedent
from typing import Any, TypeVar

import click

__all__ = [
    "KEY_MAX",
    "examples",
    "hex_option",
    "hex_value_option",
    "json_option",
    "old_option",
    "parse_bytes",
    "parse_key",
    "quiet_option",
    "store_argument",
]

KEY_MAX = 65_535  # bytes; the longest key a store takes

Command = TypeVar("Command", bound=Callable[..., Any])

# Not readable=True, nor exists=True: what is wrong with a store is the store's error (status 3), not one of usage.
PATH = click.Path(readable=False, allow_dash=True)


def store_argument(command: Command) -> Command:
    """Add the argument STORE, whose completion offers files."""
    return click.argument("store", type=click.Path(readable=False))(command)


def hex_option(command: Command) -> Command:
    """Add `--hex`: keys in hexadecimal."""
    return click.option("-x", "--hex", "as_hex", is_flag=True, help="Keys are in hexadecimal.")(command)


def hex_value_option(command: Command) -> Command:
    """Add `--hex-value`: the value in hexadecimal."""
    return click.option("-X", "--hex-value", is_flag=True, help="The value is in hexadecimal.")(command)


def json_option(command: Command) -> Command:
    """Add `--json`."""
    return click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")(command)


def old_option(text: str) -> Callable[[Command], Command]:
    """Add `--old`: the value that a key is expected to have."""

    def add(command: Command) -> Command:
        return click.option("-o", "--old", metavar="VALUE", help=text)(command)

    return add


def quiet_option(command: Command) -> Command:
    """Add `--quiet`."""
    return click.option("-q", "--quiet", is_flag=True, help="No summary and no progress on stderr.")(command)


def parse_bytes(text: str, as_hex: bool, name: str) -> bytes:
    """Return the bytes that an argument stands for: those the shell passed, or what its hexadecimal digits say."""
    if not as_hex:
        return os.fsencode(text)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not hexadecimal", param_hint=name) from None


def parse_key(text: str, as_hex: bool) -> bytes:
    """Return the key that an argument stands for."""
    key = parse_bytes(text, as_hex, "KEY")
    if len(key) > KEY_MAX:
        raise click.BadParameter(f"a key has at most {KEY_MAX:,} bytes, this one {len(key):,}", param_hint="KEY")
    return key


def examples(text: str) -> str:
    """Return an epilog with examples, marked so that click leaves their lines alone."""
    lines = "\n".join(f"  {line}" for line in dedent(text).strip().splitlines())
    return f"\b\nExamples:\n{lines}"
