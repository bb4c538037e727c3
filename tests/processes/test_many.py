"""Hundreds of processes at once, the limit of process slots, and what each sees of the others' writes."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.processes.live import ATTACH_BYTE, F_OFD_GETLK, F_OFD_SETLK, PROCESS_BYTES, SLOTS, lock_bytes
from tests.support import fork_and_wait, run_python

# Python 3.12 and later warn of fork in a process with threads, which is what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def test_four_hundred_processes(open_store: Any, path: Path) -> None:
    """Forked from a small one that has the store open: half go on with its handle, half open their own."""
    open_store.check_later(path)
    out = run_python(
        """
        import os, sys, mmkv
        MANY = 400
        db = mmkv.open(sys.argv[1], sync="manual", shards=4)
        db[b"count"] = b"0"
        told, tell = os.pipe()
        written, all_written = os.pipe()
        read, all_read = os.pipe()

        def work(number, db):
            for i in range(20):
                db[b"%d %d" % (number, i)] = b"%d" % number * i
            os.write(tell, b".")
            os.read(written, 1)
            for other in range(MANY):
                assert db[b"%d 19" % other] == b"%d" % other * 19, other
            assert db.stats().attached >= MANY

        pids = []
        for number in range(MANY):
            if not (pid := os.fork()):
                code = 1
                try:
                    mine = db if number % 2 else mmkv.open(sys.argv[1], "w", sync="manual")
                    work(number, mine)
                    os.write(tell, b".")
                    os.read(read, 1)
                    code = 0
                finally:
                    os._exit(code)
            pids.append(pid)

        def hear():
            heard = 0
            while heard < MANY:
                more = os.read(told, MANY)
                heard += len(more)

        hear()
        os.write(all_written, b"." * MANY)  # one for each
        hear()
        print(db.stats().attached)
        os.write(all_read, b"." * MANY)
        codes = {os.waitpid(pid, 0)[1] for pid in pids}
        assert codes == {0}, codes
        assert len(db) == MANY * 20 + 1
        assert db.stats().attached == 1
        db.close()
        """,
        path,
    )
    # Those who went on with the inherited handle, those who opened one beside it, and the parent's.
    assert int(out) == 400 + 200 + 1


# -- the limit --------------------------------------------------------------------------------------------------------


@contextmanager
def taken(path: Path, slots: range) -> Iterator[Callable[[], None]]:
    """As if other processes had these slots, by the locks that stand for them; calling what is given lets go of one."""
    fd = os.open(path, os.O_RDWR)
    try:
        lock_bytes(fd, F_OFD_SETLK, fcntl.F_WRLCK, PROCESS_BYTES + slots.start, len(slots))
        yield lambda: void(lock_bytes(fd, F_OFD_SETLK, fcntl.F_UNLCK, PROCESS_BYTES + slots[-1], 1))
    finally:
        os.close(fd)


def void(_: object) -> None:
    pass


def test_the_limit_of_process_slots(store: Any, path: Path) -> None:
    store[b"k"] = b"v"
    with taken(path, range(2, SLOTS)) as let_go:
        with pytest.raises(mmkv.LockTimeoutError, match=r'1023 .*mode "r"') as caught:
            mmkv.open(path)
        assert caught.value.path == str(path)
        assert caught.value.pid is None
        with mmkv.open(path, "r") as reader:
            assert reader[b"k"] == b"v"

        def without_a_slot() -> None:
            assert store[b"k"] == b"v"
            with pytest.raises(mmkv.LockTimeoutError, match="forked"):
                store[b"k"] = b"w"
            store.close()

        fork_and_wait(without_a_slot)
        let_go()
        with mmkv.open(path) as other:
            other[b"k"] = b"x"
            with pytest.raises(mmkv.LockTimeoutError, match="1023"):
                mmkv.open(path)
        fork_and_wait(lambda: store.put(b"child", b"c"))
        with mmkv.open(path) as other:
            assert other[b"child"] == b"c"
    assert store.stats().attached == 1


def test_slots_of_the_dead_are_used_again(open_store: Any, path: Path) -> None:
    """More children than there are slots, none of which closes anything, while one of them sleeps."""
    open_store().close()
    program = """
        import os, sys, mmkv
        db = mmkv.open(sys.argv[1], sync="manual")
        ready, go = os.pipe()
        if not (sleeper := os.fork()):
            os.close(go)
            os.read(ready, 1)
            db[b"sleeper"] = b"awake"
            os._exit(0)
        os.close(ready)
        for i in range(150):
            if not os.fork():
                db[b"child"] = b"%d" % i
                os._exit(0)
            assert os.wait()[1] == 0, i
        assert db[b"child"] == b"149"
        with mmkv.open(sys.argv[1], "w", sync="manual") as other:
            other[b"other"] = b"1"
        os.close(go)
        assert os.waitpid(sleeper, 0)[1] == 0
        assert db[b"sleeper"] == b"awake"
        """
    with taken(path, range(40, SLOTS)):
        run_python(program, path)


def test_the_killed_do_not_use_up_the_slots(store: Any, path: Path) -> None:
    """Children forked while somebody is opening or closing get slots too, long before the last one is taken."""
    fd = os.open(path, os.O_RDWR)
    try:
        with taken(path, range(2, SLOTS - 30)):
            for i in range(45):
                if i >= 20:  # from here on nobody can settle anything
                    lock_bytes(fd, F_OFD_SETLK, fcntl.F_WRLCK, ATTACH_BYTE, 1)
                fork_and_wait(lambda i=i: store.put(b"child", b"%d" % i))  # type: ignore[misc]
                if i < 20:
                    continue
                lock_bytes(fd, F_OFD_SETLK, fcntl.F_UNLCK, ATTACH_BYTE, 1)
    finally:
        os.close(fd)
    assert store[b"child"] == b"44"


# -- what others see --------------------------------------------------------------------------------------------------


def ring(works: list[Callable[[Callable[[], None], Callable[[], None]], None]]) -> None:
    """Run each in a process of its own, with a function that waits for the one before and one that tells the next."""
    pipes = [os.pipe() for _ in works]
    pids = []
    for number, work in enumerate(works):
        if not (pid := os.fork()):
            code = 1
            try:
                into, onto = pipes[number - 1][0], pipes[number][1]
                for ends in pipes:
                    for end in ends:
                        if end not in (into, onto):
                            os.close(end)  # so that the death of one ends all

                def wait(into: int = into) -> None:
                    assert os.read(into, 1), "the one before has ended"

                work(wait, lambda onto=onto: void(os.write(onto, b".")))  # type: ignore[misc]
                code = 0
            except BaseException as error:
                os.write(2, f"in process {number} of the ring: {type(error).__name__}: {error}\n".encode())
            finally:
                os._exit(code)
        pids.append(pid)
    for ends in pipes:
        for end in ends:
            os.close(end)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * len(works)


ROUNDS = 1500


@pytest.mark.parametrize("own", [False, True])
def test_a_write_is_seen_as_soon_as_it_has_returned(store: Any, path: Path, own: bool) -> None:
    """A baton goes round four processes: each finds what the one before has just written, also in a mode "r" handle.

    The file grows all the time, by others, and nobody does anything about it.
    """

    def runner(number: int) -> Callable[[Callable[[], None], Callable[[], None]], None]:
        def run(wait: Callable[[], None], tell: Callable[[], None]) -> None:
            db = mmkv.open(path, "w", sync="manual") if own else store
            reader = mmkv.open(path, "r")
            if number == 3:
                tell()
            for round_ in range(ROUNDS):
                wait()
                turn = round_ * 4 + number
                if turn:
                    for handle in (db, reader):
                        assert handle[b"baton"] == b"%d" % (turn - 1)
                        assert handle[b"turn %d" % (turn - 1)] == b"x" * ((turn - 1) % 3000)
                        assert b"gone %d" % (turn - 1) not in handle
                        assert b"gone %d" % (turn - 2) not in handle
                        assert len(handle) >= turn
                if turn % 100 == 99:
                    db[b"large"] = b"%d" % turn * 100_000
                if turn % 100 == 0 and turn:
                    assert db[b"large"] == reader[b"large"] == b"%d" % (turn - 1) * 100_000
                db[b"gone %d" % turn] = b"v"
                db[b"baton"] = b"%d" % turn
                db[b"turn %d" % turn] = b"x" * (turn % 3000)
                del db[b"gone %d" % turn]
                if turn < ROUNDS * 4 - 1:
                    tell()

        return run

    size = path.stat().st_size
    ring([runner(number) for number in range(4)])
    assert path.stat().st_size > size + 6_000_000
    assert store[b"baton"] == b"%d" % (ROUNDS * 4 - 1)
    with mmkv.open(path, "r") as reader:
        assert reader[b"baton"] == store[b"baton"]


def test_growth_is_seen_by_all_who_have_it_open(open_store: Any, path: Path) -> None:
    """A reader, another writer, a thread's iteration and a forked child, all from before the growth."""
    db, other = open_store(shards=1, sync="manual"), open_store(mode="w", sync="manual")
    db[b"first"] = b"v"
    reader = open_store(mode="r")
    keys = iter(reader)
    assert reader[b"first"] == other[b"first"] == b"v"
    size = path.stat().st_size
    db.update((b"%d" % i, b"x" * 1000) for i in range(20_000))
    db[b"large"] = b"y" * 5_000_000
    assert path.stat().st_size > size * 20
    for handle in (reader, other):
        assert len(handle) == 20_002
        assert handle[b"19999"] == b"x" * 1000
        assert handle[b"large"] == b"y" * 5_000_000
    assert b"first" in set(keys)
    other.update((b"other %d" % i, b"x" * 1000) for i in range(20_000))
    assert reader[b"other 19999"] == db[b"other 19999"] == b"x" * 1000
    fork_and_wait(lambda: db.update((b"child %d" % i, b"x" * 1000) for i in range(20_000)))
    for handle in (db, other, reader):
        assert handle[b"child 19999"] == b"x" * 1000


