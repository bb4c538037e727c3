"""What a killed process left in the file: locks that name it, operations half-done."""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from mmkv._native import layout

PROCESSES_AT, ALLOCATOR_AT, SHARDS_AT = 0x4000, 0x14000, 0x30000
OWNER = 0xFFF
CHECKPOINT_LOCK_AT = 0x3000 + layout()["fmt_control.checkpoint_lock"]
LOCK, VERSION = layout()["fmt_lockable.lock"], layout()["fmt_lockable.version"]
LOG_IN_SHARD, LOG_IN_ALLOCATOR = layout()["fmt_shard.log"], layout()["fmt_allocator.log"]


@dataclass
class Remains:
    """Of one process."""

    locks: int = 0
    """Shards and allocator whose locks name it."""
    halves: int = 0
    """Those of them in the middle of an operation."""
    checkpoint: bool = False
    """Whether it was the leader of a checkpoint."""


class Words:
    """The words of a store, looked at from outside."""

    def __init__(self, path: Path, shards: int) -> None:
        length = SHARDS_AT + shards * layout()["fmt_shard"]
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), length, prot=mmap.PROT_READ)
        self.pids = memoryview(self.map)[PROCESSES_AT:ALLOCATOR_AT].cast("Q")[layout()["fmt_process.pid"] // 8 :: 8]
        places = [(SHARDS_AT + i * layout()["fmt_shard"], LOG_IN_SHARD) for i in range(shards)]
        self.locks = [(at + LOCK, at + VERSION, at + log) for at, log in [*places, (ALLOCATOR_AT, LOG_IN_ALLOCATOR)]]

    def close(self) -> None:
        self.pids.release()
        self.map.close()

    def of(self, pid: int) -> Remains:
        """What a process that has just died left; somebody may be tidying up already."""
        slots = {slot for slot, owner in enumerate(self.pids.tolist()) if owner == pid}
        found = Remains()
        for lock, version, log in self.locks:
            if self._owner(lock) in slots:
                found.locks += 1
                found.halves += bool(self._word(version) & 1 or self._word(log))
        found.checkpoint = self._owner(CHECKPOINT_LOCK_AT) in slots
        return found

    def holders(self) -> set[int]:
        """The processes that hold a lock, as far as can be seen in passing."""
        slots = {self._owner(lock) for lock, _, _ in self.locks} - {0}
        return {self.pids[slot] for slot in slots if slot < len(self.pids)}

    def _owner(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.map, at)[0]) & OWNER

    def _word(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self.map, at)[0])

    def in_use(self) -> list[int]:
        """The process slots that are taken, or that something is still reserved for."""
        size = layout()["fmt_process"]
        reserved = layout()["fmt_process.reserved_extent"]
        taken = []
        for slot in range(1, (ALLOCATOR_AT - PROCESSES_AT) // size):
            at = PROCESSES_AT + slot * size
            (state,) = struct.unpack_from("<I", self.map, at)
            if state or any(struct.unpack_from("<4Q", self.map, at + reserved)):
                taken.append(slot)
        return taken
