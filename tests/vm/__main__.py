"""Run pytest in a virtual machine whose processor, emulated by qemu, has protection keys.

    python -m tests.vm --kernel vmlinuz [--trace] [pytest's arguments]

The machine has no disk: this interpreter, what is installed for it and this checkout are its first file system, under
the names that they have here. So the kernel needs no modules, and any distribution's will do:

    apt-get download linux-image-6.1.0-NN-amd64 && dpkg-deb -x linux-image-*.deb kernel && ls kernel/boot/vmlinuz-*
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
LEFT_OUT = re.compile(
    r"/(\.git|build|mypy|mypyc|ruff|pip|setuptools|ensurepip|idlelib|turtledemo|tkinter|lib2to3|\.mypy_cache"
    r"|\.ruff_cache|\.hypothesis|config-3[^/]*|test)(/|$)|\.a$"
)
MARK = "the tests ended with"

# The first process of the machine: {python} and {arguments} are put in. It ends by the power button.
INIT = """#!{python}
import ctypes, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
for kind, place in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/dev/shm")):
    os.makedirs(place, exist_ok=True)
    libc.mount(kind.encode(), place.encode(), kind.encode(), 0, None)
os.makedirs("/tmp", exist_ok=True)
flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags")).split()
print("protection keys:", "yes" if "ospke" in flags else "no", flush=True)
with open("/dev/console", "wb", 0) as console:
    code = subprocess.call({arguments!r}, cwd={root!r}, env={environment!r}, stdout=console, stderr=console)
    console.write(b"\\n{mark} %d\\n" % code)
os.sync()
libc.reboot(0x4321FEDC)
"""


def libraries(binaries: list[Path]) -> set[Path]:
    """The shared libraries that some files need, the loader among them."""
    found: set[Path] = set()
    for binary in binaries:
        listed = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False).stdout
        found |= {Path(name) for name in re.findall(r"(/[^\s()]+) \(0x", listed)}
    return found


def below(folder: Path) -> Iterator[Path]:
    """All files of a folder that are wanted, with the folders and links among them."""
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not LEFT_OUT.search(f"{where}/{name}")]
        yield from (Path(where, name) for name in [*folders, *files] if not LEFT_OUT.search(f"{where}/{name}"))


def wanted() -> set[Path]:
    """Everything that this interpreter needs to run the tests, links and what they lead to, and all folders above."""
    python = Path(sys.executable)
    library = [path for path in below(Path(sysconfig.get_path("stdlib"))) if "site-packages" not in path.parts]
    paths = {python, *library, *below(ROOT), *below(Path(sys.prefix))}
    native = [path for path in paths if path.suffix == ".so"]
    paths |= libraries([python.resolve(), *native])
    seen: set[Path] = set()
    # Each under its own name, links on the way to it, and what those lead to: nothing is unpacked through a link.
    found: set[Path] = set()
    waiting = list(paths)
    while waiting:
        path = waiting.pop()
        if path in seen or path == path.parent:
            continue
        seen.add(path)
        own = path.parent.resolve() / path.name
        found.add(own)
        waiting += [own.parent, path.parent]
        if own.is_symlink():
            waiting.append(own.parent / own.readlink())
    return {path for path in found if path.parent.resolve() == path.parent}


def archive(paths: set[Path], init: str) -> Iterator[bytes]:
    """A cpio archive, as the kernel takes it for its first file system."""

    def entry(number: int, name: str, mode: int, modified: int, data: bytes) -> bytes:
        raw = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, modified, len(data), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    number = 0
    for path in sorted(paths):
        status = path.lstat()
        if str(path) == "/" or not stat.S_IFMT(status.st_mode) & (stat.S_IFREG | stat.S_IFDIR | stat.S_IFLNK):
            continue
        if path.is_symlink():
            data = os.fsencode(path.readlink())
        else:
            data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        number += 1
        yield entry(number, str(path)[1:], status.st_mode, int(status.st_mtime), data)
    yield entry(number + 1, "init", stat.S_IFREG | 0o755, 0, init.encode())
    yield entry(0, "TRAILER!!!", 0, 0, b"")


def main() -> int:
    """Make the machine, run it, and end as pytest did in it."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.vm", description="Run tests where there are protection keys."
    )
    parser.add_argument("--kernel", type=Path, required=True, help="a kernel for x86-64, as /boot/vmlinuz is")
    parser.add_argument("--trace", action="store_true", help="show the kernel's own messages too")
    parser.add_argument("--no-keys", action="store_true", help="the same machine without protection keys")
    options, rest = parser.parse_known_args()
    environment = {"PATH": "/usr/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {name: value for name, value in os.environ.items() if name.startswith("MMKV_")}
    arguments = [sys.executable, "-P", "-m", "pytest", "-p", "no:cacheprovider", *rest]
    init = INIT.format(python=sys.executable, root=str(ROOT), mark=MARK, arguments=arguments, environment=environment)
    with tempfile.TemporaryDirectory() as directory:
        image = Path(directory, "image")
        with image.open("wb") as file:
            file.writelines(archive(wanted(), init))
        machine = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "4G", "-nographic"),
                *("-no-reboot", "-cpu", "max,-pku" if options.no_keys else "max", "-net", "none"),
                *("-kernel", str(options.kernel), "-initrd", str(image)),
                *("-append", f"console=ttyS0 panic=-1 {'' if options.trace else 'quiet'}"),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
        assert machine.stdout is not None
        code = None
        for line in machine.stdout:
            print(line.rstrip(), flush=True)
            if match := re.search(rf"{MARK} (\d+)", line):
                code = int(match.group(1))
        machine.wait()
    if code is None:
        print("the machine ended before the tests did", file=sys.stderr)
    return 1 if code is None else code


if __name__ == "__main__":
    sys.exit(main())
