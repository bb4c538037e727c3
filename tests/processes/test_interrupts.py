"""Exceptions that come from outside, by a signal or from another thread, at any moment of any call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.processes.programs import run_program
from tests.support import run_python

PROGRAM = """
    import ctypes, random, signal, sys, threading, time
    import mmkv, mmkv._native

    class Bang(BaseException):
        pass

    def bang(*_):
        raise Bang

    how = sys.argv[2]
    chance = random.Random(sys.argv[3])
    db = mmkv.open(sys.argv[1], "w", sync="manual")
    large, buffer = b"x" * 100_000, bytearray(100_000)

    def key():
        return b"%d" % chance.randrange(500)

    calls = {
        "get": lambda: (db.get(key()), db.get(b"large"), key() in db, len(db)),
        "put": lambda: (db.put(key(), b"v" * chance.randrange(200)), db.put(b"large", large)),
        "delete": lambda: (db.delete(key()), db.pop(key(), None), db.setdefault(key(), b"v")),
        "get_into": lambda: db.get_into(b"kept", buffer),
        "many": lambda: (db.put_many((key(), b"w") for _ in range(50)), db.get_many([key() for _ in range(50)])),
        "iterate": lambda: [value for _, value in db.items()],
        "popitem": lambda: (db.put(b"%d" % chance.randrange(500), b"v"), db.popitem()),
        "sync": lambda: (db.put(key(), b"v"), db.sync()),
        "look": lambda: (db.stats(), db.epoch, db.durable_epoch),
        "verify": lambda: db.verify(),
        "open": lambda: mmkv.open(sys.argv[1], chance.choice("rw"), sync="manual").close(),
    }
    target = threading.get_ident()
    paused, done = True, False

    def from_a_thread():
        raised = ctypes.pythonapi.PyThreadState_SetAsyncExc
        while not done:
            time.sleep(chance.random() / 500)
            if not paused:
                raised(ctypes.c_ulong(target), ctypes.py_object(Bang))

    def hammer(call):
        global paused
        hits, end = 0, time.monotonic() + 0.4
        while hits < 100 and time.monotonic() < end:
            try:
                try:
                    paused = False
                    while time.monotonic() < end:
                        if how == "signal" and not signal.getitimer(signal.ITIMER_REAL)[0]:  # or lost, in a destructor
                            signal.setitimer(signal.ITIMER_REAL, chance.random() / 2000 + 1e-6)
                        call()
                finally:
                    paused = True
            except Bang:
                hits += 1
        return hits

    def rest():
        # For one that is under way.
        while True:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                time.sleep(0.01)
                return
            except Bang:
                pass

    if how == "signal":
        signal.signal(signal.SIGALRM, bang)
    else:
        other = threading.Thread(target=from_a_thread)
        other.start()
    for name, call in calls.items():
        hits = hammer(call)
        rest()
        assert hits, name
        db.put_many((b"%d" % i, b"after") for i in range(500))  # every shard
        db[b"kept"] = large
        db.sync()
        assert db.verify().ok, name
        # The other route may lose count of who is inside, at worst; then the handle is closed when the process ends.
        attached = db.stats().attached
        assert mmkv._native.hot_route == "cffi" or attached == 1, (name, attached)
    done = True
    if how != "signal":
        other.join()
    db.close()
    if mmkv._native.hot_route != "cffi":
        mmkv.open(sys.argv[1], "p").close()  # which needs that nobody has it open
    print("closed")
"""


@pytest.mark.parametrize("route", ["native", "cffi"])
@pytest.mark.parametrize("how", ["signal", "thread"])
def test_exceptions_from_outside(open_store: Any, path: Path, how: str, route: str, rng: Any) -> None:
    """Whatever they interrupt, no lock stays held, nothing is left half-done, and close() really closes."""
    with open_store(sync="manual", shards=4) as db:
        db.update({b"%d" % i: b"v" for i in range(500)})
        db[b"kept"] = b"x" * 100_000
    assert run_python(PROGRAM, path, how, rng.random(), environment={"MMKV_HOT": route}) == "closed\n"
    with mmkv.open(path, "p"):  # which needs that nobody has it open
        pass
    with mmkv.open(path, sync="manual") as db:
        assert db[b"0"] == b"after"
        assert db[b"kept"] == b"x" * 100_000


def test_a_wait_that_is_broken_off_and_taken_up_again_is_one_wait(tmp_path: Path) -> None:
    """Whatever the call has to wait for or to do before; and when it is over, the next one is another."""
    run_program("broken_off.c", tmp_path / "store")
