"""What others are in the middle of is not damage: verify() does not speak of what a sound store passes through."""

from __future__ import annotations

from pathlib import Path

from tests.processes.programs import run_program


def test_extents_may_be_given_back_in_another_order_than_they_died_in(tmp_path: Path) -> None:
    """One dies, a cut begins, another one dies in the new epoch and is given back first."""
    run_program("given_back.c", tmp_path / "store")


def test_an_extent_says_that_it_is_not_published_until_it_is(tmp_path: Path) -> None:
    """So that one who looks, without its lock, while it is published takes it for neither alive nor damaged."""
    run_program("published.c", tmp_path / "store")


def test_the_page_of_a_dead_chunk_may_be_used_again(tmp_path: Path) -> None:
    """While its records, which the last checkpoint had, are looked at, the next checkpoint becomes durable."""
    run_program("reused.c", tmp_path / "store")
