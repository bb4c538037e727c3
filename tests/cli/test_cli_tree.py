"""Directory trees: what goes in comes out, and nothing comes out where it should not."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest

from tests.cli.runner import Runner, is_privileged


def tree(root: Path, skip: frozenset[str] = frozenset()) -> dict[bytes, bytes]:
    """Return the regular files below a directory, by their relative paths as bytes."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(root)):
        folders[:] = [name for name in folders if os.fsdecode(name) not in skip]
        for name in files:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and os.path.isfile(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, os.fsencode(root))] = file.read()
    return found


def plant(root: Path, files: dict[bytes, bytes]) -> None:
    for name, content in files.items():
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)


FILES = {
    b"plain.txt": b"text\n",
    b"empty": b"",
    b"deep/er/and/deep/er": bytes(range(256)) * 300,
    b"not \xff\xfe UTF-8/\x80": b"bytes",
    b"line\nbreak": b"",
    b"with space/ and / more ": b"x",
    "gr\u00fc\u00df/\U0001f600".encode(): b"y",
    b"-dash": b"z",
    b"...": b"three dots are a name",
    b"..a/b..": b"so is this",
    b"n" * 255: b"the longest name",
    b".hidden/.file": b"h",
}


def test_round_trip(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    plant(tmp_path / "in", FILES)
    size = sum(map(len, FILES)) + sum(map(len, FILES.values()))
    assert mmkv("import", store, tmp_path / "in").err == (
        f"mmkv: imported {len(FILES)} records, {size} bytes, skipped 0\n"
    )
    assert mmkv.records(store) == FILES
    mmkv("export", store, f"{tmp_path}/out/")
    assert tree(tmp_path / "out") == FILES
    mmkv("export", store, tmp_path / "out")  # again, over what is there
    assert tree(tmp_path / "out") == FILES


def test_the_standard_library_and_back(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    source = Path(sysconfig.get_path("stdlib"))
    skip = frozenset({"site-packages", "dist-packages", "__pycache__"})
    original = tree(source, skip)
    assert len(original) > 500
    plant(tmp_path / "in", original)  # import takes whole trees, with whatever has been installed there
    mmkv("import", store, tmp_path / "in", "--prefix", "lib/")
    assert mmkv("count", store).out == b"%d\n" % len(original)
    mmkv("export", store, tmp_path / "out", "--format", "dir")
    assert tree(tmp_path / "out" / "lib") == original


def test_only_regular_files_and_no_links(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    plant(root, {b"file": b"content", b"folder/file": b"inner"})
    plant(tmp_path / "outside", {b"secret": b"secret"})
    (root / "link").symlink_to("file")
    (root / "folder link").symlink_to("folder")
    (root / "away").symlink_to(tmp_path / "outside")
    (root / "broken").symlink_to("nowhere")
    (root / "loop").symlink_to(".")
    (root / "self").symlink_to("self")
    os.mkfifo(root / "pipe")
    assert "imported 2 records, " in (result := mmkv("import", store, root)).err
    assert "skipped 7\n" in result.err
    assert mmkv.records(store) == {b"file": b"content", b"folder/file": b"inner"}


def test_links_are_followed_when_asked_and_circles_are_not(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    root = tmp_path / "in"
    plant(root, {b"file": b"content", b"folder/file": b"inner"})
    (root / "link").symlink_to("file")
    (root / "twin").symlink_to("folder")
    (root / "folder" / "up").symlink_to("..")
    (root / "broken").symlink_to("nowhere")
    (root / "self").symlink_to("self")
    mmkv("import", store, root, "--follow")
    assert mmkv.records(store) == {
        b"file": b"content",
        b"link": b"content",
        b"folder/file": b"inner",
        b"twin/file": b"inner",
    }


def test_a_directory_that_is_a_link_itself_is_entered(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    plant(tmp_path / "in", {b"file": b"content"})
    (tmp_path / "link").symlink_to("in")
    mmkv("import", store, tmp_path / "link")
    assert mmkv.records(store) == {b"file": b"content"}


def test_a_store_inside_the_tree_is_left_out_and_not_overwritten(mmkv: Runner, tmp_path: Path) -> None:
    plant(tmp_path / "in", {b"file": b"content"})
    store = tmp_path / "in" / "s.mmkv"
    for _ in range(2):
        assert "skipped 1\n" in mmkv("import", store, tmp_path / "in").err
        assert mmkv.records(store) == {b"file": b"content"}
    mmkv("put", store, "s.mmkv", "not a store")
    assert "the store itself" in mmkv.fail(3, "export", store, tmp_path / "in")
    assert mmkv("count", store).out == b"2\n"


@pytest.mark.skipif(is_privileged(), reason="root may do anything")
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    plant(tmp_path / "in", {b"locked": b"content"})
    (tmp_path / "in" / "locked").chmod(0)
    assert "in/locked: Permission denied" in mmkv.fail(3, "import", store, tmp_path / "in")


UNSAFE = [
    b"",
    b"/",
    b"/etc/mmkv-test",
    b"..",
    b"../outside",
    b"a/../../outside",
    b"a/..",
    b".",
    b"./a",
    b"a/./b",
    b"a//b",
    b"a/",
    b"nul\0byte",
    b"n" * 256,
    b"folder/" + b"n" * 256,
]


@pytest.mark.parametrize("key", UNSAFE, ids=lambda key: repr(key[:20]))
def test_unsafe_keys_are_refused_before_anything_is_written(
    mmkv: Runner, store: Path, tmp_path: Path, key: bytes
) -> None:
    records = {b"safe/%d" % i: b"content" for i in range(20)}
    mmkv.fill(store, {**records, key: b"unsafe"})
    error = mmkv.fail(3, "export", store, f"{tmp_path}/target/out/")
    assert "cannot be a file name" in error
    assert f"'{key[:10].decode()}".replace("\0", "\\x00") in error
    assert tree(tmp_path / "target") == {}
    result = mmkv("export", store, f"{tmp_path}/target/out/", "--skip-unsafe")
    assert "exported 20 records" in result.err
    assert "skipped 1\n" in result.err
    assert tree(tmp_path / "target") == {b"out/" + name: content for name, content in records.items()}
    assert not (tmp_path / "outside").exists()
    assert not os.path.exists("/etc/mmkv-test")


def test_a_key_that_is_both_file_and_directory(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv.fill(store, {b"a": b"file", b"a/b": b"inside", b"a/b/c": b"deeper", b"d/e": b"fine"})
    error = mmkv.fail(3, "export", store, f"{tmp_path}/out/")
    assert "both a file and a directory" in error
    assert tree(tmp_path / "out") == {}
    assert "skipped 2\n" in mmkv("export", store, f"{tmp_path}/out/", "--skip-unsafe").err
    assert tree(tmp_path / "out") == {b"a": b"file", b"d/e": b"fine"}
    # Where the prefix leaves the file out, nothing collides.
    mmkv("export", store, f"{tmp_path}/part/", "--prefix", "a/b/")
    assert tree(tmp_path / "part") == {b"a/b/c": b"deeper"}
    mmkv("export", store, f"{tmp_path}/stripped/", "--prefix", "a/b/", "--strip-prefix")
    assert tree(tmp_path / "stripped") == {b"c": b"deeper"}


def test_what_is_in_the_way_in_the_target(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mmkv.fill(store, {b"a/b": b"inside"})
    plant(out, {b"a": b"a file"})
    assert "'a/b'" in mmkv.fail(3, "export", store, out)
    mmkv.fill(tmp_path / "other.mmkv", {b"a": b"file"})
    plant(tmp_path / "second", {b"a/b": b"inside"})
    assert "a directory of that name" in mmkv.fail(3, "export", tmp_path / "other.mmkv", tmp_path / "second")
    assert "skipped 1\n" in mmkv("export", store, out, "--skip-unsafe").err
    assert tree(out) == {b"a": b"a file"}


def test_links_in_the_target_do_not_lead_out_of_it(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    plant(outside, {b"file": b"untouched"})
    (out / "folder").symlink_to(outside)
    mmkv.fill(store, {b"folder/new": b"content"})
    assert "symbolic link" in mmkv.fail(3, "export", store, out)
    assert tree(outside) == {b"file": b"untouched"}
    # A link in the place of a file is replaced, not written through.
    (out / "file").symlink_to(outside / "file")
    mmkv.fill(tmp_path / "other.mmkv", {b"file": b"content"})
    mmkv("export", tmp_path / "other.mmkv", out)
    assert (out / "file").read_bytes() == b"content"
    assert not (out / "file").is_symlink()
    assert tree(outside) == {b"file": b"untouched"}


def test_exported_files_have_ordinary_permissions(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv.fill(store, {b"file": b"content"})
    mmkv("export", store, f"{tmp_path}/out/")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "out" / "file").stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_large_file(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    content = os.urandom(1 << 20) * 40
    plant(tmp_path / "in", {b"large": content, b"small": b"s"})
    mmkv("import", store, tmp_path / "in")
    assert mmkv("get", store, "large").out == content
    mmkv("export", store, f"{tmp_path}/out/")
    assert tree(tmp_path / "out") == {b"large": content, b"small": b"s"}
