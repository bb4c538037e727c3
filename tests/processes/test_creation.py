"""An empty file becomes a store in place: what is half made is no damage, and a death there is in nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.programs import run_program


def test_others_wait_and_a_death_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    """Before each write and flush of it; that of the superblock, whose copy is there by then, is one of them."""
    store = tmp_path / "store"
    store.touch()
    assert int(run_program("created.c", store)) >= 6


def test_what_is_begun_anew_while_it_is_looked_at_is_no_damage(tmp_path: Path) -> None:
    """Before each read of who looks at what a killed maker left, another comes to each step, or to half of the last."""
    store = tmp_path / "store"
    store.touch()
    assert int(run_program("begun_anew.c", store)) >= 60


@pytest.mark.parametrize("before", [False, True])
def test_a_new_store_is_put_in_its_place_once(tmp_path: Path, before: bool) -> None:
    """Whoever opens it as soon as it has its name does not make its maker, who cannot have it yet, begin anew."""
    store = tmp_path / "store"
    if before:
        store.touch()
    run_program("replaced.c", tmp_path, store)


def test_a_name_that_is_taken_away_while_the_store_is_being_opened(tmp_path: Path) -> None:
    """The store is open then, as one is that loses its name a moment later."""
    run_program("replaced.c", tmp_path, tmp_path / "store", "unlink")
