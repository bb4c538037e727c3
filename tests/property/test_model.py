"""A Hypothesis state machine: a Store and a dict are given the same operations and have to agree."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

import mmkv
from tests.support import check_file, check_report

# Few different short keys, so that operations meet; and some long ones.
KEYS = st.one_of(
    st.integers(0, 40).map(lambda i: b"%d" % i),
    st.binary(max_size=3),
    st.binary(min_size=1, max_size=4).flatmap(
        lambda b: st.sampled_from([1, 100, 5000, 65535]).map(lambda n: (b * n)[:n])
    ),
)
SIZES = st.one_of(
    st.integers(0, 64),
    st.integers(0, 5000),
    st.sampled_from([15, 16, 100, 116, 128, 4084, 4096, 16_380, 16_384, 21_000, 40_000, 65_536, 300_000]),
)
VALUES = st.builds(lambda seed, size: (seed * (size // len(seed) + 1))[:size], st.binary(min_size=1, max_size=8), SIZES)
PAIRS = st.lists(st.tuples(KEYS, VALUES), max_size=20)


class StoreMachine(RuleBasedStateMachine):
    """Every rule does one thing to both and compares what they say."""

    bursts = Bundle("bursts")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="mmkv-test-")
        self.path = Path(self.directory.name) / "store.mmkv"
        self.model: dict[bytes, bytes] = {}
        self.db: Any = None
        self.burst = 0
        self.read_only = False

    @initialize(shards=st.sampled_from([1, 2, 64]), sync=st.sampled_from(["manual", "close", "always"]))
    def create(self, shards: int, sync: str) -> None:
        self.db = mmkv.open(self.path, shards=shards, sync=sync)

    def teardown(self) -> None:
        try:
            if self.db is not None:
                assert dict(self.db) == self.model
                check_report(self.db.verify(), self.path)
                self.db.close()
                check_file(self.path)
        finally:
            self.directory.cleanup()

    def write(self, use: Any, on_model: Any) -> Any:
        """Do it to both and compare, or see it refused if the store is open for reading only."""
        if self.read_only:
            with pytest.raises(mmkv.ReadOnlyError):
                use()
            return None
        result, expected = use(), on_model()
        assert result == expected
        return result

    # -- one key --

    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        self.write(lambda: self.db.put(key, value), lambda: self.model.update({key: value}))

    @rule(key=KEYS, value=VALUES)
    def set_item(self, key: bytes, value: bytes) -> None:
        self.write(lambda: self.db.__setitem__(key, value), lambda: self.model.__setitem__(key, value))

    @rule(data=st.data(), value=VALUES)
    def overwrite(self, data: Any, value: bytes) -> None:
        if self.model:
            key = data.draw(st.sampled_from(sorted(self.model)))
            self.write(lambda: self.db.__setitem__(key, value), lambda: self.model.__setitem__(key, value))

    @rule(key=KEYS)
    def delete(self, key: bytes) -> None:
        self.write(lambda: self.db.delete(key), lambda: self.model.pop(key, None) is not None)

    @rule(data=st.data())
    def delete_item(self, data: Any) -> None:
        if self.model:
            key = data.draw(st.sampled_from(sorted(self.model)))
            self.write(lambda: self.db.__delitem__(key), lambda: self.model.__delitem__(key))

    @rule(key=KEYS)
    def pop(self, key: bytes) -> None:
        self.write(lambda: self.db.pop(key, b"default"), lambda: self.model.pop(key, b"default"))

    @precondition(lambda self: self.model and not self.read_only)
    @rule()
    def popitem(self) -> None:
        key, value = self.db.popitem()
        assert self.model[key] == value
        assert key not in self.db
        self.db[key] = value  # which one it was depends on the store's hash seed, and an example has to be repeatable

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key: bytes, value: bytes) -> None:
        if bytes(key) in self.model:  # nothing to write: allowed in every mode
            assert self.db.setdefault(key, value) == self.model[bytes(key)]
        else:
            self.write(lambda: self.db.setdefault(key, value), lambda: self.model.setdefault(key, value))

    @rule(key=KEYS, value=VALUES)
    def add(self, key: bytes, value: bytes) -> None:
        there = key in self.model
        self.write(lambda: self.db.add(key, value), lambda: self.model.setdefault(key, value) is value and not there)

    @rule(key=KEYS, value=VALUES)
    def replace(self, key: bytes, value: bytes) -> None:
        def on_model() -> bool:
            there = key in self.model
            if there:
                self.model[key] = value
            return there

        self.write(lambda: self.db.replace(key, value), on_model)

    @rule(key=KEYS, data=st.data(), other=st.none() | VALUES, new=st.none() | VALUES)
    def compare_and_swap(self, key: bytes, data: Any, other: bytes | None, new: bytes | None) -> None:
        expected = data.draw(st.sampled_from([self.model.get(key), other]))

        def on_model() -> bool:
            if self.model.get(key) != expected:
                return False
            self.model.pop(key, None)
            if new is not None:
                self.model[key] = new
            return True

        self.write(lambda: self.db.compare_and_swap(key, expected, new), on_model)

    @rule(key=KEYS, delta=st.integers(-(2**63), 2**63 - 1), initial=st.integers(-(2**63), 2**63 - 1) | st.just(0))
    def incr(self, key: bytes, delta: int, initial: int) -> None:
        def on_store() -> Any:
            try:
                return self.db.incr(key, delta, initial=initial)
            except (OverflowError, ValueError) as error:
                return type(error)

        def on_model() -> Any:
            old = self.model.get(key)
            if old is not None and len(old) != 8:
                return ValueError
            total = (initial if old is None else int.from_bytes(old, "little", signed=True)) + delta
            if not -(2**63) <= total < 2**63:
                return OverflowError
            self.model[key] = total.to_bytes(8, "little", signed=True)
            return total

        self.write(on_store, on_model)

    @rule(key=KEYS)
    def get(self, key: bytes) -> None:
        assert self.db.get(key) == self.model.get(key)
        assert (key in self.db) == (key in self.model)
        if key in self.model:
            assert self.db[key] == self.model[key]
        else:
            with pytest.raises(KeyError):
                self.db[key]

    @rule(key=KEYS, room=st.integers(-1, 20))
    def get_into(self, key: bytes, room: int) -> None:
        value = self.model.get(key)
        if value is None:
            with pytest.raises(KeyError):
                self.db.get_into(key, bytearray(5))
            return
        buffer = bytearray(b"\xee" * max(0, len(value) + room))
        if len(buffer) < len(value):
            with pytest.raises(BufferError):
                self.db.get_into(key, buffer)
            assert buffer == b"\xee" * len(buffer)
        else:
            assert self.db.get_into(key, buffer) == len(value)
            assert buffer[: len(value)] == value

    # -- many keys --

    @rule(pairs=PAIRS)
    def update(self, pairs: list[tuple[bytes, bytes]]) -> None:
        if pairs:
            self.write(lambda: self.db.update(pairs), lambda: self.model.update(pairs))

    @rule(pairs=PAIRS)
    def put_many(self, pairs: list[tuple[bytes, bytes]]) -> None:
        if pairs:
            self.write(lambda: self.db.put_many(pairs), lambda: self.model.update(pairs) or len(pairs))

    @rule(keys=st.lists(KEYS, max_size=20))
    def get_many(self, keys: list[bytes]) -> None:
        assert self.db.get_many(keys) == [self.model.get(key) for key in keys]

    @rule(keys=st.lists(KEYS, min_size=1, max_size=20))
    def delete_many(self, keys: list[bytes]) -> None:
        self.write(
            lambda: self.db.delete_many(keys), lambda: sum(self.model.pop(key, None) is not None for key in keys)
        )

    @rule(target=bursts, count=st.sampled_from([100, 1000, 4000]), size=st.sampled_from([0, 20, 100, 300]))
    def grow(self, count: int, size: int) -> tuple[int, int]:
        """Enough records to split tables and to take new zones."""
        self.burst += 1
        pairs = {b"burst %d %d" % (self.burst, i): b"%d" % i * (size // 4) for i in range(count)}
        self.write(lambda: self.db.put_many(pairs), lambda: self.model.update(pairs) or len(pairs))
        return self.burst, count

    @rule(burst=consumes(bursts))
    def shrink(self, burst: tuple[int, int]) -> None:
        keys = [b"burst %d %d" % (burst[0], i) for i in range(burst[1])]
        self.write(
            lambda: self.db.delete_many(keys), lambda: sum(self.model.pop(key, None) is not None for key in keys)
        )

    @rule()
    def clear(self) -> None:
        self.write(lambda: self.db.clear(), lambda: self.model.clear())

    # -- the whole --

    @rule()
    def iterate(self) -> None:
        keys = list(self.db)
        assert len(keys) == len(self.model)
        assert set(keys) == self.model.keys()
        assert dict(self.db.items()) == self.model
        assert sorted(self.db.values()) == sorted(self.model.values())

    @rule(keys=st.lists(KEYS, min_size=1, max_size=10), value=VALUES)
    def iterate_and_change(self, keys: list[bytes], value: bytes) -> None:
        if self.read_only:
            return
        stays = {key: value for key, value in self.model.items() if key not in keys}
        seen = []
        for step, (key, got) in enumerate(self.db.items()):
            seen.append(key)
            if key in stays:
                assert got == stays[key]
            changed = keys[step % len(keys)]
            if step % 2:
                self.db.put(changed, value)
                self.model[changed] = value
            else:
                assert self.db.delete(changed) == (self.model.pop(changed, None) is not None)
        assert len(set(seen)) == len(seen)
        assert stays.keys() <= set(seen)
        for key in keys:  # how many steps there were depends on the hash seed
            self.db[key] = self.model[key] = value

    @rule()
    def sync(self) -> None:
        if not self.read_only:
            epoch, was_durable = self.db.epoch, self.db.durable_epoch
            made = self.db.sync()
            assert made == self.db.durable_epoch >= was_durable
            assert made >= epoch or made == was_durable, "nothing had been written since"

    @rule(mode=st.sampled_from(["r", "w", "c"]), sync=st.sampled_from(["manual", "close"]))
    def reopen(self, mode: str, sync: str) -> None:
        self.db.close()
        self.db = mmkv.open(self.path, mode, sync=sync)
        self.read_only = mode == "r"

    @rule(key=KEYS, value=VALUES)
    def change_in_private(self, key: bytes, value: bytes) -> None:
        """A private copy: what it writes is its own."""
        self.db.close()
        with mmkv.open(self.path, "p") as private:
            private[key] = value
            assert private == {**self.model, key: value}
        self.db = mmkv.open(self.path, "r" if self.read_only else "w")

    @rule()
    def second_handle(self) -> None:
        with mmkv.open(self.path, "r") as other:
            assert other == self.model

    @rule()
    def verify(self) -> None:
        report = self.db.verify()
        check_report(report, self.path)
        assert report.records == len(self.model)

    @invariant()
    def same_length(self) -> None:
        if self.db is not None:
            assert len(self.db) == len(self.model)


StoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, suppress_health_check=list(HealthCheck), deadline=None
)
test_store_machine = StoreMachine.TestCase


@pytest.fixture(scope="module")
def scratch() -> Iterator[Any]:
    """One store for many examples of a test that leaves it empty."""
    with tempfile.TemporaryDirectory(prefix="mmkv-test-") as name:
        with mmkv.open(Path(name) / "store.mmkv") as db:
            yield db
        check_file(Path(name) / "store.mmkv")


@given(content=st.dictionaries(st.binary(max_size=100), st.binary(max_size=3000), max_size=30))
def test_any_dict_comes_back(scratch: Any, content: dict[bytes, bytes]) -> None:
    scratch.update(content)
    assert scratch == content
    assert dict(scratch) == content
    assert scratch.keys() == content.keys()
    assert scratch.items() == content.items()
    assert scratch.get_many(content) == list(content.values())
    assert scratch.delete_many(content) == len(content)
    assert len(scratch) == 0


@given(
    one=st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), st.binary(max_size=2)),
    two=st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), st.binary(max_size=2)),
)
def test_set_and_union_operations_as_of_dict(scratch: Any, one: dict[bytes, bytes], two: dict[bytes, bytes]) -> None:
    scratch.clear()
    scratch.update(one)
    assert (scratch == two) == (one == two)
    assert scratch | two == one | two
    assert two | scratch == two | one
    for view, other, same in (
        (scratch.keys(), two.keys(), one.keys()),
        (scratch.items(), two.items(), one.items()),
    ):
        assert view & other == same & other
        assert view | other == same | other
        assert view - other == same - other
        assert view ^ other == same ^ other
        assert (view <= other) == (same <= other)
        assert (view < other) == (same < other)
        assert view.isdisjoint(other) == same.isdisjoint(other)
    scratch |= two
    assert scratch == one | two
    scratch.clear()
