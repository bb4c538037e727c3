"""Small file systems made for one test, on a loop device or in memory, with a file that takes up all but a little."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

MIB = 1 << 20
# Sparse images: the smallest that mkfs makes, and for btrfs one with room for metadata. None: not on a loop device.
IMAGE_BYTES: dict[str, int | None] = {"ext4": 128 * MIB, "xfs": 320 * MIB, "btrfs": 4096 * MIB, "tmpfs": None}
# No blocks set aside for root, who runs this: full is full.
MKFS = {"ext4": ["mkfs.ext4", "-q", "-m", "0"], "xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}


def _run(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


class Mounts:
    """Mounts below one directory; `finish` takes all of them away, in use or not."""

    def __init__(self) -> None:
        # In memory where possible: a full file system forces its journal to the disk again and again.
        self.directory = Path(
            tempfile.mkdtemp(prefix="mmkv-disk-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        self._mounted: list[Path] = []

    def mount(self, name: str, *arguments: object) -> Path:
        """Mount on a new directory; skips the test where that is not allowed."""
        where = self.directory / name
        where.mkdir(exist_ok=True)
        if os.geteuid():
            pytest.skip("only root can mount a file system")
        try:
            _run("mount", *arguments, where)
        except OSError as error:
            pytest.skip(f"mounting is not possible here: {error}")
        self._mounted.append(where)
        return where

    def adopt(self, where: Path) -> None:
        """Have a mount that something else has made taken away too."""
        self._mounted.append(where)

    def unmount(self, where: Path) -> None:
        """Unmount; fails when something is still open there."""
        _run("umount", where)
        self._mounted.remove(where)

    def finish(self) -> None:
        """Unmount whatever is still mounted, even what is in use."""
        for where in reversed(self._mounted):
            subprocess.run(["umount", "-l", where], capture_output=True, check=False)
        shutil.rmtree(self.directory, ignore_errors=True)


class Disk:
    """A file system of its own with `room` bytes free, or a little more."""

    def __init__(self, mounts: Mounts, kind: str, room: int) -> None:
        self.kind = kind
        self._mounts = mounts
        size = IMAGE_BYTES[kind]
        if size is None:
            self.directory = mounts.mount(f"{kind}.mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs")
            return
        if not shutil.which(MKFS[kind][0]):
            pytest.skip(f"{MKFS[kind][0]} is not installed")
        image = mounts.directory / f"{kind}.image"
        with open(image, "wb") as file:
            file.truncate(size)
        _run(*MKFS[kind], image)
        self.directory = mounts.mount(f"{kind}.mount", "-o", "loop", image)
        self.leave(room)

    def unmount(self) -> None:
        """Unmount it; fails when something is still open there."""
        self._mounts.unmount(self.directory)

    @property
    def path(self) -> Path:
        """Where the test's store is."""
        return self.directory / "store.mmkv"

    @property
    def free(self) -> int:
        """Bytes that a file may still be given."""
        fs = os.statvfs(self.directory)
        return fs.f_bavail * fs.f_frsize

    def leave(self, room: int, name: str = "filler") -> None:
        """Take up all but `room` bytes, by a file that is reserved and never written."""
        os.sync()
        more = self.free - room
        with open(self.directory / name, "wb") as file:
            while more > 4096:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, more)
                    return
                except OSError:
                    more //= 2

    def fill(self, name: str = "brim") -> None:
        """Take up all that is left, to the last block."""
        for piece in (MIB, 65536, 4096):
            # xfs may have no room for one more inode, and then for little else.
            with contextlib.suppress(OSError), open(self.directory / name, "ab") as file:
                while True:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, piece)

    def remove(self, name: str) -> None:
        """Give back what `leave` or `fill` took."""
        (self.directory / name).unlink(missing_ok=True)
        os.sync()
