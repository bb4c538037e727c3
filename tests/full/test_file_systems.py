"""Where a store may lie: file systems that are refused, and what an overlay does to readers."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import mmkv
from tests.full.disks import Mounts
from tests.full.test_failing_calls import run_shimmed

TYPES = {
    0x6969: "nfs",
    0xFE534D42: "smb",
    0x65735546: "fuse or virtiofs",
    0x01021997: "9p",
    0x00C36400: "ceph",
    0x2FC12FC1: "zfs",
    0x12345678: "of type 0x12345678",
}

REFUSED = """
import ctypes, errno, os, sys
import mmkv
path, empty, kind, name = sys.argv[1:]
with mmkv.open(path) as db:
    db[b"k"] = b"v"
open(empty, "wb").close()
ctypes.CDLL(None).shim_file_system(ctypes.c_long(int(kind)))
new = path + ".new"
for file, modes in ((path, "crwnp"), (empty, "c"), (new, "cn")):
    for mode in modes:
        try:
            mmkv.open(file, mode)
        except OSError as error:
            assert error.errno == errno.EOPNOTSUPP, error
            assert error.filename == file
            for word in (f"file system is {name},", "MMKV_ANY_FILE_SYSTEM=1"):
                assert word in str(error), (word, str(error))
        else:
            raise AssertionError(f"mode {mode} was not refused")
assert not os.path.exists(new) and not os.path.getsize(empty)
os.environ["MMKV_ANY_FILE_SYSTEM"] = "1"
with mmkv.open(path, "w") as db:
    assert dict(db) == {b"k": b"v"}
with mmkv.open(new) as db:
    assert db.verify().ok
"""


@pytest.mark.parametrize(("kind", "name"), TYPES.items(), ids=lambda x: x.split()[-1] if isinstance(x, str) else "")
def test_refused_by_name_in_every_mode(shim: Path, tmp_path: Path, kind: int, name: str) -> None:
    run_shimmed(shim, "-c", REFUSED, tmp_path / "store.mmkv", tmp_path / "empty", kind, name)


def test_a_real_fuse_file_system(mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = mounts.directory / "fuse"
    where.mkdir()
    if not shutil.which("bindfs") or not Path("/dev/fuse").exists():
        pytest.skip("there is no bindfs or no /dev/fuse")
    if subprocess.run(["bindfs", tmp_path, where], capture_output=True, check=False).returncode:
        pytest.skip("bindfs cannot mount here")
    mounts.adopt(where)
    with pytest.raises(OSError, match="file system is fuse") as caught:
        mmkv.open(where / "store.mmkv")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert [name for name in os.listdir(where) if "mmkv" in name] == []
    monkeypatch.setenv("MMKV_ANY_FILE_SYSTEM", "1")
    with mmkv.open(where / "store.mmkv") as db:
        db[b"k"] = b"v"
    monkeypatch.undo()
    with mmkv.open(tmp_path / "store.mmkv", "w") as db:
        assert dict(db) == {b"k": b"v"}
        assert db.verify().ok


@pytest.fixture
def overlay(mounts: Mounts) -> Path:
    """An overlay; `lower` beside it is below it."""
    for name in ("lower", "upper", "work"):
        (mounts.directory / name).mkdir()
    options = ",".join(f"{name}dir={mounts.directory / name}" for name in ("lower", "upper", "work"))
    return mounts.mount("overlay", "-t", "overlay", "-o", options, "overlay")


def test_an_overlay_is_like_its_upper_layer(overlay: Path) -> None:
    with mmkv.open(overlay / "store.mmkv") as db, mmkv.open(overlay / "store.mmkv", "w") as other:
        db[b"k"] = b"v"
        assert other[b"k"] == b"v"
        with mmkv.open(overlay / "store.mmkv", "r") as reader:
            other[b"k"] = b"w"
            assert db[b"k"] == reader[b"k"] == b"w"
        assert db.verify().ok


def test_a_reader_from_before_the_copy_up_keeps_the_lower_file(overlay: Path) -> None:
    """Its mapping is of the lower file, which nobody changes any more: old, but whole. Whoever comes later sees all."""
    lower = overlay.parent / "lower" / "store.mmkv"
    with mmkv.open(lower) as db:
        db.put_many((b"%d" % i, b"old") for i in range(1000))
    with mmkv.open(overlay / "store.mmkv", "r") as early:
        with mmkv.open(overlay / "store.mmkv", "w") as writer, mmkv.open(overlay / "store.mmkv", "r") as late:
            writer.put_many((b"%d" % i, b"new") for i in range(2000))
            writer.sync()
            assert (len(late), late[b"0"]) == (2000, b"new")
            assert dict(early) == {b"%d" % i: b"old" for i in range(1000)}
            assert early.verify().ok
        assert dict(early) == {b"%d" % i: b"old" for i in range(1000)}
    with mmkv.open(lower, "r") as untouched:
        assert len(untouched) == 1000
