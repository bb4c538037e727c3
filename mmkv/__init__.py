"""mmkv: a persistent key-value store in one memory-mapped file, shared live by any number of processes."""

from mmkv._lock import Lock
from mmkv._repair import repair, salvage
from mmkv._transaction import Transaction
from mmkv.errors import (
    ClosedError,
    ConflictError,
    CorruptStoreError,
    Error,
    LockTimeoutError,
    NotAStoreError,
    ReadOnlyError,
    StoreFullError,
    VersionError,
)
from mmkv.stats import Problem, Report, Stats
from mmkv.store import Store, open

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "ConflictError",
    "CorruptStoreError",
    "Error",
    "Lock",
    "LockTimeoutError",
    "NotAStoreError",
    "Problem",
    "ReadOnlyError",
    "Report",
    "Stats",
    "Store",
    "StoreFullError",
    "Transaction",
    "VersionError",
    "__version__",
    "open",
    "repair",
    "salvage",
]
