"""`mmkv get`."""

from __future__ import annotations

import click

from .errors import Absent
from .opening import open_for_reading
from .options import examples, hex_option, hex_value_option, json_option, parse_key, store_argument
from .streams import binary_stdout
from .text import dump_json, json_field

__all__ = ["get"]


@click.command(
    short_help="Print the value of a key.",
    epilog=examples(
        """
        mmkv get store.mmkv photo > photo.jpg
        mmkv get --hex store.mmkv 00ff
        mmkv get --json store.mmkv greeting
        """
    ),
)
@store_argument
@click.argument("key")
@hex_option
@hex_value_option
@json_option
def get(store: str, key: str, as_hex: bool, hex_value: bool, as_json: bool) -> None:
    """Print the value of KEY: its bytes, and nothing added.

    With --json: an object with "key" and "value", or "key_b64" and "value_b64" in base64 for bytes that are not UTF-8.
    """
    if as_json and hex_value:
        raise click.UsageError("--json and --hex-value exclude each other")
    name = parse_key(key, as_hex)
    with open_for_reading(store) as db:
        value = db.get(name)
    if value is None:
        raise Absent(name)
    out = binary_stdout()
    if as_json:
        out.write(dump_json({**json_field("key", name), **json_field("value", value)}))
    elif hex_value:
        out.write(value.hex().encode("ascii") + b"\n")
    else:
        out.write(value)
