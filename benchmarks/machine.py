"""The facts about the machine that belong beside every figure, and warming its memory."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from pathlib import Path

CHUNK_BYTES = 1 << 20


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _unescape(field: str) -> str:
    """Undo the octal escapes of proc(5): a blank in a mount point is written \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`, from /proc/self/mountinfo (proc(5)), or "unknown"."""
    target = directory.resolve()
    best, kind = -1, "unknown"
    for line in _read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mount_point = Path(_unescape(before.split()[4]))
        # Later mounts cover earlier ones at the same place, hence >=.
        if (target == mount_point or mount_point in target.parents) and len(mount_point.parts) >= best:
            best, kind = len(mount_point.parts), after.split()[0]
    return kind


def memory_bytes(name: str) -> int:
    """A field of /proc/meminfo in bytes, 0 if there is none."""
    match = re.search(rf"^{name}:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def facts(directory: Path) -> dict[str, str | int | float]:
    """What a reader has to know to judge the figures; no names or paths of this machine."""
    processor = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", processor, re.MULTILINE)
    huge_pages = re.search(r"\[(\w+)\]", _read("/sys/kernel/mm/transparent_hugepage/enabled"))
    return {
        "processor": model[1].strip() if model else platform.machine(),
        "processors usable": len(os.sched_getaffinity(0)),
        "virtual machine": "yes" if re.search(r"^flags\s*:.*\bhypervisor\b", processor, re.MULTILINE) else "no",
        "memory GiB": round(memory_bytes("MemTotal") / 2**30, 1),
        "transparent huge pages": huge_pages[1] if huge_pages else "unknown",
        "file system": file_system(directory),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load average at start": round(os.getloadavg()[0], 2),
    }


def warm(directory: Path, size: int) -> int:
    """Write a file of `size` bytes and delete it, so that the kernel's free memory has all been touched before.

    On a virtual machine the host backs a page of memory only when it is first touched; a fresh page then costs ten
    times a used one, whether it becomes page cache or heap. Capped at half of the memory and of the disk that are free.
    The file is deleted before it would be written to the disk.

    Returns:
        The bytes written.
    """
    size = min(size, memory_bytes("MemAvailable") // 2, shutil.disk_usage(directory).free // 2)
    chunk = os.urandom(CHUNK_BYTES)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        for _ in range(size // CHUNK_BYTES + 1):
            file.write(chunk)
    return size
