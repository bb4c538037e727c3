"""Binary standard streams, and whether anybody watches them."""

from __future__ import annotations

import sys
from typing import BinaryIO

from .errors import Failure

__all__ = ["binary_stdin", "binary_stdout", "is_terminal"]


def binary_stdin() -> BinaryIO:
    """Return standard input as bytes."""
    if sys.stdin is None:  # started with `<&-`
        raise Failure("standard input is closed")
    return sys.stdin.buffer


def binary_stdout() -> BinaryIO:
    """Return standard output as bytes."""
    if sys.stdout is None:  # started with `>&-`
        raise Failure("standard output is closed")
    return sys.stdout.buffer


def is_terminal(stream: object) -> bool:
    """Say whether a standard stream, which may be None, is a terminal."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError):
        return False
