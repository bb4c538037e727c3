"""What the tests of the command line share: real processes, and a check of every store at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.runner import TIMEOUT, Runner


@pytest.fixture
def mmkv(tmp_path: Path) -> Iterator[Runner]:
    """Return a runner; afterwards every store in the test's directory has to be sound."""
    runner = Runner(tmp_path)
    yield runner
    runner.finish()
    for store in sorted(tmp_path.rglob("*.mmkv")):
        if store.is_file() and not store.is_symlink():
            result = runner.run("check", store)
            assert result.status == 0, (store, result)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the path of a store that is not there yet."""
    return tmp_path / "store.mmkv"


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Return a function that waits for a condition, and fails when it does not come."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come"
            time.sleep(0.02)

    return wait


@pytest.fixture
def awkward() -> dict[bytes, bytes]:
    """Return records that text formats stumble over."""
    every = bytes(range(256))
    return {
        b"plain": b"text",
        b"empty": b"",
        b"": b"the empty key",
        every: every,
        b"\xff\xfe": b"not UTF-8",
        b"value": b"\xc3\x28 not UTF-8",
        b"nul\0key": b"nul\0value",
        b"line\nkey": b"line\nvalue\n",
        b"cr\rkey": b"cr\rvalue\r\n",
        b'quote"key': b'"quoted", with comma',
        b"tab\tkey": b"\ttab\t",
        b" space ": b" space ",
        "gr\u00fc\u00df \u2028 \U0001f600".encode(): "\u2029\ufeff".encode(),
        b"\xef\xbb\xbfbom": b"\xef\xbb\xbf",
        b"long": bytes(100_000),
        b"-dash": b"-",
        b"k" * 65_535: b"longest key",
        b"../up": b"unsafe path",
        b"=1+1": b"@formula",
    }
