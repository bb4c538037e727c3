"""A file is cut off while one is in the middle of an operation: another one, who finds that half done, is told why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.programs import run_program


@pytest.mark.parametrize("call", ["put", "sync"])
def test_others_learn_that_the_file_was_cut_off(call: str, tmp_path: Path) -> None:
    """Not only that something is half changed, be it when they begin or in the middle of a checkpoint."""
    run_program("cut_off.c", tmp_path / "store", call)
