"""add, replace, setdefault, cas, incr, pop, wait: what depends on what is there."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.runner import TIMEOUT, Runner

Wait = Callable[[Callable[[], bool]], None]

EVERY_BYTE = bytes(range(256))


def test_add(mmkv: Runner, store: Path) -> None:
    mmkv("add", store, "key", "one")
    assert "nothing was changed: key 'key' is there" in mmkv.fail(1, "add", store, "key", "two")
    assert mmkv("get", store, "key").out == b"one"
    mmkv("add", store, "piped", stdin=EVERY_BYTE)
    assert mmkv("get", store, "piped").out == EVERY_BYTE
    mmkv("add", "-x", "-X", store, "00ff", "cafe")
    assert mmkv("get", "-x", store, "00ff").out == b"\xca\xfe"
    mmkv.fail(1, "add", "-x", "-X", store, "00ff", "cafe")


def test_replace(mmkv: Runner, store: Path) -> None:
    assert "store.mmkv" in mmkv.fail(3, "replace", store, "key", "one")
    assert not store.exists()
    mmkv("put", store, "other", "")
    assert "no such key: 'key'" in mmkv.fail(1, "replace", store, "key", "one")
    mmkv.fail(1, "get", store, "key")
    mmkv("put", store, "key", "one")
    mmkv("replace", store, "key", "two")
    mmkv("replace", "-x", store, b"other".hex(), stdin=EVERY_BYTE)
    assert mmkv("get", store, "key").out == b"two"
    assert mmkv("get", store, "other").out == EVERY_BYTE


def test_setdefault(mmkv: Runner, store: Path) -> None:
    assert mmkv("setdefault", store, "key", "one").out == b"one"
    assert mmkv("setdefault", store, "key", "two").out == b"one"
    assert mmkv("setdefault", store, "piped", stdin=EVERY_BYTE).out == EVERY_BYTE
    assert mmkv("setdefault", "--json", store, "key", "").json() == {"key": "key", "value": "one"}
    assert mmkv("setdefault", "-x", "-X", store, b"key".hex(), "00").out == b"6f6e65\n"
    mmkv.fail(2, "setdefault", "--json", "-X", store, "key", "00")


def test_pop(mmkv: Runner, store: Path) -> None:
    mmkv.fail(3, "pop", store, "key")
    assert not store.exists()
    mmkv.fill(store, {b"key": EVERY_BYTE, b"\xff": b"\xfe", b"text": b"value"})
    assert mmkv("pop", store, "key").out == EVERY_BYTE
    assert "no such key: 'key'" in mmkv.fail(1, "pop", store, "key")
    assert mmkv("pop", "-x", "-X", store, "ff").out == b"fe\n"
    assert mmkv("pop", "-j", store, "text").json() == {"key": "text", "value": "value"}
    assert mmkv("count", store).out == b"0\n"
    mmkv.fail(2, "pop", "-j", "-X", store, "text")


def test_incr(mmkv: Runner, store: Path) -> None:
    assert mmkv("incr", store, "n").out == b"1\n"
    assert mmkv("incr", store, "n", "41").out == b"42\n"
    assert mmkv("incr", store, "n", "--", "-50").out == b"-8\n"
    assert mmkv("get", "-X", store, "n").out == b"f8ffffffffffffff\n"
    assert mmkv("incr", "--initial", "100", store, "m", "--", "-1").out == b"99\n"
    assert mmkv("incr", "-x", store, "ff", "0").out == b"0\n"


def test_incr_that_cannot_be(mmkv: Runner, store: Path) -> None:
    mmkv("incr", store, "n", str(2**63 - 1))
    assert "64 bits" in mmkv.fail(3, "incr", store, "n")
    assert mmkv("incr", store, "n", "0").out == b"%d\n" % (2**63 - 1)
    mmkv("put", store, "text", "seven")
    assert "8 bytes" in mmkv.fail(3, "incr", store, "text")
    for wrong in ("one", "1.5", str(2**63), ""):
        mmkv.fail(2, "incr", store, "n", wrong)
        mmkv.fail(2, "incr", "--initial", wrong, store, "n")


def test_cas(mmkv: Runner, store: Path) -> None:
    assert "store.mmkv" in mmkv.fail(3, "cas", store, "key", "--old", "one", "--new", "two")
    assert not store.exists()
    mmkv("cas", store, "key", "--new", "one")
    assert "key 'key' is there" in mmkv.fail(1, "cas", store, "key", "--new", "two")
    assert "expected value" in mmkv.fail(1, "cas", store, "key", "--old", "on", "--new", "two")
    assert mmkv("get", store, "key").out == b"one"
    mmkv("cas", store, "key", "-o", "one", "-n", "")
    mmkv.fail(1, "cas", store, "key", "--new", "two")
    mmkv("cas", store, "key", "--old=", "--new=-5")
    mmkv("cas", "-x", "-X", store, b"key".hex(), "-o", b"-5".hex(), "-n", "00ff")
    assert mmkv("get", store, "key").out == b"\x00\xff"
    mmkv.fail(1, "cas", store, "key", "--old", "one")
    mmkv("cas", "-X", store, "key", "--old", "00ff")
    mmkv.fail(1, "get", store, "key")
    mmkv("cas", store, "key")
    mmkv.fail(2, "cas", "-X", store, "key", "--new", "zz")


def test_wait_for_what_is_so_already(mmkv: Runner, store: Path) -> None:
    mmkv.fail(3, "wait", store, "key")
    assert not store.exists()
    mmkv.fill(store, {b"key": EVERY_BYTE, b"text": b"value"})
    assert mmkv("wait", store, "key").out == EVERY_BYTE
    assert mmkv("wait", store, "text", "--old", "valu").out == b"value"
    assert mmkv("wait", "-j", store, "text", "--old", "").json() == {"key": "text", "value": "value"}
    assert mmkv("wait", "-x", "-X", store, b"text".hex(), "--old", "00").out == b"76616c7565\n"
    assert "no such key: 'gone'" in mmkv.fail(1, "wait", store, "gone", "--old", "value")


def test_wait_in_vain(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "value")
    assert "time is up" in mmkv.fail(124, "wait", store, "key", "--old", "value", "--timeout", "0.1")
    assert "time is up" in mmkv.fail(124, "wait", store, "other", "-t", "0")
    for wrong in ("-1", "nan", "soon"):
        mmkv.fail(2, "wait", store, "key", "--timeout", wrong)


def is_waited_for(store: Path) -> bool:
    """Has anybody left word that he waits for a change? (fmt_lockable.waiting of the 64 shards)"""
    with open(store, "rb") as file:
        file.seek(0x30000)
        shards = file.read(8192 * 64)
    return any(any(shards[at + 4 : at + 7]) for at in range(0, len(shards), 8192))


def test_wait_is_woken(mmkv: Runner, store: Path, wait_until: Wait) -> None:
    mmkv("put", store, "key", "one")
    waiting = mmkv.start("wait", store, "key", "--old", "one")
    wait_until(lambda: is_waited_for(store))
    assert waiting.poll() is None
    mmkv("put", store, "key", "two")
    assert waiting.communicate(timeout=TIMEOUT)[0] == b"two"
    assert waiting.returncode == 0
    gone = mmkv.start("wait", store, "key", "--old", "two")
    wait_until(lambda: is_waited_for(store))
    mmkv("delete", store, "key")
    assert gone.communicate(timeout=TIMEOUT)[0] == b""
    assert gone.returncode == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_wait_that_is_interrupted(
    mmkv: Runner, store: Path, wait_until: Wait, number: signal.Signals, status: int
) -> None:
    mmkv("put", store, "key", "one")
    waiting = mmkv.start("wait", store, "key", "--old", "one")
    wait_until(lambda: is_waited_for(store))
    waiting.send_signal(number)
    waiting.communicate(timeout=TIMEOUT)
    assert waiting.returncode == status


def test_of_several_who_add_or_pop_one_succeeds(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "other", "")
    adding = [mmkv.start("add", store, "key", str(i)) for i in range(4)]
    statuses = []
    for process in adding:
        process.communicate(timeout=TIMEOUT)
        statuses.append(process.returncode)
    assert sorted(statuses) == [0, 1, 1, 1]
    winner = str(statuses.index(0)).encode()
    popping = [mmkv.start("pop", store, "key") for _ in range(4)]
    printed = [process.communicate(timeout=TIMEOUT)[0] for process in popping]
    assert sorted(printed) == [b"", b"", b"", winner]


def test_several_who_count(mmkv: Runner, store: Path) -> None:
    counting = [mmkv.start("incr", store, "n") for _ in range(6)]
    printed = sorted(int(process.communicate(timeout=TIMEOUT)[0]) for process in counting)
    assert printed == [1, 2, 3, 4, 5, 6]
    assert mmkv("get", "-X", store, "n").out == b"0600000000000000\n"
