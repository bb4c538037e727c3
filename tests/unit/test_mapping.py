"""A Store is a MutableMapping: everything a dict of bytes does, it does."""

from __future__ import annotations

import collections
import collections.abc
import types
from pathlib import Path
from typing import Any

import pytest

import mmkv

MODEL = {b"%d" % i: b"value %d" % i * (i % 5) for i in range(500)}


@pytest.fixture
def filled(store: Any) -> Any:
    store.update(MODEL)
    return store


# -- one key ----------------------------------------------------------------------------------------------------------


def test_set_get_overwrite_delete(store: Any) -> None:
    store[b"k"] = b"1"
    assert store[b"k"] == b"1"
    store[b"k"] = b"22"
    assert store[b"k"] == b"22"
    assert len(store) == 1
    del store[b"k"]
    assert b"k" not in store
    assert len(store) == 0


def test_absent_keys(store: Any) -> None:
    store[b"there"] = b""
    for use in (lambda: store[b"gone"], lambda: store.pop(b"gone"), lambda: store.__delitem__(b"gone")):
        with pytest.raises(KeyError) as caught:
            use()
        assert caught.value.args == (b"gone",)
    with pytest.raises(KeyError):
        store.get_into(b"gone", bytearray(1))
    assert store.get(b"gone") is None
    assert store.get(b"gone", b"default") == b"default"
    default = object()
    assert store.get(b"gone", default) is default
    assert store.pop(b"gone", default) is default
    assert store.delete(b"gone") is False
    assert b"gone" not in store
    assert store.get(b"there") == b""


def test_put_returns_nothing_and_delete_whether_it_was_there(store: Any) -> None:
    assert store.put(b"k", b"v") is None
    assert store.delete(b"k") is True
    assert store.delete(b"k") is False


def test_pop(store: Any) -> None:
    store[b"k"] = b"v"
    assert store.pop(b"k") == b"v"
    assert b"k" not in store
    assert store.pop(b"k", None) is None
    assert store.pop(b"k", b"d") == b"d"
    store[b"large"] = b"x" * 300_000
    assert store.pop(b"large", None) == b"x" * 300_000


def test_popitem(store: Any) -> None:
    model = {b"%d" % i: b"v%d" % i for i in range(50)}
    store.update(model)
    popped = {}
    while store:
        key, value = store.popitem()
        assert key not in popped
        popped[key] = value
        assert len(store) == 50 - len(popped)
    assert popped == model
    with pytest.raises(KeyError):
        store.popitem()


def test_setdefault(store: Any) -> None:
    assert store.setdefault(b"k", b"first") == b"first"
    assert store.setdefault(b"k", b"second") == b"first"
    assert store[b"k"] == b"first"
    with pytest.raises(TypeError):
        store.setdefault(b"new")  # a dict would store None
    assert b"new" not in store


def test_get_into(store: Any) -> None:
    store[b"k"] = b"12345"
    exact, roomy, short = bytearray(5), bytearray(b"........"), bytearray(b"....")
    assert store.get_into(b"k", exact) == 5
    assert exact == b"12345"
    assert store.get_into(b"k", roomy) == 5
    assert roomy[:5] == b"12345"
    with pytest.raises(BufferError, match="5"):
        store.get_into(b"k", short)
    assert short == b"...."
    with pytest.raises((TypeError, BufferError)):
        store.get_into(b"k", b"read only")
    store[b"empty"] = b""
    assert store.get_into(b"empty", bytearray()) == 0
    store[b"large"] = b"x" * 100_000
    with pytest.raises(BufferError, match=r"100,?000"):
        store.get_into(b"large", bytearray(99_999))
    large = bytearray(100_001)
    assert store.get_into(b"large", large) == 100_000
    assert large[:100_000] == b"x" * 100_000


# -- many keys --------------------------------------------------------------------------------------------------------


