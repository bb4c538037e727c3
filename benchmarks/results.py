"""Samples, the medians and ratios made of them, and their JSON file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1

TIME_METRIC = "ns/op"
CPU_METRIC = "cpu ns/op"
"""CPU time of the same work; kept in the JSON to judge how disturbed a round was, and shown in no table."""

SPACE_METRIC = "bytes/record"
LENGTH_METRIC = "length/record"
"""Length of the files; no ratio is made of it, since a sparse file is as long as its program likes."""


@dataclass(frozen=True)
class Sample:
    """One figure of one store in one round. Smaller is better for every metric there is."""

    round: int
    store: str
    workload: str
    metric: str
    value: float


@dataclass(frozen=True)
class Row:
    """The values of one store for one metric of one workload, by round."""

    workload: str
    metric: str
    store: str
    values: dict[int, float]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.values.values())


@dataclass
class Results:
    """All that one run measured, and what is needed to judge it."""

    command: str
    options: dict[str, Any]
    machine: dict[str, Any]
    stores: dict[str, dict[str, str]]
    skipped: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    def rows(self) -> list[Row]:
        """One row for each (workload, metric, store), in the order in which workloads and stores were asked for."""
        found: dict[tuple[str, str, str], dict[int, float]] = {}
        for sample in self.samples:
            found.setdefault((sample.workload, sample.metric, sample.store), {})[sample.round] = sample.value
        metrics = list(dict.fromkeys(sample.metric for sample in self.samples))
        stores = list(self.stores)
        workloads = list(self.options["workloads"])
        order = sorted(found, key=lambda key: (workloads.index(key[0]), metrics.index(key[1]), stores.index(key[2])))
        return [Row(*key, found[key]) for key in order]

    def row(self, workload: str, metric: str, store: str) -> Row | None:
        """The row of that workload, metric and store, or None if it was not measured."""
        values = {
            sample.round: sample.value
            for sample in self.samples
            if (sample.workload, sample.metric, sample.store) == (workload, metric, store)
        }
        return Row(workload, metric, store, values) if values else None

    def save(self, path: Path) -> None:
        """Write everything to a JSON file."""
        document = {"format": FORMAT_VERSION, **asdict(self)}
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote; raises ValueError for any other file."""
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT_VERSION:
            raise ValueError(f"{path} is not a result file of this version")
        samples = [Sample(**sample) for sample in document.pop("samples")]
        return cls(**document, samples=samples)


def round_ratios(row: Row, reference: Row) -> list[float]:
    """How many times better `row` is than `reference`, round by round: reference / own, above 1 is better.

    Only rounds that both have count.

    >>> own = Row("hits", "ns/op", "mmkv", {0: 50.0, 1: 80.0})
    >>> round_ratios(own, Row("hits", "ns/op", "dict", {0: 100.0, 1: 80.0}))
    [2.0, 1.0]
    """
    return [
        reference.values[number] / row.values[number]
        for number in sorted(row.values)
        if number in reference.values and row.values[number] > 0
    ]


def median_ratio(row: Row | None, reference: Row | None) -> float | None:
    """The median of `round_ratios`, or None if the two share no round or it would mean nothing."""
    if row is None or reference is None or row.metric == LENGTH_METRIC:
        return None
    ratios = round_ratios(row, reference)
    return statistics.median(ratios) if ratios else None


def percentile(ordered: Iterable[float], percent: float) -> float:
    """The nearest-rank percentile of values in ascending order (no interpolation: a latency that really occurred).

    >>> percentile([1, 2, 3, 4], 50), percentile([1, 2, 3, 4], 99)
    (2, 4)
    """
    values = list(ordered)
    rank = -(-len(values) * percent // 100)
    return values[max(0, int(rank) - 1)]


def disturbed_rounds(results: Results, excess: float = 1.1) -> Iterator[tuple[int, str, str, float]]:
    """Where `dict` or `floor` (which wait for nothing) took more wall time than `excess` times their CPU time.

    Yields round, store, workload and that factor: another program had the processor.
    """
    cpu = {(s.round, s.store, s.workload): s.value for s in results.samples if s.metric == CPU_METRIC}
    for sample in results.samples:
        key = (sample.round, sample.store, sample.workload)
        if sample.metric == TIME_METRIC and sample.store in ("dict", "floor") and cpu.get(key, 0) > 0:
            factor = sample.value / cpu[key]
            if factor > excess:
                yield sample.round, sample.store, sample.workload, factor
