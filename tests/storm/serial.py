"""Are transactions serialisable, in an order that agrees with real time?

Values are unique, and whoever writes a key has read it in the same transaction, so the versions of each key form a
chain that the transactions tell themselves. From the chains comes a graph (Adya: Weak Consistency, 1999): who wrote a
version comes before who read it and before who wrote the next, who read it before who wrote the next, and who had
returned before who was called later. An order exists if and only if the graph has no cycle.

A transaction of a process that was killed happened if somebody saw a value of it, and then all of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Version = tuple[int, Any]  # a key and its value, None for absent


class NotSerialisable(Exception):
    """No order of the transactions explains what they read."""


@dataclass(slots=True, eq=False)
class Transaction:
    """What one transaction read and wrote, by key, and between which moments it was to happen."""

    called: int
    returned: int
    reads: dict[int, Any]
    writes: dict[int, Any] = field(default_factory=dict)
    killed: bool = False
    """It happened or not."""
    conflict: bool = False
    """It said that it did not happen."""
    source: object = None

    def __str__(self) -> str:
        how = " conflict" if self.conflict else " killed" if self.killed else ""
        reads, writes = dict(list(self.reads.items())[:8]), dict(list(self.writes.items())[:8])
        return f"[{self.called}, {self.returned}]{how} read {reads}, wrote {writes}"


class _Graph:
    """Transactions, and moments of real time, and what comes before what."""

    def __init__(self, transactions: list[Transaction]) -> None:
        self.all = transactions
        self.after: dict[int, list[tuple[int, str]]] = defaultdict(list)

    def edge(self, first: Transaction, then: Transaction, why: str) -> None:
        if first is not then:
            self.after[self.number[id(first)]].append((self.number[id(then)], why))

    def real_time(self) -> None:
        """A chain of the moments at which transactions returned; each begins after the last of those before it."""
        self.number = {id(one): i for i, one in enumerate(self.all)}
        count = len(self.all)
        events = [(one.called, 0, i) for i, one in enumerate(self.all)]
        events += [(one.returned, 1, i) for i, one in enumerate(self.all)]
        moments = 0
        for _, returned, i in sorted(events):
            if returned:
                self.after[i].append((count + moments, "returned before"))
                if moments:
                    self.after[count + moments - 1].append((count + moments, ""))
                moments += 1
            elif moments:
                self.after[count + moments - 1].append((i, ""))
        self.size = count + moments

    def cycle(self) -> list[tuple[int, str]] | None:
        """Some way from a node back to it: the nodes, each with why the next comes after it."""
        colour = bytearray(self.size)  # 1: on the way, 2: done
        for start in range(self.size):
            if colour[start]:
                continue
            way: list[list[Any]] = [[start, iter(self.after[start]), ""]]
            colour[start] = 1
            while way:
                node, rest, _ = way[-1]
                for then, why in rest:
                    if colour[then] == 1:
                        way[-1][2] = why
                        nodes = [entry[0] for entry in way]
                        return [(entry[0], entry[2]) for entry in way[nodes.index(then) :]]
                    if not colour[then]:
                        colour[then] = 1
                        way[-1][2] = why
                        way.append([then, iter(self.after[then]), ""])
                        break
                else:
                    colour[node] = 2
                    way.pop()
        return None


def _writers(transactions: list[Transaction], initial: dict[int, Any]) -> dict[Version, Transaction | None]:
    writers: dict[Version, Transaction | None] = {}
    for key in {key for one in transactions for key in (*one.reads, *one.writes)}:
        writers[key, initial.get(key)] = None
    for one in transactions:
        for key, value in one.writes.items():
            if key not in one.reads:
                raise ValueError(f"{one}: whoever writes a key is to have read it")
            if (key, value) in writers:
                raise ValueError(f"{one}: this value of key {key} has been written before")
            writers[key, value] = one
    return writers


def _happened(transactions: list[Transaction], writers: dict[Version, Transaction | None]) -> list[Transaction]:
    """Those that did: all that returned well, and those of the killed that one of them saw, and so on."""
    sure = [one for one in transactions if not one.killed and not one.conflict]
    seen = set(map(id, sure))
    for one in sure:
        for version in one.reads.items():
            if version not in writers:
                raise NotSerialisable(f"{one}: nobody wrote {version[1]!r} to key {version[0]}")
            writer = writers[version]
            if writer is not None and writer.conflict:
                raise NotSerialisable(f"{one} read from one that did not happen: {writer}")
            if writer is not None and id(writer) not in seen:
                seen.add(id(writer))
                sure.append(writer)  # the loop comes to it
    return sure


def check(transactions: Iterable[Transaction], initial: dict[int, Any]) -> None:
    """Raise NotSerialisable unless the transactions, from a store that began as `initial`, have an order."""
    everyone = list(transactions)
    writers = _writers(everyone, initial)
    sure = _happened(everyone, writers)
    following: dict[Version, Transaction] = {}
    for one in sure:
        for key in one.writes:
            other = following.setdefault((key, one.reads[key]), one)
            if other is not one:
                raise NotSerialisable(f"two followed one version of key {key}:\n  {other}\n  {one}")
    graph = _Graph(sure)
    graph.real_time()
    for one in sure:
        for key, value in one.reads.items():
            writer, then = writers[key, value], following.get((key, value))
            if writer is not None:
                graph.edge(writer, one, f"wrote key {key}, which the next read")
            if then is not None:
                graph.edge(one, then, f"read key {key}, which the next wrote")
    if cycle := graph.cycle():
        lines = [f"  {sure[node]}, {why or 'before'}" for node, why in cycle if node < len(sure)]
        raise NotSerialisable(
            "\n".join(["each of these comes before the next, and the last before the first:", *lines])
        )
