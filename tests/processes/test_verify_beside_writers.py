"""What others are in the middle of is not damage: verify() does not speak of what a sound store passes through."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.rig.build import build

HERE = Path(__file__).resolve().parent


def test_extents_may_be_given_back_in_another_order_than_they_died_in(tmp_path: Path) -> None:
    """One dies, a cut begins, another one dies in the new epoch and is given back first."""
    program = build([HERE / "given_back.c"], program=True)
    run = subprocess.run([program, tmp_path / "store"], stdout=subprocess.PIPE, text=True, check=False)
    assert (run.stdout, run.returncode) == ("", 0)
