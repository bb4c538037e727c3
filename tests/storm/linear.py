"""Is a history of one key linearizable? Each operation took effect at one instant between its call and its return.

Keys are independent, so a history is checked key by key (Herlihy and Wing: linearizability is local). For one key the
search is Wing and Gong's with Lowe's memory of configurations already met (Testing for linearizability, 2017): a
configuration is the set of operations done so far and the state; the next one done may be any that was called before
the first return among those not done. What keeps it small here:

- an operation that changes nothing and fits the state is done at once: that excludes no order that another would allow;
- values are unique, so while a value is the state and somebody has yet to see it, nothing may replace it;
- of operations that look alike (they want the same and do the same) only the one that returned first is tried.

An operation of a process that was killed has no result: it is done by the moment the process was gone, or never.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

STEPS_MOST = 200_000


class Anonymous:
    """The state that is some value which nobody ever saw."""

    def __repr__(self) -> str:
        return "a value nobody saw"


ANONYMOUS = Anonymous()
State = Any  # a value, a number, None for an absent key, or ANONYMOUS


class Wants(NamedTuple):
    """The states that an operation can be done in: those named, or all but those named."""

    states: frozenset[State]
    among: bool

    def holds(self, state: State) -> bool:
        return (state in self.states) == self.among


ANY = Wants(frozenset(), False)
PRESENT = Wants(frozenset([None]), False)
ABSENT = Wants(frozenset([None]), True)


def equal(*states: State) -> Wants:
    """One of these."""
    return Wants(frozenset(states), True)


def unequal(state: State) -> Wants:
    """Anything else."""
    return Wants(frozenset([state]), False)


class Keep(NamedTuple):
    """Changes nothing."""

    def after(self, state: State) -> State:
        return state


class Set(NamedTuple):
    """Leaves a value, or None."""

    value: State

    def after(self, state: State) -> State:
        return self.value


class Add(NamedTuple):
    """Adds to a number, of an absent key to `initial`, by an operation whose result nobody knows."""

    delta: int
    initial: int

    def after(self, state: State) -> State:
        return (self.initial if state is None else state) + self.delta


KEEP = Keep()
CLEAR = Set(None)


@dataclass(slots=True, eq=False)
class Op:
    """One operation on one key: when it was called and had returned, what it needed to find, and what it left."""

    called: int
    returned: int
    wants: Wants
    effect: Keep | Set | Add
    optional: bool = False
    """By one who was killed: it may not have happened."""
    source: object = None
    """What it was made from, for people."""

    def __str__(self) -> str:
        maybe = " killed" if self.optional else ""
        return f"[{self.called}, {self.returned}]{maybe} {self.effect} {self.source or self.wants!r:.200}"


class NotLinearizable(Exception):
    """No order of the operations explains what they returned."""


class Undecided(Exception):
    """The search took too many steps."""


class _Search:
    """The operations of one key in the order of their calls, with what is known of them beforehand."""

    def __init__(self, ops: Iterable[Op], initial: State) -> None:
        self.ops = sorted(ops, key=lambda op: op.called)
        sets = Counter(op.effect.value for op in self.ops if isinstance(op.effect, Set))
        sets[initial] += 1
        self.adds = any(isinstance(op.effect, Add) for op in self.ops)
        self.mentioned = frozenset(state for op in self.ops for state in op.wants.states)
        self.seers: dict[State, list[int]] = {}
        for number, op in enumerate(self.ops):
            if op.wants.among and len(op.wants.states) == 1 and not op.optional:
                state = next(iter(op.wants.states))
                if state is not None and sets[state] == 1 and not self.adds:
                    self.seers.setdefault(state, []).append(number)
                elif state is not None and not sets[state] and not self.adds:
                    raise NotLinearizable(f"{op}: nobody put that there")
        self.initial = self.canonical(initial)
        self.alike = [self._likeness(op) for op in self.ops]

    def canonical(self, state: State) -> State:
        """States that nobody can tell apart are one."""
        return state if self.adds or state is None or state in self.mentioned else ANONYMOUS

    def _likeness(self, op: Op) -> Any:
        after = Set(self.canonical(op.effect.value)) if isinstance(op.effect, Set) else op.effect
        return op.wants, after, op.optional

    def unseen(self, state: State, base: int, done: int) -> list[int]:
        """Up to two of those not done that saw this state."""
        found = []
        for number in reversed(self.seers.get(state, ())):
            if number < base or done >> number - base & 1:
                continue
            found.append(number)
            if len(found) == 2:
                break
        return found

    def open_ops(self, base: int, done: int) -> tuple[list[int], int]:
        """Those that may be next, and the one among those not done that returned first."""
        found: list[int] = []
        first, bound = base, None
        rest = ~done
        while True:
            lowest = rest & -rest
            rest ^= lowest
            number = base + lowest.bit_length() - 1
            if number >= len(self.ops):
                break
            op = self.ops[number]
            if bound is not None and op.called > bound:
                break
            found.append(number)
            if bound is None or op.returned < bound:
                first, bound = number, op.returned
        return found, first

    def settle(self, base: int, done: int, state: State) -> tuple[int, int, list[int], int]:
        """Do what changes nothing, as far as that goes; then also what may be next, and which of it returned first."""
        while True:
            ones = (~done & done + 1).bit_length() - 1
            done >>= ones
            base += ones
            if base >= len(self.ops):
                return base, done, [], base
            found, first = self.open_ops(base, done)
            before = done
            for number in found:
                op = self.ops[number]
                if op.effect is KEEP and op.wants.holds(state):
                    done |= 1 << number - base
            if done == before:
                return base, done, found, first

    def choices(self, base: int, done: int, state: State, found: list[int], first: int) -> list[tuple[int, State]]:
        """What to do next and the state after it, the likeliest last."""
        unseen = self.unseen(state, base, done)
        tried: dict[Any, int] = {}
        for number in found:
            op = self.ops[number]
            if op.effect is KEEP or not op.wants.holds(state) or (unseen and unseen != [number]):
                continue
            other = tried.get(self.alike[number])
            if other is None or op.returned < self.ops[other].returned:
                tried[self.alike[number]] = number
        order = sorted(tried.values(), key=lambda number: self.ops[number].returned, reverse=True)
        result = [(number, self.canonical(self.ops[number].effect.after(state))) for number in order]
        if self.ops[first].optional:  # only when it is in the way: earlier nothing depends on it
            result.append((first, state))
        return result

    def run(self) -> None:
        met: set[tuple[int, int, State]] = set()
        stack: list[tuple[int, int, State]] = [(0, 0, self.initial)]
        furthest: tuple[int, int, State, list[int]] = (-1, 0, None, [])
        while stack:
            base, done, state = stack.pop()
            base, done, found, first = self.settle(base, done, state)
            if base >= len(self.ops):
                return
            if (base, done, state) in met:
                continue
            met.add((base, done, state))
            if len(met) > STEPS_MOST:
                raise Undecided(f"after {STEPS_MOST:,} steps; {self.explain(furthest)}")
            if base + done.bit_count() > furthest[0] + furthest[1].bit_count():
                furthest = base, done, state, found
            for number, after in self.choices(base, done, state, found, first):
                stack.append((base, done | 1 << number - base, after))
        raise NotLinearizable(self.explain(furthest))

    def explain(self, furthest: tuple[int, int, State, list[int]]) -> str:
        base, done, state, found = furthest
        put = [number for number in range(len(self.ops)) if number < base or done >> number - base & 1]
        around = [f"    {self.ops[number]}" for number in put[-8:]]
        stuck = [f"  * {self.ops[number]}" for number in found[:30]]
        stuck += [f"  yet to see this: {self.ops[number]}" for number in self.unseen(state, base, done)]
        then = [
            number for number in range(base, len(self.ops)) if not done >> number - base & 1 and number not in found
        ]
        ahead = [f"    {self.ops[number]}" for number in then[:6]]
        return "\n".join(
            [
                f"{len(put)} of {len(self.ops)} operations can be put in order; then the key has {state!r}, and no way "
                "on; called by then are those marked:",
                *around,
                *stuck,
                *ahead,
            ]
        )


def check(ops: Iterable[Op], initial: State = None) -> None:
    """Raise NotLinearizable unless the operations on one key, which began as `initial`, have an order."""
    _Search(ops, initial).run()
