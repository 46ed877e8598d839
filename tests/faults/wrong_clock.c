// A wrong clock: loaded before the C library, it shifts the time of day by WRONG_CLOCK seconds. Time that only passes
// (CLOCK_MONOTONIC) is left as it is.
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    const char *shift = getenv("WRONG_CLOCK");
    if (failed == 0 && shift && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += atol(shift);
    return (int)failed;
}
