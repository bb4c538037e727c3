"""The source keeps the rules that it set itself."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

ENGINE = ROOT / "mmkv" / "engine"
SOURCES = sorted([*ENGINE.glob("*.c"), *ENGINE.glob("*.h")])
PYTHON = sorted([*(ROOT / "mmkv").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])
EVERYTHING = sorted(
    path
    for top in ("mmkv", "cli", "tests", "benchmarks", "docs", ".ci")
    for path in (ROOT / top).rglob("*")
    if path.suffix in {".c", ".h", ".py", ".pyi", ".md", ".toml", ""}
    and path.is_file()
    and "__pycache__" not in path.parts
)
LINES_MAX = 700
SYSTEM_CALLS = re.split(
    r"\s+",
    "mmap munmap mremap mprotect madvise msync mincore mlock fsync fdatasync sync_file_range ftruncate truncate "
    "fallocate posix_fallocate fcntl ioctl open openat creat close read pread write pwrite readv writev lseek stat "
    "fstat lstat fstatat statx fstatfs statfs link linkat rename renameat renameat2 unlink unlinkat symlink readlink "
    "syscall futex getpid gettid nanosleep usleep sleep getrandom kill tgkill sigaction signal flock lockf",
)


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def code_of(path: Path) -> str:
    """C without comments and literals, line numbers kept."""

    def blank(match: re.Match[str]) -> str:
        return "\n" * match[0].count("\n") + " "

    return re.sub(
        r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", blank, path.read_text(), flags=re.DOTALL
    )


@pytest.mark.parametrize("path", SOURCES, ids=names(SOURCES))
def test_no_file_of_the_engine_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


def test_only_os_c_makes_system_calls() -> None:
    call = re.compile(r"(?<![\w.>])(" + "|".join(SYSTEM_CALLS) + r")\s*\(")
    found = [
        f"{path.name}:{number}: {match[1]}"
        for path in SOURCES
        if path.name != "os.c"
        for number, line in enumerate(code_of(path).splitlines(), 1)
        for match in call.finditer(line)
    ]
    assert found == []


def test_the_search_for_system_calls_finds_those_of_os_c() -> None:
    """Else the test above would prove nothing."""
    code = code_of(ENGINE / "os.c")
    missing = [name for name in ("mmap", "msync", "fcntl", "ftruncate") if not re.search(rf"\b{name}\s*\(", code)]
    assert missing == []


def test_only_the_hot_path_knows_python() -> None:
    knows = re.compile(r"\bPython\.h|\bPy[A-Z_]\w*")
    found = [path.name for path in SOURCES if not path.name.startswith("hot") and knows.search(code_of(path))]
    assert found == []


def test_the_hot_path_sees_the_engine_through_its_public_header_only() -> None:
    hot = [path for path in SOURCES if path.name.startswith("hot")]
    assert hot
    for path in hot:
        includes = re.findall(r"#include \"([^\"]+)\"", path.read_text())
        assert [name for name in includes if name != "mmkv.h" and not name.startswith("hot")] == [], path.name


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in EVERYTHING
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if marks.search(line)
    ]
    assert found == []


def imports_of(path: Path) -> list[str]:
    """The modules that a Python file imports, relative ones made absolute, with the names for `from mmkv import x`."""
    package = [*path.relative_to(ROOT).with_suffix("").parts[:-1]]
    if package and package[0] == "cli":
        package = ["mmkv", "cli", *package[1:]]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [module] if module != "mmkv" else [f"mmkv.{alias.name}" for alias in node.names]
    return found


CLI = [path for path in PYTHON if path.is_relative_to(ROOT / "cli")]


@pytest.mark.parametrize("path", CLI, ids=names(CLI))
def test_the_command_line_knows_only_the_public_api(path: Path) -> None:
    import mmkv

    public = {f"mmkv.{name}" for name in mmkv.__all__} | {"mmkv", "mmkv.__version__"}
    inner = [name for name in imports_of(path) if name.split(".")[0] == "mmkv" and not name.startswith("mmkv.cli")]
    assert [name for name in inner if name not in public] == []
    private = re.findall(r"\bmmkv\._\w+|\b(?:db|store)\._[a-z]\w*", path.read_text())
    assert private == []


LIBRARY = [path for path in PYTHON if path.is_relative_to(ROOT / "mmkv") and ENGINE not in path.parents]


@pytest.mark.parametrize("path", LIBRARY, ids=names(LIBRARY))
def test_the_library_knows_nothing_of_the_command_line(path: Path) -> None:
    found = imports_of(path)
    assert [name for name in found if name.startswith(("mmkv.cli", "cli", "click"))] == []
    if path.name != "_native.py":
        assert [name for name in found if name.startswith("mmkv._mmkv")] == [], "_native.py is its only importer"


def test_the_top_level_is_as_agreed() -> None:
    allowed = {"pyproject.toml", "README.md", "mmkv", "cli", "tests", "docs", "benchmarks", "build"}
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout, or no git here")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    top = {line.split("/")[0] for line in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= allowed


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "mmkv" / "py.typed").exists()
