"""The views that `keys()`, `values()` and `items()` return: live, streaming, and set-like where dict's are."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmkv.store import Store


class Keys(KeysView[bytes]):
    """The keys of a store."""

    __slots__ = ()
    _mapping: Store

    def __repr__(self) -> str:
        return f"{self._mapping!r}.keys()"


class Items(ItemsView[bytes, bytes]):
    """The (key, value) pairs of a store; each pair is read atomically."""

    __slots__ = ()
    _mapping: Store

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._mapping._iterate_items()

    def __repr__(self) -> str:
        return f"{self._mapping!r}.items()"


class Values(ValuesView[bytes]):
    """The values of a store."""

    __slots__ = ()
    _mapping: Store

    def __iter__(self) -> Iterator[bytes]:
        return (value for _, value in self._mapping._iterate_items())

    def __contains__(self, value: object) -> bool:
        return any(value == mine for mine in self)

    def __repr__(self) -> str:
        return f"{self._mapping!r}.values()"
