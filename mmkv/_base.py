"""The base classes of Store and Lock: the native ones, or those over cffi."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmkv import _native

if TYPE_CHECKING or _native.hot_route == "cffi":
    from mmkv._reference import Hot, Leaver
else:
    Hot, Leaver = _native.native_hot().Hot, _native.native_hot().Leaver

__all__ = ["Hot", "Leaver"]
