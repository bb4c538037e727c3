"""The commands: `python -m benchmarks run`, `show`, `compare`, `list`."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from benchmarks import report, runner, targets
from benchmarks.adapters import ADAPTERS
from benchmarks.compare import main as compare_main
from benchmarks.data import KeyObjects, Sizes
from benchmarks.results import Results
from benchmarks.workloads import WORKLOADS

EXIT_TARGETS_MISSED = 1
EXIT_FAILURES = 3
UNRECORDED = ("--json", "--directory", "--markdown", "--targets", "--timeout")
"""Options that do not change what is measured; left out of the recorded command. All but the flags take a value."""
FLAGS = ("--markdown", "--targets")


def _names(kind: str, known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(value: str) -> list[str]:
        names = list(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"unknown {kind} {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return parse


def recorded_command(arguments: Sequence[str]) -> str:
    """The command line that reproduces the measurement.

    >>> recorded_command(["run", "--json", "a.json", "--rounds", "5", "--markdown"])
    'python -m benchmarks run --rounds 5'
    """
    kept: list[str] = []
    skip_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if skip_next:
            skip_next = False
        elif name in UNRECORDED:
            skip_next = not equals and name not in FLAGS
        else:
            kept.append(argument)
    return shlex.join(["python", "-m", "benchmarks", *kept])


def _parser() -> argparse.ArgumentParser:
    # No abbreviations: the recorded command would not recognise them.
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure mmkv beside others.")
    commands = parser.add_subparsers(dest="command", required=True)
    sizes = Sizes()
    run = commands.add_parser("run", help="measure", allow_abbrev=False)
    run.add_argument("--records", type=int, default=sizes.records, metavar="N", help="records in the store (1,000,000)")
    run.add_argument("--operations", type=int, metavar="N", help="operations per workload (as many as records)")
    run.add_argument("--key-bytes", type=int, default=sizes.key_bytes, metavar="N", help="length of a key (16)")
    run.add_argument("--value-bytes", type=int, default=sizes.value_bytes, metavar="N", help="length of a value (100)")
    run.add_argument("--get-batch", type=int, default=sizes.get_batch, metavar="N", help="keys per get_many (100)")
    run.add_argument("--put-batch", type=int, default=sizes.put_batch, metavar="N", help="pairs per put_many (1,000)")
    run.add_argument("--sync-every", type=int, default=sizes.sync_every, metavar="N", help="puts per sync (100,000)")
    run.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds over all stores (5)")
    run.add_argument("--seed", type=int, default=1, help="of data and orders (1); round r uses seed + r")
    run.add_argument("--key-objects", choices=get_args(KeyObjects), default="fresh", help="keys looked up (fresh)")
    for option, known in (("store", list(ADAPTERS)), ("workload", list(WORKLOADS))):
        run.add_argument(f"--{option}s", type=_names(option, known), default=known, metavar="A,B", help="which (all)")
    run.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where the files are made")
    run.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="limit for one session (3600)")
    run.add_argument("--json", type=Path, metavar="FILE", help="save the result")
    show = commands.add_parser("show", help="print a saved result", allow_abbrev=False)
    show.add_argument("file", type=Path)
    for command in (run, show):
        command.add_argument("--markdown", action="store_true", help="print Markdown, not text")
        command.add_argument("--targets", action="store_true", help="judge by the targets (status 1: missed)")
    compare = commands.add_parser("compare", help="compare two saved results")
    compare.add_argument("old")
    compare.add_argument("new")
    commands.add_parser("list", help="name the stores and workloads")
    return parser


def _run(options: argparse.Namespace, command: str) -> Results:
    sizes = Sizes(
        records=options.records,
        operations=options.operations or options.records,
        key_bytes=options.key_bytes,
        value_bytes=options.value_bytes,
        get_batch=options.get_batch,
        put_batch=options.put_batch,
        sync_every=options.sync_every,
    )
    plan = runner.Plan(
        stores=options.stores,
        workloads=options.workloads,
        rounds=options.rounds,
        seed=options.seed,
        key_objects=options.key_objects,
        sizes=sizes,
        directory=options.directory,
        timeout=options.timeout,
        command=command,
    )
    results = runner.run(plan, lambda line: print(line, file=sys.stderr, flush=True))
    if options.json is not None:
        results.save(options.json)
    return results


def _show(results: Results, options: argparse.Namespace) -> int:
    print(report.markdown(results) if options.markdown else report.text(results))
    status = EXIT_FAILURES if results.failures else 0
    if options.targets:
        judgements = targets.judge(results)
        print("", *judgements, sep="\n")
        if not targets.met(judgements):
            status = status or EXIT_TARGETS_MISSED
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a missed target, 2 for wrong usage, 3 if a store failed."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    options = parser.parse_args(words)
    if options.command == "list":
        for name, adapter in ADAPTERS.items():
            reason = adapter.unavailable()
            print(f"{name:<15} {adapter.summary}" + (f" [{reason}]" if reason else ""))
        print()
        for workload in WORKLOADS.values():
            print(f"{workload.name:<15} {workload.summary}")
        return 0
    if options.command == "compare":
        return compare_main([options.old, options.new])
    try:
        results = Results.load(options.file) if options.command == "show" else _run(options, recorded_command(words))
    except ValueError as error:
        parser.error(str(error))
    return _show(results, options)


if __name__ == "__main__":
    sys.exit(main())
