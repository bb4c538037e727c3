"""Copies of a live file, copies put in its place, a damaged slot, and a file system that was lost."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests import shim
from tests.processes.programs import run_program
from tests.support import random_bytes, run_python

CHUNK = 16 << 10


def change(rng: random.Random, db: Any, model: dict[bytes, bytes], operations: int) -> None:
    for _ in range(operations):
        key = b"%d" % rng.randrange(200)
        if rng.random() < 0.25:
            db.delete(key)
            model.pop(key, None)
        else:
            size = rng.randrange(17_000, 40_000) if rng.random() < 0.02 else rng.randrange(400)
            model[key] = random_bytes(rng, size)
            db[key] = model[key]


def test_a_copy_of_a_live_file_is_one_checkpoint_or_refused(open_store: Any, path: Path, rng: random.Random) -> None:
    """Between any two pieces of the copy the store may be written to, grow, and make checkpoints."""
    db = open_store(shards=4, sync="manual")
    model: dict[bytes, bytes] = {}
    states: dict[int, dict[bytes, bytes]] = {db.durable_epoch: {}}
    copy = path.with_name("copy.mmkv")
    outcomes = {"opened": 0, "refused": 0, "refused although no checkpoint was made": 0}
    for _ in range(120):
        change(rng, db, model, 100)
        states[db.sync()] = dict(model)
        first, checkpoints = db.durable_epoch, rng.choice([0.0, 0.02, 0.1])
        with open(path, "rb") as source, open(copy, "wb") as target:
            while piece := source.read(CHUNK):
                target.write(piece)
                change(rng, db, model, rng.randrange(8))
                if rng.random() < checkpoints:
                    states[db.sync()] = dict(model)
        passed = db.durable_epoch > first
        try:
            with mmkv.open(copy, "w", sync="manual") as opened:
                assert dict(opened) == states[opened.durable_epoch]
                assert opened.durable_epoch >= first
                assert opened.verify().ok
            outcomes["opened"] += 1
        except mmkv.CorruptStoreError:
            outcomes["refused" if passed else "refused although no checkpoint was made"] += 1
    assert outcomes.pop("refused although no checkpoint was made") == 0
    assert min(outcomes.values()) > 0, outcomes


def test_an_older_copy_put_in_the_place_of_the_file(open_store: Any, path: Path, rng: random.Random) -> None:
    """Byte by byte, so that inode and birth time stay: the identity in the copy is that of the file (R7)."""
    model: dict[bytes, bytes] = {}
    with open_store(shards=4, sync="manual") as db:
        change(rng, db, model, 500)
        db.sync()
        durable = dict(model)
        change(rng, db, model, 300)
        older, then = path.read_bytes(), dict(model)
        change(rng, db, model, 500)
        db.sync()
    with open(path, "r+b") as file:
        file.write(older)
        file.truncate()
    with open_store("store.mmkv", "w", sync="manual") as db:
        assert dict(db) in (durable, then), "all of the moment of the copy, or its checkpoint"


@pytest.mark.parametrize("clean", [1, 0])
@pytest.mark.parametrize("elsewhere", [1, 0])
def test_a_copy_that_nobody_has_flushed(tmp_path: Path, clean: int, elsewhere: int) -> None:
    """It is written to, and after sync() the power fails: the disk has what the store has flushed, and nothing more.

    elsewhere: its identity is not the one written in it, as it is after a copy over the old file in the same boot.
    """
    run_program("copied.c", tmp_path / "store", tmp_path / "image", clean, elsewhere)


def test_pieces_of_two_moments_put_in_the_place_of_the_file(open_store: Any, path: Path, rng: random.Random) -> None:
    """With the identity of the file, so that the volatile areas are believed where they agree with the records."""
    model: dict[bytes, bytes] = {}
    opened = 0
    for _ in range(30):
        path.unlink(missing_ok=True)
        model.clear()
        with mmkv.open(path, shards=4, sync="manual") as db:
            change(rng, db, model, 300)
            db.sync()
            durable = dict(model)
            change(rng, db, model, rng.randrange(1, 300))
            moments = [path.read_bytes()]
            # So many that no shard differs in a few pages only, which chance might take all of one moment, and another
            # shard's all of the other.
            change(rng, db, model, rng.randrange(100, 300))
            moments.append(path.read_bytes())
        with open(path, "r+b") as file:
            for at in range(0, len(moments[1]), 4096):
                os.pwrite(file.fileno(), rng.choice(moments)[at : at + 4096], at)
        with mmkv.open(path, "w", sync="manual") as db:
            try:
                content = dict(db)
            except mmkv.CorruptStoreError:
                continue  # an index of two moments
            assert content == durable
            assert db.verify().ok
            opened += 1
    assert opened


def damage_newest_slot(path: Path) -> int:
    """Flip a bit of the slot with the higher epoch; the same again undoes it. Returns that epoch."""
    with open(path, "r+b") as file:
        at = max((0x1000, 0x2000), key=lambda at: struct.unpack("<Q", os.pread(file.fileno(), 8, at + 8)))
        os.pwrite(file.fileno(), bytes([os.pread(file.fileno(), 1, at + 48)[0] ^ 1]), at + 48)
        return int(struct.unpack("<Q", os.pread(file.fileno(), 8, at + 8))[0])


@pytest.fixture
def synced(path: Path, rng: random.Random) -> tuple[dict[int, dict[bytes, bytes]], Path]:
    """What some checkpoints held, and a copy whose newest has reused what only the one before it needed."""
    model: dict[bytes, bytes] = {}
    states = {1: dict[bytes, bytes]()}
    with mmkv.open(path, shards=4, sync="manual") as db:
        for _ in range(4):
            change(rng, db, model, 200)
            states[db.sync()] = dict(model)
        change(rng, db, model, 1000)
        shutil.copyfile(path, path.with_name("copy.mmkv"))
    return states, path.with_name("copy.mmkv")


def test_a_damaged_older_slot_changes_nothing(synced: Any) -> None:
    states, copy = synced
    with open(copy, "r+b") as file:
        epochs = [struct.unpack("<Q", os.pread(file.fileno(), 8, at + 8))[0] for at in (0x1000, 0x2000)]
        os.pwrite(file.fileno(), b"\xff", 0x1000 + 0x1000 * (epochs[1] < epochs[0]) + 32)
    with mmkv.open(copy, "w", sync="manual") as db:
        assert dict(db) == states[max(states)]


def test_a_damaged_newest_slot_is_refused_once_the_older_state_is_gone(synced: Any) -> None:
    states, copy = synced
    assert damage_newest_slot(copy) == max(states)
    with pytest.raises(mmkv.CorruptStoreError):
        mmkv.open(copy, "w")


def test_a_refused_recovery_has_destroyed_nothing(synced: Any) -> None:
    states, copy = synced
    damage_newest_slot(copy)
    with pytest.raises(mmkv.CorruptStoreError):
        mmkv.open(copy, "w")
    damage_newest_slot(copy)
    with mmkv.open(copy, "w", sync="manual") as db:
        assert dict(db) == states[max(states)]


# -- a file system of its own -----------------------------------------------------------------------------------------


class Ext4:
    """An ext4 on a loop device, which can be unmounted, and lost: what was not yet written to it is then gone."""

    def __init__(self, directory: Path) -> None:
        self.mount_point = directory / "mnt"
        self.mount_point.mkdir()
        image = directory / "image"
        with open(image, "wb") as file:
            file.truncate(64 << 20)
        self._run("mkfs.ext4", "-q", "-F", str(image))
        self.loop = self._run("losetup", "-f", "--show", str(image)).strip()
        self.mounted = False

    def _run(self, *command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def mount(self) -> None:
        self._run("mount", self.loop, str(self.mount_point))
        self.mounted = True

    def unmount(self) -> None:
        self._run("umount", str(self.mount_point))
        self.mounted = False

    def lose(self) -> None:
        """As if the device had been pulled out and plugged in again."""
        fd = os.open(self.mount_point, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, 0x8004587D, struct.pack("I", 2))  # EXT4_IOC_SHUTDOWN, without flushing the journal
        finally:
            os.close(fd)
        self.unmount()
        self.mount()

    def finish(self) -> None:
        if self.mounted:
            self.unmount()
        self._run("losetup", "-d", self.loop)


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Ext4]:
    tools = [tool for tool in ("mkfs.ext4", "losetup", "mount", "umount") if shutil.which(tool) is None]
    if os.geteuid() != 0 or tools:
        pytest.skip(f"needs root and {', '.join(tools) or 'mount'}")
    try:
        system = Ext4(tmp_path)
        system.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device here: {error.stderr.strip()}")
    yield system
    system.finish()


def test_unmounted_while_dirty(ext4: Ext4, rng: random.Random) -> None:
    """An unmount counts as a power cut, although it writes everything: same device, inode and boot are not enough."""
    path = ext4.mount_point / "store.mmkv"
    model: dict[bytes, bytes] = {}
    with mmkv.open(path, sync="manual") as db:
        change(rng, db, model, 300)
        db.sync()
        durable = dict(model)
        change(rng, db, model, 300)
    ext4.unmount()
    ext4.mount()
    with pytest.raises(mmkv.ReadOnlyError, match="recovery"):
        mmkv.open(path, "r")
    with mmkv.open(path, "w") as db:
        assert dict(db) == durable
        assert db.verify().ok


def test_a_file_system_that_was_lost_and_mounted_again(ext4: Ext4, rng: random.Random) -> None:
    """In the same boot, so that the identity matches if the page that holds it has reached the disk, whatever else has.

    What a sync() made durable is there: not one record of it may be missing, though counters and index may be.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    path = ext4.mount_point / "store.mmkv"
    for turn in range(12):
        path.unlink(missing_ok=True)
        model = {b"%d" % i: b"v" for i in range(rng.randrange(1, 2000))}
        with mmkv.open(path, shards=8, sync="manual") as db:
            db.update(model)
            db.sync()
            durable = dict(model)
            for _ in range(rng.choice([0, 0, 10, 1000])):
                key = b"%d" % rng.randrange(3000)
                model[key] = db[key] = b"v"
        with open(path, "r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for at in range(0, size, 0x3000):
                if rng.random() < 0.5 or (at == 0x3000 and turn % 4):  # most often with the identity
                    libc.sync_file_range(file.fileno(), ctypes.c_long(at), ctypes.c_long(0x3000), 7)
        ext4.lose()
        with mmkv.open(path, "w", sync="manual") as db:
            assert dict(db) == durable
            assert db.verify().ok


def test_a_slot_whose_flush_failed_but_is_on_the_disk_all_the_same(ext4: Ext4, library: Path) -> None:
    """Recovery in the same boot takes it back on the disk too, before it wipes what only that slot counts."""
    path = ext4.mount_point / "store.mmkv"
    old = {b"%d" % i: b"old" for i in range(300)}
    with mmkv.open(path) as db:
        db.update(old)
    programs = (
        """
        db = mmkv.open(sys.argv[1], sync="manual")
        db.update({b"%d" % i: b"new" for i in range(600)})
        plan(2, "F")  # the heap, the slot
        try:
            db.sync()
        except OSError:
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        """
        plan(3, "K")  # the slots, the zone table, the heap
        mmkv.open(sys.argv[1], "w")
        """,
    )
    for program in programs:
        with pytest.raises(AssertionError, match="exit code -9"):
            run_python(shim.PRELUDE + textwrap.dedent(program), path, environment={"LD_PRELOAD": str(library)})
    ext4.lose()
    with mmkv.open(path, "w") as db:
        assert dict(db) == old
        assert db.verify().ok