def test_a_private_copy_says_that_it_is_stale_and_never_sees_half(open_store: Any, path: Path) -> None:
    """It grows by itself; and from the moment somebody may write to the file it is told so."""
    open_store(sync="close").update({b"%d" % i: b"v" for i in range(100)})
    open_store.finish()
    private = mmkv.open(path, "p")
    private.update((b"mine %d" % i, b"x" * 1000) for i in range(10_000))
    assert private[b"mine 9999"] == b"x" * 1000
    assert len(private) == 10_100
    with mmkv.open(path, "r") as reader:
        assert len(reader) == 100
        with mmkv.open(path, "w") as writer:
            writer.update((b"%d" % i, b"w" * 5000) for i in range(5000))
            assert reader[b"4999"] == b"w" * 5000
            for call in (lambda: private[b"1"], lambda: private.put(b"1", b"2"), lambda: list(private)):
                with pytest.raises(mmkv.ConflictError):
                    call()
    private.close()


# -- one file, several handles ----------------------------------------------------------------------------------------


def slot_bytes_held(path: Path) -> int:
    """How many slots are held, asked as another process would."""
    fd = os.open(path, os.O_RDWR)
    try:
        asked = (lock_bytes(fd, F_OFD_GETLK, fcntl.F_WRLCK, PROCESS_BYTES + slot, 1) for slot in range(1, 20))
        return sum(kind != fcntl.F_UNLCK for kind in asked)
    finally:
        os.close(fd)


