/* LD_PRELOAD: clocks that a test moves. The file that CLOCKS names holds two numbers of 64 bits: seconds that are added to
 * the clock of the day, and to the monotonic one. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile long long *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *name = getenv("CLOCKS");
    int file = name ? open(name, O_RDONLY) : -1;
    void *at = file < 0 ? MAP_FAILED : mmap(0, 16, PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED)
        ahead = at;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    long code = syscall(SYS_clock_gettime, id, now);
    if (code == 0 && ahead)
        now->tv_sec += ahead[id == CLOCK_MONOTONIC ? 1 : 0];
    return (int)code;
}
