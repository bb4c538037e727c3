"""Builds of the engine as rigs want it, linked with a rig's own C files; by default one in which every store and every
system call is seen (runtime.h).

Objects are kept below build/rig, by what they were made from, so that a second build is only a link and a build with
one file changed (a seeded bug) compiles that file.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
ENGINE = ROOT / "mmkv" / "engine"
RIG = Path(__file__).resolve().parent
CACHE = ROOT / "build" / "rig"

FLAGS = ["-std=gnu11", "-O1", "-g", "-fPIC", "-fno-strict-aliasing", "-pthread", "-UNDEBUG", "-U_FORTIFY_SOURCE"]
RIG_FLAGS = ["-Wall", "-Wextra", "-Werror", f"-I{ENGINE}", f"-I{RIG}"]


@dataclass(frozen=True)
class Kind:
    """What a rig wants to see of an engine."""

    engine: tuple[str, ...]
    """Flags for the engine's files."""
    own: tuple[str, ...]
    """Flags for the rig's."""
    link: tuple[str, ...]
    wrapped: tuple[str, ...]
    """Functions of the C library that the rig has in its own files."""
    runtime: tuple[Path, ...]
    """C files that every rig of this kind has."""


EVERY_STORE = Kind(
    # Of the sanitizer only the compiler's half is used; memcpy and memset become functions that announce their stores.
    engine=("-fsanitize=thread", "-Dmemcpy=rig_memcpy", "-Dmemset=rig_memset"),
    own=(),
    link=("-Wl,-Bsymbolic",),
    wrapped=(
        *("mmap", "munmap", "msync", "fsync", "fdatasync", "sync_file_range", "ftruncate", "fallocate", "pwrite"),
        *("statx", "getrandom", "clock_gettime", "syscall", "fcntl"),
    ),
    runtime=(RIG / "runtime.c",),
)


def engine_sources() -> list[Path]:
    """The engine's C files: all that know nothing of Python."""
    return [path for path in sorted(ENGINE.glob("*.c")) if not path.name.startswith("hot")]


def _run(command: list[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def _publish(target: Path, command: list[str], cwd: Path) -> Path:
    """Make `target` by a command that takes the output's name last; several processes may be doing the same."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent)
        os.close(handle)
        try:
            _run([*command, name], cwd)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    return target


def _object(name: str, text: str, headers: str, flags: list[str], cwd: Path) -> Path:
    digest = hashlib.sha256("\0".join([text, headers, *flags]).encode()).hexdigest()[:24]
    target = CACHE / f"{Path(name).stem}-{digest}.o"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / name
        source.write_text(text)
        # The file's own directory holds no headers here: those beside the original are meant.
        return _publish(target, ["gcc", *FLAGS, *flags, f"-I{cwd}", "-c", str(source), "-o"], cwd)


def build(
    sources: Sequence[Path], changed: dict[str, str] | None = None, *, program: bool = False, kind: Kind = EVERY_STORE
) -> Path:
    """A shared library, or a program, of the engine, the runtime of a kind and a rig's `sources`.

    `changed` has other texts for engine files.
    """
    changed = changed or {}
    unknown = set(changed) - {path.name for path in engine_sources()}
    if unknown:
        raise ValueError(f"no such engine source: {', '.join(sorted(unknown))}")
    engine_headers = "".join(path.read_text() for path in sorted(ENGINE.glob("*.h")))
    own = [*kind.runtime, *sources]
    own_headers = engine_headers + "".join(
        path.read_text() for folder in sorted({path.parent for path in own}) for path in sorted(folder.glob("*.h"))
    )
    jobs = [
        (path.name, changed.get(path.name, path.read_text()), engine_headers, [*kind.engine], ENGINE)
        for path in engine_sources()
    ] + [(path.name, path.read_text(), own_headers, [*RIG_FLAGS, *kind.own], path.parent) for path in own]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda job: _object(*job), jobs))
    flags = [*kind.link, *(f"-Wl,--wrap={name}" for name in kind.wrapped)]
    digest = hashlib.sha256("\0".join([*(path.name for path in objects), *flags]).encode()).hexdigest()[:24]
    link = ["gcc", *([] if program else ["-shared"]), "-pthread", *flags, *map(str, objects), "-o"]
    return _publish(CACHE / f"{Path(sources[0]).parent.name}-{digest}{'' if program else '.so'}", link, ROOT)
