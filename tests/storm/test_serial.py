"""The checker of transactions: small histories, good and bad, and random ones made from a true order."""

from __future__ import annotations

import random
from itertools import permutations

import pytest

from tests.storm.serial import NotSerialisable, Transaction, check

T = Transaction
A, B = 1, 2
START = {A: 10, B: 20}

GOOD: dict[str, list[Transaction]] = {
    "nothing": [],
    "one after the other": [T(0, 1, {A: 10}, {A: 11}), T(2, 3, {A: 11}, {A: 12}), T(4, 5, {A: 12, B: 20})],
    "at once, on two keys": [T(0, 9, {A: 10}, {A: 11}), T(0, 9, {B: 20}, {B: 21}), T(10, 11, {A: 11, B: 21})],
    "seen before it has returned": [T(0, 9, {A: 10, B: 20}, {A: 11, B: 21}), T(1, 2, {A: 11, B: 21})],
    "not seen before it has returned": [T(0, 9, {A: 10, B: 20}, {A: 11, B: 21}), T(1, 2, {A: 10, B: 20})],
    "a conflict leaves nothing": [
        T(0, 1, {A: 10}, {A: 11}),
        T(0, 2, {A: 10}, {A: 12}, conflict=True),
        T(3, 4, {A: 11}),
    ],
    "a killed one happened": [T(0, 5, {A: 10, B: 20}, {A: 11, B: 21}, killed=True), T(6, 7, {A: 11, B: 21})],
    "a killed one did not": [T(0, 5, {A: 10, B: 20}, {A: 11, B: 21}, killed=True), T(6, 7, {A: 10, B: 20})],
    "two killed, of which one can have been": [
        T(0, 5, {A: 10}, {A: 11}, killed=True),
        T(0, 5, {A: 10}, {A: 12}, killed=True),
        T(6, 7, {A: 12}),
    ],
    "a killed one that saw a killed one": [
        T(0, 5, {A: 10}, {A: 11}, killed=True),
        T(0, 9, {A: 11, B: 20}, {B: 21}, killed=True),
        T(10, 11, {A: 11, B: 21}),
    ],
    "an absent key": [T(0, 1, {3: None}, {3: 30}), T(2, 3, {3: 30})],
}
BAD: dict[str, list[Transaction]] = {
    "a lost update": [T(0, 5, {A: 10}, {A: 11}), T(0, 5, {A: 10}, {A: 12})],
    "half of one": [T(0, 1, {A: 10, B: 20}, {A: 11, B: 21}), T(2, 3, {A: 11, B: 20})],
    "half of one at once": [T(0, 9, {A: 10, B: 20}, {A: 11, B: 21}), T(0, 9, {A: 11, B: 20})],
    "half of a killed one": [T(0, 5, {A: 10, B: 20}, {A: 11, B: 21}, killed=True), T(6, 7, {A: 11, B: 20})],
    "a killed one, by halves to two": [
        T(0, 5, {A: 10, B: 20}, {A: 11, B: 21}, killed=True),
        T(6, 7, {A: 11}),
        T(6, 7, {B: 20}),
    ],
    "write skew": [T(0, 5, {A: 10, B: 20}, {A: 11}), T(0, 5, {A: 10, B: 20}, {B: 21})],
    "a long fork": [
        T(0, 9, {A: 10}, {A: 11}),
        T(0, 9, {B: 20}, {B: 21}),
        T(0, 9, {A: 11, B: 20}),
        T(0, 9, {A: 10, B: 21}),
    ],
    "from one that did not happen": [T(0, 1, {A: 10}, {A: 11}, conflict=True), T(2, 3, {A: 11})],
    "from nowhere": [T(0, 1, {A: 99})],
    "what was there, later": [T(0, 1, {A: 10}, {A: 11}), T(2, 3, {A: 10})],
    "what will be there, earlier": [T(2, 3, {A: 10}, {A: 11}), T(0, 1, {A: 11})],
    "what a killed one wrote, before it was called": [T(2, 3, {A: 10}, {A: 11}, killed=True), T(0, 1, {A: 11})],
    "a killed one after its death": [
        T(0, 1, {A: 10}, {A: 11}, killed=True),
        T(2, 3, {A: 10}),
        T(4, 5, {A: 11}),
    ],
    "a conflict that wrote": [T(0, 1, {A: 10, B: 20}, {A: 11, B: 21}, conflict=True), T(2, 3, {A: 10, B: 21})],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    check(GOOD[name], START)


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    with pytest.raises(NotSerialisable):
        check(BAD[name], START)


def test_a_write_without_a_read_is_not_accepted() -> None:
    with pytest.raises(ValueError, match="is to have read"):
        check([T(0, 1, {}, {A: 11})], START)


def by_trying(transactions: list[Transaction]) -> bool:
    """Every order of every choice of the killed ones."""
    for chosen in range(1 << len(transactions)):
        some = [one for i, one in enumerate(transactions) if chosen >> i & 1]
        if any(one.conflict for one in some) or any(
            one not in some for one in transactions if not one.killed and not one.conflict
        ):
            continue
        for order in permutations(some):
            state = dict(START)
            for i, one in enumerate(order):
                late = any(other.returned < one.called for other in order[i + 1 :])
                if late or any(state.get(key) != value for key, value in one.reads.items()):
                    break
                state.update(one.writes)
            else:
                return True
    return False


def test_against_trying_all_orders(rng: random.Random) -> None:
    """Small histories that nearly have an order."""
    outcomes = {True: 0, False: 0}
    for _ in range(2000):
        states = [dict(START)]
        transactions = []
        for i in range(rng.randint(1, 5)):
            called = 4 * i + rng.randrange(-6, 6)
            returned = called + rng.randrange(1, 12)
            state = rng.choice(states[-2:])
            reads = {key: state[key] for key in rng.sample([A, B], rng.randint(1, 2))}
            writes = {key: 100 * (i + 1) + key for key in reads if rng.random() < 0.6}
            kind = rng.random()
            one = T(called, returned, reads, writes, killed=kind < 0.2, conflict=0.2 < kind < 0.3)
            transactions.append(one)
            if not one.conflict and (not one.killed or rng.random() < 0.5):
                states.append({**states[-1], **writes})
        expected = by_trying(transactions)
        outcomes[expected] += 1
        try:
            check(transactions, START)
        except NotSerialisable:
            assert not expected, "\n".join(map(str, transactions))
        else:
            assert expected, "\n".join(map(str, transactions))
    assert min(outcomes.values()) > 100


def test_a_long_history_is_decided(rng: random.Random) -> None:
    state = {key: -key for key in range(20)}
    initial = dict(state)
    transactions = []
    for i in range(1, 5000):
        reads = {key: state[key] for key in rng.sample(range(20), 4)}
        writes = {key: 100 * i + key for key in list(reads)[:2]}
        transactions.append(T(10 * i - rng.randrange(60), 10 * i + rng.randrange(60), reads, writes))
        state.update(writes)
    check(transactions, initial)
    spoilt = transactions[4000]
    key = next(key for key in spoilt.reads if key not in spoilt.writes)
    spoilt.reads[key] = transactions[10].writes.get(key, initial[key])
    with pytest.raises(NotSerialisable):
        check(transactions, initial)
