"""A process with keys of its own, which spends its time in the engine: a few calls of many keys, again and again.

Nobody else writes its keys, so no history is needed to say what has to be there when it has been killed: what its
finished calls left, and of the one under way the keys up to some place in their order.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from tests.storm.history import Log, number_of, value_of

KEYS = 120
STEPS = 7
PREFIX = b"own "


class Step(NamedTuple):
    """A call: the keys in order, and what each is to have, 0 for nothing."""

    keys: list[int]
    numbers: list[int]

    @property
    def deletes(self) -> bool:
        return self.numbers[0] == 0


def steps_of(seed: str, who: int, sizes: tuple[int, ...]) -> list[Step]:
    """What a process does over and over: the same for the same arguments."""
    rng = random.Random(seed)
    steps: list[Step] = []
    for step in range(STEPS):
        keys = rng.sample(range(KEYS), rng.randint(1, KEYS))
        if step % 3 == 2:
            steps.append(Step(keys, [0] * len(keys)))
        else:
            few = [size for size in sizes if size <= 5000] if step % 2 else list(sizes)
            steps.append(Step(keys, [number_of(who, step * KEYS + key, rng.choice(few)) for key in keys]))
    return steps


def name_of(who: int, key: int) -> bytes:
    """A key as it is in the store."""
    return PREFIX + b"%d %d" % (who, key)


def owner_of(name: bytes) -> tuple[int, int]:
    """The process and the number of a key."""
    who, key = name[len(PREFIX) :].split()
    return int(who), int(key)


def differences(steps: list[Step], log: Log, found: dict[int, bytes]) -> str | None:
    """What is wrong with what was found, if anything is, after a process that left this log."""
    calls, returns = 0, 0
    for entry in log.entries():
        calls += entry[0] == "call"
        returns += entry[0] == "return"
    expected: dict[int, int] = {}
    first = max(0, returns - 2 * STEPS)
    for number in range(first - first % STEPS, returns):
        expected.update(zip(steps[number % STEPS].keys, steps[number % STEPS].numbers, strict=True))
    pending = steps[returns % STEPS] if calls > returns else Step([], [])
    before = {key: expected.get(key, 0) for key in pending.keys}
    now = {key: _number(value) for key, value in found.items()}
    for key in range(KEYS):
        if key not in before and now.get(key, 0) != expected.get(key, 0):
            return f"key {key}: {now.get(key, 0):#x} is not {expected.get(key, 0):#x}, after {returns} calls"
    ended = False
    for key, number in zip(pending.keys, pending.numbers, strict=True):
        is_ = now.get(key, 0)
        if is_ not in (number, before[key]):
            return f"key {key}: {is_:#x} is neither {before[key]:#x} nor {number:#x}, killed in call {returns}"
        if number != before[key]:
            if ended and is_ == number:
                return f"key {key} was written in call {returns}, and one before it was not"
            ended = is_ != number
    return None


def _number(value: bytes) -> int:
    number = int.from_bytes(value[:8], "little")
    return number if value_of(number) == value else -1
