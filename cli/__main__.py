"""`python -m mmkv.cli`: the same as the script `mmkv`."""

from __future__ import annotations

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
