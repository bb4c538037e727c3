"""Checkpoints among several processes, when an msync fails, and when a leader dies or stops at any step; sync modes.

The msync that is to fail, or to be the last a process does, is chosen through a preloaded library (tests/shim.py).
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import shutil
import signal
import struct
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests import shim
from tests.processes.live import F_OFD_SETLK, PROCESS_BYTES, lock_bytes
from tests.support import Child, check_file, fork_and_wait, run_python, until

CONTROL_AT, SLOTS_AT = 0x3000, (0x1000, 0x2000)
OLD = {b"old-%d" % i: b"o" * 300 for i in range(200)}
NEW = {b"old-%d" % i: b"n" * 300 for i in range(200)}
# A first checkpoint flushes the zone table, the heap, and a slot; later ones only the last two.
STEPS = {"zone table": 1, "heap": 2, "slot": 3}


@pytest.fixture
def child(library: Path, path: Path) -> Iterator[Callable[..., Child]]:
    """Start a program after `shim.PRELUDE`; it has the store's path as its first argument."""
    started = []

    def start(code: str, *arguments: object) -> Child:
        program = shim.PRELUDE + textwrap.dedent(code)
        started.append(Child(program, path, *arguments, environment={"LD_PRELOAD": str(library)}))
        return started[-1]

    yield start
    for one in started:
        if one.process.stdout is not None and not one.process.stdout.closed:
            one.kill()


def run_shimmed(library: Path, code: str, *arguments: object) -> str:
    return run_python(shim.PRELUDE + textwrap.dedent(code), *arguments, environment={"LD_PRELOAD": str(library)})


def word(path: Path, offset: int, form: str = "<Q") -> int:
    with path.open("rb") as file:
        file.seek(offset)
        return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def as_after_a_power_cut(path: Path) -> None:
    """Make the file's memory that of another boot, so that the next open recovers."""
    with path.open("r+b") as file:
        file.seek(CONTROL_AT)
        file.write(bytes(16))


def failed(path: Path) -> int:
    return word(path, CONTROL_AT + 92, "<I")


