"""import and export of JSON Lines, CSV, TSV and other stores: lossless, strict about their input, repeatable."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.runner import Runner

FILES = ["jsonl", "ndjson", "csv", "tsv", "mmkv"]


def leftovers(directory: Path) -> list[Path]:
    return list(directory.rglob(".mmkv-export-*"))


@pytest.mark.parametrize("suffix", FILES)
def test_round_trip_of_awkward_records(
    mmkv: Runner, store: Path, tmp_path: Path, awkward: dict[bytes, bytes], suffix: str
) -> None:
    mmkv.fill(store, awkward)
    assert mmkv.records(store) == awkward
    target, back = tmp_path / f"out.{suffix}", tmp_path / "back.mmkv"
    size = sum(len(key) + len(value) for key, value in awkward.items())
    assert mmkv("export", store, target).err == f"mmkv: exported {len(awkward)} records, {size} bytes, skipped 0\n"
    assert mmkv("import", back, target).err == f"mmkv: imported {len(awkward)} records, {size} bytes, skipped 0\n"
    assert mmkv.records(back) == awkward
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("suffix", FILES)
def test_round_trip_of_an_empty_store(mmkv: Runner, store: Path, tmp_path: Path, suffix: str) -> None:
    mmkv.fill(store, {})
    mmkv("export", store, tmp_path / f"out.{suffix}")
    mmkv("import", tmp_path / "back.mmkv", tmp_path / f"out.{suffix}")
    assert mmkv("count", tmp_path / "back.mmkv").out == b"0\n"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv"])
def test_round_trip_through_pipes(mmkv: Runner, store: Path, tmp_path: Path, kind: str) -> None:
    records = {b"key %d" % i: bytes([i % 256]) * (i % 50) for i in range(2000)}
    mmkv.fill(store, records)
    text = mmkv("export", store, "-", "--format", kind).out
    mmkv("import", tmp_path / "back.mmkv", "-", "--format", kind, stdin=text)
    assert mmkv.records(tmp_path / "back.mmkv") == records


@pytest.mark.parametrize("suffix", FILES)
def test_prefixes(mmkv: Runner, store: Path, tmp_path: Path, suffix: str) -> None:
    mmkv.fill(store, {b"a/1": b"one", b"a/2": b"two", b"b/1": b"three", b"a": b"four"})
    target = tmp_path / f"out.{suffix}"
    assert "exported 2 records" in mmkv("export", store, target, "--prefix", "a/").err
    mmkv("import", tmp_path / "whole.mmkv", target)
    assert mmkv.records(tmp_path / "whole.mmkv") == {b"a/1": b"one", b"a/2": b"two"}
    mmkv("import", tmp_path / "added.mmkv", target, "--prefix", "x/")
    assert mmkv.records(tmp_path / "added.mmkv") == {b"x/a/1": b"one", b"x/a/2": b"two"}
    target = tmp_path / f"stripped.{suffix}"
    mmkv("export", store, target, "--prefix", "a/", "--strip-prefix")
    mmkv("import", tmp_path / "stripped_back.mmkv", target, "--prefix", "b/")
    assert mmkv.records(tmp_path / "stripped_back.mmkv") == {b"b/1": b"one", b"b/2": b"two"}


@pytest.mark.parametrize("suffix", FILES)
def test_import_is_repeatable_and_keeps_other_keys(mmkv: Runner, store: Path, tmp_path: Path, suffix: str) -> None:
    mmkv.fill(store, {b"a": b"new", b"b": b"new"})
    mmkv("export", store, tmp_path / f"out.{suffix}")
    mmkv.fill(tmp_path / "other.mmkv", {b"a": b"old", b"c": b"kept"})
    for _ in range(2):
        mmkv("import", tmp_path / "other.mmkv", tmp_path / f"out.{suffix}")
        assert mmkv.records(tmp_path / "other.mmkv") == {b"a": b"new", b"b": b"new", b"c": b"kept"}


def test_quiet_is_quiet(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    assert mmkv("import", "-q", store, "-", stdin=b'{"key":"a","value":"b"}').err == ""
    assert mmkv("export", "-q", store, tmp_path / "out.csv").err == ""


def test_a_store_is_known_by_its_first_bytes(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv.fill(store, {b"a": b"b"})
    for name in ("nameless", "misnamed.csv"):
        store.rename(tmp_path / name)
        mmkv("import", tmp_path / "back.mmkv", tmp_path / name)
        assert mmkv.records(tmp_path / "back.mmkv") == {b"a": b"b"}
        (tmp_path / name).rename(store)


def test_the_format_can_be_said(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv.fill(store, {b"a": b"b"})
    for kind in ("jsonl", "csv", "tsv", "mmkv"):
        mmkv("export", store, tmp_path / f"as_{kind}", "--format", kind)
        mmkv("import", tmp_path / f"{kind}.mmkv", tmp_path / f"as_{kind}", "--format", kind)
        assert mmkv.records(tmp_path / f"{kind}.mmkv") == {b"a": b"b"}
    assert mmkv.run("check", tmp_path / "as_mmkv").status == 0


def test_a_failed_export_leaves_the_old_file(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv.fill(store, {b"a": b"v" * (65 << 20)})  # too long for a field of CSV
    (tmp_path / "out.csv").write_text("old")
    assert "JSON Lines" in mmkv.fail(3, "export", store, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "old"
    assert not leftovers(tmp_path)


def test_export_keeps_permissions_and_goes_through_links(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv.fill(store, {b"a": b"b"})
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    mmkv("export", store, link)
    assert link.is_symlink()
    assert json.loads(real.read_text()) == {"key": "a", "value": "b"}
    assert real.stat().st_mode & 0o777 == 0o640


def test_export_to_what_is_no_regular_file(mmkv: Runner, store: Path) -> None:
    mmkv.fill(store, {b"a": b"b"})
    assert mmkv("export", "-q", store, "/dev/stdout", "--format", "jsonl").out == b'{"key": "a", "value": "b"}\n'
    assert "No space left" in mmkv.fail(3, "export", "-q", store, "/dev/full", "--format", "jsonl")


# ---- JSON Lines ----


def test_json_lines_that_a_person_might_write(mmkv: Runner, store: Path) -> None:
    text = (
        '\ufeff{"key": "a", "value": "1"}\r\n\n   \n{"value_b64": "/w==", "key": "\\u00fc"}\n{"key_b64":"","value":""}'
    )
    assert "imported 3 records" in mmkv("import", store, "-", stdin=text.encode()).err
    assert mmkv.records(store) == {b"a": b"1", "\u00fc".encode(): b"\xff", b"": b""}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"key": "a"}', "'value'"),
        (b'{"value": "a"}', "'key'"),
        (b'{"key": "a", "key_b64": "YQ==", "value": ""}', "'key'"),
        (b'{"key": "a", "value": 5}', "not a string"),
        (b'{"key": null, "value": "5"}', "not a string"),
        (b'{"key": "a", "value": "", "extra": 1}', "'extra'"),
        (b'{"key": "a", "value_b64": "%%%"}', "value_b64"),
        (b'{"key": "a", "value_b64": "YQ"}', "value_b64"),
        (b'{"key": "\xff", "value": ""}', "not UTF-8"),
        (b'{"key": "\\ud800", "value": ""}', "'key'"),
        (b'{"key": "a", "value": "', "not JSON"),
        (b'{"key": "' + b"k" * 65_536 + b'", "value": ""}', "65,535"),
        (b"x" * 200_000, "not a JSON object"),
        (b"[" * 60_000, "not JSON"),
        (b'{"key": ' + b"[" * 100_000, "not JSON"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else None,
)
def test_bad_json_lines(mmkv: Runner, store: Path, line: bytes, reason: str) -> None:
    text = b'{"key": "before", "value": ""}\n' + line + b'\n{"key": "after", "value": ""}\n'
    error = mmkv.fail(3, "import", store, "-", stdin=text)
    assert "line 2" in error
    assert reason in error
    assert mmkv("list", store).out == b"before\n"  # what came before is kept


def test_a_prefix_can_make_a_key_too_long(mmkv: Runner, store: Path) -> None:
    line = json.dumps({"key": "k" * 65_530, "value": ""}).encode()
    assert "65,540 bytes" in mmkv.fail(3, "import", store, "-", "--prefix", "0123456789", stdin=line)


# ---- CSV and TSV ----


def test_csv_as_other_programs_read_it(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    records = {b"a": b"text", b"b": b'"quoted",\n', b"c": b"\xff", b"d": b"\r", b"e": b"\0"}
    mmkv.fill(store, records)
    mmkv("export", store, tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert rows["a"] == {"key": "a", "value": "text", "encoding": "utf-8"}
    assert rows["b"]["value"] == '"quoted",\n'
    assert rows["Yw=="] == {"key": "Yw==", "value": "/w==", "encoding": "base64"}
    assert {"ZA==", "ZQ=="} < set(rows)


PEOPLE = 'email,name,town\na@x.org,"Ann, A.",Z\u00fcrich\nb@x.org,Bob,\n'


def test_csv_with_the_rest_of_the_row_as_json(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text(PEOPLE)
    mmkv("import", store, tmp_path / "people.csv", "--key", "email")
    assert mmkv.records(store) == {
        b"a@x.org": '{"name":"Ann, A.","town":"Z\u00fcrich"}'.encode(),
        b"b@x.org": b'{"name":"Bob","town":""}',
    }


def test_csv_with_a_value_column(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("\ufeff" + PEOPLE.replace("\n", "\r\n") + "\r\n")
    mmkv("import", store, tmp_path / "people.csv", "--key", "email", "--value", "name", "--prefix", "p/")
    assert mmkv.records(store) == {b"p/a@x.org": b"Ann, A.", b"p/b@x.org": b"Bob"}


def test_tsv(mmkv: Runner, store: Path) -> None:
    text = b'value\tkey\n1, 2\ta\n"two\nlines"\tb\n'
    mmkv("import", store, "-", "--format", "tsv", stdin=text)
    assert mmkv.records(store) == {b"a": b"1, 2", b"b": b"two\nlines"}


def test_columns_that_are_named_are_taken_as_they_are(mmkv: Runner, store: Path) -> None:
    text = b"key,value,encoding\nYQ==,Yg==,base64\n"
    mmkv("import", store, "-", "--format", "csv", "--key", "key", "--value", "value", stdin=text)
    assert mmkv.records(store) == {b"YQ==": b"Yg=="}


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (b"id,name\n1,a\n", [], "'key'"),
        (b"id,name\n1,a\n", ["--key", "ID"], "'ID'"),
        (b"id,name\n1,a\n", ["--key", "id", "--value", "none"], "'none'"),
        (b"id,id\n1,a\n", ["--key", "id"], "same name"),
        (b"key,value\na,b,c\n", [], "line 2: 3 fields"),
        (b"key,value\na\n", [], "line 2: 1 fields"),
        (b"key,value,encoding\na,b,rot13\n", [], "rot13"),
        (b"key,value,encoding\n%%,b,base64\n", [], "base64"),
        (b"key,value\na,\xff\n", [], "not UTF-8"),
        (b'key,value\na,"b\n', [], "line 2"),
        (b'key,value\na,"b"c\n', [], "line 2"),
        (b'key,value\na,"' + b"b" * (65 << 20), [], "field"),
    ],
    ids=lambda value: value[:25] if isinstance(value, bytes) else None,
)
def test_bad_csv(mmkv: Runner, store: Path, text: bytes, options: list[str], reason: str) -> None:
    assert reason in mmkv.fail(3, "import", store, "-", "--format", "csv", *options, stdin=text)


def test_rows_before_a_bad_one_are_kept(mmkv: Runner, store: Path) -> None:
    mmkv.fail(3, "import", store, "-", "--format", "csv", stdin=b"key,value\na,1\nb,2\nc\nd,4\n")
    assert mmkv.records(store) == {b"a": b"1", b"b": b"2"}


# ---- stores ----


def test_a_store_is_not_replaced_unless_told_to(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.mmkv"
    mmkv.fill(store, {b"a": b"new"})
    mmkv.fill(target, {b"b": b"old"})
    assert "--force" in mmkv.fail(3, "export", store, target)
    assert mmkv.records(target) == {b"b": b"old"}
    mmkv("export", store, target, "--force")
    assert mmkv.records(target) == {b"a": b"new"}
    assert not leftovers(tmp_path)


def test_a_copy_of_many_records(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    records = {b"%d" % i: b"%d" % (i * i) * (i % 30) for i in range(20_000)}
    records[b"big"] = bytes(range(256)) * 20_000
    mmkv.fill(store, records)
    mmkv("export", store, tmp_path / "copy.mmkv")
    assert mmkv.records(tmp_path / "copy.mmkv") == records
