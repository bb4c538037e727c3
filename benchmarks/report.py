"""Results as a text table for the terminal and as Markdown for the documents."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.results import CPU_METRIC, LENGTH_METRIC, Results, Row, disturbed_rounds, median_ratio, round_ratios
from benchmarks.targets import SUBJECT
from benchmarks.workloads import WORKLOADS

REFERENCES = ("dict", "lmdb-long")
NO_FIGURE = "-"
LEGEND = "Medians over the rounds. x: how many times better (above 1 is better), per round, then the median."


def number(value: float) -> str:
    """Three significant digits, or all of them before the point.

    >>> number(1234.5), number(56.78), number(5.678)
    ('1,234', '56.8', '5.68')
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a text table; the first `left` columns are aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    return [line(header), line(["-" * width for width in widths]), *map(line, rows)]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a Markdown table, aligned as in `table`."""
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]


def _ratio(row: Row | None, reference: Row | None) -> str:
    ratio = median_ratio(row, reference)
    return NO_FIGURE if ratio is None else f"{ratio:.2f}"


def _spread(row: Row, reference: Row | None) -> str:
    """The lowest and highest of the rounds' ratios: how far to trust the median."""
    ratios = round_ratios(row, reference) if reference is not None else []
    return f"{min(ratios):.2f} .. {max(ratios):.2f}" if ratios else NO_FIGURE


def _facts(results: Results) -> list[str]:
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    options = results.options
    sizes = (
        f"{options['records']:,} records of {options['key_bytes']} + {options['value_bytes']} bytes, "
        f"{options['rounds']} rounds, seed {options['seed']}, key objects: {options['key_objects']}"
    )
    return [sizes, machine]


def text(results: Results) -> str:
    """The whole result: facts, one line per workload and store, and what went wrong."""
    lines = [f"$ {results.command}", *_facts(results), ""]
    lines += [f"{name:<13} {about['version']}: {about['summary']}" for name, about in results.stores.items()]
    lines += [f"{name:<13} skipped: {reason}" for name, reason in results.skipped.items()]
    header = ["workload", "metric", "store", "median"]
    for name in REFERENCES:
        header += [f"x {name}", "(min .. max)"]
    cells = []
    previous = ("", "")
    for row in results.rows():
        if row.metric == CPU_METRIC:
            continue
        first = ("", "") if (row.workload, row.metric) == previous else (row.workload, row.metric)
        previous = (row.workload, row.metric)
        cell = [*first, row.store, number(row.median)]
        for name in REFERENCES:
            comparable = row.store != "floor" and row.metric != LENGTH_METRIC
            reference = results.row(row.workload, row.metric, name) if comparable else None
            cell += [_ratio(row, reference), _spread(row, reference)]
        cells.append(cell)
    lines += ["", *table(header, cells, left=3)]
    lines += ["", LEGEND]
    lines += [
        f"note: {store} in round {round_number + 1}, {workload}: {factor:.2f} times its CPU time; the machine was busy"
        for round_number, store, workload, factor in disturbed_rounds(results)
    ]
    lines += [f"FAILED: {failure}" for failure in results.failures]
    return "\n".join(lines)


def markdown(results: Results) -> str:
    """Facts, command and one line per workload, a column per store: to be pasted into a document."""
    stores = list(results.stores)
    references = [name for name in REFERENCES if name in stores and SUBJECT in stores]
    header = ["workload", "unit", *stores, *(f"{SUBJECT} x {name}" for name in references)]
    kinds = list(dict.fromkeys((row.workload, row.metric) for row in results.rows() if row.metric != CPU_METRIC))
    cells = []
    for workload, metric in kinds:
        found = {name: results.row(workload, metric, name) for name in stores}
        medians = [NO_FIGURE if row is None else number(row.median) for row in found.values()]
        ratios = [_ratio(found[SUBJECT], found[name]) for name in references]
        cells.append([f"`{workload}`", metric, *medians, *ratios])
    facts = _facts(results)
    lines = ["```text", f"$ {results.command}", "```", "", f"{facts[0]}.", "", f"Machine: {facts[1]}.", ""]
    lines += markdown_table(header, cells, left=2)
    lines += ["", LEGEND, ""]
    lines += [f"- `{name}` {about['version']}: {about['summary']}" for name, about in results.stores.items()]
    lines += [""]
    lines += [f"- `{name}`: {WORKLOADS[name].summary}" for name in dict.fromkeys(kind[0] for kind in kinds)]
    return "\n".join(lines)
