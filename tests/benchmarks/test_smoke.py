"""Every workload on every store there is, tiny."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import mmkv
from benchmarks import __main__ as command_line
from benchmarks import builds, checkpoints, compare, guard, recovery, report, runner, scaling
from benchmarks.adapters import ADAPTERS
from benchmarks.data import Data, KeyObjects, Sizes
from benchmarks.results import CPU_METRIC, Results, Sample
from benchmarks.workloads import WORKLOADS

RECORDS = 60
TINY = ["--records", str(RECORDS), "--get-batch", "7", "--put-batch", "13", "--sync-every", "25", "--rounds", "2"]

IN_MEMORY = {"dict", "floor"}
MAPPINGS = {"dict", "mmkv"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The result of a run of all stores that can be had here."""
    directory = tmp_path_factory.mktemp("benchmarks")
    target = directory / "result.json"
    status = command_line.main(["run", *TINY, "--directory", str(directory), "--json", str(target)])
    results = Results.load(target)
    assert results.failures == []
    assert status == 0
    assert [path.name for path in directory.iterdir()] == [target.name], "sessions clean up"
    return results


def test_every_workload_of_every_store_is_measured_in_every_round(everything: Results) -> None:
    measured = {(row.store, row.workload): row for row in everything.rows()}
    for store in everything.stores:
        for workload in WORKLOADS:
            if workload == "space" and store in IN_MEMORY:
                continue
            if workload.endswith("-subscript") and store not in MAPPINGS:
                continue
            assert measured[store, workload].values.keys() == {0, 1}, (store, workload)


def test_each_store_is_either_measured_or_skipped_with_a_reason(everything: Results) -> None:
    assert set(everything.stores) | set(everything.skipped) == set(ADAPTERS)
    assert all(everything.skipped.values())


def test_every_figure_is_positive(everything: Results) -> None:
    # CPU time is counted in ticks on some kernels, so a tiny workload may have none.
    assert all(sample.value > 0 for sample in everything.samples if sample.metric != CPU_METRIC)


def test_reports_name_everything_and_no_path(everything: Results, tmp_path: Path) -> None:
    for rendered in (report.text(everything), report.markdown(everything)):
        assert all(name in rendered for name in everything.stores)
        assert all(name in rendered for name in WORKLOADS)
        assert str(tmp_path.parent) not in rendered
    assert "\n| `hits` | ns/op |" in report.markdown(everything)


def test_a_result_compared_with_itself_is_no_better(everything: Results) -> None:
    lines = compare.compare(everything, everything)
    hits = next(line for line in lines if line.startswith("hits ") and " dict " in line)
    assert hits.split()[-4:] == ["1.00"] * 4
    assert not any("WARNING" in line for line in lines)


@pytest.mark.parametrize("key_objects", ["same", "fresh"])
def test_keys_looked_up_are_equal_and_identical_only_if_asked_for(key_objects: KeyObjects) -> None:
    data = Data(Sizes(records=50, operations=50), seed=3, key_objects=key_objects)
    stored = {key: key for key in data.keys}
    for keys in (data.shuffled("hits"), data.hot("hot"), data.zipf("zipf")):
        assert set(keys) <= stored.keys()
        assert {stored[key] is key for key in keys} == {key_objects == "same"}
    assert sorted(data.shuffled("hits")) == sorted(data.keys)
    assert not stored.keys() & set(data.missing("misses"))


def test_data_depend_on_the_seed_alone() -> None:
    sizes = Sizes(records=20, operations=20)
    one, same, other = (Data(sizes, seed, "fresh") for seed in (1, 1, 2))
    assert (one.keys, one.values, one.shuffled("x")) == (same.keys, same.values, same.shuffled("x"))
    assert one.keys != other.keys


def test_zipf_favours_few_keys() -> None:
    data = Data(Sizes(records=1_000, operations=10_000), seed=1, key_objects="fresh")
    drawn = data.zipf("zipf")
    commonest = max(drawn.count(key) for key in set(drawn))
    # The first of 1,000 ranks has 1 / sum(r ** -0.99), about 13 %, of the draws.
    assert 1_000 < commonest < 1_700


