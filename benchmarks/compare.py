"""Two results side by side: `python -m benchmarks.compare OLD.json NEW.json`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import NO_FIGURE, number, table
from benchmarks.results import CPU_METRIC, Results, median_ratio

CEILING = "dict"


def compare(old: Results, new: Results) -> list[str]:
    """A line for each row that both have.

    Times of two runs differ by what else the machine did, so besides the plain ratio of the medians the *ratios against
    dict* of both runs are shown, and how these changed: that is the column to trust.
    """
    cells = []
    for row in old.rows():
        other = new.row(row.workload, row.metric, row.store)
        if row.metric == CPU_METRIC or other is None:
            continue
        ratio = number(row.median / other.median) if other.median > 0 else NO_FIGURE
        before, after = (
            median_ratio(
                results.row(row.workload, row.metric, row.store), results.row(row.workload, row.metric, CEILING)
            )
            for results in (old, new)
        )
        relative = [NO_FIGURE if value is None else f"{value:.2f}" for value in (before, after)]
        change = NO_FIGURE if before is None or after is None else f"{after / before:.2f}"
        cells.append(
            [row.workload, row.metric, row.store, number(row.median), number(other.median), ratio, *relative, change]
        )
    header = ["workload", "metric", "store", "old", "new", "better", "old x dict", "new x dict", "better"]
    lines = table(header, cells, left=3)
    lines += ["", "better: above 1 the new result is better; the last column is relative to dict in the same rounds"]
    for name in sorted(old.options.keys() | new.options.keys()):
        if name not in ("rounds", "workloads") and old.options.get(name) != new.options.get(name):
            lines.append(f"WARNING: {name} differs: {old.options.get(name)} and {new.options.get(name)}")
    for name in sorted(old.machine.keys() | new.machine.keys()):
        if name != "load average at start" and old.machine.get(name) != new.machine.get(name):
            lines.append(f"WARNING: {name} differs: {old.machine.get(name)} and {new.machine.get(name)}")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    print("\n".join(compare(Results.load(options.old), Results.load(options.new))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
