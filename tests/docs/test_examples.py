"""Every example runs: docstrings of everything public, Python and shell blocks of README and docs."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

import mmkv
from tests.support import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]


class Block(NamedTuple):
    """A fenced block: its info string, its text, its first line and the heading above."""

    info: str
    text: str
    line: int
    heading: str


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    info: str | None = None
    fence = heading = ""
    lines: list[str] = []
    start = indent = 0
    for number, line in enumerate(page.read_text().splitlines(), 1):
        opening = re.match(r"^( *)(`{3,}|~{3,})\s*(.*)$", line)
        if info is None and opening:
            indent, fence, info = len(opening[1]), opening[2], opening[3].strip()
            lines, start = [], number + 1
        elif info is not None and line.strip() == fence:
            found.append(Block(info, "\n".join(lines) + "\n", start, heading))
            info = None
        elif info is not None:
            lines.append(line[indent:] if line[:indent].isspace() else line)
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
    assert info is None, f"{page}: the block that begins on line {start - 1} does not end"
    return found


def is_quick_start(page: Path, block: Block) -> bool:
    return page.name == "README.md" and block.heading == "Quick start" and block.info == "sh"


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_the_examples_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one new directory; Python in one namespace, shell with the mmkv of this environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        for block in blocks_of(page):
            if block.info == "python":
                # The line numbers of a traceback are those of the page.
                code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
                exec(code, namespace)
            elif block.info == "sh" and not is_quick_start(page, block):
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", block.text],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=300,
                    check=False,
                )
                assert done.returncode == 0, f"{page}:{block.line}: {done.returncode}\n{done.stdout}{done.stderr}"
    finally:
        for value in namespace.values():
            if isinstance(value, mmkv.Store):
                value.close()


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_the_info_strings_are_known(page: Path) -> None:
    """A misspelt one would be an example that nobody runs."""
    known = {"python", "python no-run", "sh", "sh no-run", "text", "c", "json", "toml", "console no-run", "promela"}
    unknown = [(block.line, block.info) for block in blocks_of(page) if block.info not in known]
    assert unknown == []


def test_the_quick_start_has_two_lines() -> None:
    """The gate runs them: the first does the main job, the second passes the tests."""
    found = [block for block in blocks_of(ROOT / "README.md") if is_quick_start(ROOT / "README.md", block)]
    assert len(found) == 1
    lines = found[0].text.splitlines()
    assert len(lines) == 2
    assert all(line.strip() and not line.startswith(("#", "$")) and not line.endswith("\\") for line in lines)
    assert "pytest" in lines[1]


def test_there_are_examples_at_all() -> None:
    infos = [block.info for page in PAGES for block in blocks_of(page)]
    assert infos.count("python") >= 3
    assert infos.count("sh") >= 3


# -- docstrings -------------------------------------------------------------------------------------------------------


def modules() -> list[ModuleType]:
    names = ["mmkv"]
    for found in pkgutil.walk_packages(mmkv.__path__, "mmkv."):
        if ".engine" not in found.name and not found.name.startswith("mmkv._mmkv"):
            names.append(found.name)
    return [importlib.import_module(name) for name in names]


def has_docstring_of_its_own(cls: type, member: str) -> bool:
    owner = next(base for base in cls.__mro__ if member in vars(base))
    value = vars(owner)[member]
    return (callable(value) or isinstance(value, property)) and owner.__module__.startswith("mmkv")


def public() -> list[tuple[str, Any]]:
    """Every public name with a docstring of its own: exports, their methods and properties."""
    found: list[tuple[str, Any]] = [("mmkv", mmkv)]
    for name in mmkv.__all__:
        value = getattr(mmkv, name)
        found.append((f"mmkv.{name}", value))
        if inspect.isclass(value) and value.__module__.startswith("mmkv"):
            found += [
                (f"mmkv.{name}.{member}", getattr(value, member))
                for member in dir(value)
                # Fields have their sentences in the source, and what is inherited from Python has Python's.
                if not member.startswith("_") and has_docstring_of_its_own(value, member)
            ]
    return found


text_modules: dict[str, ModuleType] = {}


def documented() -> list[tuple[str, str]]:
    """Name and docstring of all there is, the docstrings of modules and of what is not exported included."""
    texts: dict[str, str] = {}
    for module in modules():
        things = [(module.__name__, module), *((f"{module.__name__}.{n}", v) for n, v in vars(module).items())]
        for name, thing in things:
            if not (thing is module or str(getattr(thing, "__module__", "")).startswith("mmkv")):
                continue
            home = module if thing is module else sys.modules.get(thing.__module__, module)
            texts.setdefault(inspect.getdoc(thing) or "", name)
            text_modules.setdefault(inspect.getdoc(thing) or "", home)
            if inspect.isclass(thing):
                for member in dir(thing):
                    text = inspect.getdoc(getattr(thing, member, None)) or ""
                    texts.setdefault(text, f"{name}.{member}")
                    text_modules.setdefault(text, home)
    return [(name, text) for text, name in texts.items() if ">>>" in text]


@pytest.mark.parametrize(("name", "text"), documented(), ids=[name for name, _ in documented()])
def test_the_examples_of_a_docstring(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    defined_in = text_modules[text]
    namespace: dict[str, Any] = {**vars(defined_in), "__name__": "__main__"}
    example = doctest.DocTestParser().get_doctest(text, namespace, name, None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    try:
        runner.run(example, out=sys.stderr.write, clear_globs=False)
    finally:
        for value in example.globs.values():
            if isinstance(value, mmkv.Store):
                value.close()
    assert runner.failures == 0, capsys.readouterr().err


@pytest.mark.parametrize(("name", "value"), public(), ids=[name for name, _ in public()])
def test_everything_public_has_a_docstring(name: str, value: Any) -> None:
    assert (inspect.getdoc(value) or "").strip()


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, v in public() if n.startswith("mmkv.Store.") and callable(v)]
)
def test_every_method_of_a_store_has_an_example(name: str, value: Any) -> None:
    assert ">>>" in (inspect.getdoc(value) or "")


def test_the_names_exported_are_those_promised() -> None:
    errors = {"CorruptStoreError", "NotAStoreError", "VersionError", "LockTimeoutError", "ReadOnlyError", "ClosedError"}
    assert {"open", "Store", "Stats", "Report", "Error", "StoreFullError"} | errors <= set(mmkv.__all__)
    for name in (*errors, "StoreFullError"):
        assert issubclass(getattr(mmkv, name), mmkv.Error)
