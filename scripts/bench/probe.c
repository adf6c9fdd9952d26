/* Periodic probing, the other way to learn of a death: kill(pid, 0) for every process, again and again.
 *
 *     gcc -O2 -Wall -Wextra -o probe probe.c
 *     probe PERIOD_US PID...
 *
 * For each process that is gone it prints `gone PID NS`, NS by CLOCK_MONOTONIC, and asks for it no more. A process counts
 * as gone once its parent has reaped it: kill() does not see the difference before. It ends with SIGTERM.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: probe PERIOD_US PID...\n");
        return 2;
    }
    long period = atol(argv[1]);
    int count = argc - 2;
    pid_t *pids = calloc(count + 1, sizeof *pids);
    if (!pids)
        return 1;
    for (int i = 0; i < count; i++)
        pids[i] = atoi(argv[i + 2]);
    printf("probing\n");
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < count; i++) {
            if (pids[i] && kill(pids[i], 0) == -1 && errno == ESRCH) {
                printf("gone %d %lld\n", pids[i], now_ns());
                fflush(stdout);
                pids[i] = 0;
            }
        }
        struct timespec pause = { period / 1000000, period % 1000000 * 1000 };
        nanosleep(&pause, NULL);
    }
}
