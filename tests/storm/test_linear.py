"""The checker itself: small histories, good and bad, and random ones made from a true order."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from tests.storm.history import (
    Call,
    History,
    Log,
    TornValue,
    calls_of,
    key_of,
    number_of,
    number_of_key,
    read_value,
    value_of,
)
from tests.storm.linear import (
    ABSENT,
    ANY,
    CLEAR,
    KEEP,
    PRESENT,
    Add,
    NotLinearizable,
    Op,
    Set,
    Undecided,
    check,
    equal,
    unequal,
)


def put(called: int, returned: int, value: int, killed: bool = False) -> Op:
    return Op(called, returned, ANY, Set(value), killed)


def get(called: int, returned: int, value: int | None) -> Op:
    return Op(called, returned, equal(value), KEEP)


def delete(called: int, returned: int, found: bool) -> Op:
    return Op(called, returned, PRESENT if found else ABSENT, CLEAR if found else KEEP)


def pop(called: int, returned: int, value: int | None) -> Op:
    return Op(called, returned, equal(value), CLEAR if value else KEEP)


def add(called: int, returned: int, value: int, was: bool) -> Op:
    return Op(called, returned, ABSENT if was else PRESENT, Set(value) if was else KEEP)


def swap(called: int, returned: int, old: int, new: int, was: bool) -> Op:
    return Op(called, returned, equal(old) if was else unequal(old), Set(new) if was else KEEP)


GOOD: dict[str, list[Op]] = {
    "nothing": [],
    "one after the other": [put(0, 1, 7), get(2, 3, 7), delete(4, 5, True), get(6, 7, None)],
    "a get sees a put on its way": [put(0, 9, 7), get(2, 3, 7)],
    "or does not": [put(0, 9, 7), get(2, 3, None)],
    "first not, then does": [put(0, 9, 7), get(2, 3, None), get(4, 5, 7)],
    "two puts in either order": [put(0, 9, 7), put(0, 9, 8), get(10, 11, 7)],
    "two puts in either order, the other": [put(0, 9, 7), put(0, 9, 8), get(10, 11, 8)],
    "one of two pops gets it": [put(0, 1, 7), pop(2, 5, 7), pop(2, 5, None)],
    "one of two adds wins": [add(0, 5, 7, True), add(0, 5, 8, False), get(6, 7, 7)],
    "a killed put that happened": [put(0, 5, 7, killed=True), get(6, 7, 7)],
    "a killed put that did not": [put(0, 5, 7, killed=True), get(6, 7, None)],
    "a killed put that happened late": [put(0, 9, 7, killed=True), get(2, 3, None), get(4, 5, 7)],
    "a killed put nobody saw makes a delete find something": [put(0, 5, 7, killed=True), delete(6, 7, True)],
    "a delete between, unseen": [put(0, 1, 7), delete(2, 9, True), add(3, 8, 8, True), get(10, 11, 8)],
    "a killed swap that did not happen": [
        put(0, 1, 7),
        Op(2, 9, equal(7), Set(8), optional=True),
        pop(3, 4, 7),
        get(10, 11, None),
    ],
    "a swap after another": [put(0, 1, 7), swap(2, 9, 8, 9, True), swap(2, 9, 7, 8, True), get(10, 11, 9)],
    "a swap that found something else": [put(0, 1, 7), swap(2, 3, 8, 9, False)],
    "a swap that fails while its value is on the way": [put(0, 5, 7), swap(1, 4, 7, 9, False), get(6, 7, 7)],
}
BAD: dict[str, list[Op]] = {
    "a value from nowhere": [put(0, 1, 7), get(2, 3, 8)],
    "a value before it is put": [get(0, 1, 7), put(2, 3, 7)],
    "a put that is lost": [put(0, 1, 7), get(2, 3, None)],
    "an old value": [put(0, 1, 7), put(2, 3, 8), get(4, 5, 7)],
    "a value that comes and goes": [put(0, 9, 7), get(1, 2, 7), get(3, 4, None)],
    "back to the old value": [put(0, 1, 7), put(2, 9, 8), get(3, 4, 8), get(5, 6, 7)],
    "two orders at once": [put(0, 9, 7), put(0, 9, 8), get(10, 11, 7), get(12, 13, 8)],
    "two pops get it": [put(0, 1, 7), pop(2, 5, 7), pop(2, 5, 7)],
    "two deletes find it": [put(0, 1, 7), delete(2, 5, True), delete(2, 5, True)],
    "two adds win": [add(0, 5, 7, True), add(0, 5, 8, True)],
    "an add over a value": [put(0, 1, 7), add(2, 3, 8, True)],
    "a delete that was not": [put(0, 1, 7), delete(2, 3, True), get(4, 5, 7)],
    "a delete that finds nothing where something is": [put(0, 1, 7), delete(2, 3, False)],
    "a killed put after its death": [put(0, 1, 7, killed=True), get(2, 3, None), get(4, 5, 7)],
    "a killed put that was there for a moment": [put(0, 1, 7, killed=True), get(2, 3, 7), get(4, 5, None)],
    "a killed delete after its death": [
        put(0, 1, 7),
        Op(2, 3, PRESENT, CLEAR, optional=True),
        get(4, 5, 7),
        get(6, 7, None),
    ],
    "two swaps of one value": [put(0, 1, 7), swap(2, 9, 7, 8, True), swap(2, 9, 7, 9, True)],
    "a swap that fails though it fits": [put(0, 1, 7), swap(2, 3, 7, 9, False)],
    "more deletes than values": [put(0, 9, 7), put(0, 9, 8), *(delete(0, 9, True) for _ in range(3))],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    check(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    with pytest.raises(NotLinearizable):
        check(BAD[name])


def test_what_the_key_was_before_counts() -> None:
    check([get(0, 1, 7)], initial=7)
    with pytest.raises(NotLinearizable):
        check([get(0, 1, None)], initial=7)


def test_numbers_may_come_again() -> None:
    def incr(called: int, returned: int, result: int) -> Op:
        return Op(called, returned, equal(*([0, None] if result == 1 else [result - 1])), Set(result))

    check([incr(0, 9, 2), incr(0, 9, 1), delete(10, 11, True), incr(12, 13, 1), get(14, 15, 1)])
    check([incr(0, 1, 1), Op(2, 5, ANY, Add(1, 0), optional=True), incr(6, 7, 3)])
    with pytest.raises(NotLinearizable):
        check([incr(0, 1, 1), incr(2, 3, 1)])
    with pytest.raises(NotLinearizable):
        check([incr(0, 1, 1), incr(2, 3, 3)])


def by_trying(ops: list[Op]) -> bool:
    """Every order of every choice of the optional ones."""
    for chosen in range(1 << len(ops)):
        some = [op for i, op in enumerate(ops) if chosen >> i & 1]
        if any(not op.optional and op not in some for op in ops):
            continue
        for order in permutations(some):
            state: Any = None
            for i, op in enumerate(order):
                if any(later.returned < op.called for later in order[i + 1 :]) or not op.wants.holds(state):
                    break
                state = op.effect.after(state)
            else:
                return True
    return False


def test_against_trying_all_orders(rng: random.Random) -> None:
    """Small random histories, most of them nearly right."""
    outcomes = {True: 0, False: 0}
    for _ in range(1500):
        ops: list[Op] = []
        for i in range(rng.randint(1, 5)):
            called = rng.randrange(20)
            returned = called + rng.randrange(1, 9)
            value = rng.choice([None, 1, 2, 3, 4, 5])
            ops.append(
                rng.choice(
                    [
                        put(called, returned, i + 1, rng.random() < 0.3),
                        put(called, returned, i + 1, rng.random() < 0.3),
                        get(called, returned, value),
                        delete(called, returned, rng.random() < 0.6),
                        pop(called, returned, value),
                        add(called, returned, i + 1, rng.random() < 0.6),
                        swap(called, returned, value or 1, i + 1, rng.random() < 0.6),
                        Op(called, returned, PRESENT, CLEAR, optional=True),
                        Op(called, returned, equal(value or 1), Set(i + 1), optional=True),
                        Op(called, returned, ANY, CLEAR),
                    ]
                )
            )
        expected = by_trying(ops)
        outcomes[expected] += 1
        try:
            check(ops)
        except NotLinearizable:
            assert not expected, "\n".join(map(str, ops))
        else:
            assert expected, "\n".join(map(str, ops))
    assert min(outcomes.values()) > 100


def simulate(rng: random.Random, count: int, open_most: int) -> list[Op]:
    """A history with a true order: each operation takes effect at a moment between its call and its return."""
    now, state, ops = 0, None, []
    for number in range(1, count):
        now += 10
        act = rng.randrange(5)
        called, returned = now - rng.randrange(1, 10 * open_most), now + rng.randrange(1, 10 * open_most)
        if act == 0:
            ops.append(get(called, returned, state))
        elif act == 1:
            ops.append(delete(called, returned, state is not None))
            state = None
        elif act == 2:
            ops.append(pop(called, returned, state))
            state = None
        elif act == 3:
            ops.append(add(called, returned, number, state is None))
            state = number if state is None else state
        else:
            ops.append(put(called, returned, number))
            state = number
    return ops


def test_long_histories_are_decided(rng: random.Random) -> None:
    """And, with one result changed, found wrong or right, but decided."""
    for open_most in (1, 3, 8, 20):
        ops = simulate(rng, 2000, open_most)
        check(ops)
        gets = [i for i, op in enumerate(ops) if op.effect is KEEP and op.wants.among and None not in op.wants.states]
        last = ops[gets[-1]]
        ops[gets[0]] = Op(ops[gets[0]].called, ops[gets[0]].returned, last.wants, KEEP)
        with pytest.raises((NotLinearizable, Undecided)):
            check(ops)


# -- logs and values --------------------------------------------------------------------------------------------------


def test_values_tell_who_wrote_them() -> None:
    for size in (8, 9, 100, 20_000):
        number = number_of(3, 5, size)
        value = value_of(number)
        assert len(value) == size
        assert read_value(value) == number
    assert read_value(None) is None


@pytest.mark.parametrize(
    "spoil", [lambda v: v[:-1], lambda v: v + v[:1], lambda v: v[:50] + b"?" + v[51:], lambda v: b""]
)
def test_a_torn_value_is_seen(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(TornValue):
        read_value(spoil(value_of(number_of(3, 5, 100))))


def test_keys() -> None:
    assert len({key_of(i) for i in range(3000)}) == 3000
    assert all(number_of_key(key_of(i)) == i for i in range(3000))


def test_a_log_without_its_last_return() -> None:
    log = Log(1 << 16)
    log.add(5, "put", 1, 77)
    log.add(6, 7, None)
    log.add(8, "pop", 1)
    calls = list(calls_of(4, log, 20))
    assert calls == [Call(4, 6, 7, "put", (1, 77)), Call(4, 8, 20, "pop", (1,), None, killed=True)]
    log.close()


def history_of(*calls: Call, keys: int = 2) -> History:
    history = History()
    for call in calls:
        history.add(call, range(keys))
    return history


def test_a_call_on_many_keys_is_taken_apart() -> None:
    history = history_of(
        Call(1, 0, 1, "put_many", ([(0, 70), (1, 71)],), 2),
        Call(1, 2, 3, "get_many", ([1, 0],), [71, 70]),
        Call(1, 4, 5, "items", (), [(0, 70), (1, 71)]),
        Call(1, 6, 7, "popitem", (), (1, 71)),
        Call(1, 8, 9, "keys", (), [0]),
        Call(1, 10, 11, "clear", ()),
        Call(1, 12, 13, "items", (), []),
    )
    assert {key: len(ops) for key, ops in history.keys.items()} == {0: 6, 1: 7}
    for ops in history.keys.values():
        check(ops)
    history.add(Call(1, 14, 15, "get", (0,), 70), range(2))
    check(history.keys[1])
    with pytest.raises(NotLinearizable):
        check(history.keys[0])


@pytest.mark.parametrize(
    ("name", "arguments", "happened"),
    [
        ("put", (0, 71), 71),
        ("setdefault", (0, 71), 70),
        ("delete", (0,), None),
        ("pop", (0,), None),
        ("put_many", ([(0, 71)],), 71),
        ("delete_many", ([0],), None),
        ("clear", (), None),
        ("popitem", (), None),
        ("get", (0,), 70),
    ],
)
def test_a_killed_call_happened_or_not(name: str, arguments: Any, happened: int | None) -> None:
    before = Call(1, 0, 1, "put", (0, 70))
    killed = Call(1, 2, 3, name, arguments, killed=True)
    for result in {70, happened}:
        check(history_of(before, killed, Call(2, 4, 5, "get", (0,), result)).keys[0])
    with pytest.raises(NotLinearizable):
        check(history_of(before, killed, Call(2, 4, 5, "get", (0,), 99)).keys[0])
