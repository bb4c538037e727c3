"""Fixtures: stores that are verified when the test is over, seeds that are printed when it fails, both hot paths."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import shim

hypothesis.settings.register_profile("mmkv", deadline=None, print_blob=True)
hypothesis.settings.load_profile("mmkv")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run also what takes minutes or gigabytes")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes or gigabytes; runs with --slow only")
    # Set before the workers of pytest-xdist start, so that all have the same.
    os.environ.setdefault("MMKV_TEST_SEED", str(random.SystemRandom().randrange(1 << 32)))


def pytest_report_header() -> str:
    return f"MMKV_TEST_SEED={os.environ['MMKV_TEST_SEED']}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = (yield).get_result()  # type: ignore[misc]
    if report.failed:
        report.sections.append(("seed", f"run again with MMKV_TEST_SEED={os.environ['MMKV_TEST_SEED']}"))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A generator of its own for each test, from the seed of the run."""
    return random.Random(f"{os.environ['MMKV_TEST_SEED']} {request.node.name}")


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Any]:
    """Open stores in the test's directory; each one that still exists when the test is over has to pass verify()."""
    from tests.support import StoreOpener

    opener = StoreOpener(tmp_path)
    yield opener
    opener.finish()


@pytest.fixture
def store(open_store: Any) -> Any:
    """An empty store, verified when the test is over."""
    return open_store()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where `store` is."""
    return tmp_path / "store.mmkv"


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To preload, so that an msync can be made to fail or to be the last (tests/shim.py)."""
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("the sanitizer wants to be the library loaded first")
    return shim.build(tmp_path_factory.mktemp("shim"))
