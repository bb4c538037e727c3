"""What others are in the middle of is not damage: verify() does not speak of what a sound store passes through."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.rig.build import build

HERE = Path(__file__).resolve().parent


def check(program: str, store: Path) -> None:
    """Run a program of ours, which prints what it finds wrong."""
    run = subprocess.run([build([HERE / program], program=True), store], stdout=subprocess.PIPE, text=True, check=False)
    assert (run.stdout, run.returncode) == ("", 0)


def test_extents_may_be_given_back_in_another_order_than_they_died_in(tmp_path: Path) -> None:
    """One dies, a cut begins, another one dies in the new epoch and is given back first."""
    check("given_back.c", tmp_path / "store")


def test_an_extent_says_that_it_is_not_published_until_it_is(tmp_path: Path) -> None:
    """So that one who looks, without its lock, while it is published takes it for neither alive nor damaged."""
    check("published.c", tmp_path / "store")
