"""Pipes, terminals, signals, memory and completion: the command line as one process among others."""

from __future__ import annotations

import json
import os
import pty
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.cli.runner import COMMAND, TIMEOUT, Runner, is_privileged

Wait = Callable[[Callable[[], bool]], None]


def lines(numbers: range, size: int = 200) -> bytes:
    return b"".join(json.dumps({"key": f"key {i}", "value": f"{i} " * (size // 4)}).encode() + b"\n" for i in numbers)


# ---- pipes ----


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["export", "-"]], ids=" ".join)
def test_a_broken_pipe_ends_a_command_quietly(mmkv: Runner, store: Path, arguments: list[str]) -> None:
    mmkv("import", "-q", store, "-", stdin=lines(range(30_000), 20))
    process = mmkv.start(arguments[0], store, *arguments[1:])
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    process.stdout = None
    _, error = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, error) == (141, b"")


def test_a_broken_pipe_in_a_shell(mmkv: Runner, store: Path) -> None:
    mmkv("import", "-q", store, "-", stdin=lines(range(30_000), 20))
    script = '"$0" -m mmkv.cli list "$1" | head -n 3 | wc -l'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, str(store)],
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
        cwd=store.parent,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, b"3", b"")


def test_one_command_feeds_another(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    mmkv("import", "-q", store, "-", stdin=lines(range(1000)))
    script = '"$0" -m mmkv.cli export -q "$1" - | "$0" -m mmkv.cli import -q "$2" -'
    arguments = ["sh", "-c", script, sys.executable, str(store), str(tmp_path / "copy.mmkv")]
    subprocess.run(arguments, timeout=TIMEOUT, check=True, cwd=tmp_path)
    assert mmkv.records(tmp_path / "copy.mmkv") == mmkv.records(store)


# ---- terminals ----


def on_terminal(mmkv: Runner, stream: str, *arguments: str | Path, feed: Iterable[bytes] = ()) -> tuple[int, bytes]:
    """Run a command with stdout or stderr on a terminal; return its status and what the terminal was shown."""
    master, slave = pty.openpty()
    process = mmkv.start(*arguments, **{stream: slave})
    os.close(slave)
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(master, 65536):
                shown.extend(data)
        except OSError:  # EIO: nobody holds the terminal's other side any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    assert process.stdin is not None
    for data in feed:
        process.stdin.write(data)
        process.stdin.flush()
    process.communicate(timeout=TIMEOUT)
    reader.join(TIMEOUT)
    os.close(master)
    return process.returncode, bytes(shown)


def test_a_terminal_is_shown_escaped_keys(mmkv: Runner, store: Path) -> None:
    shown_as = {
        b"plain": b"plain",
        b"two words": b"two words",
        "gr\u00fc\u00df".encode(): "gr\u00fc\u00df".encode(),
        b"esc\x1b[2J": rb"esc\x1b[2J",
        b"line\nbreak": rb"line\x0abreak",
        b"\xff": rb"\xff",
        rb"\xff": rb"\\xff",
        b" ends ": rb"\x20ends\x20",
        b"  ": rb"\x20\x20",
        "\u202e".encode(): rb"\xe2\x80\xae",  # would turn the writing round
        b"nul\0": rb"nul\x00",
    }
    mmkv.fill(store, dict.fromkeys(shown_as, b""))
    status, shown = on_terminal(mmkv, "stdout", "list", store)
    assert status == 0
    assert sorted(shown.replace(b"\r\n", b"\n").splitlines()) == sorted(shown_as.values())


def slowly() -> Iterator[bytes]:
    for i in range(10):
        time.sleep(0.1)
        yield lines(range(i * 1000, i * 1000 + 1000))


def test_progress_is_painted_on_a_terminal_and_wiped(mmkv: Runner, store: Path) -> None:
    status, shown = on_terminal(mmkv, "stderr", "import", store, "-", feed=slowly())
    assert status == 0
    assert b"\rimporting: " in shown
    assert b" records, " in shown
    assert b"\r\x1b[Kmmkv: imported 10000 records" in shown


def test_progress_has_a_bar_where_the_length_is_known(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(range(150_000), 20))
    status, shown = on_terminal(mmkv, "stderr", "import", store, tmp_path / "in.jsonl")
    assert status == 0
    assert b"#" in shown
    assert b"%" in shown


def test_no_progress_in_a_pipe_nor_when_quiet(mmkv: Runner, store: Path) -> None:
    process = mmkv.start("import", store, "-")
    assert process.stdin is not None
    for data in slowly():
        process.stdin.write(data)
        process.stdin.flush()
    _, error = process.communicate(timeout=TIMEOUT)
    assert error.startswith(b"mmkv: imported 10000 records")
    assert error.count(b"\n") == 1
    assert on_terminal(mmkv, "stderr", "import", "-q", store, "-", feed=slowly()) == (0, b"")


# ---- signals ----


def feed_until_stored(mmkv: Runner, store: Path, data: bytes, wait_until: Wait) -> subprocess.Popen[bytes]:
    """Start an import, give it part of its input, and come back when some of that is in the store."""
    process = mmkv.start("import", store, "-")
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()
    # Sampled from outside, as a person would.
    wait_until(lambda: mmkv.run("count", store).out.strip() not in (b"", b"0"))
    assert process.poll() is None
    return process


def test_an_interrupted_import_keeps_what_it_had_and_can_be_run_again(
    mmkv: Runner, store: Path, tmp_path: Path, wait_until: Wait
) -> None:
    everything = lines(range(30_000))
    half = everything[: len(everything) // 2]
    process = feed_until_stored(mmkv, store, half, wait_until)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130
    assert error.startswith(b"mmkv: interrupted")
    assert error.count(b"\n") == 1
    stored = int(mmkv("count", store).out)
    assert f"{stored:,} records" in error.decode()
    assert 0 < stored <= half.count(b"\n")
    mmkv("check", store)
    (tmp_path / "all.jsonl").write_bytes(everything)
    mmkv("import", store, tmp_path / "all.jsonl")
    assert mmkv("count", store).out == b"30000\n"
    mmkv("import", tmp_path / "whole.mmkv", tmp_path / "all.jsonl")
    assert mmkv.records(store) == mmkv.records(tmp_path / "whole.mmkv")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_store_that_was_left_dirty_is_readable_without_fuss(
    mmkv: Runner, store: Path, wait_until: Wait, number: signal.Signals
) -> None:
    process = feed_until_stored(mmkv, store, lines(range(20_000)), wait_until)
    process.send_signal(number)
    process.communicate(timeout=TIMEOUT)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert int(mmkv("count", store).out) > 0
    assert mmkv("get", store, "key 0").out == b"0 " * 50
    assert mmkv("check", store).out.startswith(b"ok")
    mmkv("stats", store)
    mmkv("import", store, "-", stdin=lines(range(20_000)))
    assert mmkv("count", store).out == b"20000\n"


DIE = """
import mmkv, os, signal, sys
db = mmkv.open(sys.argv[1])
db.put_many((b"%d" % i, b"durable") for i in range(1000))
db.sync()
db.put_many((b"%d" % i, b"lost by a power cut") for i in range(500, 1500))
os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_dirty(store: Path) -> None:
    subprocess.run([sys.executable, "-c", DIE, store], timeout=TIMEOUT, check=False, cwd=store.parent)


def test_a_store_that_needs_recovery_is_recovered_by_reading_it(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    """A copy is another file: for it, what was not made durable never happened, as after a power cut."""
    leave_dirty(store)
    copy = tmp_path / "copy.mmkv"
    shutil.copyfile(store, copy)
    before = copy.read_bytes()
    assert mmkv("check", copy).out.startswith(b"ok: 1,000 records")
    assert copy.read_bytes() == before, "check has changed the file"
    assert mmkv("get", copy, "700").out == b"durable"
    assert copy.read_bytes() != before
    assert mmkv("count", copy).out == b"1000\n"
    assert mmkv("count", store).out == b"1500\n"


@pytest.mark.skipif(is_privileged(), reason="root may do anything")
def test_a_store_that_needs_recovery_can_be_read_without_write_permission(mmkv: Runner, store: Path) -> None:
    leave_dirty(store)
    copy = store.with_name("copy.mmkv")
    shutil.copyfile(store, copy)
    copy.chmod(0o400)
    assert mmkv("get", copy, "700").out == b"durable"
    assert len(mmkv("list", copy).lines) == 1000
    assert "Permission denied" in mmkv.fail(3, "put", copy, "key", "value")


def leave_half_written(store: Path) -> None:
    """As a kill between two stores leaves it: the lock names a dead owner, the version is odd (docs/format.md)."""
    with open(store, "r+b") as file:
        for shard in range(0, 64, 7):
            place = 0x30000 + shard * 8192
            file.seek(place)
            lock, waiting, version = struct.unpack("<IIQ", file.read(16))
            assert lock == 0
            file.seek(place)
            file.write(struct.pack("<IIQ", 1 | 1 << 12, waiting, version | 1))


@pytest.mark.parametrize(
    "arguments", [["get", "700"], ["has", "700"], ["list"], ["export", "-"], ["check"]], ids=" ".join
)
def test_a_shard_left_half_written_is_repaired_by_reading_it(mmkv: Runner, store: Path, arguments: list[str]) -> None:
    leave_dirty(store)
    leave_half_written(store)
    command, *rest = arguments
    mmkv(command, store, *rest)
    assert len(mmkv("list", store).lines) == 1500


WRITER_COMES = """
import sys
import mmkv
from mmkv.cli import main

real, writers = mmkv.Store.verify, []

def verify(store, progress=None):
    print(repr(store), file=sys.stderr)
    if not writers:
        writers.append(mmkv.open(store.path, "w"))
        writers[0].put_many((b"%d" % i, b"w" * 1000) for i in range(0, 1500, 3))
    return real(store, progress)

mmkv.Store.verify = verify
main()
"""


def test_a_writer_that_comes_during_a_check_is_no_damage(mmkv: Runner, store: Path) -> None:
    """A check of what a killed writer left looks at a private copy; then the service is back, and writes."""
    leave_dirty(store)
    leave_half_written(store)
    run = subprocess.run(
        [sys.executable, "-P", "-c", WRITER_COMES, "check", store], capture_output=True, text=True, check=False
    )
    assert "mode='p'" in run.stderr
    assert "mode='r'" in run.stderr
    assert (run.returncode, run.stdout) == (0, "ok: 1,500 records, no errors\n")


def test_a_long_import_makes_checkpoints_on_its_way(
    mmkv: Runner, store: Path, tmp_path: Path, wait_until: Wait
) -> None:
    """One after 64 MiB: a copy of the file, which knows only what is durable, has records although nobody closed it."""
    process = feed_until_stored(mmkv, store, lines(range(3600), 20_000), wait_until)
    wait_until(lambda: mmkv("stats", "--json", store).json()["data_bytes"] > 66 << 20)
    process.kill()
    process.communicate(timeout=TIMEOUT)
    shutil.copyfile(store, tmp_path / "copy.mmkv")
    mmkv("check", tmp_path / "copy.mmkv")
    assert mmkv("stats", "--json", tmp_path / "copy.mmkv").json()["data_bytes"] > 60 << 20


def test_imports_killed_at_any_moment(mmkv: Runner, store: Path, tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_bytes(lines(range(40_000)))
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    delays = random.Random(seed)
    for _ in range(8):
        process = mmkv.start("import", store, tmp_path / "all.jsonl")
        time.sleep(delays.uniform(0.05, 0.5))
        process.kill()
        process.communicate(timeout=TIMEOUT)
        if store.exists():
            stored = int(mmkv("count", store).out)
            assert len(mmkv("list", store).lines) == stored
            mmkv("check", store)
    mmkv("import", store, tmp_path / "all.jsonl")
    assert mmkv("count", store).out == b"40000\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("target", ["out.jsonl", "out.csv", "out.mmkv"])
def test_an_interrupted_export_leaves_nothing(
    mmkv: Runner, store: Path, tmp_path: Path, wait_until: Wait, target: str, number: signal.Signals
) -> None:
    mmkv("import", "-q", store, "-", stdin=lines(range(60_000), 400))
    folder = tmp_path / "folder"
    folder.mkdir()
    process = mmkv.start("export", store, folder / target)
    wait_until(lambda: process.poll() is not None or bool(list(folder.iterdir())))
    process.send_signal(number)
    process.communicate(timeout=TIMEOUT)
    if process.returncode == 0:
        pytest.skip("the export was faster than the signal")
    assert process.returncode == 128 + number
    assert list(folder.iterdir()) == []
    mmkv("export", store, folder / target)
    assert [path.name for path in folder.iterdir()] == [target]


# ---- memory ----

# A process of its own: a child's ru_maxrss begins at its parent's size, and that of a test run is large.
MEASURE = """
import resource, subprocess, sys
limit = int(sys.argv[1])
def prepare():
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
status = subprocess.run(sys.argv[2:], preexec_fn=prepare).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def measure(arguments: list[str | Path], chunks: Iterator[bytes], *, limit: int = 0, output: Path | None = None) -> int:
    """Run a command, feed it, and return the most memory it had, in bytes; `limit` is on private memory."""
    with (
        open(output or os.devnull, "wb") as out,
        subprocess.Popen(
            [sys.executable, "-c", MEASURE, str(limit), *COMMAND, *arguments],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.PIPE,
            cwd=Path(arguments[1]).parent,
        ) as process,
    ):
        assert process.stdin is not None
        for chunk in chunks:
            process.stdin.write(chunk)
        _, error = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, error
    return int(error.split()[-1]) * 1024


def padded(count: int) -> Iterator[bytes]:
    """Lines that are long to read and short to store, so that the mapped store does not count."""
    chunk = b"".join(b'{"key": "%d",%s"value": "v"}\n' % (i, b" " * 10_000) for i in range(100))
    return (chunk for _ in range(count))


def test_memory_is_flat_on_a_long_input(mmkv: Runner, store: Path) -> None:
    few = measure(["import", store, "-", "-q"], padded(3))
    many = measure(["import", store, "-", "-q"], padded(250))  # 250 MB
    assert mmkv("count", store).out == b"100\n"
    assert many - few < 16 << 20, (few, many)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_private_memory_is_bounded_whatever_is_stored(mmkv: Runner, store: Path, tmp_path: Path, kind: str) -> None:
    """60 MB through processes that may have 40 MiB of memory of their own, in and out again."""
    value = "0123456789abcdef" * 125

    def rows() -> Iterator[bytes]:
        if kind == "csv":
            yield b"key,value\n"
        form = '{{"key": "{}", "value": "{}"}}\n' if kind == "jsonl" else "{},{}\n"
        for i in range(0, 30_000, 500):
            yield "".join(form.format(j, value) for j in range(i, i + 500)).encode()

    limit = 40 << 20
    measure(["import", store, "-", "-q", "--format", kind], rows(), limit=limit)
    assert mmkv("count", store).out == b"30000\n"
    out = tmp_path / "out"
    measure(["export", store, "-", "-q", "--format", kind], iter(()), limit=limit, output=out)
    assert out.stat().st_size > 60_000_000
    copy = tmp_path / "copy.mmkv"
    measure(["import", copy, store, "-q"], iter(()), limit=limit)
    assert mmkv("count", copy).out == b"30000\n"


# ---- completion ----


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(mmkv: Runner, shell: str) -> None:
    result = mmkv.run(environment={"_MMKV_COMPLETE": f"{shell}_source"})
    assert result.status == 0
    assert b"_MMKV_COMPLETE" in result.out
    assert b"mmkv" in result.out


def complete(mmkv: Runner, words: str) -> list[str]:
    environment = {
        "_MMKV_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    return mmkv.run(environment=environment).out.decode().split("\n")


def test_completion(mmkv: Runner) -> None:
    assert {"plain,get", "plain,export", "plain,stats"} <= set(complete(mmkv, "mmkv "))
    assert [line for line in complete(mmkv, "mmkv ch") if line] == ["plain,check"]
    assert "file,st" in complete(mmkv, "mmkv get st")  # bash completes file names from there
    assert "file,da" in complete(mmkv, "mmkv import store.mmkv da")
    assert "plain,--prefix" in complete(mmkv, "mmkv list --pre")
    assert "plain,jsonl" in complete(mmkv, "mmkv export --format js")


def test_bash_accepts_the_completion_script(mmkv: Runner) -> None:
    script = mmkv.run(environment={"_MMKV_COMPLETE": "bash_source"}).out
    done = subprocess.run(["bash", "-c", script + b"\ncomplete -p mmkv"], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done
    assert b"mmkv" in done.stdout
