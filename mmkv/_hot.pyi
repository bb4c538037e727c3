# The native class has the interface of the reference, which is checked in full.
from collections.abc import Callable

from mmkv._reference import Hot as Hot

def set_hash(function: Callable[[memoryview, int], int], /) -> None: ...
def set_error_factory(factory: Callable[[int, int, int, int, str, str | None], BaseException], /) -> None: ...
