"""A file is cut off while one is in the middle of an operation: another one, who finds that half done, is told why."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.rig.build import build

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("call", ["put", "sync"])
def test_others_learn_that_the_file_was_cut_off(call: str, tmp_path: Path) -> None:
    """Not only that something is half changed, be it when they begin or in the middle of a checkpoint."""
    program = build([HERE / "cut_off.c"], program=True)
    arguments = [tmp_path / "store", *(["sync"] if call == "sync" else [])]
    run = subprocess.run([program, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    assert (run.stdout, run.returncode) == ("", 0)
