"""How much of what is free a checkpoint gives back while somebody waits for the allocator's lock."""

from __future__ import annotations

import json
from pathlib import Path

from tests.full.test_failing_calls import run_shimmed

FREE_MIB = 40

WAITED_FOR = """
import ctypes, json, mmap, sys
import mmkv
path, free_mib = sys.argv[1], int(sys.argv[2])
shim = ctypes.CDLL(None)
ALLOCATOR_LOCK = 0x14000
with mmkv.open(path) as db, open(path, "r+b") as file, mmap.mmap(file.fileno(), ALLOCATOR_LOCK + 4096) as memory:
    lock = ctypes.c_uint32.from_buffer(memory, ALLOCATOR_LOCK)
    db.put_many((b"%d" % i, bytes(1000)) for i in range(free_mib * 1024))
    db.sync()
    db.clear()
    punches, given = [], []
    for word in (lock, lock, None):
        shim.shim_wait(ctypes.byref(word) if word is not None else None)
        shim.shim_arm(b"punch", -1, 0)
        db[b"something to make durable"] = b"%d" % len(given)
        db.sync()
        punches.append(shim.shim_calls())
        given.append(db.stats().hole_bytes)
    shim.shim_wait(None)
    assert db.verify().ok
    print(json.dumps({"punches": punches, "given": given}))
    del lock, word
"""


def test_who_waits_is_kept_from_an_eighth_of_the_punching(shim: Path, tmp_path: Path) -> None:
    """Each checkpoint gives back something, and the first for which nobody waits all the rest."""
    result = json.loads(run_shimmed(shim, "-c", WAITED_FOR, tmp_path / "store.mmkv", FREE_MIB))
    first, second, _ = result["punches"]
    given = result["given"]
    free = FREE_MIB << 20
    assert first >= 1, "nothing was punched"
    assert second >= 1, "the second did not go on"
    assert free / 8 < given[0] < free / 2, result
    assert given[0] < given[1] < free * 2 / 3, result
    assert given[2] > free * 7 / 8, result
