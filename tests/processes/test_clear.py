"""clear() removes what was there when it began, and nothing that is put once it has come past."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.rig.build import build
from tests.rig.runs import Bug

HERE = Path(__file__).resolve().parent
TWICE = Bug(
    "removed-twice",
    "a table that was merged with cleared ones is cleared as a whole, with what was put into those since",
    "shard.c",
    "        if (items[i].bits < from) continue;",
    "        if (false) continue;",
)


def clear_at_each_step(path: Path, changed: dict[str, str] | None = None) -> list[int]:
    """Clear a store while another one puts its first key, at each step but the first: how many keys that leaves."""
    program = build([HERE / "clear.c"], changed, program=True)

    def clear(n: int) -> tuple[int, int]:
        run = subprocess.run([program, path, str(n)], stdout=subprocess.PIPE, text=True, check=False)
        assert not run.returncode, run.stdout
        steps, left = map(int, run.stdout.split())
        return steps, left

    steps, left = clear(1 << 20)
    assert steps > 8
    assert left == 0
    return [clear(n)[1] for n in range(1, steps)]


def test_what_is_put_behind_clear_stays(tmp_path: Path) -> None:
    """Also where tables merge meanwhile; the first step has removed the key that is then put."""
    found = clear_at_each_step(tmp_path / "store")
    assert set(found) == {1}, found


def test_it_would_show_if_clear_removed_keys_twice(tmp_path: Path) -> None:
    found = clear_at_each_step(tmp_path / "store", {TWICE.file: TWICE.text()})
    assert 0 in found, found
