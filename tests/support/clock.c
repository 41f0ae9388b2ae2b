/* Preloaded into a server: the time of day is CLOCK_AHEAD_S seconds ahead, or as many as the file
 * CLOCK_AHEAD_FILE holds at the moment. Monotonic clocks, by which the server measures how long
 * things take, are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

static long ahead_s(void) {
    static const volatile long *moved;
    static int looked;
    if (!looked) {
        looked = 1;
        const char *name = getenv("CLOCK_AHEAD_FILE");
        int file = name ? open(name, O_RDONLY) : -1;
        void *mapped = file < 0 ? MAP_FAILED : mmap(0, sizeof *moved, PROT_READ, MAP_SHARED, file, 0);
        if (mapped != MAP_FAILED) moved = mapped;
    }
    if (moved) return *moved;
    const char *said = getenv("CLOCK_AHEAD_S");
    return said ? atol(said) : 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int failed = real(now, zone);
    if (now) now->tv_sec += ahead_s();
    return failed;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, now);
    if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) now->tv_sec += ahead_s();
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
