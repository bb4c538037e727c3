"""Large values are recognised by what published them, wherever they lie."""

from __future__ import annotations

from pathlib import Path

from tests.processes.programs import run_program


def test_a_value_whose_link_is_0_is_recognised(tmp_path: Path) -> None:
    """At one position in 65,536 the check in a descriptor is 0, and a recovery leaves nothing else in the link."""
    run_program("recovered_link.c", tmp_path / "store")