def test_get_many(filled: Any) -> None:
    keys = [b"7", b"gone", b"7", b"499", b""]
    expected = [MODEL[b"7"], None, MODEL[b"7"], MODEL[b"499"], None]
    assert filled.get_many(keys) == expected
    assert filled.get_many(tuple(keys)) == expected
    assert filled.get_many(iter(keys)) == expected
    assert filled.get_many(key for key in keys) == expected
    assert filled.get_many([]) == []
    assert filled.get_many(MODEL) == list(MODEL.values())
    assert filled.get_many(filled.keys()) == [MODEL[key] for key in filled]
    with pytest.raises(TypeError):
        filled.get_many(7)


@pytest.mark.parametrize(
    "form",
    [
        dict,
        dict.items,
        types.MappingProxyType,
        collections.OrderedDict,
        lambda d: list(d.items()),
        lambda d: iter(d.items()),
        lambda d: ((k, v) for k, v in d.items()),
        lambda d: [list(pair) for pair in d.items()],
    ],
)
def test_put_many_takes_pairs_or_a_mapping(store: Any, form: Any) -> None:
    assert store.put_many(form(MODEL)) == len(MODEL)
    assert dict(store) == MODEL
    assert store.put_many(form({b"1": b"again"})) == 1
    assert store[b"1"] == b"again"


def test_put_many_of_nothing(store: Any) -> None:
    assert store.put_many([]) == 0
    assert store.put_many({}) == 0


def test_put_many_the_last_of_equal_keys_stays(store: Any) -> None:
    store.put_many([(b"k", b"1"), (b"k", b"2")])
    assert dict(store) == {b"k": b"2"}


@pytest.mark.parametrize("bad", [b"k", (b"k",), (b"k", b"v", b"w"), None, 5])
def test_put_many_of_what_are_no_pairs(store: Any, bad: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        store.put_many([(b"good", b"v"), bad])
    assert set(store) <= {b"good"}


def test_put_many_lets_an_error_of_the_iterator_through(store: Any) -> None:
    def pairs() -> Any:
        yield b"k", b"v"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.put_many(pairs())
    assert set(store) <= {b"k"}


def test_put_many_from_the_store_itself(filled: Any) -> None:
    assert filled.put_many(filled) == len(MODEL)
    assert filled == MODEL


def test_delete_many(filled: Any) -> None:
    assert filled.delete_many([b"1", b"2", b"gone", b"1"]) == 2
    assert filled.delete_many(iter([b"3"])) == 1
    assert filled.delete_many([]) == 0
    assert filled == {key: value for key, value in MODEL.items() if key not in (b"1", b"2", b"3")}
    assert filled.delete_many(list(MODEL)) == len(MODEL) - 3
    assert len(filled) == 0


def test_clear(filled: Any) -> None:
    filled.clear()
    assert len(filled) == 0
    assert list(filled) == []
    assert b"7" not in filled
    filled.clear()
    filled[b"7"] = b"again"
    assert dict(filled) == {b"7": b"again"}


# -- update, |, |=, == ------------------------------------------------------------------------------------------------


class Keyed:
    """Not a Mapping, but it has keys() and [], which is all that dict.update asks for."""

    def keys(self) -> list[bytes]:
        return [b"x", b"y"]

    def __getitem__(self, key: bytes) -> bytes:
        return key * 2


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({b"a": b"1"}, {b"a": b"1"}),
        ([(b"a", b"1"), (b"b", b"2")], {b"a": b"1", b"b": b"2"}),
        (iter([(b"a", b"1")]), {b"a": b"1"}),
        ({b"a": b"1"}.items(), {b"a": b"1"}),
        (Keyed(), {b"x": b"xx", b"y": b"yy"}),
        (types.MappingProxyType({b"a": b"1"}), {b"a": b"1"}),
        ([], {}),
        ((), {}),
    ],
)
def test_update_forms(store: Any, source: Any, expected: dict[bytes, bytes]) -> None:
    store[b"a"] = b"0"
    assert store.update(source) is None
    assert dict(store) == {b"a": b"0", **expected}


def test_update_of_nothing(filled: Any) -> None:
    filled.update()
    assert filled == MODEL


def test_update_by_keywords_fails_for_they_are_str(store: Any) -> None:
    with pytest.raises(TypeError):
        store.update(a=b"1")
    assert len(store) == 0