def test_closing_one_handle_leaves_the_others_their_locks(open_store: Any, path: Path) -> None:
    """POSIX locks would all go with the first descriptor of the file that is closed."""
    first, second = open_store(), open_store()
    os.close(os.open(path, os.O_RDWR))
    assert slot_bytes_held(path) == 2
    first.close()
    path.read_bytes()
    assert slot_bytes_held(path) == 1
    second[b"k"] = b"v"
    with pytest.raises(mmkv.LockTimeoutError):
        mmkv.open(path, "p")
    second.close()
    assert slot_bytes_held(path) == 0
    with mmkv.open(path, "p") as private:
        assert private[b"k"] == b"v"


def test_another_name_is_the_same_store(store: Any, path: Path, tmp_path: Path) -> None:
    store[b"k"] = b"v"
    os.link(path, tmp_path / "link.mmkv")
    with mmkv.open(tmp_path / "link.mmkv") as link:
        assert link[b"k"] == b"v"
        assert store.stats().attached == 2
        link.update((b"%d" % i, b"x" * 1000) for i in range(5000))
        assert store[b"4999"] == b"x" * 1000
        path.unlink()
        store[b"k"] = b"w"
        assert link[b"k"] == b"w"
    with mmkv.open(tmp_path / "link.mmkv", "r") as reader:
        assert reader[b"k"] == b"w"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_bind_mount_is_the_same_store(store: Any, path: Path, tmp_path: Path) -> None:
    store[b"k"] = b"v"
    (tmp_path / "mnt").mkdir()
    if subprocess.run(["mount", "--bind", path.parent, tmp_path / "mnt"], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        with mmkv.open(tmp_path / "mnt" / path.name) as mounted:
            assert mounted[b"k"] == b"v"
            mounted[b"k"] = b"w"
            assert store[b"k"] == b"w"
            assert store.stats().attached == 2
            assert mounted.sync() == store.durable_epoch
    finally:
        subprocess.run(["umount", tmp_path / "mnt"], check=True)
