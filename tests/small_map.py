"""Stores that have little address space to begin with, so that a few megabytes more are mapped elsewhere."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import mmkv

MIB = 1 << 20
ENOUGH_TO_MOVE = 70 * MIB
"""A value that does not fit what such a store has reserved."""


def open_small(path: str | Path, mode: str = "c", **options: Any) -> mmkv.Store:
    """Open a store as where address space is limited: it reserves 64 MiB."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 100 * MIB, limits[1]))
    try:
        return mmkv.open(path, mode, **options)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
