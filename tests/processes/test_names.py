"""The name of a handle, by which a lock's record says who holds it."""

from __future__ import annotations

from pathlib import Path

from tests.processes.programs import run_program


def test_a_handle_has_a_name_of_its_own_when_the_clock_stands(tmp_path: Path) -> None:
    """Slots and incarnations begin anew with each clean file, and machines without a clock boot at one time."""
    names = {run_program("same_name.c", tmp_path / "store", seed) for seed in range(1, 6)}
    assert len(names) == 5
