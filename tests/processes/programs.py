"""Programs in C that stop the engine between two of its stores (between.h)."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.rig.build import build

HERE = Path(__file__).resolve().parent


def run_program(name: str, *arguments: object) -> str:
    """Build and run one of them, and return what it printed; it fails the test if it finds something wrong."""
    command = [build([HERE / name], program=True), *map(str, arguments)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 0, run.stdout
    return run.stdout
