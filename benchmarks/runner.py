"""Rounds of sessions, interleaved over the stores."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import ROOT, machine
from benchmarks.adapters import ADAPTERS
from benchmarks.data import KeyObjects, Sizes
from benchmarks.results import Results, Sample
from benchmarks.session import Request
from benchmarks.workloads import WORKLOADS

WARM_BYTES_PER_RECORD = 512
WARM_FACTOR = 8
"""What a session may need of memory, generously: the data's objects twice over, and the file, which LMDB doubles."""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    stores: list[str]
    workloads: list[str]
    rounds: int
    seed: int
    key_objects: KeyObjects
    sizes: Sizes
    directory: Path
    timeout: float
    """Seconds for one session."""
    command: str


def sessions(workloads: list[str]) -> list[str]:
    """The sessions these workloads need, in the order of the registry.

    >>> sessions(["hits", "latency-get", "fill"])
    ['main', 'latency']
    """
    return list(dict.fromkeys(workload.session for workload in WORKLOADS.values() if workload.name in workloads))


def _complain(store: str, session: str, number: int, text: str) -> str:
    lines = text.strip().splitlines()
    return f"{store}, session {session}, round {number}: {lines[-1] if lines else 'no output'}"


def _run_session(plan: Plan, number: int, session: str, store: str) -> list[Sample]:
    """One session in a fresh process and a directory of its own; raises RuntimeError with the reason if it fails."""
    with tempfile.TemporaryDirectory(dir=plan.directory, prefix="mmkv-benchmark-") as directory:
        request = Request(store, session, plan.workloads, directory, plan.seed + number, plan.key_objects, plan.sizes)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.session"],
                input=request.to_json(),
                capture_output=True,
                text=True,
                cwd=ROOT,
                timeout=plan.timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(_complain(store, session, number, f"not done after {plan.timeout:g} s")) from None
    if done.returncode != 0:
        reason = f"killed by signal {-done.returncode}" if done.returncode < 0 else done.stderr
        raise RuntimeError(_complain(store, session, number, reason))
    return [Sample(number, store, workload, metric, value) for workload, metric, value in json.loads(done.stdout)]


def run(plan: Plan, progress: Callable[[str], None]) -> Results:
    """Run the plan; a store that cannot be had is skipped, one that fails is reported and the others go on.

    Args:
        plan: what to run.
        progress: gets a line of text now and then.

    Returns:
        All samples, with the facts about machine and stores.
    """
    skipped = {name: reason for name in plan.stores if (reason := ADAPTERS[name].unavailable()) is not None}
    stores = [name for name in plan.stores if name not in skipped]
    results = Results(
        command=plan.command,
        options={
            **asdict(plan.sizes),
            "rounds": plan.rounds,
            "seed": plan.seed,
            "key_objects": plan.key_objects,
            "workloads": plan.workloads,
        },
        machine=machine.facts(plan.directory),
        stores={name: {"version": ADAPTERS[name].version(), "summary": ADAPTERS[name].summary} for name in stores},
        skipped=skipped,
    )
    sizes = plan.sizes
    warm_bytes = sizes.records * (WARM_BYTES_PER_RECORD + WARM_FACTOR * (sizes.key_bytes + sizes.value_bytes))
    for number in range(plan.rounds):
        machine.warm(plan.directory, warm_bytes)
        order = list(stores)
        random.Random(f"{plan.seed} order {number}").shuffle(order)
        for session in sessions(plan.workloads):
            for store in order:
                progress(f"round {number + 1} of {plan.rounds}: {session}: {store}")
                try:
                    results.samples += _run_session(plan, number, session, store)
                except RuntimeError as error:
                    results.failures.append(str(error))
                    progress(f"FAILED: {error}")
    return results
