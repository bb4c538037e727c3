"""`mmkv list`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import islice

import click

from .opening import open_for_reading
from .options import examples, hex_option, json_option, parse_bytes, store_argument
from .streams import binary_stdout, is_terminal
from .text import dump_json, escape, json_field

__all__ = ["list_"]


@click.command(
    "list",
    short_help="Print the keys.",
    epilog=examples(
        """
        mmkv list store.mmkv --prefix user/ --limit 10
        mmkv list -0 store.mmkv | xargs -0 -n1 mmkv get store.mmkv
        mmkv list --hex store.mmkv
        mmkv list --json store.mmkv | jq -r .key
        """
    ),
)
@store_argument
@click.option("-p", "--prefix", default="", metavar="P", help="Only keys that begin with P (with --hex: hexadecimal).")
@click.option("-n", "--limit", type=click.IntRange(min=0), metavar="N", help="Stop after N keys.")
@click.option("-0", "--null", "null", is_flag=True, help="End each key with a NUL instead of a newline.")
@hex_option
@json_option
def list_(*, store: str, prefix: str, limit: int | None, null: bool, as_hex: bool, as_json: bool) -> None:
    r"""Print the keys, one a line, in no particular order.

    On a terminal, bytes that are not printable are shown as \xNN and a backslash as two. In a pipe keys are as they
    are: use --null where they may hold newlines, or --hex or --json. With --json each line is an object with "key", or
    "key_b64" in base64 for a key that is not UTF-8.
    """
    if as_json and (as_hex or null):
        raise click.UsageError("--json excludes --hex and --null")
    start = parse_bytes(prefix, as_hex, "--prefix")
    render = _renderer(null=null, as_hex=as_hex, as_json=as_json)
    out = binary_stdout()
    with open_for_reading(store) as db:
        keys = (key for key in db if key.startswith(start)) if start else iter(db)
        for key in islice(keys, limit):
            out.write(render(key))


def _renderer(*, null: bool, as_hex: bool, as_json: bool) -> Callable[[bytes], bytes]:
    end = b"\0" if null else b"\n"
    if as_json:
        return lambda key: dump_json(json_field("key", key))
    if as_hex:
        return lambda key: key.hex().encode("ascii") + end
    if not null and is_terminal(sys.stdout):
        encoding = sys.stdout.encoding
        return lambda key: escape(key, encoding=encoding).encode(encoding) + end
    return lambda key: key + end