def test_update_from_another_store(open_store: Any, filled: Any) -> None:
    other = open_store("other.mmkv")
    other.update(filled)
    assert other == filled == MODEL


def test_equality(open_store: Any, filled: Any) -> None:
    assert filled == MODEL
    assert filled == MODEL
    assert filled == filled  # noqa: PLR0124
    assert filled == dict(reversed(MODEL.items()))
    assert filled != {**MODEL, b"more": b""}
    assert filled != {key: value for key, value in MODEL.items() if key != b"7"}
    assert filled != {**MODEL, b"7": b"other"}
    assert filled != list(MODEL)
    assert filled != 5
    assert filled is not None
    other = open_store("other.mmkv")
    assert other != filled
    assert other == {}
    other.update(MODEL)
    assert other == filled
    assert filled == types.MappingProxyType(MODEL) or types.MappingProxyType(MODEL) == filled


def test_equality_with_a_store_that_somebody_takes_keys_from(path: Path, filled: Any) -> None:
    class Beside(mmkv.Store):
        def __contains__(self, key: object) -> bool:
            there = super().__contains__(key)
            self.delete(key)  # somebody else, as it were
            return there

    with Beside(path.with_name("beside.mmkv")) as beside:
        beside.update(filled)
        # Not by ==, which would ask the subclass first.
        assert mmkv.Store.__eq__(filled, beside) is True
        beside.popitem()
        assert mmkv.Store.__eq__(filled, beside) is False


def test_a_store_is_not_hashable_no_more_than_a_dict(store: Any) -> None:
    with pytest.raises(TypeError):
        hash(store)


def test_or_gives_a_dict(filled: Any) -> None:
    for result in (
        filled | {b"7": b"seven", b"n": b"new"},
        filled | types.MappingProxyType({b"7": b"seven", b"n": b"new"}),
    ):
        assert type(result) is dict
        assert result == {**MODEL, b"7": b"seven", b"n": b"new"}
    assert filled == MODEL
    assert filled | {} == MODEL


def test_or_from_the_left(filled: Any) -> None:
    result = {b"7": b"seven", b"n": b"new"} | filled
    assert type(result) is dict
    assert result == {b"n": b"new", **MODEL}


def test_or_of_two_stores(open_store: Any, filled: Any) -> None:
    other = open_store("other.mmkv")
    other[b"7"] = b"seven"
    assert filled | other == {**MODEL, b"7": b"seven"}


def test_or_with_what_is_no_mapping(filled: Any) -> None:
    for other in ([(b"a", b"b")], 5, None):
        with pytest.raises(TypeError):
            _ = filled | other
        with pytest.raises(TypeError):
            _ = other | filled


def test_or_in_place(store: Any) -> None:
    before = store
    store |= {b"a": b"1"}
    store |= [(b"b", b"2")]
    assert store is before
    assert dict(store) == {b"a": b"1", b"b": b"2"}
    with pytest.raises(TypeError):
        store |= 5


# -- to and from dict -------------------------------------------------------------------------------------------------


def test_dict_of_a_store(filled: Any) -> None:
    assert dict(filled) == MODEL
    assert {**{k.decode(): v for k, v in filled.items()}} == {k.decode(): v for k, v in MODEL.items()}
    assert dict(filled.items()) == MODEL
    assert sorted(filled) == sorted(MODEL)
    assert len(list(filled)) == len(filled) == len(MODEL)


def test_truth(store: Any) -> None:
    assert not store
    store[b""] = b""
    assert store
    assert dict(store) == {b"": b""}


def test_it_is_a_mutable_mapping(store: Any) -> None:
    assert isinstance(store, collections.abc.MutableMapping)
    assert isinstance(store, mmkv.Store)
    for name in dir(collections.abc.MutableMapping):
        if not name.startswith("_"):
            assert callable(getattr(store, name))


def test_repr_names_the_file_and_keeps_the_content_to_itself(filled: Any, path: Any) -> None:
    text = repr(filled)
    assert str(path) in text
    assert len(text) < 400 + len(str(path))


