"""The hash comes from the xxhash package: by its C symbol, or else by a callback. Same files either way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mmkv import _native
from tests.support import run_python

WRITE = """
import sys, mmkv
from mmkv import _native
assert _native.hash_route == sys.argv[2], _native.hash_route
with mmkv.open(sys.argv[1]) as db:
    for i in range(2000):
        db[b"key %d" % i] = b"value %d" % i * (i % 40)
    db[b""] = b""
    db[b"l" * 65535] = b"x" * 100_000
    assert db.verify().ok
"""
READ_AND_CHANGE = """
import sys, mmkv
from mmkv import _native
assert _native.hash_route == sys.argv[2], _native.hash_route
with mmkv.open(sys.argv[1]) as db:
    assert len(db) == 2002
    for i in range(2000):
        assert db[b"key %d" % i] == b"value %d" % i * (i % 40)
    assert db[b""] == b""
    assert db[b"l" * 65535] == b"x" * 100_000
    assert b"other" not in db
    assert db.verify().ok
    for i in range(0, 2000, 2):
        del db[b"key %d" % i]
    for i in range(2000):
        db[b"key %d" % i] = b"value %d" % i * (i % 40)
"""
ENVIRONMENT = {"native": {"MMKV_HASH": ""}, "python": {"MMKV_HASH": "python"}}


def test_the_fast_route_is_in_use() -> None:
    if os.environ.get("MMKV_HASH") == "python":
        pytest.skip("the slow one has been asked for")
    assert _native.hash_route == "native"


@pytest.mark.parametrize("writer", ENVIRONMENT)
@pytest.mark.parametrize("reader", ENVIRONMENT)
def test_both_routes_make_the_same_files(open_store: Any, path: Path, writer: str, reader: str) -> None:
    open_store.check_later(path)
    run_python(WRITE, path, writer, environment=ENVIRONMENT[writer])
    run_python(READ_AND_CHANGE, path, reader, environment=ENVIRONMENT[reader])
    run_python(READ_AND_CHANGE, path, writer, environment=ENVIRONMENT[writer])


def test_a_build_that_hides_the_symbol_is_told_of_once_and_works(open_store: Any, path: Path) -> None:
    """Stood in for by another library, in which the symbol is not."""
    open_store.check_later(path)
    run_python(
        """
        import sys, warnings
        import _cffi_backend
        from xxhash import _xxhash
        _xxhash.__file__ = _cffi_backend.__file__
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import mmkv
            with mmkv.open(sys.argv[1]) as db:
                db[b"k"] = b"v"
        messages = [str(warning.message) for warning in caught if warning.category is RuntimeWarning]
        assert len(messages) == 1 and "xxhash" in messages[0], messages
        """,
        path,
        environment=ENVIRONMENT["native"],
    )
    assert open_store()[b"k"] == b"v"


@pytest.mark.parametrize("hot", ["native", "cffi"])
def test_a_signal_does_not_get_in_between(open_store: Any, path: Path, hot: str) -> None:
    """Whatever a handler raises while a hash is being computed, hashes are right, and it is raised."""
    open_store.check_later(path)
    run_python(
        """
        import signal, sys, mmkv

        class Ring(Exception):
            pass

        def ring(*_):
            global rung
            rung += 1
            raise Ring

        signal.signal(signal.SIGALRM, ring)
        i = rung = raised = 0
        with mmkv.open(sys.argv[1], sync="manual") as db:
            while rung < 100:
                before = rung
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0005)
                    while rung == before:
                        db[b"%d" % i] = b"value"
                        i += 1
                except Ring:
                    raised += 1
            assert raised == rung
            assert all(db[b"%d" % j] == b"value" for j in range(i))
            assert db.verify().ok
        """,
        path,
        environment={**ENVIRONMENT["python"], "MMKV_HOT": hot},
    )
