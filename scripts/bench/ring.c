/* A queue of 64-byte items in shared memory, for any number of producers and consumers, and nothing that survives a death:
 * what scripts/bench/objects holds our queues against. Each cell has a sequence number, as in Dmitry Vyukov's bounded
 * queue; who finds the ring empty or full looks for a while and then sleeps on a futex.
 *
 *     ring MILLISECONDS    one process pushes, another pops; prints the nanoseconds that an item took
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CELLS = 1024, ITEM = 64, LOOKS = 200, BATCH = 256 };

struct cell {
    _Alignas(128) _Atomic uint64_t turn;
    unsigned char item[ITEM];
};

struct ring {
    _Alignas(128) _Atomic uint64_t head;
    _Alignas(128) _Atomic uint64_t tail;
    /* Somebody sleeps until there is an item, or room. */
    _Alignas(128) _Atomic uint32_t sleepers[2];
    _Alignas(128) _Atomic uint32_t changes[2];
    _Alignas(128) _Atomic uint32_t ready, done;
    _Atomic uint64_t count;
    struct cell cells[CELLS];
};

static void sleep_on(struct ring *ring, int side, uint32_t seen) {
    struct timespec limit = {0, 50000000};
    syscall(SYS_futex, &ring->changes[side], FUTEX_WAIT, seen, &limit, NULL, 0);
}

static void wake(struct ring *ring, int side) {
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&ring->sleepers[side])) {
        atomic_fetch_add(&ring->changes[side], 1);
        atomic_store(&ring->sleepers[side], 0);
        syscall(SYS_futex, &ring->changes[side], FUTEX_WAKE, 1, NULL, NULL, 0);
    }
}

static int try_push(struct ring *ring, const unsigned char *item) {
    uint64_t at = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    for (;;) {
        struct cell *cell = &ring->cells[at % CELLS];
        int64_t ahead = (int64_t)(atomic_load_explicit(&cell->turn, memory_order_acquire) - at);
        if (ahead < 0)
            return 0;
        if (ahead == 0 && atomic_compare_exchange_weak(&ring->tail, &at, at + 1)) {
            memcpy(cell->item, item, ITEM);
            atomic_store_explicit(&cell->turn, at + 1, memory_order_release);
            return 1;
        }
        if (ahead > 0)
            at = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    }
}

static int try_pop(struct ring *ring, unsigned char *item) {
    uint64_t at = atomic_load_explicit(&ring->head, memory_order_relaxed);
    for (;;) {
        struct cell *cell = &ring->cells[at % CELLS];
        int64_t ahead = (int64_t)(atomic_load_explicit(&cell->turn, memory_order_acquire) - (at + 1));
        if (ahead < 0)
            return 0;
        if (ahead == 0 && atomic_compare_exchange_weak(&ring->head, &at, at + 1)) {
            memcpy(item, cell->item, ITEM);
            atomic_store_explicit(&cell->turn, at + CELLS, memory_order_release);
            return 1;
        }
        if (ahead > 0)
            at = atomic_load_explicit(&ring->head, memory_order_relaxed);
    }
}

static int until(struct ring *ring, int side, unsigned char *item) {
    for (;;) {
        for (int look = 0; look < LOOKS; look++) {
            if (side == 0 ? try_pop(ring, item) : try_push(ring, item)) {
                wake(ring, !side);
                return 1;
            }
            if (atomic_load_explicit(&ring->done, memory_order_relaxed))
                return 0;
            __builtin_ia32_pause();
        }
        uint32_t seen = atomic_load(&ring->changes[side]);
        atomic_store(&ring->sleepers[side], 1);
        atomic_thread_fence(memory_order_seq_cst);
        if (side == 0 ? try_pop(ring, item) : try_push(ring, item)) {
            wake(ring, !side);
            return 1;
        }
        sleep_on(ring, side, seen);
    }
}

static void on_core(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        exit(3);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    double seconds = argc == 2 ? atof(argv[1]) / 1000 : 0;
    if (seconds <= 0)
        return fprintf(stderr, "ring MILLISECONDS\n"), 2;
    struct ring *ring = mmap(NULL, sizeof *ring, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED)
        return 1;
    for (uint64_t at = 0; at < CELLS; at++)
        ring->cells[at].turn = at;
    unsigned char item[ITEM] = {7};
    pid_t producer = fork();
    if (producer == 0) {
        on_core(1);
        atomic_store(&ring->ready, 1);
        while (until(ring, 1, item)) {
        }
        _exit(0);
    }
    on_core(0);
    while (!atomic_load(&ring->ready))
        sched_yield();
    for (int warm = 0; warm < 20 * CELLS; warm++)
        until(ring, 0, item);
    uint64_t count = 0;
    double began = now(), took;
    do {
        for (int batch = 0; batch < BATCH; batch++)
            until(ring, 0, item);
        count += BATCH;
        took = now() - began;
    } while (took < seconds);
    atomic_store(&ring->done, 1);
    atomic_store(&ring->sleepers[1], 1);
    wake(ring, 1);
    waitpid(producer, NULL, 0);
    printf("%.3f\n", took * 1e9 / count);
    return 0;
}
