"""Opening and closing: modes, files that are no stores, options."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

import pytest
import xxhash

import mmkv
from tests.support import Child, fork_and_wait, permissions_of, run_python, until

SUPERBLOCK_VERSION = 8
SUPERBLOCK_COMPAT = 16
SUPERBLOCK_RO_COMPAT = 24
SUPERBLOCK_INCOMPAT = 32
SUPERBLOCK_CHECKSUM = 120
SUPERBLOCK_COPY = 0x16000


def make(path: Path, **records: str) -> None:
    with mmkv.open(path) as db:
        for key, value in records.items():
            db[key.encode()] = value.encode()


def patch_superblock(path: Path, offset: int, form: str, value: int) -> None:
    """Change a field and make the checksum good again, as a later version would."""
    with open(path, "r+b") as file:
        page = bytearray(file.read(SUPERBLOCK_CHECKSUM))
        struct.pack_into(form, page, offset, value)
        for at in (0, SUPERBLOCK_COPY):
            file.seek(at)
            file.write(page + struct.pack("<Q", xxhash.xxh3_64_intdigest(bytes(page), seed=0)))


# -- modes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["r", "w"])
def test_missing_file_is_an_error_where_it_has_to_exist(path: Path, mode: str) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        mmkv.open(path, mode)
    assert str(path) in str(caught.value)
    assert not path.exists()


def test_missing_file_is_an_error_for_a_private_copy(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mmkv.open(path, "p")
    assert not path.exists()


def test_c_creates_and_then_keeps(open_store: Any, path: Path) -> None:
    with open_store(mode="c") as db:
        assert len(db) == 0
        db[b"k"] = b"v"
    assert path.exists()
    with open_store(mode="c") as db:
        assert db[b"k"] == b"v"


def test_c_is_the_default(open_store: Any, tmp_path: Path) -> None:
    with mmkv.open(tmp_path / "default.mmkv") as db:
        db[b"k"] = b"v"
    open_store("default.mmkv", "r")


def test_w_opens_what_is_there(open_store: Any) -> None:
    with open_store() as db:
        db[b"k"] = b"v"
    with open_store(mode="w") as db:
        assert db[b"k"] == b"v"
        db[b"k"] = b"w"
    assert open_store(mode="w")[b"k"] == b"w"


def test_r_reads_and_refuses_every_write(open_store: Any, path: Path) -> None:
    with open_store() as db:
        db[b"k"] = b"v"
    before = path.read_bytes()
    with open_store(mode="r") as db:
        assert db[b"k"] == b"v"
        assert list(db) == [b"k"]
        assert db.get(b"absent") is None
        assert db.verify().ok
        for write in (
            lambda: db.__setitem__(b"k", b"w"),
            lambda: db.put(b"n", b"w"),
            lambda: db.__delitem__(b"k"),
            lambda: db.delete(b"k"),
            lambda: db.pop(b"k"),
            lambda: db.popitem(),
            lambda: db.setdefault(b"n", b"w"),
            lambda: db.add(b"n", b"w"),
            lambda: db.replace(b"k", b"w"),
            lambda: db.compare_and_swap(b"k", b"v", b"w"),
            lambda: db.compare_and_swap(b"n", None, None),
            lambda: db.incr(b"n"),
            lambda: db.update({b"n": b"w"}),
            lambda: db.put_many([(b"n", b"w")]),
            lambda: db.delete_many([b"k"]),
            lambda: db.clear(),
            lambda: db.sync(),
        ):
            with pytest.raises(mmkv.ReadOnlyError):
                write()
    assert path.read_bytes() == before


def test_read_only_sees_what_a_writer_does_meanwhile(open_store: Any) -> None:
    writer = open_store()
    writer[b"k"] = b"1"
    reader = open_store(mode="r")
    assert reader[b"k"] == b"1"
    writer[b"k"] = b"2"
    assert reader[b"k"] == b"2"
    for i in range(20_000):  # growth
        writer[b"%d" % i] = b"x" * 100
    assert len(reader) == len(writer) == 20_001
    assert reader.get_many(b"%d" % i for i in range(20_000)) == [b"x" * 100] * 20_000


@pytest.mark.parametrize("mode", ["c", "n"])
def test_the_longest_name_that_a_file_may_have(open_store: Any, tmp_path: Path, mode: str) -> None:
    name = "s" * os.pathconf(tmp_path, "PC_NAME_MAX")
    open_store(name, mode)[b"key"] = b"value"
    assert os.listdir(tmp_path) == [name]


def test_n_makes_a_new_store_in_the_place_of_the_old(open_store: Any) -> None:
    old = open_store()
    old[b"k"] = b"old"
    new = open_store(mode="n")
    assert len(new) == 0
    new[b"k"] = b"new"
    assert old[b"k"] == b"old", "who has the old file open keeps it"
    old[b"other"] = b"x"
    assert b"other" not in new
    assert old.verify().ok


def test_n_creates(open_store: Any) -> None:
    db = open_store(mode="n")
    db[b"k"] = b"v"
    assert db[b"k"] == b"v"


def test_p_keeps_its_writes_to_itself(open_store: Any, path: Path) -> None:
    with open_store() as db:
        db[b"k"] = b"v"
        for i in range(1000):
            db[b"%d" % i] = b"x" * 50
    before = path.read_bytes()
    with open_store(mode="p") as private:
        assert private[b"k"] == b"v"
        private[b"k"] = b"changed"
        private[b"new"] = b"n" * 5000
        del private[b"7"]
        assert private[b"k"] == b"changed"
        assert private[b"new"] == b"n" * 5000
        assert b"7" not in private
        assert len(private) == 1001
    assert path.read_bytes() == before
    assert open_store()[b"k"] == b"v"


def test_p_is_refused_while_a_writer_is_there(open_store: Any) -> None:
    open_store()
    with pytest.raises(mmkv.Error):
        open_store(mode="p")


def test_p_raises_once_a_writer_has_come(open_store: Any) -> None:
    with open_store() as db:
        db[b"k"] = b"v"
    private = open_store(mode="p")
    assert private[b"k"] == b"v"
    writer = open_store(mode="w")
    writer[b"k"] = b"w"
    calls = [
        *(lambda: private[b"k"], lambda: private.put(b"k", b"v"), lambda: list(private), lambda: len(private)),
        *(private.clear, private.sync, private.stats, private.verify),
    ]
    for call in calls:
        with pytest.raises(mmkv.ConflictError):
            call()


def test_what_p_finds_while_a_writer_comes_is_no_damage(open_store: Any) -> None:
    """In the middle of verify() the pages that the copy has in common with the file change."""
    with open_store() as db:
        db.put_many((b"%d" % i, b"v" * 100) for i in range(20_000))
    private = open_store(mode="p")
    writers: list[Any] = []

    def come(done: int, expected: int) -> None:
        if not writers:
            writers.append(open_store(mode="w"))
            writers[0].put_many((b"%d" % i, b"w" * 300) for i in range(0, 20_000, 3))

    with pytest.raises(mmkv.ConflictError):
        private.verify(come)
    assert writers[0].verify().ok


@pytest.mark.parametrize("mode", ["", "x", "rw", "C", "r+", "wb"])
def test_unknown_mode(tmp_path: Path, mode: str) -> None:
    with pytest.raises(ValueError, match="mode"):
        mmkv.open(tmp_path / "x", mode)
    assert not (tmp_path / "x").exists()


# -- paths ------------------------------------------------------------------------------------------------------------


def test_path_may_be_str_bytes_or_pathlike(open_store: Any, path: Path) -> None:
    open_store()[b"k"] = b"v"
    for form in (str(path), os.fsencode(path), path):
        with mmkv.open(form) as db:
            assert db[b"k"] == b"v"


def test_path_relative_and_not_utf8(open_store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"\xff \xc3\xa4.mmkv")
    with mmkv.open(name) as db:
        db[b"k"] = b"v"
    assert open_store(name)[b"k"] == b"v"


def test_path_of_a_wrong_type() -> None:
    with pytest.raises(TypeError):
        mmkv.open(None)
    with pytest.raises(TypeError):
        mmkv.open(3.5)


def test_path_with_a_nul() -> None:
    with pytest.raises(ValueError):
        mmkv.open("a\0b")


def test_directory_as_path(tmp_path: Path) -> None:
    for mode in "rwcp":
        with pytest.raises((OSError, mmkv.Error)):
            mmkv.open(tmp_path, mode)
    assert list(tmp_path.iterdir()) == []


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mmkv.open(tmp_path / "no" / "such" / "store", "c")


@pytest.mark.parametrize("kind", ["fifo", "null"])
def test_what_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    special = Path("/dev/null")
    if kind == "fifo":
        special = tmp_path / "fifo"
        os.mkfifo(special)
    for mode in "rwc":
        with pytest.raises((OSError, mmkv.Error)):
            mmkv.open(special, mode)


def as_nobody(work: Any) -> None:
    """Run `work` in a child that the permission bits bind, also when the tests run as root."""

    def run() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        work()

    fork_and_wait(run)


def test_directory_without_the_right_to_write() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        path = Path(name) / "store.mmkv"
        os.chmod(name, 0o555)

        def create() -> None:
            with pytest.raises(PermissionError):
                mmkv.open(path, "c")

        as_nobody(create)
        assert not path.exists()
        os.chmod(name, 0o755)
        make(path, k="v")
        path.chmod(0o444)
        os.chmod(name, 0o555)

        def read_only() -> None:
            with pytest.raises(PermissionError):
                mmkv.open(path, "w")
            with mmkv.open(path, "r") as db:
                assert db[b"k"] == b"v"

        as_nobody(read_only)
        os.chmod(name, 0o755)


# -- permissions and links --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o177])
@pytest.mark.parametrize("mode", ["c", "n"])
def test_files_are_made_0600(open_store: Any, path: Path, mask: int, mode: str) -> None:
    old = os.umask(mask)
    try:
        open_store(mode=mode)
    finally:
        os.umask(old)
    assert permissions_of(path) == 0o600
    assert stat.S_ISREG(os.lstat(path).st_mode)


def test_permissions_on_request(open_store: Any, path: Path) -> None:
    old = os.umask(0)
    try:
        open_store(perm=0o640)
    finally:
        os.umask(old)
    assert permissions_of(path) == 0o640


@pytest.mark.parametrize("mode", ["c", "n"])
def test_a_dangling_link_is_not_followed_when_making_a_store(tmp_path: Path, mode: str) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    link.symlink_to(victim)
    with contextlib.suppress(OSError, mmkv.Error):
        mmkv.open(link, mode).close()
    assert not victim.exists()


@pytest.mark.parametrize("mode", ["c", "n", "w"])
def test_a_link_to_another_file_leaves_that_file_alone(tmp_path: Path, mode: str) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_bytes(b"")  # an empty file of his own would become a store
    link.symlink_to(victim)
    with contextlib.suppress(OSError, mmkv.Error):
        mmkv.open(link, mode).close()
    assert victim.read_bytes() == b""


@pytest.mark.parametrize("mode", ["r", "w", "c", "p"])
def test_a_link_is_refused_with_its_name(open_store: Any, tmp_path: Path, mode: str) -> None:
    open_store().close()
    link = tmp_path / "link"
    link.symlink_to("store.mmkv")
    with pytest.raises((OSError, mmkv.Error)) as caught:
        mmkv.open(link, mode)
    assert str(link) in str(caught.value)


# -- files that are no stores -----------------------------------------------------------------------------------------


def test_an_empty_file_becomes_a_store(open_store: Any, path: Path) -> None:
    path.touch(0o644)
    inode = path.stat().st_ino
    with open_store() as db:
        db[b"k"] = b"v"
    assert path.stat().st_ino == inode, "made in place"
    assert open_store(mode="w")[b"k"] == b"v"


FOREIGN = {
    "text": b"hello, world\n" * 1000,
    "one byte": b"x",
    "sqlite": b"SQLite format 3\0" + b"\x10\0\x01\x01\0\x40\x20\x20" * 600,
    "magic damaged by text mode": b"\x89MMKV\n\x1a" + bytes(8000),
    "magic alone": b"\x89MMKV\r\n\x1a",
    "ones": b"\xff" * 100_000,
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("mode", ["r", "w", "c", "p"])
def test_a_foreign_file_is_refused_and_left_alone(path: Path, content: bytes, mode: str) -> None:
    path.write_bytes(content)
    before = path.stat()
    with pytest.raises(mmkv.Error) as caught:
        mmkv.open(path, mode)
    if content != FOREIGN["magic alone"]:  # that might be called a store that was cut short
        assert isinstance(caught.value, mmkv.NotAStoreError)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == before.st_mtime_ns


# -- versions and features --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [(SUPERBLOCK_VERSION, "<I", 2), (SUPERBLOCK_VERSION, "<I", 0xFFFFFFFF), (SUPERBLOCK_VERSION, "<I", 0)]
    + [(SUPERBLOCK_INCOMPAT, "<Q", 1 << bit) for bit in (0, 17, 63)],
)
@pytest.mark.parametrize("mode", ["r", "w", "c", "p"])
def test_what_a_later_version_made_is_refused(path: Path, offset: int, form: str, value: int, mode: str) -> None:
    make(path, k="v")
    patch_superblock(path, offset, form, value)
    before = path.read_bytes()
    with pytest.raises(mmkv.VersionError) as caught:
        mmkv.open(path, mode)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_an_unknown_ro_compat_feature_allows_reading_only(path: Path) -> None:
    make(path, k="v")
    patch_superblock(path, SUPERBLOCK_RO_COMPAT, "<Q", 1 << 5)
    for mode in "wc":
        with pytest.raises(mmkv.VersionError):
            mmkv.open(path, mode)
    with mmkv.open(path, "r") as db:
        assert db[b"k"] == b"v"


def test_an_unknown_compat_feature_changes_nothing(open_store: Any, path: Path) -> None:
    make(path, k="v")
    patch_superblock(path, SUPERBLOCK_COMPAT, "<Q", 1 << 5)
    db = open_store(mode="w")
    assert db[b"k"] == b"v"
    db[b"k"] = b"w"


def test_the_patch_itself_changes_nothing(open_store: Any, path: Path) -> None:
    """Else the tests above would prove nothing: the checksum is computed as the engine does."""
    make(path, k="v")
    before = path.read_bytes()
    patch_superblock(path, SUPERBLOCK_VERSION, "<I", 1)
    assert path.read_bytes() == before


# -- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [4096, 4097, 8192, 12288, 65536, 0.5, -4096, -1])
@pytest.mark.parametrize("mode", ["r", "w", "c"])
def test_a_truncated_file_is_corrupt(path: Path, keep: float, mode: str) -> None:
    with mmkv.open(path) as db:
        for i in range(2000):
            db[b"%d" % i] = b"x" * 1000
    size = path.stat().st_size
    length = int(size * keep) if isinstance(keep, float) else (keep if keep > 0 else size + keep)
    os.truncate(path, length)
    with pytest.raises(mmkv.CorruptStoreError) as caught:
        mmkv.open(path, mode)
    assert str(path) in str(caught.value)
    assert path.stat().st_size == length


@pytest.mark.parametrize("length", [1, 8, 100, 127, 128, 1000])
def test_a_file_cut_within_its_first_page(path: Path, length: int) -> None:
    make(path, k="v")
    os.truncate(path, length)
    for mode in "rwc":
        with pytest.raises((mmkv.CorruptStoreError, mmkv.NotAStoreError)):
            mmkv.open(path, mode)


@pytest.mark.parametrize("offset", [0, 7, 8, 12, 16, 32, 40, 56, 64, 68, 72, 80, 88, 119, 120, 127])
def test_a_flipped_bit_in_the_superblock(path: Path, offset: int) -> None:
    make(path, k="v")
    with open(path, "r+b") as file:
        page = bytearray(file.read(128))
        page[offset] ^= 0x10
        file.seek(0)
        file.write(page)
    for mode in "rwc":
        with pytest.raises((mmkv.CorruptStoreError, mmkv.NotAStoreError, mmkv.VersionError)):
            mmkv.open(path, mode)


def test_both_checkpoint_slots_gone(path: Path) -> None:
    make(path, k="v")
    with open(path, "r+b") as file:
        file.seek(0x1000)
        file.write(bytes(0x2000))
    for mode in "rwc":
        with pytest.raises(mmkv.CorruptStoreError):
            mmkv.open(path, mode)


def test_a_file_truncated_while_open_raises_and_kills_nobody(tmp_path: Path) -> None:
    """In a process of its own: what must not happen is a SIGBUS."""
    out = run_python(
        """
        import os, sys, mmkv
        path = sys.argv[1]
        db = mmkv.open(path, sync="manual")
        for i in range(20000):
            db[b"%d" % i] = b"x" * 200
        os.truncate(path, 4096 * 70)
        errors = set()
        for i in range(20000):
            try:
                db.get(b"%d" % i)
            except (OSError, mmkv.Error) as error:
                errors.add(type(error).__name__)
        try:
            db[b"new"] = b"y" * 200
        except (OSError, mmkv.Error) as error:
            errors.add(type(error).__name__)
        print(sorted(errors))
        os._exit(0)
        """,
        tmp_path / "cut.mmkv",
    )
    assert out.strip() != "[]"


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2, 64, 1024])
def test_shards(open_store: Any, shards: int) -> None:
    db = open_store(shards=shards)
    for i in range(3000):
        db[b"%d" % i] = b"v%d" % i
    assert db.stats().shards == shards
    assert len(db) == 3000
    assert sorted(db) == sorted(b"%d" % i for i in range(3000))
    db.close()
    with open_store(shards=64) as again:  # fixed when the store was made
        assert again.stats().shards == shards
        assert again[b"77"] == b"v77"


def test_the_default_is_64_shards(store: Any) -> None:
    assert store.stats().shards == 64


@pytest.mark.parametrize("shards", [0, 3, 65, 2048, -1, 1 << 40])
def test_impossible_shards(path: Path, shards: int) -> None:
    with pytest.raises(ValueError, match="shards"):
        mmkv.open(path, shards=shards)
    assert not path.exists()


@pytest.mark.parametrize("sync", ["never", "", 0, -1, -0.5, float("nan"), b"close", None])
def test_impossible_sync(path: Path, sync: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="sync"):
        mmkv.open(path, sync=sync)
    assert not path.exists()


def test_sync_manual_makes_no_checkpoint_at_close(open_store: Any) -> None:
    with open_store(sync="manual") as db:
        before = db.durable_epoch
        db[b"k"] = b"v"
    with open_store(sync="manual") as db:
        assert db.durable_epoch == before
        assert db[b"k"] == b"v", "kept all the same: the boot is the same"


def test_sync_close_makes_one(open_store: Any) -> None:
    with open_store(sync="close") as db:
        written = db.epoch
        db[b"k"] = b"v"
        assert db.durable_epoch < written
    with open_store(sync="manual") as db:
        assert db.durable_epoch >= written
        assert db[b"k"] == b"v"


def test_sync_always_is_durable_when_it_returns(open_store: Any) -> None:
    db = open_store(sync="always")
    for write in (
        lambda: db.__setitem__(b"k", b"v"),
        lambda: db.put(b"l", b"v"),
        lambda: db.put_many({b"m": b"v"}),
        lambda: db.update({b"n": b"v"}),
        lambda: db.setdefault(b"o", b"v"),
        lambda: db.add(b"p", b"v"),
        lambda: db.replace(b"p", b"w"),
        lambda: db.compare_and_swap(b"p", b"w", b"x"),
        lambda: db.compare_and_swap(b"p", b"x", None),
        lambda: db.incr(b"q"),
        lambda: db.__delitem__(b"k"),
        lambda: db.delete(b"l"),
        lambda: db.delete_many([b"m"]),
        lambda: db.pop(b"n"),
        lambda: db.popitem(),
        lambda: db.clear(),
    ):
        epoch = db.epoch
        write()
        assert db.durable_epoch >= epoch


def test_sync_every_so_many_seconds(open_store: Any) -> None:
    db = open_store(sync=0.05)
    for round_ in range(3):
        epoch = db.epoch
        db[b"k"] = b"%d" % round_
        until(lambda epoch=epoch: db.durable_epoch >= epoch)
    db.close()


def test_max_size_is_a_clean_error_and_the_store_goes_on(open_store: Any, path: Path) -> None:
    limit = 4 << 20
    db = open_store(max_size=limit)
    written = 0
    with pytest.raises(mmkv.StoreFullError) as caught:
        for i in range(100_000):
            db[b"%d" % i] = b"%d " % i * 100
            written += 1
    assert str(path) in str(caught.value)
    assert written > 2000
    assert path.stat().st_size <= limit
    assert len(db) == written
    for i in range(written):
        assert db[b"%d" % i] == b"%d " % i * 100
    assert db.verify().ok
    for i in range(0, written, 2):
        del db[b"%d" % i]
    db.sync()
    for i in range(0, written // 2, 2):
        db[b"%d" % i] = b"%d " % i * 100
    assert path.stat().st_size <= limit
    with pytest.raises(mmkv.StoreFullError):
        db[b"huge"] = bytes(limit)
    assert b"huge" not in db


def test_full_disk_is_a_clean_error(open_store: Any, path: Path) -> None:
    """A limit on the size of files stands for the disk: EFBIG comes from the same calls as ENOSPC."""
    open_store.check_later(path)
    run_python(
        """
        import resource, sys, mmkv
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
        db = mmkv.open(sys.argv[1])
        written = 0
        try:
            for i in range(100_000):
                db[b"%d" % i] = b"x" * 500
                written += 1
            raise SystemExit("no error")
        except (mmkv.StoreFullError, OSError) as error:
            pass
        assert written > 500, written
        assert len(db) == written
        assert db[b"0"] == b"x" * 500
        assert db.verify().ok
        for i in range(100):
            del db[b"%d" % i]
        db.close()
        """,
        path,
    )
    assert len(open_store()) > 400


# -- closing ----------------------------------------------------------------------------------------------------------


def test_close_twice(store: Any) -> None:
    store.close()
    store.close()


def test_context_manager_closes(open_store: Any) -> None:
    with open_store() as db:
        db[b"k"] = b"v"
    with pytest.raises(mmkv.ClosedError):
        db[b"k"]


def test_context_manager_closes_after_an_error_and_lets_it_through(open_store: Any) -> None:
    with pytest.raises(ZeroDivisionError), open_store() as db:
        db[b"k"] = b"v"
        _ = 1 // 0
    with pytest.raises(mmkv.ClosedError):
        len(db)
    assert open_store()[b"k"] == b"v"


def test_everything_raises_closed_error_after_close(store: Any) -> None:
    store[b"k"] = b"v"
    iterator, keys, items, values = iter(store), store.keys(), store.items(), store.values()
    store.close()
    uses = {
        "[]": lambda: store[b"k"],
        "[]=": lambda: store.__setitem__(b"k", b"v"),
        "del": lambda: store.__delitem__(b"k"),
        "in": lambda: b"k" in store,
        "len": lambda: len(store),
        "iter": lambda: list(store),
        "get": lambda: store.get(b"k"),
        "put": lambda: store.put(b"k", b"v"),
        "delete": lambda: store.delete(b"k"),
        "pop": lambda: store.pop(b"k", None),
        "popitem": lambda: store.popitem(),
        "setdefault": lambda: store.setdefault(b"k", b"v"),
        "add": lambda: store.add(b"k", b"v"),
        "replace": lambda: store.replace(b"k", b"v"),
        "compare_and_swap": lambda: store.compare_and_swap(b"k", b"v", b"w"),
        "incr": lambda: store.incr(b"k"),
        "update": lambda: store.update({b"k": b"v"}),
        "clear": lambda: store.clear(),
        "get_into": lambda: store.get_into(b"k", bytearray(9)),
        "get_many": lambda: store.get_many([b"k"]),
        "put_many": lambda: store.put_many([(b"k", b"v")]),
        "delete_many": lambda: store.delete_many([b"k"]),
        "sync": lambda: store.sync(),
        "stats": lambda: store.stats(),
        "verify": lambda: store.verify(),
        "epoch": lambda: store.epoch,
        "durable_epoch": lambda: store.durable_epoch,
        "with": lambda: store.__enter__(),
        "old iterator": lambda: next(iterator),
        "keys": lambda: list(keys),
        "items": lambda: list(items),
        "values": lambda: list(values),
    }
    for name, use in uses.items():
        with pytest.raises(mmkv.ClosedError):
            use()
            pytest.fail(f"{name} did not raise")
    assert "closed" in repr(store)


def test_a_store_that_is_dropped_is_closed(open_store: Any, path: Path) -> None:
    db = mmkv.open(path)
    db[b"k"] = b"v"
    written = db.epoch
    with pytest.warns(ResourceWarning, match="unclosed"):
        del db
    with open_store(sync="manual") as again:
        assert again[b"k"] == b"v"
        assert again.stats().attached == 1
        assert again.durable_epoch >= written, "closed as by close()"


def test_an_interpreter_that_ends_without_close_loses_nothing(open_store: Any, path: Path) -> None:
    open_store.check_later(path)
    run_python(
        "import sys, mmkv\ndb = mmkv.open(sys.argv[1])\nfor i in range(1000): db[b'%d' % i] = b'v' * 100",
        path,
    )
    assert len(open_store()) == 1000


def test_the_file_may_be_renamed_while_it_is_open(open_store: Any, path: Path) -> None:
    db = open_store()
    db[b"k"] = b"v"
    path.rename(path.with_name("other.mmkv"))
    for i in range(20_000):
        db[b"%d" % i] = b"x" * 100
    db.close()
    assert len(open_store("other.mmkv")) == 20_001


# -- more than one --------------------------------------------------------------------------------------------------


def test_open_twice_in_one_process(open_store: Any) -> None:
    one, two = open_store(), open_store()
    one[b"a"] = b"1"
    assert two[b"a"] == b"1"
    two[b"a"] = b"2"
    del one[b"a"]
    assert b"a" not in two
    for i in range(20_000):
        (one, two)[i % 2][b"%d" % i] = b"%d" % i
    assert len(one) == len(two) == 20_000
    assert one == two
    one.close()
    assert two[b"5"] == b"5", "closing one leaves the other alone"
    two[b"5"] = b"five"


def test_attached_counts_the_writers(open_store: Any) -> None:
    one = open_store()
    assert one.stats().attached == 1
    two = open_store()
    assert one.stats().attached == 2
    two.close()
    assert one.stats().attached == 1


def test_a_killed_process_loses_nothing_it_was_told(open_store: Any, path: Path) -> None:
    open_store.check_later(path)
    code = """
    import sys, mmkv
    db = mmkv.open(sys.argv[1], sync=sys.argv[2])
    i = 0
    while True:
        db[b"%d" % i] = b"%d " % i * (i % 300)
        if i % 7 == 3:
            del db[b"%d" % (i - 3)]
        print(i)
        i += 1
    """
    done = -1
    for sync in ("manual", "close"):
        path.unlink(missing_ok=True)
        with Child(code, path, sync) as child:
            for _ in range(3000):
                done = int(child.line())
            done = max([done, *map(int, child.kill().split("\n")[:-1])])
        with open_store() as db:
            for i in range(done - 10):
                deleted = (i + 3) % 7 == 3
                assert (b"%d" % i in db) is not deleted
                if not deleted:
                    assert db[b"%d" % i] == b"%d " % i * (i % 300)
            assert len(db) >= (done + 1) * 6 // 7


def test_a_killed_process_blocks_nobody(open_store: Any, path: Path) -> None:
    db = open_store()
    code = "import sys, mmkv\ndb = mmkv.open(sys.argv[1])\nprint(1)\nwhile True: db[b'k'] = b'v' * 100"
    for _ in range(5):
        with Child(code, path) as child:
            child.line()
            until(lambda: db.get(b"k") is not None)
            child.kill()
        for i in range(1000):
            db[b"%d" % i] = b"x"
        db[b"k"] = b"mine"
        assert db[b"k"] == b"mine"
        del db[b"k"]
        assert db.verify().ok
