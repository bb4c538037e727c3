"""Files that lie: a short fixed run of the fuzz target, and the named ones once more through Python."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

import mmkv
from tests.fuzz import build, inputs, seeds


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def make_file(scratch: Path) -> Any:
    """Make the file of an input with the hash function that mmkv uses."""
    library = ctypes.CDLL(str(build.library(scratch)))
    try:
        xxhash = ctypes.CDLL(str(importlib.import_module("xxhash._xxhash").__file__))
        function = ctypes.cast(xxhash.XXH3_64bits_withSeed, ctypes.c_void_p)
    except (ImportError, AttributeError):
        pytest.skip("this build of xxhash hides its C function")

    def make(data: bytes, path: Path) -> None:
        assert library.fuzz_write(function, data, ctypes.c_size_t(len(data)), str(path).encode()) == 0

    return make


def test_the_driver_runs_the_named_files_and_some_random_ones(scratch: Path) -> None:
    """In the engine alone, under sanitizers. The same inputs in every run: `python -m tests.fuzz` goes further."""
    files = seeds.write(scratch, modes=["w"])
    random.Random(1).shuffle(files)
    current = scratch / "current"
    command = [str(build.driver(scratch)), "1", "300", "60000", str(current), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, f"{inputs.describe(current.read_bytes())}\n{done.stdout[-2000:]}{done.stderr[-8000:]}"
    assert f"{len(files)} inputs of the corpus and" in done.stdout


def test_the_driver_reports_what_breaks(scratch: Path) -> None:
    """An input that is no input, since the target refuses none of those that are."""
    done = subprocess.run([str(scratch / "driver"), "1"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "broken: " in done.stderr


def use(path: Path, mode: Any) -> set[type[BaseException]]:
    """Everything that a program might do. Returns the errors that it met; any that is not mmkv's comes through."""
    met: set[type[BaseException]] = set()
    keys = [b"k%d" % i for i in range(0, 90, 4)]

    def attempt(step: Any) -> None:
        try:
            step()
        except (mmkv.Error, KeyError) as error:
            met.add(type(error))

    try:
        db = mmkv.open(path, mode, lock_timeout=0.2)
    except mmkv.Error as error:
        return {type(error)}
    steps = [
        lambda: db.get_many(keys),
        lambda: dict(itertools.islice(db.items(), 3000)),
        lambda: list(itertools.islice(db, 3000)),
        lambda: [db.get_into(key, bytearray(100_000)) for key in keys],
        lambda: str(db.verify()),
        lambda: db.stats().as_dict(),
    ]
    if mode != "r":
        steps += [
            lambda: db.put_many((b"new %d" % i, b"v" * (37 * i)) for i in range(60)),
            lambda: db.update(dict.fromkeys(keys, b"other")),
            lambda: db.put(b"large", bytes(100_000)),
            lambda: db.delete_many(keys[::2]),
            lambda: [db.pop(key, None) for key in keys],
            lambda: db.sync(),
            lambda: str(db.verify()),
            lambda: db.clear(),
        ]
    for step in steps:
        attempt(step)
    attempt(db.close)
    return met


@pytest.mark.parametrize("name", [*seeds.SEEDS, *seeds.LENGTHS])
def test_a_file_that_lies_raises_errors_of_mmkv_only(make_file: Any, tmp_path: Path, name: str) -> None:
    patches, length = seeds.SEEDS.get(name, []), seeds.LENGTHS.get(name, 0)
    for store, mode in itertools.product(("clean", "lost", "one"), ("r", "p", "w")):
        path = tmp_path / f"{store}-{mode}"
        make_file(inputs.pack(patches, store, length=length), path)
        met = use(path, mode)
        assert name != "nothing" or met <= {mmkv.ReadOnlyError, KeyError}
        path.unlink()


@pytest.mark.parametrize("name", list(seeds.FOUND))
def test_what_the_fuzzer_found(make_file: Any, tmp_path: Path, name: str) -> None:
    for mode in ("r", "p", "w"):
        path = tmp_path / mode
        make_file(seeds.FOUND[name], path)
        use(path, mode)


def test_an_input_can_be_written_as_python() -> None:
    data = seeds.FOUND["recovery-cuts-below-the-zones"]
    text = inputs.describe(data)
    assert "Area.SLOT" in text
    assert "Op.POINT" in text
    assert text.count("Patch(") == (len(data) - 4) // 16
