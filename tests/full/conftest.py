"""Fixtures: file systems that are gone when the test is over."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.full.content import Content
from tests.full.disks import IMAGE_BYTES, MIB, Disk, Mounts


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    """Mount what you like; it is unmounted when the test is over, failed or not."""
    mounts = Mounts()
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


@pytest.fixture(
    params=[pytest.param(kind, marks=pytest.mark.slow) if kind == "btrfs" else kind for kind in IMAGE_BYTES]
)
def disk(request: pytest.FixtureRequest, make_disk: Callable[..., Disk]) -> Disk:
    """24 MiB of each kind of file system in turn."""
    return make_disk(request.param)


@pytest.fixture
def open_content(rng: random.Random, mounts: Mounts) -> Iterator[Callable[..., Content]]:
    """Open a store with nothing in it yet; closed when the test is over, before its file system goes."""
    opened: list[Content] = []

    def open_(path: Path, law: str = "all classes", **options: Any) -> Content:
        opened.append(Content(mmkv.open(path, **options), rng, law))
        return opened[-1]

    yield open_
    for content in opened:
        content.db.close()


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shim.c, compiled for LD_PRELOAD."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the sanitizer wants to be the library loaded first, and calls what is made to fail")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).parent / "shim.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library
