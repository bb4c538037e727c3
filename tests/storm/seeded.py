"""Seeded bugs: mistakes that an engine could make, each a replacement in one source, to see a storm find them.

    python -m tests.storm --seeded [NAME ...]

A text that does not occur exactly once is an error: a bug that no longer applies proves nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT, beside_tests

ENGINE = ROOT / "mmkv" / "engine"
CACHE = ROOT / "build" / "storm"
FLAGS = "-O0 -g0"  # quick to compile: a build is wanted by the suite


@dataclass(frozen=True)
class Bug:
    """One mistake, in a file of the engine or, from there, of the package."""

    name: str
    what: str
    file: str
    old: str
    new: str
    scenes: tuple[str, ...]
    """The storms that are to find it."""

    def text(self) -> str:
        """The whole file with the mistake in it."""
        text = (ENGINE / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"seeded bug {self.name}: {text.count(self.old)} times in {self.file}: {self.old!r}")
        return text.replace(self.old, self.new)


BREAK = "for (volatile int i = 0; i < 3000; i++) continue; "
"""Some microseconds, so that what a bug lets in comes in soon."""

BUGS = [
    Bug(
        "version-not-checked",
        "a reader does not look whether the version still stands",
        "read.c",
        "if (likely(read_valid(&sh->l, version)) || (!rc",
        "if (true || (!rc",
        ("three keys", "few keys"),
    ),
    Bug(
        "odd-version-read",
        "a reader begins although a writer is in the middle",
        "read.c",
        "        if (likely(read_begin(&sh->l, &version))) {\n            rc = index_find",
        "        if (read_begin(&sh->l, &version) || true) {\n            rc = index_find",
        ("three keys", "few keys"),
    ),
    Bug(
        "no-rollback",
        "who takes a dead one's lock does not undo what it had begun",
        "shard.c",
        "fail_unusable(op->s, op->sh) : transaction_undo(op);",
        "fail_unusable(op->s, op->sh)\n"
        "        : (store(op->count, 0), store(&op->l->version, (op->l->version + 1) & ~1ull),\n"
        "           store(&op->sh->log.transaction, 0), 0);",
        ("owners",),
    ),
    Bug(
        "rollback-forwards",
        "a rollback restores the oldest value first, and so a middle one of a word that was changed twice",
        "lock.c",
        "for (uint64_t i = count; i-- > 0;) {",
        "for (uint64_t i = 0; i < count; i++) {",
        ("owners",),
    ),
    Bug(
        "entry-not-logged",
        "the index entry of an overwritten key is changed past the undo log",
        "index.c",
        "    set(op, &b->entry[p->slot], entry_of(",
        "    store(&b->entry[p->slot], entry_of(",
        ("owners",),
    ),
    Bug(
        "released-forgotten",
        "what a dead one was giving back is forgotten when its lock is taken over",
        "shard.c",
        "    return rc ? rc : shard_finish(op);\n}\n\nint shard_lock",
        "    memset(op->sh->release, 0, sizeof op->sh->release);\n    return rc;\n}\n\nint shard_lock",
        ("large values", "growth"),
    ),
    Bug(
        "found-before-lock",
        "a put looks for the key, and then takes the lock",
        "shard.c",
        "int rc = index_find(op->s, op->sh, d->hash, d->key, d->key_length, &p);\n    if (rc && rc",
        "int rc = index_find(op->s, op->sh, d->hash, d->key, d->key_length, &p);\n"
        f"    shard_unlock(op); {BREAK}\n"
        "    if (shard_lock(op->s, op->shard, op, 0)) abort();\n"
        "    if (rc && rc",
        ("three keys", "few keys"),
    ),
    Bug(
        "pop-in-two",
        "a pop copies the value, lets go of the lock, and removes what is there then",
        "shard.c",
        "        if (!rc) rc = remove_at(&op, hash, &p);\n        if (!rc) rc = shrink",
        "        if (!rc && buffer) {\n"
        f"            shard_unlock(&op); {BREAK}\n"
        "            if ((rc = shard_lock(s, op.shard, &op, 0))) return rc;\n"
        "            rc = index_find(s, op.sh, hash, key, key_length, &p);\n"
        "        }\n"
        "        if (!rc) rc = remove_at(&op, hash, &p);\n"
        "        if (!rc) rc = shrink",
        ("three keys", "few keys"),
    ),
    Bug(
        "pop-of-another",
        "a pop of a long value removes whatever is there when it has copied",
        "shard.c",
        "            rc = expected_there(&op, hash, key, key_length, buffer, *value_length, &copied, link, &p, "
        "&same);\n            if (!rc && !same) rc = MMKV_WOULD_BLOCK;\n",
        "            rc = index_find(s, op.sh, hash, key, key_length, &p);\n",
        ("large values",),
    ),
    Bug(
        "add-overwrites",
        "an add puts whatever is there",
        "shard.c",
        "if (!rc && flags & MMKV_ADD) return MMKV_EXISTS;",
        "",
        ("three keys", "counters and waiters"),
    ),
    Bug(
        "counter-put",
        "a counter is read, and the sum put, whatever it is by then",
        "swap.c",
        "rc = shard_swap(s, hash, key, key_length, absent ? NULL : old, sizeof old, new_, sizeof new_, flags, &done);",
        f"{BREAK}\n        done = !(rc = shard_put(s, hash, key, key_length, new_, sizeof new_, flags));",
        ("counters and waiters",),
    ),
    Bug(
        "length-asked-first",
        "one who attaches asks for the file's length before what others say it is",
        "attach.c",
        "    if (there && (rc = handle_whole(s))) goto out;\n",
        "    if (there && control_of(s)->file_length > physical) {\n"
        '        rc = fail(MMKV_CORRUPT, physical, "the file was truncated");\n'
        "        goto out;\n"
        "    }\n",
        ("growth",),
    ),
    Bug(
        "reads-not-looked-at",
        "a transaction happens although what it read has changed",
        "commit.c",
        "return rc || !same ? conflict(c, item) : 0;",
        "return 0;",
        ("transactions",),
    ),
    Bug(
        "reads-elsewhere-not-looked-at",
        "a transaction looks again only at what it read in shards that it writes to",
        "commit.c",
        "j < c->part[i].looks && !rc; j++) rc = as_it_was",
        "j < (c->part[i].changes ? c->part[i].looks : 0) && !rc; j++) rc = as_it_was",
        ("transactions",),
    ),
    Bug(
        "conflict-passed-over",
        "atomically() takes an attempt that came to nothing for one that has happened",
        "../_transaction.py",
        "happened = bool(transaction._state) or transaction._commit()",
        "happened = bool(transaction._state) or transaction._commit() or True",
        ("transactions",),
    ),
    Bug(
        "raised-over-what-never-was",
        "atomically() passes on what was raised over values that were never there at once",
        "../_transaction.py",
        "if transaction._state or transaction._unchanged():",
        "if True:",
        ("transactions",),
    ),
    Bug(
        "half-left",
        "who takes over a shard of a transaction that has not happened leaves what was written there",
        "transaction.c",
        "if (!load_acquire(&t->committed)) {",
        "if (false) {",
        ("transactions", "large transactions"),
    ),
]
QUICK = ("no-rollback",)


def build(bug: Bug | None) -> Path:
    """A directory with the package and an engine that has the bug; without one, what the others start from."""
    sources = sorted([*ENGINE.iterdir(), *ENGINE.parent.glob("*.py"), ROOT / "pyproject.toml"])
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources if path.is_file()))
    digest.update(FLAGS.encode() + (bug.text().encode() if bug else b""))
    target = CACHE / f"{bug.name if bug else 'base'}-{digest.hexdigest()[:16]}"
    if target.exists():
        return target
    work = target.with_suffix(f".{os.getpid()}")
    if bug:
        shutil.copytree(build(None), work)
        (work / "mmkv" / "engine" / bug.file).write_text(bug.text())
    else:
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / "mmkv", work / "mmkv", ignore=ignored)
        shutil.copytree(ROOT / "cli", work / "cli", ignore=ignored)
        for name in ("pyproject.toml", "README.md"):
            shutil.copy2(ROOT / name, work / name)
    command = [sys.executable, "mmkv/engine/build.py"]
    done = subprocess.run(
        command, cwd=work, env={**os.environ, "MMKV_CFLAGS": FLAGS}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{done.stdout}{done.stderr}")
    try:
        work.rename(target)
    except OSError:  # somebody else was faster
        shutil.rmtree(work)
    return target


def run(directory: Path, *arguments: str) -> tuple[int, str]:
    """A storm with the package in a directory: how it ended and the first line of what it said was wrong."""
    path = os.pathsep.join([str(directory), beside_tests()])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.storm", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def catch(bug: Bug, seconds: float, seed: str) -> str | None:
    """What a storm says that meets the bug, if it does."""
    code, text = run(build(bug), "--seconds", str(seconds), "--seed", seed, "--scenes", *bug.scenes)
    if not code:
        return None
    lines = [line for line in text.partition("FAILED\n")[2].splitlines() if not line.startswith("seed ")]
    return lines[0] if lines else f"exit code {code}: {text[-300:]}"


def main(names: list[str], seconds: float, seed: str) -> int:
    """Run the bugs named, or all, and print what came of each; 0 if all were caught."""
    unknown = set(names) - {bug.name for bug in BUGS}
    if unknown:
        raise SystemExit(f"no such bug: {', '.join(sorted(unknown))}")
    missed = 0
    print(f"{'seeded bug':22} {'seconds':>8}  seen as")
    for bug in BUGS:
        if names and bug.name not in names:
            continue
        build(bug)
        start = time.monotonic()
        seen = catch(bug, seconds, seed)
        missed += seen is None
        print(f"{bug.name:22} {time.monotonic() - start:8.1f}  {seen or 'NOT CAUGHT'}", flush=True)
    return 1 if missed else 0
