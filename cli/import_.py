"""`mmkv import`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import cast

import click

import mmkv

from .batch import Batch
from .errors import BadData, Failure, describe, report
from .formats import FORMATS, Format, Source, find_import_format
from .jsonl import JsonLinesSource
from .opening import open_for_writing
from .options import KEY_MAX, PATH, examples, quiet_option, store_argument
from .progress import Progress
from .store_format import StoreSource
from .table import TableSource
from .text import escape_text
from .tree import TreeSource

__all__ = ["import_"]


@click.command(
    "import",
    short_help="Store files, rows or records.",
    epilog=examples(
        """
        mmkv import store.mmkv some/directory --prefix docs/
        mmkv import store.mmkv records.jsonl
        mmkv import store.mmkv people.csv --key email
        mmkv import store.mmkv other.mmkv
        zcat records.jsonl.gz | mmkv import store.mmkv -
        """
    ),
)
@store_argument
@click.argument("source", type=PATH)
@click.option("-f", "--format", "name", type=click.Choice(FORMATS), help="What SOURCE is, if its name does not tell.")
@click.option("-p", "--prefix", default="", metavar="P", help="Put P before every key.")
@click.option("--key", metavar="COLUMN", help="CSV, TSV: the column of the keys (key).")
@click.option("--value", metavar="COLUMN", help="CSV, TSV: the column of the values (the rest of the row, as JSON).")
@click.option("--follow", is_flag=True, help="Directory: follow symbolic links (else they are skipped).")
@quiet_option
def import_(
    *,
    store: str,
    source: str,
    name: str | None,
    prefix: str,
    key: str | None,
    value: str | None,
    follow: bool,
    quiet: bool,
) -> None:
    """Store every record of SOURCE; `-` is standard input (JSON Lines unless --format says otherwise).

    SOURCE is a directory (paths become keys), JSON Lines (.jsonl, .ndjson), CSV (.csv), TSV (.tsv) or another store.
    The store is made if it is missing. Records with the same key are replaced, so an import that was interrupted, which
    keeps what it had stored, can simply be run again.
    """
    kind = cast(Format, name) if name is not None else find_import_format(source)
    if source == "-" and kind in ("dir", "mmkv"):
        raise click.UsageError(f"standard input cannot be of format {kind}")
    if kind not in ("csv", "tsv") and (key is not None or value is not None):
        raise click.UsageError(f"--key and --value are for CSV and TSV, not for {kind}")
    if follow and kind != "dir":
        raise click.UsageError(f"--follow is for directories, not for {kind}")
    if kind == "mmkv" and os.path.exists(store) and os.path.samefile(store, source):
        raise Failure(f"{source}: is the store itself")
    # The source first: a store is not made for a source that is not there.
    with closing(_open_source(kind, source, store, key=key, value=value, follow=follow, quiet=quiet)) as records:
        _import(store, records, os.fsencode(prefix), quiet=quiet)


def _open_source(
    kind: Format, path: str, store: str, *, key: str | None, value: str | None, follow: bool, quiet: bool
) -> Source:
    if kind == "dir":
        return TreeSource(path, follow=follow, exclude=store)
    if kind == "mmkv":
        return StoreSource(path, quiet=quiet)
    if kind == "jsonl":
        return JsonLinesSource(path)
    return TableSource(path, kind, key=key, value=value)


def _import(store: str, source: Source, prefix: bytes, *, quiet: bool) -> None:
    with open_for_writing(store, create=True, quiet=quiet) as db:
        batch = Batch(db)
        with Progress("importing", quiet=quiet) as progress:
            try:
                for key, value in _prefixed(source, prefix):
                    batch.put(key, value)
                    if progress.is_due():
                        progress.update(batch.records, batch.size, done=source.position(), total=source.total)
                batch.flush()
            except BadData:
                batch.flush()  # all that came before the bad record is kept
                raise
            except mmkv.StoreFullError as error:
                text = (
                    f"{describe(error)}; {batch.records:,} records are stored, make room and run it again for the rest"
                )
                raise Failure(text) from error
            except KeyboardInterrupt:
                batch.flush()
                text = f"interrupted; {batch.records:,} records are stored, run it again for the rest"
                raise KeyboardInterrupt(text) from None
            batch.sync()
    if not quiet:
        report(f"imported {batch.records} records, {batch.size} bytes, skipped {source.skipped}")


def _prefixed(source: Source, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    for key, value in source:
        if len(prefix) + len(key) > KEY_MAX:
            size = f"{len(prefix) + len(key):,}"
            raise BadData(f"{escape_text(source.where())}: a key of {size} bytes; the longest is {KEY_MAX:,}")
        yield prefix + key, value