def leave_dirty(path: Path, library: Path) -> None:
    """Write over the store, and die without a checkpoint."""
    with pytest.raises(AssertionError, match="exit code -9"):
        run_shimmed(
            library,
            """
            db = mmkv.open(sys.argv[1], sync="manual")
            db.update({b"old-%d" % i: b"n" * 300 for i in range(200)})
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            path,
        )


def asleep(process: int) -> bool:
    """Whether a process waits for others, as one in sync() does for the leader."""
    return Path(f"/proc/{process}/wchan").read_text().startswith("futex")


def stopped(process: int) -> bool:
    return "\nState:\tT" in Path(f"/proc/{process}/status").read_text()


# -- a failed msync ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_failed_flush_is_never_forgotten(path: Path, child: Callable[..., Child], step: str) -> None:
    with mmkv.open(path) as db:
        db.update(OLD)
        good = db.sync()
    before = mmkv.open(path)  # one who has it open already
    with pytest.raises(OSError) as closing, before:
        writer = child(
            """
            db = mmkv.open(sys.argv[1], sync="manual")
            grown = 0
            while True:  # so that the zone table is to be flushed too
                zones = db.stats().zones
                for i in range(2000):
                    db[b"more-%d-%d" % (grown, i)] = b"m" * 500
                if (grown := grown + 1) and db.stats().zones > zones:
                    break
            db.update({b"old-%d" % i: b"n" * 300 for i in range(200)})
            plan(int(sys.argv[2]), "f")
            for again in range(3):
                try:
                    db.sync()
                except OSError as error:
                    assert error.errno == 5 and error.filename == sys.argv[1], repr(error)
                    assert "a flush of this store has failed" in str(error), error
                else:
                    raise SystemExit("no error")
            db[b"after"] = b"is still possible"
            print(shim.shim_calls())
            sys.stdin.readline()
            db.close()
            """,
            STEPS[step],
        )
        calls = int(writer.line())
        with pytest.raises(OSError, match="a flush of this store has failed"):
            before.sync()
        assert before[b"old-1"] == b"n" * 300
        assert before[b"after"] == b"is still possible"
        late = mmkv.open(path)
        assert late[b"after"] == b"is still possible"
        for use in (late.sync, late.close):
            with pytest.raises(OSError, match="a flush of this store has failed") as raised:
                use()
            assert raised.value.errno == errno.EIO
            assert raised.value.filename == str(path)
        assert late.closed
        with pytest.raises(OSError, match="has failed"):
            before.sync(wait=False)
        writer.tell("close")
        writer.end()
        assert before.durable_epoch == good, "nothing since has become durable"
        assert calls >= STEPS[step]
    assert "a flush of this store has failed" in str(closing.value)
    with mmkv.open(path, sync="manual") as db:  # all had left: back to the last good one
        assert dict(db) == OLD
        assert db.durable_epoch == good
        db[b"k"] = b"v"
        assert db.sync() > good
    assert failed(path) == 0
    check_file(path)


def test_a_failed_flush_is_not_forgotten_by_the_death_of_all(path: Path, library: Path) -> None:
    with mmkv.open(path) as db:
        db.update(OLD)
    with pytest.raises(AssertionError, match="exit code -9"):
        run_shimmed(
            library,
            """
            db = mmkv.open(sys.argv[1])
            db[b"k"] = b"v"
            plan(1, "f")
            try:
                db.sync()
            except OSError:
                os.kill(os.getpid(), signal.SIGKILL)
            """,
            path,
        )
    assert failed(path) == errno.EIO
    with mmkv.open(path) as db:
        assert dict(db) == OLD


def test_a_failed_dirty_mark_lets_nothing_be_written(path: Path, library: Path) -> None:
    with mmkv.open(path) as db:
        db.update(OLD)
    run_shimmed(
        library,
        """
        db = mmkv.open(sys.argv[1])
        plan(1, "f")
        for again in range(3):  # the disk says clean for all we know, however often it is tried
            for write in (lambda: db.put(b"k", b"v"), lambda: db.delete(b"old-1"), db.clear):
                try:
                    write()
                except OSError as error:
                    assert error.errno == 5 and error.filename == sys.argv[1], repr(error)
                    assert "nothing was changed" in str(error), error
                else:
                    raise SystemExit("no error")
        assert b"k" not in db and len(db) == 200
        for use in (db.sync, db.close):
            try:
                use()
            except OSError as error:
                assert "has failed" in str(error), error
            else:
                raise SystemExit("no error")
        """,
        path,
    )
    with mmkv.open(path) as db:
        assert dict(db) == OLD
        db[b"k"] = b"v"
    assert failed(path) == 0
    with mmkv.open(path) as db:
        assert db[b"k"] == b"v"


def test_from_a_failed_flush_on_reads_are_checked_by_everybody(path: Path, child: Callable[..., Child]) -> None:
    with mmkv.open(path, sync="manual") as db:
        db[b"sound"] = b"s" * 100
        db[b"hurt"] = b"before" + b"h" * 100
        with path.open("r+b") as file:
            file.seek(path.read_bytes().index(b"before"))
            file.write(b"B")
        assert db[b"hurt"][:6] == b"Before", "reads do not look as long as the disk is good"
        writer = child(
            """
            db = mmkv.open(sys.argv[1], sync="manual")
            plan(1, "f")
            try:
                db.sync()
            except OSError:
                print("failed")
            """
        )
        assert writer.line() == "failed"
        for read in (lambda: db[b"hurt"], lambda: db.get(b"hurt"), lambda: dict(db.items())):
            with pytest.raises(mmkv.CorruptStoreError, match="hurt"):
                read()
        assert db[b"sound"] == b"s" * 100
        writer.end()


@pytest.mark.parametrize("number", [1, 2], ids=["the whole file", "the mark"])
def test_a_failed_clean_mark(path: Path, library: Path, number: int) -> None:
    run_shimmed(
        library,
        """
        db = mmkv.open(sys.argv[1])
        db.update({b"old-%d" % i: b"o" * 300 for i in range(200)})
        db.sync()
        plan(int(sys.argv[2]), "f")
        try:
            db.close()
        except OSError as error:
            assert error.errno == 5 and error.filename == sys.argv[1], repr(error)
        else:
            raise SystemExit("no error")
        assert db.closed
        """,
        path,
        number,
    )
    assert failed(path) == errno.EIO
    assert [word(path, slot + 128) for slot in SLOTS_AT] == [0, 0], "not clean"
    with mmkv.open(path) as db:
        assert dict(db) == OLD
    assert failed(path) == 0
    check_file(path)


@pytest.mark.parametrize("number", [1, 2], ids=["the slot", "what was recovered"])
def test_a_failed_flush_of_recovery(path: Path, library: Path, number: int) -> None:
    with mmkv.open(path) as db:
        db.update(OLD)
    leave_dirty(path, library)
    as_after_a_power_cut(path)
    run_shimmed(
        library,
        """
        plan(int(sys.argv[2]), "f")
        try:
            mmkv.open(sys.argv[1])
        except OSError as error:
            assert error.errno == 5 and error.filename == sys.argv[1], repr(error)
        else:
            raise SystemExit("no error")
        """,
        path,
        number,
    )
    assert failed(path) == errno.EIO
    with mmkv.open(path) as db:
        assert dict(db) == OLD
    assert failed(path) == 0
    check_file(path)


def test_after_a_failed_flush_recovery_writes_all_that_is_in_use_again(path: Path, library: Path) -> None:
    """The disk may lack pages that memory has, which the kernel takes for written."""
    records = {b"%d" % i: bytes(20_000) for i in range(1000)}
    with mmkv.open(path) as db:
        db.update(records)
    made_dirty = {}
    for with_failure in (False, True):
        leave_dirty(path, library)
        as_after_a_power_cut(path)
        with path.open("r+b") as file:
            if with_failure:
                file.seek(CONTROL_AT + 92)
                file.write(struct.pack("<I", errno.EIO))
            os.fsync(file.fileno())
        made_dirty[with_failure] = int(
            run_python(
                """
                import re, sys, mmkv
                def made_dirty():
                    return int(re.search(r"^write_bytes: (\\d+)", open("/proc/self/io").read(), re.M)[1])
                before = made_dirty()
                db = mmkv.open(sys.argv[1], sync="manual")
                print(made_dirty() - before)
                """,
                path,
            )
        )
    if not made_dirty[False]:
        pytest.skip("this file system does not count what is made dirty")
    in_use = 1000 * 20_000
    assert made_dirty[False] < in_use // 2, "the test would show nothing"
    assert made_dirty[True] >= in_use


def test_a_put_that_is_not_made_durable_says_what_has_become_of_it(path: Path, library: Path) -> None:
    run_shimmed(
        library,
        """
        db = mmkv.open(sys.argv[1], sync="always")
        db[b"old"] = b"1"
        for number, write in enumerate((
            lambda: db.put(b"k0", b"v"),
            lambda: db.__setitem__(b"k1", b"v"),
            lambda: db.put_many({b"k2": b"v"}),
            lambda: db.setdefault(b"k3", b"v"),
            lambda: db.add(b"k4", b"v"),
            lambda: db.compare_and_swap(b"k5", None, b"v"),
        )):
            if not number:
                plan(1, "f")
            try:
                write()
            except OSError as error:
                assert error.errno == 5 and error.filename == sys.argv[1], repr(error)
                assert "stays readable until every process has closed the store" in str(error), error
            else:
                raise SystemExit("no error")
            assert db[b"k%d" % number] == b"v"
        os._exit(0)
        """,
        path,
    )
    with mmkv.open(path) as db:
        assert dict(db) == {b"old": b"1"}


# -- leaders that die or stop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_leader_killed_at_any_step(
    path: Path, tmp_path: Path, child: Callable[..., Child], step: str, when: str
) -> None:
    with mmkv.open(path, sync="manual") as db:
        db.update(OLD)
        good = db.sync()
        leader = child(
            """
            db = mmkv.open(sys.argv[1], sync="manual")
            zones = db.stats().zones
            added = 0
            while db.stats().zones == zones:
                db[b"more-%d" % added] = b"m" * 500
                added += 1
            db.update({b"old-%d" % i: b"n" * 300 for i in range(200)})
            print(added)
            sys.stdin.readline()
            plan(int(sys.argv[2]), sys.argv[3])
            db.sync()
            """,
            STEPS[step],
            "k" if when == "before" else "K",
        )
        new = NEW | {b"more-%d" % i: b"m" * 500 for i in range(int(leader.line()))}
        leader.tell("sync")
        assert leader.process.wait() == -signal.SIGKILL
        assert db.durable_epoch == good
        assert good in [word(path, at + 8) for at in SLOTS_AT], "its slot is not the one that was being written"
        assert dict(db) == new
        # What died is not to be reused: the checkpoint of old is still the one to go back to.
        for i in range(3000):
            db[b"over-%d" % (i % 500)] = b"x" * 300
        copy = tmp_path / "copy"
        shutil.copyfile(path, copy)  # another file: what a power cut leaves if all of memory got to the disk
        with mmkv.open(copy, sync="manual") as cut:
            assert dict(cut) == (new if cut.durable_epoch > good else OLD)
            assert cut.durable_epoch == good or step == "slot"
        made = db.sync()
        assert made > good + 1, "a cut of its own"
        state = dict(db)
        shutil.copyfile(path, copy)
        with mmkv.open(copy, sync="manual") as cut:
            assert dict(cut) == state
    check_file(path)


def test_a_stopped_leader_stops_nobody_but_those_who_sync(path: Path, child: Callable[..., Child]) -> None:
    with mmkv.open(path, sync="manual") as db:
        db.update(OLD)
        leader = child(
            """
            db = mmkv.open(sys.argv[1], sync="manual")
            db[b"leader"] = b"1"
            plan(1, "s")
            print(db.sync())
            """
        )
        until(lambda: stopped(leader.process.pid))
        epoch = db.epoch
        for i in range(1000):
            db[b"%d" % i] = b"x"
            assert db[b"old-%d" % (i % 200)] == b"o" * 300
        follower = child(
            """
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
            db = mmkv.open(sys.argv[1], sync="manual")
            db[b"follower"] = b"1"
            try:
                db.sync()
            except KeyboardInterrupt:
                print("interrupted")
            print(db.epoch)
            print(db.sync())
            """
        )
        until(lambda: asleep(follower.process.pid))
        follower.process.send_signal(signal.SIGINT)
        assert follower.line() == "interrupted"
        assert int(follower.line()) == epoch
        until(lambda: asleep(follower.process.pid))
        os.kill(leader.process.pid, signal.SIGCONT)
        # What the leader had cut before the follower wrote does not cover it.
        assert int(leader.line()) == epoch - 1
        assert int(follower.line()) == epoch
        leader.end()
        follower.end()


def test_who_waits_for_a_leader_that_dies_leads(path: Path, child: Callable[..., Child]) -> None:
    with mmkv.open(path, sync="manual") as db:
        db.update(OLD)
        leader = child('db = mmkv.open(sys.argv[1], sync="manual"); db[b"k"] = b"v"; plan(1, "s"); db.sync()')
        until(lambda: stopped(leader.process.pid))
        follower = child('db = mmkv.open(sys.argv[1], sync="manual"); db[b"l"] = b"v"; print(db.sync())')
        until(lambda: asleep(follower.process.pid))
        leader.kill()
        assert int(follower.line()) == db.durable_epoch
        follower.end()
        assert db[b"k"] == db[b"l"] == b"v"


def test_callers_that_wait_together_share_one_checkpoint(path: Path, child: Callable[..., Child]) -> None:
    code = """
    db = mmkv.open(sys.argv[1], sync="manual")
    db[b"%d" % os.getpid()] = b"v"
    plan(1, sys.argv[2])
    print(db.sync())
    """
    with mmkv.open(path, sync="manual") as db:
        before = db.stats().checkpoints
        leader = child(code, "s")
        until(lambda: stopped(leader.process.pid))
        followers = [child(code, "-") for _ in range(3)]
        until(lambda: all(asleep(one.process.pid) for one in followers))
        os.kill(leader.process.pid, signal.SIGCONT)
        first = int(leader.line())
        assert [int(one.line()) for one in followers] == [first + 1] * 3
        for one in (leader, *followers):
            one.end()
        assert db.stats().checkpoints == before + 2


def test_threads_that_wait_together_share_one_checkpoint(path: Path, child: Callable[..., Child]) -> None:
    with mmkv.open(path, sync="manual") as db:
        before = db.stats().checkpoints
        leader = child('db = mmkv.open(sys.argv[1], sync="manual"); db[b"k"] = b"v"; plan(1, "s"); print(db.sync())')
        until(lambda: stopped(leader.process.pid))
        made: list[int] = []
        threads = []
        for i in range(3):
            db[b"%d" % i] = b"v"
            threads.append(threading.Thread(target=lambda: made.append(db.sync())))
            threads[-1].start()
        tasks = Path("/proc/self/task")
        until(lambda: all((tasks / f"{one.native_id}/wchan").read_text().startswith("futex") for one in threads))
        os.kill(leader.process.pid, signal.SIGCONT)
        for one in threads:
            one.join()
        first = int(leader.line())
        leader.end()
        assert made == [first + 1] * 3
        assert db.stats().checkpoints == before + 2


# -- modes ------------------------------------------------------------------------------------------------------------


def background_threads() -> int:
    return sum(thread.name == "mmkv-sync" for thread in threading.enumerate())


def test_sync_without_waiting_starts_to_write(path: Path, library: Path) -> None:
    run_shimmed(
        library,
        """
        with mmkv.open(sys.argv[1], sync="manual") as db:
            db.put_many((b"%d" % i, bytes(1000)) for i in range(1000))
            before, flushes, durable = shim.shim_starts(), shim.shim_calls(), db.durable_epoch
            assert db.sync(wait=False) == db.epoch
            assert shim.shim_starts() > before
            assert shim.shim_calls() == flushes and db.durable_epoch == durable, "nothing is promised"
        """,
        path,
    )


@pytest.mark.parametrize("end", ["close", "garbage", "context"])
def test_the_background_thread_ends_with_its_store(path: Path, end: str) -> None:
    db: Any = mmkv.open(path, sync=0.01)
    assert background_threads() == 1
    epoch = db.epoch
    db[b"k"] = b"v"
    until(lambda: db.durable_epoch >= epoch)  # it has had the store in its hands
    if end == "close":
        db.close()
    elif end == "context":
        with db:
            pass
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del db
            gc.collect()
            # Inside, since it may be the thread that lets go of it last.
            until(lambda: background_threads() == 0)
    until(lambda: background_threads() == 0)


def test_the_background_thread_does_not_keep_an_interpreter_from_ending(path: Path) -> None:
    run_python(
        """
        import sys, mmkv
        db = mmkv.open(sys.argv[1], sync=3600)
        db[b"k"] = b"v"
        """,
        path,
    )
    with mmkv.open(path, "r") as db:
        assert db[b"k"] == b"v"
        assert db.durable_epoch == db.epoch - 1, "closed, with the checkpoint that close() promises"


def test_a_forked_child_has_a_background_thread_of_its_own(path: Path) -> None:
    with mmkv.open(path, sync=0.01) as db:
        db[b"k"] = b"v"

        def in_child() -> None:
            assert background_threads() == 1
            epoch = db.epoch
            db[b"child"] = b"v"
            until(lambda: db.durable_epoch >= epoch)
            db.close()
            assert background_threads() == 0

        fork_and_wait(in_child)
        epoch = db.epoch
        db[b"k"] = b"w"
        until(lambda: db.durable_epoch >= epoch)


def test_reading_makes_no_checkpoints_in_the_background(path: Path) -> None:
    with mmkv.open(path, sync=0.01) as db:
        epoch = db.epoch
        db[b"k"] = b"v"
        until(lambda: db.durable_epoch >= epoch)
        made = db.stats().checkpoints
        woken = threading.Event()
        # The thread looks many times while we read.
        db._background._stop.wait = counting(db._background._stop.wait, 20, woken)
        while not woken.is_set():
            assert db[b"k"] == b"v"
            assert b"l" not in db
        assert db.stats().checkpoints == made


def counting(wait: Callable[[float], bool], times: int, done: threading.Event) -> Callable[[float], bool]:
    """Count the calls of a function, and set `done` after so many."""
    calls = 0

    def counted(seconds: float) -> bool:
        nonlocal calls
        if (calls := calls + 1) >= times:
            done.set()
        return wait(seconds)

    return counted


def test_trouble_in_the_background_is_told_once_and_raised_by_sync_and_close(path: Path, library: Path) -> None:
    run_shimmed(
        library,
        """
        told = []
        several = threading.Event()
        warnings.showwarning = lambda message, category, *rest: told.append(str(message))
        warnings.simplefilter("always")
        db = mmkv.open(sys.argv[1], sync=0.01)
        db[b"k"] = b"v"
        while db.durable_epoch < db.epoch - 1 or not db.stats().checkpoints:
            time.sleep(0.001)
        real, tries = db.sync, 0
        plan(1, "f")
        db[b"k"] = b"w"
        while not told:
            time.sleep(0.001)
        wait, calls = db._background._stop.wait, []
        def counted(seconds):
            calls.append(seconds)
            if len(calls) > 10:
                several.set()
            return wait(seconds)
        db._background._stop.wait = counted
        several.wait()  # it has tried again, and failed again
        assert len(told) == 1 and "a background checkpoint failed" in told[0] and sys.argv[1] in told[0], told
        assert db[b"k"] == b"w"
        for use in (db.sync, db.close):
            try:
                use()
            except OSError as error:
                assert error.errno == 5 and error.filename == sys.argv[1], repr(error)
            else:
                raise SystemExit("no error")
        assert threading.active_count() == 1
        """,
        path,
    )


@pytest.mark.parametrize("size", [2036, 3 << 20])
def test_a_file_that_grew_for_nothing_is_clean_with_its_own_length(path: Path, size: int) -> None:
    mmkv.open(path, shards=1).close()
    with mmkv.open(path, shards=1, sync="manual") as db:
        assert not db.replace(b"absent", bytes(size))
    mmkv.open(path).close()
    check_file(path)


def test_a_death_right_after_the_mark_of_a_clean_close(
    path: Path, tmp_path: Path, library: Path, child: Callable[..., Child]
) -> None:
    """The kernel may let go of a dead process's lock for opening before that of its slot: who opens then joins it."""
    copy = tmp_path / "copy"
    with mmkv.open(path) as db:
        db.update(OLD)
    shutil.copyfile(path, copy)
    code = """
        db = mmkv.open(sys.argv[1])
        db[b"k"] = b"v"
        before = shim.shim_calls()
        plan(int(sys.argv[2]), "K")
        db.close()
        print(shim.shim_calls() - before)
        """
    flushes = int(run_shimmed(library, code, copy, 0))
    assert child(code, flushes).process.wait() == -signal.SIGKILL
    assert any(word(path, at + 128) for at in SLOTS_AT)
    assert not word(path, CONTROL_AT + 88, "<I")
    fd = os.open(path, os.O_RDWR)
    lock_bytes(fd, F_OFD_SETLK, fcntl.F_WRLCK, PROCESS_BYTES + 1, 1)  # its slot
    with mmkv.open(path, sync="manual") as db:
        os.close(fd)
        db.update(NEW)
        assert not any(word(path, at + 128) for at in SLOTS_AT), "what is written to does not say that it is clean"
        assert db.verify().ok
    check_file(path)


@pytest.mark.parametrize("how", ["k", "K"])
@pytest.mark.parametrize("step", ["heap", "slot"])
def test_a_leader_that_dies_with_nothing_new_to_flush(
    path: Path, child: Callable[..., Child], step: str, how: str
) -> None:
    """The epoch has gone on, or a slot is ahead of what is known to be durable; a clean close leaves neither behind."""
    killed = child(
        """
        db = mmkv.open(sys.argv[1], sync="manual")
        db[b"k"] = b"v"
        db.sync()
        plan(int(sys.argv[2]), sys.argv[3])
        db.sync()
        """,
        STEPS[step] - 1,
        how,
    )
    assert killed.process.wait() == -signal.SIGKILL
    mmkv.open(path, "w").close()
    with mmkv.open(path, "r") as db:
        assert db.verify().ok
        assert db.durable_epoch + 1 == db.epoch
    check_file(path)


def test_a_death_while_the_mark_of_a_clean_close_is_taken_back(
    path: Path, tmp_path: Path, child: Callable[..., Child]
) -> None:
    """The next close makes the mark again, though nothing has been written: a copy of the file needs no recovery."""
    with mmkv.open(path) as db:
        db.update(OLD)
    killed = child('db = mmkv.open(sys.argv[1]); plan(1, "k"); db[b"k"] = b"v"')
    assert killed.process.wait() == -signal.SIGKILL
    assert not any(word(path, at + 128) for at in SLOTS_AT)
    assert word(path, CONTROL_AT + 88, "<I")
    mmkv.open(path, "w").close()
    copy = tmp_path / "copy"
    shutil.copyfile(path, copy)
    with mmkv.open(copy, "r") as db:
        assert dict(db) == OLD
    check_file(path)