def test_match_statement(store: Any) -> None:
    store[b"kind"] = b"circle"
    match store:
        case {b"kind": b"square"}:
            pytest.fail("that is another")
        case {b"kind": kind, **rest}:
            assert kind == b"circle"
            assert rest == {}
        case _:
            pytest.fail("a Mapping has to match")


# -- views ------------------------------------------------------------------------------------------------------------


def test_views_have_lengths_and_members(filled: Any) -> None:
    assert len(filled.keys()) == len(filled.values()) == len(filled.items()) == len(MODEL)
    assert set(filled.keys()) == set(MODEL)
    assert sorted(filled.values()) == sorted(MODEL.values())
    assert set(filled.items()) == set(MODEL.items())
    assert b"7" in filled.keys()  # noqa: SIM118
    assert b"gone" not in filled.keys()  # noqa: SIM118
    assert (b"7", MODEL[b"7"]) in filled.items()
    assert (b"7", b"other") not in filled.items()
    assert (b"gone", b"") not in filled.items()
    assert MODEL[b"9"] in filled.values()
    assert b"no such value" not in filled.values()


def test_views_are_live(store: Any) -> None:
    keys, values, items = store.keys(), store.values(), store.items()
    assert list(keys) == list(values) == list(items) == []
    store[b"k"] = b"v"
    assert (list(keys), list(values), list(items)) == ([b"k"], [b"v"], [(b"k", b"v")])
    store[b"k"] = b"w"
    assert list(values) == [b"w"]
    del store[b"k"]
    assert len(keys) == len(values) == len(items) == 0


def test_views_are_set_like(store: Any) -> None:
    store.update({b"a": b"1", b"b": b"2", b"c": b"3"})
    keys, items = store.keys(), store.items()
    assert isinstance(keys, collections.abc.Set)
    assert isinstance(items, collections.abc.Set)
    assert keys == {b"a", b"b", b"c"}
    assert keys & {b"a", b"x"} == {b"a"}
    assert {b"a", b"x"} & keys == {b"a"}
    assert keys | {b"x"} == {b"a", b"b", b"c", b"x"}
    assert {b"x"} | keys == {b"a", b"b", b"c", b"x"}
    assert keys - {b"a"} == {b"b", b"c"}
    assert {b"a", b"x"} - keys == {b"x"}
    assert keys ^ {b"a", b"x"} == {b"b", b"c", b"x"}
    assert keys <= {b"a", b"b", b"c", b"d"}
    assert not keys <= {b"a", b"b"}
    assert keys > {b"a"}
    assert keys.isdisjoint({b"x"})
    assert not keys.isdisjoint({b"a"})
    assert items == {(b"a", b"1"), (b"b", b"2"), (b"c", b"3")}
    assert items & {(b"a", b"1"), (b"b", b"other")} == {(b"a", b"1")}
    assert items - {(b"a", b"1")} == {(b"b", b"2"), (b"c", b"3")}
    assert items | {(b"x", b"9")} == set(items) | {(b"x", b"9")}
    assert items ^ {(b"a", b"1")} == {(b"b", b"2"), (b"c", b"3")}
    assert keys == {b"a": 1, b"b": 2, b"c": 3}.keys()


def test_views_know_their_store(filled: Any) -> None:
    for view in (filled.keys(), filled.values(), filled.items()):
        repr(view)
        assert iter(view) is not iter(view)
        iterator = iter(view)
        assert iter(iterator) is iterator
        for _ in iterator:
            pass
        with pytest.raises(StopIteration):
            next(iterator)
        with pytest.raises(StopIteration):
            next(iterator)


def test_two_iterators_at_once(filled: Any) -> None:
    pairs = {(a, b) for a in list(filled)[:20] for b in filled}
    assert len(pairs) == 20 * len(MODEL)
    assert [a == b for a, b in zip(filled, filled, strict=True)] == [True] * len(MODEL)


def test_items_of_every_size(store: Any) -> None:
    model = {b"%d" % size: b"x" * size for size in (0, 10, 5000, 40_000, 100_000, 1 << 20, 3 << 20)}
    store.update(model)
    assert dict(store.items()) == model
    assert sorted(map(len, store.values())) == sorted(map(len, model.values()))
    assert set(store) == set(model)
