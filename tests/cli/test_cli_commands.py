"""get, put, delete, has, count, list, stats, check: what they do when all is well."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.runner import Runner

EVERY_BYTE = bytes(range(256))


def test_put_and_get_a_value_given_as_an_argument(mmkv: Runner, store: Path) -> None:
    result = mmkv("put", store, "greeting", "hello")
    assert (result.out, result.err) == (b"", "")
    assert mmkv("get", store, "greeting").out == b"hello"


@pytest.mark.parametrize("value", [b"", b"\n", b"hello\n", EVERY_BYTE, EVERY_BYTE * 5000, b"\r\n\x1a\x04"], ids=len)
def test_a_value_survives_the_pipes_byte_for_byte(mmkv: Runner, store: Path, value: bytes) -> None:
    mmkv("put", store, "key", stdin=value)
    assert mmkv("get", store, "key").out == value


def test_an_empty_argument_is_a_value_and_not_a_wish_for_stdin(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "", stdin=b"not this")
    assert mmkv("get", store, "key").out == b""


def test_put_replaces(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "one")
    mmkv("put", store, "key", "two")
    assert mmkv("get", store, "key").out == b"two"
    assert mmkv("count", store).out == b"1\n"


def test_keys_are_the_bytes_that_the_shell_passed(mmkv: Runner, store: Path) -> None:
    keys = [b"\xff\xfe", "gr\u00fc\u00df".encode(), b"with space", b"line\nbreak", b"a/b", bytes(range(1, 256))]
    for key in keys:
        mmkv("put", store, key, b"v" + key)
    for key in keys:
        assert mmkv("get", store, key).out == b"v" + key
    assert sorted(mmkv("list", "-0", store).out.split(b"\0")[:-1]) == sorted(keys)


def test_bytes_of_the_command_line_do_not_depend_on_the_locale(mmkv: Runner, store: Path) -> None:
    for locale in ("C", "C.UTF-8", "POSIX"):
        for coercion in ("0", "1"):
            environment = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": coercion, "PYTHONUTF8": coercion}
            assert mmkv.run("put", store, b"\xc3\xbc\xff", b"\xe4", environment=environment).status == 0
            assert mmkv.run("get", store, b"\xc3\xbc\xff", environment=environment).out == b"\xe4"
            assert mmkv.run("list", store, environment=environment).out == b"\xc3\xbc\xff\n"


def test_keys_and_values_in_hexadecimal(mmkv: Runner, store: Path) -> None:
    mmkv("put", "--hex", "--hex-value", store, "00ff0A", "00 01 fe")
    assert mmkv("get", "--hex", store, "00ff0a").out == b"\x00\x01\xfe"
    assert mmkv("get", "--hex", "--hex-value", store, "00ff0a").out == b"0001fe\n"
    assert mmkv("list", "--hex", store).out == b"00ff0a\n"
    assert mmkv("list", "--hex", "--prefix", "00", store).out == b"00ff0a\n"
    assert mmkv("list", "--hex", "-0", store).out == b"00ff0a\0"
    mmkv("put", "--hex-value", store, "piped", stdin=b"de ad\nbe ef\n")
    assert mmkv("get", store, "piped").out == b"\xde\xad\xbe\xef"
    mmkv("put", "--hex", store, "", "the empty key")
    assert mmkv("get", store, "").out == b"the empty key"
    assert mmkv.run("has", "--hex", store, "00ff0a").status == 0
    mmkv("delete", "--hex", store, "00ff0a", "")
    assert mmkv("list", store).out == b"piped\n"


def test_a_key_that_begins_with_a_dash_goes_after_two(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "--", "--key", "-v")
    assert mmkv("get", store, "--", "--key").out == b"-v"
    assert mmkv("get", "--", store, "--key").out == b"-v"


def test_delete(mmkv: Runner, store: Path) -> None:
    mmkv.fill(store, {b"a": b"1", b"b": b"2", b"c": b"3"})
    mmkv("delete", store, "a")
    mmkv("delete", store, "b", "b")  # given twice, deleted once
    assert mmkv("list", store).out == b"c\n"


def test_delete_of_several_keys_deletes_those_there_and_says_which_were_not(mmkv: Runner, store: Path) -> None:
    mmkv.fill(store, {b"a": b"1", b"b": b"2"})
    error = mmkv.fail(1, "delete", store, "x", "a", "y")
    assert "'x'" in error
    assert "'y'" in error
    assert "'a'" not in error
    assert mmkv("list", store).out == b"b\n"
    assert "and 2 more" in mmkv.fail(1, "delete", store, "1", "2", "3", "4", "5")


def test_has_answers_by_status_alone(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "")
    present, absent = mmkv.run("has", store, "key"), mmkv.run("has", store, "other")
    assert (present.status, present.out, present.err) == (0, b"", "")
    assert (absent.status, absent.out, absent.err) == (1, b"", "")


def test_count(mmkv: Runner, store: Path) -> None:
    mmkv.fill(store, {b"%d" % i: b"" for i in range(1234)})
    assert mmkv("count", store).out == b"1234\n"
    assert mmkv("count", "--json", store).json() == {"count": 1234}


def test_list_in_a_pipe_gives_raw_keys(mmkv: Runner, store: Path) -> None:
    keys = [b"\xff", b"back\\slash", "\u00fc".encode(), b"esc\x1b[0m"]
    mmkv.fill(store, dict.fromkeys(keys, b""))
    assert mmkv("list", store).lines == sorted(keys)


def test_list_with_prefix_and_limit(mmkv: Runner, store: Path) -> None:
    mmkv.fill(store, {b"%s/%d" % (kind, i): b"" for kind in (b"user", b"item") for i in range(50)})
    users = mmkv("list", "--prefix", "user/", store).lines
    assert users == sorted(b"user/%d" % i for i in range(50))
    assert len(mmkv("list", "--limit", "7", store).lines) == 7
    assert len(mmkv("list", "-p", "item/", "-n", "7", store).lines) == 7
    assert mmkv("list", "-n", "0", store).out == b""
    assert len(mmkv("list", "-n", "1000", store).lines) == 100
    assert mmkv("list", "-p", "nobody", store).out == b""


def test_list_as_json_is_lossless(mmkv: Runner, store: Path, awkward: dict[bytes, bytes]) -> None:
    mmkv.fill(store, awkward)
    found = set()
    for line in mmkv("list", "--json", store).out.splitlines():
        fields = json.loads(line)
        assert len(fields) == 1
        found.add(fields["key"].encode() if "key" in fields else base64.b64decode(fields["key_b64"]))
    assert found == set(awkward)


def test_get_as_json(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "text", "gr\u00fc\u00df")
    mmkv("put", "-x", "-X", store, "ff", "fe")
    assert mmkv("get", "--json", store, "text").json() == {"key": "text", "value": "gr\u00fc\u00df"}
    assert mmkv("get", "--json", "--hex", store, "ff").json() == {"key_b64": "/w==", "value_b64": "/g=="}


def test_stats(mmkv: Runner, store: Path) -> None:
    mmkv.fill(store, {b"%d" % i: b"value" for i in range(2000)})
    figures = mmkv("stats", "--json", store).json()
    assert figures["records"] == 2000
    lines = mmkv("stats", store).out.decode().splitlines()
    assert len(lines) == len(figures)
    assert ["records", "2,000"] in [line.split() for line in lines]


def test_check(mmkv: Runner, store: Path) -> None:
    mmkv.fill(store, {b"%d" % i: b"value" for i in range(10)})
    assert mmkv("check", store).out.startswith(b"ok")
    assert mmkv("check", "--json", store).json() == {"ok": True, "records": 10, "errors": []}


def test_check_leaves_the_file_as_it_is(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "value")
    before = store.read_bytes()
    mmkv("check", store)
    assert store.read_bytes() == before


def test_a_damaged_store_is_reported_with_status_3(mmkv: Runner, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.store"  # not *.mmkv: it would fail the check at the end of the test
    needle = b"needle in the heap " * 20
    mmkv("put", damaged, "key", needle)
    content = bytearray(damaged.read_bytes())
    place = content.find(needle)
    assert place > 0
    content[place + 7] ^= 0x10
    damaged.write_bytes(content)
    result = mmkv.run("check", damaged)
    assert result.status == 3, result
    assert result.out or result.err.startswith("mmkv: ")
    result = mmkv.run("check", "--json", damaged)
    assert result.status == 3, result
    if result.out:
        assert result.json()["ok"] is False
        assert result.json()["errors"]
    for command in (["get", damaged, "key"], ["export", damaged, tmp_path / "out.jsonl"]):
        result = mmkv.run(*command)
        assert result.status == 3, result
        assert "record of key b'key' is damaged" in result.err
        assert b"needle" not in result.out, "nothing damaged is given out"


def test_new_stores_are_private(mmkv: Runner, store: Path) -> None:
    mmkv("put", store, "key", "value")
    assert store.stat().st_mode & 0o777 == 0o600


def test_version_and_help(mmkv: Runner) -> None:
    assert importlib.metadata.version("mmkv") in mmkv("--version").out.decode()
    overview = mmkv("--help").out.decode()
    for command in [
        *("get", "put", "add", "replace", "setdefault", "cas", "incr", "pop", "delete", "has", "wait"),
        *("count", "list", "stats", "check", "salvage", "import", "export"),
    ]:
        assert command in overview
        page = mmkv(command, "--help").out.decode()
        assert "Examples:" in page
        assert f"mmkv {command}" in page


def test_the_installed_script_is_the_same_program(mmkv: Runner, store: Path) -> None:
    script = shutil.which("mmkv", path=str(Path(sys.executable).parent))
    assert script is not None, "the script `mmkv` is not installed beside the interpreter"
    mmkv("put", store, "key", "value")
    done = subprocess.run([script, "get", store, "key"], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"value", b"")
    done = subprocess.run([script, "get", store, "none"], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, b"")


# ---- repair and salvage ----


def hurt(store: Path, value: bytes) -> None:
    """Damage a value where it lies."""
    content = store.read_bytes()
    assert content.count(value) == 1
    store.write_bytes(content.replace(value, value.swapcase()))


def test_check_repairs_when_asked(mmkv: Runner, store: Path) -> None:
    mmkv.fill(store, {b"sound": b"as a bell", b"hurt": b"a bell with a crack"})
    content = store.read_bytes()
    assert mmkv("check", "--repair", store).out == b"ok: 2 records, no errors\n"
    assert store.read_bytes() == content, "a sound store is left alone"
    hurt(store, b"a bell with a crack")
    assert mmkv.run("check", store).status == 3
    result = mmkv.run("check", "--repair", store)
    assert result.status == 3, "something was lost"
    assert b"repaired: 1 record, 1 error\n" in result.out
    assert b"key b'hurt'" in result.out
    assert mmkv.records(store) == {b"sound": b"as a bell"}
    assert json.loads(mmkv("check", "--repair", "--json", store).out) == {"ok": True, "records": 1, "errors": []}


def test_check_repairs_what_does_not_open(mmkv: Runner, store: Path) -> None:
    mmkv.fill(store, {b"key": b"value"})
    store.write_bytes(bytes(4096) + store.read_bytes()[4096:])
    assert "--repair" in mmkv.fail(3, "check", store)
    result = mmkv.run("check", "--repair", "--json", store)
    report = json.loads(result.out)
    assert (report["repaired"], report["records"]) == (True, 1)
    assert [error["kind"] for error in report["errors"]] == ["superblock"]
    assert mmkv.records(store) == {b"key": b"value"}


def test_salvage(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv.fill(store, {b"sound": b"as a bell", b"hurt": b"a bell with a crack"})
    assert mmkv("salvage", store, tmp_path / "same.mmkv").out == b"salvaged: 2 records, no errors\n"
    hurt(store, b"a bell with a crack")
    result = mmkv.run("salvage", store, tmp_path / "new.mmkv")
    assert result.status == 3
    assert b"salvaged: 1 record, 1 error\n  record at offset" in result.out
    assert mmkv.records(tmp_path / "new.mmkv") == {b"sound": b"as a bell"}
    result = mmkv.run("salvage", "--json", store, tmp_path / "other.mmkv")
    assert [(error["kind"], error["key"]) for error in json.loads(result.out)["errors"]] == [("record", "hurt")]
    assert "exists" in mmkv.fail(3, "salvage", store, tmp_path / "new.mmkv")
    store.unlink()
