"""Input files, and output files that take their name only when they are complete."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from typing import BinaryIO

from .streams import binary_stdin, binary_stdout

__all__ = ["Replacement", "open_input", "sync_directory", "temporary_name", "temporary_path"]


def open_input(path: str) -> tuple[BinaryIO, int | None]:
    """Open a file, or for `-` standard input, and return it with its length if that is known."""
    file = binary_stdin() if path == "-" else open(path, "rb")  # noqa: SIM115 - closed by the caller
    status = os.fstat(file.fileno())
    return file, status.st_size if stat.S_ISREG(status.st_mode) else None


def temporary_path(target: str) -> str:
    """Return a path for an unfinished file beside its target. Raises FileNotFoundError that names the target."""
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), target)
    return os.path.join(folder, temporary_name())


def temporary_name() -> str:
    """Return a name for an unfinished file: short, so that it fits wherever the real name does."""
    return f".mmkv-export-{secrets.token_hex(8)}.tmp"


def sync_directory(path: str) -> None:
    """Make a rename in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Replacement:
    """A file written beside its target, flushed, and renamed over it; `-` is standard output.

    A target that is there and is not a regular file (a pipe, a device) is written directly.
    """

    file: BinaryIO

    def __init__(self, target: str) -> None:
        self._target = target
        self._temporary: str | None = None

    def open(self) -> None:
        """Create the file."""
        target = self._target
        if target == "-":
            self.file = binary_stdout()
            return
        try:
            mode = os.stat(target).st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and not stat.S_ISREG(mode):
            self.file = open(self._target, "wb")  # noqa: SIM115 - closed by commit
            return
        # Like the shell's `>`: through symbolic links, not over them.
        self._target = os.path.realpath(target)
        self._temporary = temporary_path(self._target)
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self.file = open(descriptor, "wb")  # noqa: SIM115 - closed by commit or abort
        if mode is not None:
            os.fchmod(descriptor, stat.S_IMODE(mode))

    def commit(self) -> None:
        """Flush, and give the file its name."""
        self.file.flush()
        if self._temporary is not None:
            os.fsync(self.file.fileno())
            self.file.close()
            os.rename(self._temporary, self._target)
            self._temporary = None
            sync_directory(os.path.dirname(self._target))
        elif self._target != "-":
            self.file.close()

    def abort(self) -> None:
        """Remove the file if it has not got its name yet."""
        if self._temporary is not None:
            with contextlib.suppress(FileNotFoundError):  # interrupted before it was made
                os.unlink(self._temporary)
            self._temporary = None
            # Closing writes what is buffered first, which fails where the disk is full: no matter now.
            with contextlib.suppress(OSError, AttributeError):
                self.file.close()
