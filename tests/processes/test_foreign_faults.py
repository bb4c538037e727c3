"""SIGBUS of other code goes to the handler that other code has for it, each time that it comes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.programs import run_program


@pytest.mark.parametrize("mask", ["nodefer", "defer"])
@pytest.mark.parametrize("addresses", ["same", "other"])
@pytest.mark.parametrize("handler", ["leaves", "mends"])
def test_an_older_handler_is_asked_each_time(handler: str, addresses: str, mask: str, tmp_path: Path) -> None:
    """Whether it leaves by a jump, or returns when it has mended the page, which may be lost once more."""
    run_program("foreign_faults.c", tmp_path / "store", handler, addresses, mask)
