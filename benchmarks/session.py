"""One session of one store in a process of its own: `python -m benchmarks.session`, a JSON request on stdin.

Writes the figures as one line of JSON to stdout. Not meant to be started by hand: see `benchmarks.runner`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.adapters import ADAPTERS
from benchmarks.data import Data, KeyObjects, Sizes
from benchmarks.workloads import WORKLOADS, Session


@dataclass(frozen=True)
class Request:
    """Everything a session has to know; travels as JSON."""

    store: str
    session: str
    workloads: list[str]
    directory: str
    seed: int
    key_objects: KeyObjects
    sizes: Sizes

    def to_json(self) -> str:
        """As text for the other process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Read what `to_json` made."""
        document: dict[str, Any] = json.loads(text)
        return cls(**{**document, "sizes": Sizes(**document["sizes"])})


def run(request: Request) -> list[tuple[str, str, float]]:
    """Do the session's workloads in the order of the registry; returns (workload, metric, value) triples."""
    data = Data(request.sizes, request.seed, request.key_objects)
    adapter = ADAPTERS[request.store]()
    session = Session(adapter, data, frozenset(request.workloads))
    adapter.open(Path(request.directory), request.sizes.records * (request.sizes.key_bytes + request.sizes.value_bytes))
    try:
        for workload in WORKLOADS.values():
            if workload.session == request.session and (workload.name in session.wanted or workload.prepares):
                workload.run(session)
        session.expect("damage at the end", adapter.damage(), None)
    finally:
        adapter.close()
    return session.figures


if __name__ == "__main__":
    json.dump(run(Request.from_json(sys.stdin.read())), sys.stdout)