def test_a_store_that_fails_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "_run_session", _failing_for_dict(runner._run_session))
    arguments = ["run", *TINY, "--stores", "dict,sqlite-off", "--workloads", "fill", "--directory", str(tmp_path)]
    assert command_line.main(arguments) == command_line.EXIT_FAILURES
    printed = capsys.readouterr().out
    assert "FAILED: dict, session main, round 0: no luck" in printed
    assert "sqlite-off" in printed


RunSession = Callable[[runner.Plan, int, str, str], list[Sample]]


def _failing_for_dict(real: RunSession) -> RunSession:
    def run_session(plan: runner.Plan, number: int, session: str, store: str) -> list[Sample]:
        if store == "dict":
            raise RuntimeError(f"{store}, session {session}, round {number}: no luck")
        return real(plan, number, session, store)

    return run_session


def test_a_missing_package_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    arguments = ["run", *TINY, "--stores", "floor,lmdb-long", "--workloads", "fill", "--directory", str(tmp_path)]
    assert command_line.main(arguments) == 0
    assert "lmdb-long     skipped: cannot import lmdb" in capsys.readouterr().out


def test_show_judges_a_saved_result(everything: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "saved.json"
    everything.save(target)
    assert command_line.main(["show", str(target), "--markdown", "--targets"]) in (0, command_line.EXIT_TARGETS_MISSED)
    assert "random hits, of dict's rate" in capsys.readouterr().out
    target.write_text(json.dumps({"format": 99}))
    with pytest.raises(SystemExit):
        command_line.main(["show", str(target)])


def test_builds_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    here = str(Path(mmkv.__file__).parent.parent)
    assert builds.main([here, here, "--pairs", "1", "--rounds", "2", "--records", "200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(builds.WORKLOADS)
    assert all(float(line.split()[2].rstrip(",")) > 0 for line in lines)


@pytest.mark.parametrize("command", [["flush", "--mib", "1", "--records", "500"], ["group", "--processes", "2"]])
def test_checkpoints_are_measured(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoints.main([*command, "--rounds", "2", "--seconds", "0.05", "--directory", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("ratio") == 3, printed
    assert list(tmp_path.iterdir()) == []


def test_recovery_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recovered: list[int] = []
    opened = mmkv.open
    monkeypatch.setattr(mmkv, "open", lambda *a, **k: opened(*a, **k, progress=lambda done, _: recovered.append(done)))
    assert recovery.main(["--records", "300", "--rounds", "2", "--directory", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("million records/s") == 2, printed
    assert recovered.count(300) == 4, "each timed open recovers"
    assert list(tmp_path.iterdir()) == []


def test_what_the_guard_costs_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "CALLS", dict.fromkeys(guard.CALLS, 2))
    figures = guard.measure(tmp_path, 1, 1)
    assert figures.keys() == guard.CALLS.keys()
    assert all(ratio > 0 and time > 0 for ratio, time in figures.values())


def test_scaling_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "--records",
        "200",
        "--rounds",
        "2",
        "--seconds",
        "0.02",
        "--stores",
        "mmkv,sqlite",
        "--processes",
        "1,2",
    ]
    distances = iter(
        [50.0, 60.0] * 8 + [50.0, 200.0] + [210.0, 190.0] * 7
    )  # mmkv's reads of the second round do not count
    monkeypatch.setattr(scaling.Distance, "nanoseconds", lambda self: next(distances))
    assert scaling.main([*arguments, "--directory", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ") and "---" not in line]
    assert [row[0] for row in rows] == [
        head
        for _ in ("near", "far")
        for task in ("reads", "writes", "counter", "reads beside a writer")
        for head in (f"| {task}", "| mmkv", "| sqlite")
    ]
    far = [row[0] for row in rows[12:] if "" in [cell.strip(" |") for cell in row[1:-1]]]
    assert far == ["| mmkv"], "what was not measured is left empty"
    assert "processors moved during 1 tasks, which do not count" in lines
    assert not any("were counted" in line for line in lines), lines
    assert list(tmp_path.iterdir()) == []
