"""Directory trees: each regular file is a record, its relative path with `/` the key, its content the value."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator

from .errors import Failure, UnsafeKey
from .files import temporary_name
from .text import escape_text, quote

__all__ = ["TreeSink", "TreeSource"]

# The directories from the root to one of its descendants, as (parent, identity): a chain, so that siblings share it.
Chain = tuple["Chain | None", tuple[int, int]]


class TreeSource:
    """Records from the files below a directory. Memory: the largest file, and the directories still to be visited.

    A file is read in one piece rather than mapped: a mapped file that somebody truncates would kill the process.
    """

    def __init__(self, root: str, *, follow: bool, exclude: str) -> None:
        """Open a directory. `exclude` is the file to leave out: the store that is being filled, which may not exist."""
        with os.scandir(root):  # raises now what is wrong with it
            pass
        self._root = os.fsencode(root)
        self._follow = follow
        self._exclude = exclude
        self._excluded: tuple[int, int] | None = None
        self._path = self._root
        self._position = 0
        self.skipped = 0
        self.total: int | None = None

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the files in the order of the file system. Raises OSError for what cannot be read."""
        with contextlib.suppress(OSError):  # looked up now: the store may have been made meanwhile
            self._excluded = _identity(os.stat(self._exclude))
        status = os.stat(self._root)
        waiting: list[tuple[bytes, bytes, Chain]] = [(self._root, b"", (None, (status.st_dev, status.st_ino)))]
        while waiting:
            folder, base, chain = waiting.pop()
            with os.scandir(folder) as entries:
                for entry in entries:
                    key = base + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, key + b"/", (chain, _identity(entry.stat(follow_symlinks=False)))))
                    elif entry.is_symlink():
                        yield from self._link(entry, key, chain, waiting)
                    else:
                        yield from self._file(entry.path, key)

    def where(self) -> str:
        """Return the path of the file."""
        return os.fsdecode(self._path)

    def position(self) -> int:
        """Return the bytes read."""
        return self._position

    def close(self) -> None:
        """Nothing stays open."""

    def _link(
        self, entry: os.DirEntry[bytes], key: bytes, chain: Chain, waiting: list[tuple[bytes, bytes, Chain]]
    ) -> Iterator[tuple[bytes, bytes]]:
        try:
            status = entry.stat() if self._follow else None
        except OSError:  # it leads nowhere, or round in a circle
            status = None
        if status is None or (stat.S_ISDIR(status.st_mode) and _is_within(chain, _identity(status))):
            self.skipped += 1
        elif stat.S_ISDIR(status.st_mode):
            waiting.append((entry.path, key + b"/", (chain, _identity(status))))
        else:
            yield from self._file(entry.path, key)

    def _file(self, path: bytes, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._path = path
        try:
            # O_NONBLOCK: a pipe that took a file's place must not make us wait. O_NOFOLLOW: nor a link lead away.
            flags = os.O_RDONLY | os.O_NONBLOCK | (0 if self._follow else os.O_NOFOLLOW)
            descriptor = os.open(path, flags)
        except OSError as error:
            # Gone since the directory was read, a link now, or a socket or device that cannot be opened.
            if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.ENODEV):
                raise
            self.skipped += 1
            return
        with open(descriptor, "rb", buffering=0) as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or _identity(status) == self._excluded:
                self.skipped += 1
                return
            value = file.readall()
        self._position += len(value)
        yield key, value


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_within(chain: Chain | None, identity: tuple[int, int]) -> bool:
    while chain is not None:
        parent, own = chain
        if own == identity:
            return True
        chain = parent
    return False


class TreeSink:
    """Records as files below a directory, each written under a temporary name and renamed.

    Nothing is ever written outside: directories are opened one component at a time from the target down, and no
    symbolic link among them is followed.
    """

    def __init__(self, target: str, *, is_exported: Callable[[bytes], bool], store: str) -> None:
        self._target = target
        self._is_exported = is_exported
        self._store_key = _relative(store, target)
        self._root = -1

    def open(self) -> None:
        """Make the directory if it is missing, and hold on to it."""
        os.makedirs(self._target, exist_ok=True)
        self._root = os.open(self._target, os.O_RDONLY | os.O_DIRECTORY)
        self._name_max = os.fpathconf(self._root, "PC_NAME_MAX")

    def check(self, key: bytes) -> None:
        """Raise UnsafeKey for a key that is not a relative path below the target, or whose path another key blocks.

        Of two keys of which one would be the directory of the other, the longer is refused.
        """
        reason = self._reason(key)
        if reason is not None:
            raise UnsafeKey(key, reason)

    def write(self, key: bytes, value: bytes) -> None:
        """Write one file. Raises UnsafeKey, also for what is in the way in the target itself."""
        self.check(key)
        *folders, name = key.split(b"/")
        folder = self._open_folder(key, folders)
        try:
            self._write_file(folder, key, name, value)
        except OSError as error:
            if isinstance(error, IsADirectoryError):
                raise UnsafeKey(key, "a directory of that name is in the target") from None
            raise self._failure(key, error) from None
        finally:
            os.close(folder)

    def commit(self) -> None:
        """Close the target; its files have had their names for long."""
        self.abort()

    def abort(self) -> None:
        """Close the target."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _reason(self, key: bytes) -> str | None:
        if not key:
            return "it is empty"
        if b"\0" in key:
            return "it holds a NUL byte"
        if key.startswith(b"/"):
            return "it is an absolute path"
        parts = key.split(b"/")
        for part in parts:
            if not part:
                return "it has an empty component"
            if part in (b".", b".."):
                return f"it has the component '{part.decode()}'"
            if len(part) > self._name_max:
                return f"it has a component of more than {self._name_max} bytes"
        if key == self._store_key:
            return "it would replace the store itself"
        for depth in range(1, len(parts)):
            folder = b"/".join(parts[:depth])
            if self._is_exported(folder):
                return f"{quote(folder)} is a key too, and cannot be both a file and a directory"
        return None

    def _open_folder(self, key: bytes, folders: list[bytes]) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        current = os.dup(self._root)
        for part in folders:
            try:
                try:
                    below = os.open(part, flags, dir_fd=current)
                except FileNotFoundError:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=current)
                    below = os.open(part, flags, dir_fd=current)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    reason = f"{quote(part)} in the target is a file or a symbolic link, not a directory"
                    raise UnsafeKey(key, reason) from None
                raise self._failure(key, error) from None
            finally:
                os.close(current)
            current = below
        return current

    def _write_file(self, folder: int, key: bytes, name: bytes, value: bytes) -> None:
        temporary = temporary_name()
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
            with open(descriptor, "wb", buffering=0) as file:
                view = memoryview(value)
                while view:
                    view = view[file.write(view) :]
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise

    def _failure(self, key: bytes, error: OSError) -> Failure:
        if error.errno == errno.ENAMETOOLONG:
            return UnsafeKey(key, "it is too long for the file system")
        return Failure(f"{escape_text(self._target)}: key {quote(key)}: {error.strerror}")


def _relative(path: str, folder: str) -> bytes | None:
    """Return the path of a file below a folder, as a key would spell it, or None if it lies elsewhere."""
    path, folder = os.path.realpath(path), os.path.realpath(folder)
    relative = os.path.relpath(path, folder)
    return None if relative.startswith("../") else os.fsencode(relative)
