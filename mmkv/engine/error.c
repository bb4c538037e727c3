/* error.c: what went wrong last on this thread. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "engine.h"

static _Thread_local mmkv_failure failure;

const mmkv_failure *mmkv_failure_get(void) { return &failure; }

static void record(mmkv_failure what, const char *format, va_list arguments)
{
    vsnprintf(what.text, sizeof what.text, format, arguments); /* before the last one goes: it may be among the arguments */
    failure = what;
}

int fail(int code, uint64_t offset, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    record((mmkv_failure){ .code = code, .offset = offset }, format, arguments);
    va_end(arguments);
    return code;
}

int fail_os(const char *what)
{
    int e = errno;
    bool full = e == ENOSPC || e == EDQUOT || e == EFBIG;
    int code = fail(full ? MMKV_FULL : e == ENOMEM ? MMKV_NO_MEMORY : MMKV_OS, 0, "%s: %s", what, strerror(e));
    failure.os_errno = e;
    return code;
}

int fail_errno(int os_errno, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    record((mmkv_failure){ .code = MMKV_OS, .os_errno = os_errno }, format, arguments);
    va_end(arguments);
    return MMKV_OS;
}

void fail_pid(uint64_t pid) { failure.pid = pid; }

/* After cleaning up, whose own failures are of less interest. */
void fail_again(const mmkv_failure *kept) { failure = *kept; }
