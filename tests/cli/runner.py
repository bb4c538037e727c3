"""Runs the command line as a real process and looks at what it left behind."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "mmkv.cli")
TIMEOUT = 120  # seconds; a command that hangs is a failure, not a wait

Argument = str | bytes | Path


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    status: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[bytes]:
        """The output's lines, sorted: the order of a store means nothing."""
        return sorted(self.out.splitlines())

    def json(self) -> Any:
        return json.loads(self.out)


class Runner:
    """Runs `mmkv`. Calling it expects success; `fail` expects a status and one line on stderr."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._started: list[subprocess.Popen[bytes]] = []

    def run(
        self, *arguments: Argument, stdin: bytes | None = b"", environment: Mapping[str, str] | None = None
    ) -> Result:
        done = subprocess.run(
            [*COMMAND, *map(os.fsencode, arguments)],
            input=stdin,
            capture_output=True,
            timeout=TIMEOUT,
            cwd=self.directory,
            env={**os.environ, **(environment or {})},
            check=False,
        )
        error = done.stderr.decode(errors="backslashreplace")
        assert "Traceback" not in error, error
        return Result(done.returncode, done.stdout, error)

    def __call__(self, *arguments: Argument, stdin: bytes = b"") -> Result:
        result = self.run(*arguments, stdin=stdin)
        assert result.status == 0, result
        return result

    def fail(self, status: int, *arguments: Argument, stdin: bytes = b"") -> str:
        """Run a command that has to fail and return its error line."""
        result = self.run(*arguments, stdin=stdin)
        assert result.status == status, result
        assert result.err.startswith("mmkv: "), result
        assert result.err.endswith("\n"), result
        assert result.err.count("\n") == 1, result
        return result.err

    def start(self, *arguments: Argument, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command and leave it running. It can be interrupted even where the tests themselves ignore SIGINT."""
        command: list[str | bytes] = [*COMMAND, *map(os.fsencode, arguments)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        options = {"cwd": self.directory, "preexec_fn": _heed_interrupts, **streams, **options}
        process: subprocess.Popen[bytes] = subprocess.Popen(command, **options)
        self._started.append(process)
        return process

    def finish(self) -> None:
        """End what is still running, as after a test that failed."""
        for process in self._started:
            process.kill()
            with process:  # closes its pipes and waits
                pass

    def records(self, store: Argument) -> dict[bytes, bytes]:
        """Return all of a store, through an export that every other format is compared with."""
        found: dict[bytes, bytes] = {}
        for line in self("export", "-q", store, "-").out.splitlines():
            fields = json.loads(line)
            key, value = (
                fields[name].encode() if name in fields else base64.b64decode(fields[f"{name}_b64"])
                for name in ("key", "value")
            )
            assert key not in found
            found[key] = value
        return found

    def fill(self, store: Argument, records: Mapping[bytes, bytes]) -> None:
        """Put records into a store."""
        lines = [
            json.dumps(
                {f"{name}_b64": base64.b64encode(data).decode() for name, data in (("key", key), ("value", value))}
            )
            for key, value in records.items()
        ]
        self("import", "-q", store, "-", stdin="\n".join(lines).encode())


def is_privileged() -> bool:
    """Say whether permissions do not bind this process; a root without its capabilities is bound."""
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        return os.access(file.name, os.R_OK, effective_ids=True)


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
