"""A few seconds of the long random run, for the seed of this run of the suite."""

from __future__ import annotations

import os
from pathlib import Path

from tests.soak import soak


def test_soak(tmp_path: Path) -> None:
    assert soak(8, int(os.environ["MMKV_TEST_SEED"]), tmp_path) > 0
