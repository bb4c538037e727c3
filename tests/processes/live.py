"""Looking into a live store from outside: who holds which lock, at the places that docs/format.md gives."""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import signal
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xxhash import xxh3_64_intdigest

CONTROL, PROCESSES, ALLOCATOR, SHARDS = 0x3000, 0x4000, 0x14000, 0x30000
CHECKPOINT_LOCK = CONTROL + 128
CLEAN = CONTROL + 88
SHARD_BYTES = 8192
SLOTS = 1024
PROCESS_BYTES = 0x4000000000001000
"""Where the bytes begin that the process slots lock."""
ATTACH_BYTE = 0x4000000000000000


F_OFD_GETLK, F_OFD_SETLK = 36, 37


def lock_bytes(fd: int, command: int, kind: int, start: int, length: int) -> int:
    """Lock bytes of a file, let go of them, or ask who has them; the kind of lock in the answer."""
    answer = fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))
    return int(struct.unpack("hhqqi4x", answer)[0])


class Live:
    """The words of a store that others use."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR)
        self.seed = struct.unpack("<Q", os.pread(self.fd, 8, 56))[0]
        self.shards = self.word(64)

    def close(self) -> None:
        os.close(self.fd)

    def word(self, at: int) -> int:
        return int(struct.unpack("<I", os.pread(self.fd, 4, at))[0])

    def owner(self, at: int) -> int:
        """The process that holds the lock at this place, 0 if nobody does."""
        slot = self.word(at) & 0xFFF
        return int(struct.unpack("<Q", os.pread(self.fd, 8, PROCESSES + 64 * slot + 8))[0]) if slot else 0

    def held(self, pid: int, *, odd: bool = False) -> list[int]:
        """The shards whose locks a process holds; `odd`: only those in which it is in the middle of an operation."""
        return [
            shard
            for shard in range(self.shards)
            if self.owner(self.lock_of(shard)) == pid and (not odd or self.word(self.lock_of(shard) + 8) & 1)
        ]

    def reserved(self, pid: int) -> list[int]:
        """What the process slots of a process have reserved: extents, 1 for a word in use, 0 for none."""
        slots = (os.pread(self.fd, 64, PROCESSES + 64 * slot) for slot in range(1, SLOTS))
        return [
            word
            for slot in slots
            if struct.unpack_from("<IIQ", slot)[::2] == (1, pid)
            for word in struct.unpack_from("<4Q", slot, 24)
        ]

    def coming_or_going(self) -> bool:
        """Whether somebody holds the lock for opening and closing."""
        return lock_bytes(self.fd, F_OFD_GETLK, fcntl.F_WRLCK, ATTACH_BYTE, 1) != fcntl.F_UNLCK

    def lock_of(self, shard: int) -> int:
        """Where the lock of a shard is."""
        return SHARDS + SHARD_BYTES * shard

    def asks(self, shard: int) -> bool:
        """Whether somebody sleeps until the lock of a shard is let go."""
        return bool(self.word(self.lock_of(shard)) >> 31)

    def shard_of(self, key: bytes) -> int:
        """The shard that a key belongs to."""
        bits = self.shards.bit_length() - 1
        return int(xxh3_64_intdigest(key, self.seed) >> (64 - bits)) if bits else 0


@contextmanager
def looking_at(path: Path) -> Iterator[Live]:
    live = Live(path)
    try:
        yield live
    finally:
        live.close()


def asleep(pid: int) -> bool:
    """Whether a process waits for what others hold."""
    return Path(f"/proc/{pid}/wchan").read_text().startswith("futex")


def stop(pid: int) -> None:
    """SIGSTOP a child, and return when it stands still."""
    os.kill(pid, signal.SIGSTOP)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), f"process {pid} has ended"


def stop_where(pid: int, there: Callable[[], bool], tries: int = 20_000) -> None:
    """Stop a busy child again and again until it stands where it is wanted."""
    for _ in range(tries):
        stop(pid)
        if there():
            return
        os.kill(pid, signal.SIGCONT)
        let_run()
    raise AssertionError("never found it there")


def let_run() -> None:
    """Long enough for a child to get somewhere else, and not always as far."""
    time.sleep(random.random() / 1000)


ATTACH, DETACH = 16, 17


@contextmanager
def ptrace_where(pid: int, there: Callable[[], bool], tries: int = 20_000) -> Iterator[None]:
    """As a debugger does: keep a busy child stopped where it is wanted, then let it go on."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(request: int) -> None:
        assert libc.ptrace(request, pid, None, None) == 0, os.strerror(ctypes.get_errno())

    for _ in range(tries):
        ptrace(ATTACH)
        os.waitpid(pid, 0)
        if there():
            break
        ptrace(DETACH)
        let_run()
    else:
        raise AssertionError("never found it there")
    try:
        yield
    finally:
        if libc.ptrace(DETACH, pid, None, None):
            os.waitpid(pid, 0)  # killed meanwhile: its parent is told when its tracer has been
