"""The speed and size that mmkv claims, as checks of a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.results import CPU_METRIC, SPACE_METRIC, TIME_METRIC, Results, median_ratio

SUBJECT = "mmkv"

Verdict = Literal["PASS", "FAIL", "UNKNOWN"]


@dataclass(frozen=True)
class Target:
    """`SUBJECT` must be at least `least` times as good as `reference` (rates, or bytes: above 1 is better)."""

    text: str
    workload: str
    metric: str
    reference: str
    least: float
    binding: bool = True
    """Whether a failure fails the run; the others are there to be seen."""


TARGETS = (
    Target("random hits, of dict's rate", "hits", TIME_METRIC, "dict", 0.9),
    Target("random hits, of LMDB's rate in one long read transaction", "hits", TIME_METRIC, "lmdb-long", 2.5),
    Target("single puts in random order from empty, of dict's rate", "fill", TIME_METRIC, "dict", 0.45),
    Target("the same, of LMDB's rate inside one write transaction", "fill", TIME_METRIC, "lmdb-long", 2.0),
    Target("bytes on disk per record, LMDB's over mmkv's", "space", SPACE_METRIC, "lmdb-long", 1.0),
    Target("puts as store[key] = value, of dict's rate", "fill-subscript", TIME_METRIC, "dict", 0.45, binding=False),
    Target("hits as store[key], of dict's rate", "hits-subscript", TIME_METRIC, "dict", 0.9, binding=False),
)


@dataclass(frozen=True)
class Judgement:
    """A target and what was measured."""

    target: Target
    ratio: float | None
    cpu_ratio: float | None
    """The same of CPU times: what to look at when other programs had the processor (`report` notes that)."""

    @property
    def verdict(self) -> Verdict:
        """UNKNOWN if the workload or one of the stores was not measured."""
        if self.ratio is None:
            return "UNKNOWN"
        return "PASS" if self.ratio >= self.target.least else "FAIL"

    def __str__(self) -> str:
        measured = "not measured" if self.ratio is None else f"{self.ratio:.2f}"
        if self.cpu_ratio is not None:
            measured += f" (of CPU times {self.cpu_ratio:.2f})"
        note = "" if self.target.binding else "  (for information)"
        return f"{self.verdict:<7} {self.target.text}: {measured}, wanted at least {self.target.least:g}{note}"


def judge(results: Results) -> list[Judgement]:
    """Each target against the median of the rounds' ratios."""

    def ratio(target: Target, metric: str) -> float | None:
        rows = (results.row(target.workload, metric, store) for store in (SUBJECT, target.reference))
        return median_ratio(*rows)

    return [
        Judgement(
            target,
            ratio(target, target.metric),
            ratio(target, CPU_METRIC) if target.metric == TIME_METRIC else None,
        )
        for target in TARGETS
    ]


def met(judgements: list[Judgement]) -> bool:
    """Whether every binding target passed (an unknown one has not)."""
    return all(judgement.verdict == "PASS" for judgement in judgements if judgement.target.binding)
