"""A library to preload that makes msync fail, or kills or stops its process, at a chosen call."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/types.h>

static atomic_int calls, starts, countdown;
static int planned;

/* At msync number `number` from now on (the next is 1): 'f' fail, 'F' fail although all of it was written, 'k' be
 * killed before it, 'K' after it, 's' stop. */
void shim_plan(int number, int what) { planned = what; atomic_store(&countdown, number); }
int shim_calls(void) { return atomic_load(&calls); }
int shim_starts(void) { return atomic_load(&starts); }

int msync(void *address, size_t length, int flags)
{
    static int (*real)(void *, size_t, int);
    if (!real) real = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "msync");
    atomic_fetch_add(&calls, 1);
    if (atomic_load(&countdown) <= 0 || atomic_fetch_sub(&countdown, 1) != 1) return real(address, length, flags);
    if (planned == 'f') { errno = EIO; return -1; }
    if (planned == 'k') raise(SIGKILL);
    if (planned == 's') raise(SIGSTOP);
    int result = real(address, length, flags);
    if (planned == 'K') raise(SIGKILL);
    if (planned == 'F') { errno = EIO; return -1; }
    return result;
}

int sync_file_range(int fd, off_t offset, off_t length, unsigned flags)
{
    static int (*real)(int, off_t, off_t, unsigned);
    if (!real) real = (int (*)(int, off_t, off_t, unsigned))dlsym(RTLD_NEXT, "sync_file_range");
    atomic_fetch_add(&starts, 1);
    return real(fd, offset, length, flags);
}
"""

PRELUDE = """
import ctypes, os, signal, sys, threading, time, warnings
import mmkv
shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
def plan(number, what):
    shim.shim_plan(number, ord(what))
"""
"""What the programs of tests with the library begin with."""


def build(directory: Path) -> Path:
    """Compile the library; returns where it is."""
    source, library = directory / "shim.c", directory / "shim.so"
    source.write_text(SOURCE)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library
