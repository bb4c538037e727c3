"""Compile the fuzz target: for libFuzzer where there is clang; with a plain driver; as a library that makes files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENGINE = HERE.parents[1] / "mmkv" / "engine"
TARGET = [HERE / name for name in ("stores.c", "patch.c", "target.c", "mutate.c")]
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


def has_libfuzzer() -> bool:
    """Whether clang is here with its fuzzer's library, which Debian has in a package of its own."""
    if shutil.which("clang") is None:
        return False
    asked = ["clang", "-fsanitize=fuzzer", "-x", "c", "-", "-o", "/dev/null"]
    program = "int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { (void)d; (void)n; return 0; }"
    return subprocess.run(asked, input=program, text=True, capture_output=True, check=False).returncode == 0


def compile_c(compiler: str, output: Path, more: list[Path], *flags: str) -> Path:
    """The engine without the native class, the target, and `more`, in one program or library."""
    sources = [path for path in sorted(ENGINE.glob("*.c")) if not path.name.startswith("hot")]
    command = [
        compiler, "-std=gnu11", "-O1", "-g", "-UNDEBUG", "-Wall", "-Wextra", "-fno-strict-aliasing", "-pthread",
        "-fvisibility=hidden", *flags, f"-I{ENGINE}", f"-I{HERE}", *map(str, [*sources, *TARGET, *more]),
        "-Wl,--wrap=getrandom", "-o", str(output),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return output


def fuzzer(directory: Path) -> Path:
    """The coverage-guided one."""
    flags = [*SANITIZED, "-fsanitize=fuzzer", "-fvisibility=default"]
    return compile_c("clang", directory / "fuzzer", [], *flags)


def driver(directory: Path) -> Path:
    """The plain one: `driver SEED INPUTS MILLISECONDS CURRENT FILE...`, see driver.c."""
    return compile_c("cc", directory / "driver", [HERE / "driver.c"], *SANITIZED)


def library(directory: Path) -> Path:
    """For Python: fuzz_write(hash, input, size, path) makes the file of an input."""
    return compile_c("cc", directory / "fuzz.so", [], "-shared", "-fPIC")
