"""Fixtures: file systems that are gone when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.full.disks import IMAGE_BYTES, MIB, Disk, Mounts


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """Mount what you like; it is unmounted when the test is over, failed or not."""
    mounts = Mounts(tmp_path)
    try:
        yield mounts
    finally:
        mounts.finish()


@pytest.fixture
def make_disk(mounts: Mounts) -> Callable[..., Disk]:
    """Make a file system of a kind with so much room."""

    def make(kind: str, room: int = 24 * MIB) -> Disk:
        return Disk(mounts, kind, room)

    return make


@pytest.fixture(params=IMAGE_BYTES)
def disk(request: pytest.FixtureRequest, make_disk: Callable[..., Disk]) -> Disk:
    """24 MiB of each kind of file system in turn."""
    return make_disk(request.param)
