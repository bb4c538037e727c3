"""The native class and the reference over cffi are one class written twice."""

from __future__ import annotations

import inspect
import os
import sys
from typing import Any

import pytest

from mmkv import _native, _reference
from tests.support import run_python, run_suites

SUITES = [
    "tests/unit/test_mapping.py",
    "tests/unit/test_conditional.py",
    "tests/unit/test_types.py",
    "tests/unit/test_verify_reads.py",
    "tests/unit/test_iteration.py",
    "tests/unit/test_open.py",
    "tests/unit/test_processes.py",
    "tests/property",
]

native_only = pytest.mark.skipif(_native.hot_route != "native", reason="there is no native class here")


def public(cls: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_")}


@pytest.mark.skipif(os.environ.get("MMKV_HOT") == "cffi", reason="the reference has been asked for")
def test_the_native_class_is_in_use() -> None:
    import mmkv

    assert _native.hot_route == ("native" if sys.implementation.name == "cpython" else "cffi")
    assert (_reference.Hot in mmkv.Store.__mro__) is (_native.hot_route == "cffi")


@native_only
def test_both_have_the_same_names_signatures_and_docstrings() -> None:
    from mmkv._hot import Hot

    assert public(Hot).keys() == public(_reference.Hot).keys()
    for name, value in public(_reference.Hot).items():
        assert inspect.getdoc(getattr(Hot, name)) == inspect.getdoc(value), name
        if callable(value):
            ours = inspect.signature(getattr(Hot, name)).parameters.values()
            theirs = inspect.signature(value).parameters.values()
            assert [(p.name, p.kind) for p in ours][1:] == [(p.name, p.kind) for p in theirs][1:], name
    operators = {"__getitem__", "__setitem__", "__delitem__", "__contains__", "__len__"}
    assert operators <= vars(Hot).keys()
    assert operators <= vars(_reference.Hot).keys()


@native_only
def test_what_few_programs_use_is_not_imported() -> None:
    """`import mmkv` is to be quick: the class over cffi, salvaging, and chance can wait."""
    loaded = run_python("import sys, mmkv; print(*sys.modules)").split()
    assert not {"mmkv._reference", "mmkv._salvage", "random", "multiprocessing"}.intersection(loaded)


@native_only
def test_the_suite_passes_with_the_reference() -> None:
    """The tests of what a Store does, once more with MMKV_HOT=cffi."""
    run_suites(SUITES, MMKV_HOT="cffi")
