"""The base class of Store: the native one, or the one over cffi."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmkv import _native

if TYPE_CHECKING or _native.hot_route == "cffi":
    from mmkv._reference import Hot
else:
    Hot = _native.native_hot()

__all__ = ["Hot"]
