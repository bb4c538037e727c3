"""Exit statuses, and errors that fit on one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runner import Runner, is_privileged

READERS = [["get", "S", "k"], ["has", "S", "k"], ["count", "S"], ["list", "S"], ["stats", "S"], ["check", "S"]]
READERS_AND_EXPORT = [*READERS, ["export", "S", "-"]]
COMMANDS = [*READERS_AND_EXPORT, ["delete", "S", "k"], ["put", "S", "k", "v"], ["import", "S", "-"]]


def on(arguments: list[str], store: Path) -> list[str | Path]:
    return [store if argument == "S" else argument for argument in arguments]


@pytest.mark.parametrize("command", ["get", "delete"])
def test_an_absent_key_is_status_1(mmkv: Runner, store: Path, command: str) -> None:
    mmkv("put", store, "key", "value")
    assert "no such key: 'other'" in mmkv.fail(1, command, store, "other")


def test_an_absent_key_is_named_readably(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "value")
    assert r"'a\nb\\c\xff'".replace(r"\n", r"\x0a") in mmkv.fail(1, "get", store, b"a\nb\\c\xff")
    assert "(60,000 bytes)" in mmkv.fail(1, "get", store, b"k" * 60_000)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["--nonsense"],
        ["get"],
        ["get", "S"],
        ["get", "S", "a", "b"],
        ["get", "--nonsense", "S", "a"],
        ["get", "--hex", "S", "0g"],
        ["get", "--hex", "S", "abc"],
        ["get", "--json", "--hex-value", "S", "a"],
        ["get", "S", "k" * 65_536],
        ["put", "S"],
        ["put", "S", "k", "v", "w"],
        ["put", "--hex-value", "S", "k", "xyz"],
        ["delete", "S"],
        ["list", "--limit", "-1", "S"],
        ["list", "--limit", "x", "S"],
        ["list", "--json", "--hex", "S"],
        ["list", "--json", "-0", "S"],
        ["list", "--hex", "--prefix", "0", "S"],
        ["import", "S"],
        ["import", "S", "-", "--format", "dir"],
        ["import", "S", "-", "--format", "mmkv"],
        ["import", "S", "-", "--format", "xml"],
        ["import", "S", "-", "--key", "id"],
        ["import", "S", "-", "--follow"],
        ["export", "S", "-", "--format", "dir"],
        ["export", "S", "-", "--format", "mmkv"],
        ["export", "S", "-", "--skip-unsafe"],
        ["export", "S", "-", "--force"],
        ["export", "S", "unknown.format"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(mmkv: Runner, store: Path, arguments: list[str]) -> None:
    line = mmkv.fail(2, *on(arguments, store))
    assert "--help'" in line
    assert not store.exists()


def test_a_source_whose_name_does_not_tell_its_format_is_wrong_usage(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("text")
    assert "--format" in mmkv.fail(2, "import", store, tmp_path / "data.txt")
    assert not store.exists()


@pytest.mark.parametrize("arguments", [*READERS_AND_EXPORT, ["delete", "S", "k"]], ids=" ".join)
def test_a_missing_store_is_status_3_and_stays_missing(mmkv: Runner, store: Path, arguments: list[str]) -> None:
    line = mmkv.fail(3, *on(arguments, store))
    assert str(store) in line
    assert "No such file" in line
    assert not store.exists()


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("content", [b"some other file, long enough to be taken seriously\n" * 1000, b"short"], ids=len)
def test_another_file_is_status_3_and_stays_as_it_is(
    mmkv: Runner, tmp_path: Path, arguments: list[str], content: bytes
) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(content)
    line = mmkv.fail(3, *on(arguments, other), stdin=b'{"key":"k","value":"v"}')
    assert str(other) in line
    assert other.read_bytes() == content


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_directory_for_a_store_is_status_3(mmkv: Runner, tmp_path: Path, arguments: list[str]) -> None:
    mmkv.fail(3, *on(arguments, tmp_path), stdin=b'{"key":"k","value":"v"}')


def test_a_store_below_a_missing_directory_is_status_3(mmkv: Runner, tmp_path: Path) -> None:
    assert "No such file" in mmkv.fail(3, "put", tmp_path / "none" / "s.mmkv", "key", "value")


@pytest.mark.skipif(is_privileged(), reason="root may do anything")
def test_permission_denied_is_status_3(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "value")
    store.chmod(0)
    try:
        for arguments in COMMANDS:
            assert "Permission denied" in mmkv.fail(3, *on(arguments, store))
    finally:
        store.chmod(0o600)


@pytest.mark.skipif(is_privileged(), reason="root may do anything")
def test_a_store_without_write_permission_can_be_read_but_not_written(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "value")
    store.chmod(0o400)
    try:
        assert mmkv("get", store, "key").out == b"value"
        for arguments in READERS_AND_EXPORT:
            assert mmkv.run(*on(arguments, store)).status in (0, 1)
        assert "Permission denied" in mmkv.fail(3, "put", store, "key", "other")
        assert "Permission denied" in mmkv.fail(3, "delete", store, "key")
    finally:
        store.chmod(0o600)


def test_a_file_name_with_a_line_break_does_not_break_the_line(mmkv: Runner, tmp_path: Path) -> None:
    assert r"no\x0afile" in mmkv.fail(3, "get", tmp_path / "no\nfile", "key")
    assert r"\xff" in mmkv.fail(3, "get", os.fsencode(tmp_path) + b"/\xff", "key")


def test_a_full_disk_under_stdout_is_status_3(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "value")
    commands: list[list[str | Path]] = [["get", store, "key"], ["list", store], ["export", "-q", store, "-"]]
    for arguments in commands:
        with open("/dev/full", "wb") as full:
            process = mmkv.start(*arguments, stdout=full)
            _, error = process.communicate(timeout=60)
        assert process.returncode == 3
        assert error.startswith(b"mmkv: ")
        assert error.count(b"\n") == 1


def test_closed_standard_streams_are_status_3(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "value")
    for command in ('get "$1" key >&-', 'put "$1" key <&-'):
        script = f'exec "$0" -m mmkv.cli {command}'
        done = subprocess.run(
            ["sh", "-c", script, sys.executable, str(store)],
            capture_output=True,
            cwd=store.parent,
            timeout=60,
            check=False,
        )
        assert done.returncode == 3, done
        assert b"closed" in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_an_export_to_a_missing_directory_names_the_target(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv("put", store, "key", "value")
    for name in ("none/out.jsonl", "none/out.csv", "none/out.mmkv"):
        assert name in mmkv.fail(3, "export", store, tmp_path / name)


def test_a_missing_source_makes_no_store(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.csv", "none.mmkv", "none"):
        assert "No such file" in mmkv.fail(3, "import", store, tmp_path / name)
    for kind in ("dir", "jsonl", "csv", "tsv", "mmkv"):
        assert "No such file" in mmkv.fail(3, "import", store, tmp_path / "none", "--format", kind)
    assert not store.exists()


def test_a_store_cannot_be_its_own_source_or_target(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv("put", store, "key", "value")
    (tmp_path / "link.mmkv").symlink_to(store)
    for name in (store, tmp_path / "link.mmkv"):
        assert "the store itself" in mmkv.fail(3, "import", store, name)
        assert "the store itself" in mmkv.fail(3, "export", store, name, "--force")
    assert "the store itself" in mmkv.fail(3, "export", store, store, "--format", "jsonl")
