"""The command line on a full disk, and under a limit on the size of files."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mmkv
from tests.full.disks import MIB, Disk
from tests.support import beside_tests


def command(*arguments: object, limit: int | None = None) -> tuple[int, str, str]:
    """Run mmkv, with SIGXFSZ as C programs have it, and return exit status, stdout, stderr."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-P", "-m", "mmkv.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": beside_tests()},
        capture_output=True,
        text=True,
        preexec_fn=prepare,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_import_says_how_much_went_in(make_disk: Callable[..., Disk], tmp_path: Path) -> None:
    disk = make_disk("tmpfs", 4 * MIB)
    source = tmp_path / "records.csv"
    with open(source, "w") as file:
        file.write("key,value\n")
        file.writelines(f"{i},{'x' * 500}\n" for i in range(20_000))
    code, out, err = command("import", disk.path, source, "--value", "value")
    assert (code, out) == (3, "")
    found = re.fullmatch(
        rf"mmkv: {re.escape(str(disk.path))}: .*No space left on device; ([\d,]+) records are stored, .*\n", err
    )
    assert found, err
    with mmkv.open(disk.path, "w") as db:
        assert len(db) == int(found[1].replace(",", ""))
        assert len(db) > 2000
        assert db.verify().ok
    code, out, err = command("put", disk.path, "large", "x" * 100_000)
    assert (code, out) == (3, "")
    assert re.fullmatch(rf"mmkv: {re.escape(str(disk.path))}: .*No space left on device\n", err), err
    assert command("get", disk.path, "17")[:2] == (0, "x" * 500)
    assert command("delete", disk.path, *range(1000))[0] == 0
    assert command("put", disk.path, "large", "x" * 100_000) == (0, "", "")


@pytest.mark.parametrize("limit", [300_000, 2 * MIB])
def test_a_limit_on_the_size_of_files_kills_nobody(tmp_path: Path, limit: int) -> None:
    """Below the size of an empty store, and above."""
    path = tmp_path / "store.mmkv"
    value = tmp_path / "value"
    value.write_bytes(bytes(100_000))
    for i in range(40):
        code, out, err = command("put", path, i, "x" * 100_000, limit=limit)
        if code:
            break
    assert (code, out) == (3, "")
    assert "File too large" in err
    assert str(path) in err
    if limit < MIB:
        assert not path.exists()
        return
    assert command("count", path, limit=limit) == (0, f"{i}\n", "")
    assert command("put", path, "large", "x" * 100_000) == (0, "", "")
    assert command("check", "-q", path)[0] == 0
