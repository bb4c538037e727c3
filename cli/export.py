"""`mmkv export`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import cast

import click

import mmkv

from .errors import Failure, UnsafeKey, report
from .formats import FORMATS, Format, Sink, find_export_format
from .jsonl import JsonLinesSink
from .opening import open_for_reading
from .options import PATH, examples, quiet_option, store_argument
from .progress import Progress
from .store_format import StoreSink
from .table import TableSink
from .tree import TreeSink

__all__ = ["export"]


@click.command(
    short_help="Write all records elsewhere.",
    epilog=examples(
        """
        mmkv export store.mmkv some/directory/
        mmkv export store.mmkv records.jsonl
        mmkv export store.mmkv - --format csv --prefix user/
        mmkv export store.mmkv copy.mmkv
        """
    ),
)
@store_argument
@click.argument("target", type=PATH)
@click.option(
    "-f", "--format", "name", type=click.Choice(FORMATS), help="What to write, if TARGET's name does not tell."
)
@click.option("-p", "--prefix", default="", metavar="P", help="Only keys that begin with P.")
@click.option("--strip-prefix", is_flag=True, help="Leave P out of the exported keys.")
@click.option("--skip-unsafe", is_flag=True, help="Directory: skip keys that cannot be paths below TARGET.")
@click.option("--force", is_flag=True, help="Store: replace TARGET if it exists.")
@quiet_option
def export(
    *,
    store: str,
    target: str,
    name: str | None,
    prefix: str,
    strip_prefix: bool,
    skip_unsafe: bool,
    force: bool,
    quiet: bool,
) -> None:
    """Write every record to TARGET; `-` is standard output (JSON Lines unless --format says otherwise).

    TARGET is a directory (one that exists, or a name that ends with a slash), JSON Lines (.jsonl, .ndjson), CSV (.csv),
    TSV (.tsv) or another store (.mmkv). All but a directory take their name only when they are complete.
    """
    kind = cast(Format, name) if name is not None else find_export_format(target)
    if target == "-" and kind in ("dir", "mmkv"):
        raise click.UsageError(f"standard output cannot be of format {kind}")
    if skip_unsafe and kind != "dir":
        raise click.UsageError(f"--skip-unsafe is for directories, not for {kind}")
    if force and kind != "mmkv":
        raise click.UsageError(f"--force is for stores, not for {kind}")
    start = os.fsencode(prefix)
    with open_for_reading(store, quiet=quiet) as db:
        if target != "-" and os.path.exists(target) and os.path.samefile(store, target):
            raise Failure(f"{target}: is the store itself")
        cut = len(start) if strip_prefix else 0

        def is_exported(key: bytes) -> bool:
            whole = start[:cut] + key
            return whole.startswith(start) and whole in db

        sink = _open_sink(kind, target, store, is_exported, force=force)
        try:
            sink.open()
            with Progress("exporting", quiet=quiet) as progress:
                if kind == "dir" and not skip_unsafe:
                    # Before anything is written: half a tree and an error would help nobody.
                    for key in _keys(db, start):
                        sink.check(key[cut:])
                _export(db, sink, start, cut, skip_unsafe=skip_unsafe, quiet=quiet, progress=progress)
        finally:
            sink.abort()


def _open_sink(kind: Format, target: str, store: str, is_exported: Callable[[bytes], bool], *, force: bool) -> Sink:
    if kind == "dir":
        return TreeSink(target, is_exported=is_exported, store=store)
    if kind == "mmkv":
        return StoreSink(target, force=force)
    if kind == "jsonl":
        return JsonLinesSink(target)
    return TableSink(target, kind)


def _export(
    db: mmkv.Store, sink: Sink, start: bytes, cut: int, *, skip_unsafe: bool, quiet: bool, progress: Progress
) -> None:
    records = size = skipped = 0
    total = None if start else len(db)
    for key, value in _records(db, start):
        try:
            sink.write(key[cut:], value)
        except UnsafeKey:
            if not skip_unsafe:
                raise
            skipped += 1
            continue
        records += 1
        size += len(key) - cut + len(value)
        progress.update(records, size, done=records + skipped, total=total)
    sink.commit()
    if not quiet:
        report(f"exported {records} records, {size} bytes, skipped {skipped}")


def _keys(db: mmkv.Store, start: bytes) -> Iterator[bytes]:
    return (key for key in db if key.startswith(start)) if start else iter(db)


def _records(db: mmkv.Store, start: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not start:
        yield from db.items()
        return
    # Only the values that are wanted are read. One by one: a batch of large ones would not be bounded.
    for key in _keys(db, start):
        value = db.get(key)
        if value is not None:  # deleted meanwhile
            yield key, value
