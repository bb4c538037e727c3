"""The command line `mmkv`: a thin layer over the public Python API, one file per command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status (see `cli.errors`); the entry point of the script `mmkv`."""
    try:
        # Imported here, not above, so that a Ctrl-C while the imports run is one line too.
        from .app import run

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("mmkv: interrupted", file=sys.stderr)
        return 130
