"""Whose memory it is: the decision at attach, row by row (docs/format.md, "Dirty, clean and the identity").

`KEPT` was written and never synced: it is there if the volatile state was trusted, and gone after a recovery.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.support import Child, run_python

CONTROL = 0x3000
FIELDS = {"boot id": 0, "device": 16, "inode": 24, "birth": 32, "generation": 40}
FAILED = 92
SYNCED = {b"%d" % i: b"synced" for i in range(300)}
KEPT = {b"kept %d" % i: b"not synced" for i in range(300)}
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def make(path: Path, *, clean: bool) -> None:
    """A store that nobody has open."""
    with mmkv.open(path, sync="close" if clean else "manual") as db:
        db.update(SYNCED)
        db.sync()
        db.update(KEPT)


def other(path: Path, field: str) -> None:
    """Make one part of the identity that of another machine or file."""
    at = CONTROL + FIELDS[field]
    with open(path, "r+b") as file:
        value = os.pread(file.fileno(), 8, at)
        os.pwrite(file.fileno(), bytes([value[0] ^ 1]) + value[1:], at)


@pytest.mark.parametrize("field", [None, *FIELDS])
def test_clean_is_trusted_whatever_the_identity(field: str | None, open_store: Any, path: Path) -> None:
    make(path, clean=True)
    if field:
        other(path, field)
    assert dict(open_store(mode="w")) == SYNCED | KEPT


def test_dirty_with_the_same_identity_is_trusted(open_store: Any, path: Path) -> None:
    make(path, clean=False)
    assert dict(open_store(mode="w")) == SYNCED | KEPT


@pytest.mark.parametrize("field", FIELDS)
def test_dirty_with_another_identity_is_recovered(field: str, open_store: Any, path: Path) -> None:
    make(path, clean=False)
    other(path, field)
    assert dict(open_store(mode="w")) == SYNCED


def test_dirty_with_no_identity_is_recovered(open_store: Any, path: Path) -> None:
    make(path, clean=False)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), bytes(16), CONTROL)
    assert dict(open_store(mode="w")) == SYNCED


def test_dirty_after_a_failed_flush_is_recovered(open_store: Any, path: Path) -> None:
    make(path, clean=False)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), struct.pack("<I", 5), CONTROL + FAILED)
    db = open_store(mode="w")
    assert dict(db) == SYNCED
    db[b"k"] = b"v"
    assert db.sync() == db.durable_epoch, "and the failure is over"


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("field", FIELDS)
def test_a_store_in_use_is_joined_whatever_the_identity(field: str, clean: bool, open_store: Any, path: Path) -> None:
    make(path, clean=clean)
    first = open_store(mode="w", sync="manual")
    if not clean:
        first[b"dirty"] = b"now"
    other(path, field)
    second = open_store(mode="w", sync="manual")
    assert dict(second) == dict(first)
    assert second.keys() >= SYNCED.keys() | KEPT.keys()
    second[b"from the second"] = b"seen"
    assert first[b"from the second"] == b"seen"


def test_after_recovery_the_identity_is_ours_again(open_store: Any, path: Path) -> None:
    make(path, clean=False)
    other(path, "boot id")
    with open_store(mode="w", sync="manual") as db:
        db.update(KEPT)
    assert dict(open_store(mode="w")) == SYNCED | KEPT


def test_mode_r_names_mode_p_which_leaves_the_file_alone(open_store: Any, path: Path) -> None:
    make(path, clean=False)
    other(path, "boot id")
    before = path.read_bytes()
    with pytest.raises(mmkv.ReadOnlyError, match='mode "p"'):
        mmkv.open(path, "r")
    with mmkv.open(path, "p") as private:
        assert dict(private) == SYNCED
    assert path.read_bytes() == before
    open_store(mode="w")


# -- containers -------------------------------------------------------------------------------------------------------


def can_unshare() -> bool:
    return (
        os.geteuid() == 0
        and shutil.which("unshare") is not None
        and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


IN_A_CONTAINER = """
    import ctypes, os, sys
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x20000) == 0
    assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0  # private, all of it: nothing is seen outside
    assert libc.mount(sys.argv[2].encode(), b"/proc/sys/kernel/random/boot_id", None, 0x1000, None) == 0
    assert open("/proc/sys/kernel/random/boot_id").read() == open(sys.argv[2]).read()
    import mmkv
"""


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a mount namespace")
def test_a_container_joins_a_store_in_use(open_store: Any, path: Path, tmp_path: Path) -> None:
    (tmp_path / "id").write_text(f"{uuid.uuid4()}\n")
    host = open_store(sync="manual")
    host.update(SYNCED)
    host.sync()
    host.update(KEPT)
    code = (
        IN_A_CONTAINER
        + """
    db = mmkv.open(sys.argv[1], "w", sync="manual")
    print(len(db))
    db[b"from the container"] = b"seen"
    print("written")
    sys.stdin.read()
    """
    )
    with Child(code, path, tmp_path / "id") as container:
        assert int(container.line()) == len(SYNCED | KEPT)
        assert container.line() == "written"
        assert host[b"from the container"] == b"seen"
        host[b"from the host"] = b"1"
        container.kill()
    assert dict(host) == SYNCED | KEPT | {b"from the container": b"seen", b"from the host": b"1"}


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a mount namespace")
def test_a_container_goes_back_to_the_checkpoint_of_the_dead(open_store: Any, path: Path, tmp_path: Path) -> None:
    """Its boot id says nothing about the machine's, so that the page cache may not be the one that was written to."""
    open_store.check_later(path)
    (tmp_path / "id").write_text(f"{uuid.uuid4()}\n")
    make(path, clean=False)
    out = run_python(
        IN_A_CONTAINER
        + """
    with mmkv.open(sys.argv[1], "w", sync="manual") as db:
        print(sorted(db) == sorted(b"%d" % i for i in range(300)))
    """,
        path,
        tmp_path / "id",
    )
    assert out.strip() == "True"
