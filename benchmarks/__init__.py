"""Benchmarks: the same seeded workloads on `mmkv`, `dict`, LMDB and SQLite, and what the figures are worth.

    python -m benchmarks run --records 1000000 --rounds 5 --json new.json --targets
    python -m benchmarks run --stores mmkv,dict,lmdb-long --workloads hits,fill
    python -m benchmarks show new.json --markdown
    python -m benchmarks compare old.json new.json

How it is measured, and why so:

* **Ratios, not times.** An absolute time proves nothing on a shared machine. In each round every store does the same
  work on the same data; a ratio is formed inside its round and the median of the rounds' ratios is what is reported, so
  a disturbance that lasts longer than a round cancels out.
* **Interleaved.** A round runs all stores, then the next round runs them again in another (seeded) order. No store
  always runs first, last, or after the same neighbour.
* **A fresh process per round and store.** A dict of a million records leaves a heap behind (free lists, fragmented
  arenas, huge pages) that would decide how the next store fares; so would caches, and the interpreter's own adaptation
  of its bytecode. A new process costs a second of preparation and makes the order of stores irrelevant.
* **Warm memory.** Before each round a file as large as anything a store will need is written to the directory and
  deleted. On a virtual machine the first touch of a page costs ten times a later one, and whoever ran first would pay
  it.
* **A plain loop.** `for key in keys: get(key)` with `get` a bound method in a local variable. Nothing is subtracted:
  the store `floor`, whose operations are built-in functions that do nothing, shows what loop and call (and clock) cost.
* **The program's own objects.** Keys and values are made before the clock starts. A key that is looked up is a *newly
  made* bytes object, equal to the stored one but not identical with it, used once, and laid out in memory in the order
  of use: as if it had just been read from a request. `dict` gains a lot from identical objects (it compares pointers
  first, and a bytes object remembers its hash), which real programs rarely have; `--key-objects same` shows that case.
* **Everything up to visibility is on the clock.** A phase of writes ends when other transactions can see it, so LMDB's
  commit of "one write transaction" is included. Durability is on the clock only where the workload says sync.
* **Garbage collection is off** while the clock runs, and done just before.

The mmkv that is measured is the installed one, not the source tree beside this package.

Layers: `__main__` (commands) knows `runner`, `report`, `targets`, `compare`; these know `results`. The runner starts
`session` in a new process, which knows `workloads`, `adapters` and `data`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""Where this package lies."""

# `python -m` puts the current directory first, so the sources of mmkv, which have no compiled part, would hide it.
if sys.path and sys.path[0] in ("", str(ROOT)):
    sys.path.append(sys.path.pop(0))
