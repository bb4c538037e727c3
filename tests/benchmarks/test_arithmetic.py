"""Medians, ratios, targets and tables, of figures made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import targets
from benchmarks.__main__ import recorded_command
from benchmarks.compare import compare
from benchmarks.results import CPU_METRIC, TIME_METRIC, Results, Row, Sample, disturbed_rounds, median_ratio, percentile

WORKLOADS = ("fill", "space", "hits", "fill-subscript", "hits-subscript")


def result(samples: list[Sample]) -> Results:
    stores = {name: {"version": "1", "summary": name} for name in ("mmkv", "dict", "lmdb-long")}
    return Results("python -m benchmarks run", {"workloads": list(WORKLOADS)}, {}, stores, samples=samples)


def samples(workload: str, metric: str, **by_store: list[float]) -> list[Sample]:
    return [
        Sample(number, store.replace("_", "-"), workload, metric, value)
        for store, values in by_store.items()
        for number, value in enumerate(values)
    ]


def test_the_ratio_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians() -> None:
    own = Row("hits", TIME_METRIC, "mmkv", {0: 10.0, 1: 100.0, 2: 30.0})
    reference = Row("hits", TIME_METRIC, "dict", {0: 20.0, 1: 100.0, 2: 90.0})
    assert median_ratio(own, reference) == 2.0
    assert reference.median / own.median == 3.0


def test_only_rounds_that_both_have_count() -> None:
    own = Row("hits", TIME_METRIC, "mmkv", {1: 10.0})
    assert median_ratio(own, Row("hits", TIME_METRIC, "dict", {0: 1.0, 1: 40.0})) == 4.0
    assert median_ratio(own, Row("hits", TIME_METRIC, "dict", {0: 1.0})) is None
    assert median_ratio(own, None) is None


@pytest.mark.parametrize(("percent", "expected"), [(50, 500), (99, 990), (99.9, 999), (100, 1000), (0.05, 1)])
def test_percentiles_are_values_that_occurred(percent: float, expected: int) -> None:
    assert percentile(range(1, 1001), percent) == expected


def test_rows_come_in_the_order_asked_for() -> None:
    measured = samples("hits", TIME_METRIC, dict=[1.0], mmkv=[1.0]) + samples("fill", TIME_METRIC, dict=[1.0])
    assert [(row.workload, row.store) for row in result(measured).rows()] == [
        ("fill", "dict"),
        ("hits", "mmkv"),
        ("hits", "dict"),
    ]


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    before = result(samples("hits", TIME_METRIC, dict=[1.5, 2.5]))
    before.save(tmp_path / "result.json")
    assert Results.load(tmp_path / "result.json") == before


def verdicts(results: Results) -> list[str]:
    return [judgement.verdict for judgement in targets.judge(results) if judgement.target.binding]


def test_targets() -> None:
    good = (
        samples("hits", TIME_METRIC, mmkv=[100.0], dict=[90.0], lmdb_long=[250.0])
        + samples("fill", TIME_METRIC, mmkv=[200.0], dict=[90.0], lmdb_long=[400.0])
        + samples("space", "bytes/record", mmkv=[170.0], lmdb_long=[170.0])
    )
    assert verdicts(result(good)) == ["PASS"] * 5
    assert targets.met(targets.judge(result(good)))
    bad = (
        samples("hits", TIME_METRIC, mmkv=[100.0], dict=[89.0], lmdb_long=[249.0])
        + samples("fill", TIME_METRIC, mmkv=[200.0], dict=[89.0], lmdb_long=[399.0])
        + samples("space", "bytes/record", mmkv=[171.0], lmdb_long=[170.0])
    )
    assert verdicts(result(bad)) == ["FAIL"] * 5
    assert verdicts(result([])) == ["UNKNOWN"] * 5
    assert not targets.met(targets.judge(result([])))


def test_a_comparison_shows_both_the_plain_ratio_and_the_one_relative_to_dict() -> None:
    old = result(samples("hits", TIME_METRIC, mmkv=[100.0], dict=[100.0]))
    new = result(samples("hits", TIME_METRIC, mmkv=[100.0], dict=[200.0]))
    new.options["records"] = 5
    lines = compare(old, new)
    # The machine was twice as slow, so to be as fast as before is to be twice as good.
    assert lines[2].split() == ["hits", TIME_METRIC, "mmkv", "100", "100", "1.00", "1.00", "2.00", "2.00"]
    assert "WARNING: records differs: None and 5" in lines


def test_a_busy_machine_is_noticed() -> None:
    measured = samples("hits", TIME_METRIC, dict=[100.0, 150.0], mmkv=[300.0, 300.0])
    measured += samples("hits", CPU_METRIC, dict=[100.0, 100.0], mmkv=[100.0, 100.0])
    assert list(disturbed_rounds(result(measured))) == [(1, "dict", "hits", 1.5)]


def test_the_recorded_command_leaves_out_what_changes_nothing() -> None:
    words = ["run", "--json=a", "--directory", "d", "--records", "5", "--targets", "--stores", "mmkv,dict"]
    assert recorded_command(words) == "python -m benchmarks run --records 5 --stores mmkv,dict"
