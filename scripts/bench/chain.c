/* The bare chain that recovery is measured against: from a child's death to the process that waited for it.
 *
 *     gcc -O2 -Wall -Wextra -o chain chain.c
 *     chain N [--inline] [--size BYTES]
 *
 * N processes serve lines as floor.c does, on a free port of 127.0.0.1. Besides messages they know
 *     pid         answered with the process's pid
 *     hold K      takes lock K, a futex word, and waits to be killed
 *     touch K     takes lock K, waiting in FUTEX_WAIT; answered with the CLOCK_MONOTONIC ns at which it had it
 * The parent learns of a death through signalfd and poll, reaps the child that the signal names, and sends its number to
 * a standby process, which clears the word and wakes a waiter. Both run at nice -20 where that is permitted. A
 * millisecond later the parent looks for others that are dead, and replaces them, as our supervisor does. Nothing is
 * validated, undone, counted or logged: what a recovery takes beyond this is the price of repairing.
 * With --inline the parent clears the word itself: the difference is what the separate process costs.
 * With --size every process has BYTES of memory, which it shares with its parent until one of them writes.
 *
 * It prints `Forked N processes on tcp:127.0.0.1:PORT`, and on stderr for every death
 *     dead PID SEEN REAPED
 * the ns at which poll returned and those at which waitpid did. SIGTERM or SIGINT ends it and its children.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 65535 /* the kernel clamps it to net.core.somaxconn */
#define LOCKS 1024
#define MOST_CHILDREN 4096
#define FRAME 256 /* deaths in one message to the standby */
#define WAITERS 0x80000000u

/* What the processes share: the locks, and for each child the lock that it holds, plus 1. */
static struct {
    _Atomic uint32_t lock[LOCKS];
    _Atomic uint32_t held[MOST_CHILDREN];
} *shared;

struct death {
    uint32_t child;
    pid_t pid;
    uint64_t seen, reaped;
};

static pid_t pids[MOST_CHILDREN];
static int children, listener, in_parent_itself, former_nice;
static char request[4096], reply[4096 + 128];

static void fail(const char *what)
{
    fprintf(stderr, "chain: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* ---- locks ---- */

static void acquire(uint32_t number, uint32_t self)
{
    _Atomic uint32_t *word = &shared->lock[number];
    uint32_t mine = self + 1, seen = 0;
    atomic_store(&shared->held[self], number + 1);
    if (atomic_compare_exchange_strong(word, &seen, mine))
        return;
    for (;;) {
        if (seen == 0) {
            /* Others may sleep still. */
            if (atomic_compare_exchange_strong(word, &seen, mine | WAITERS))
                return;
        } else if (seen & WAITERS || atomic_compare_exchange_strong(word, &seen, seen | WAITERS)) {
            syscall(SYS_futex, word, FUTEX_WAIT, seen | WAITERS, NULL, NULL, 0);
            seen = atomic_load(word);
        }
    }
}

static void release(uint32_t child)
{
    uint32_t number = atomic_load(&shared->held[child]);
    if (!number)
        return;
    _Atomic uint32_t *word = &shared->lock[number - 1];
    if ((atomic_load(word) & ~WAITERS) == child + 1 && atomic_exchange(word, 0) & WAITERS)
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
    atomic_store(&shared->held[child], 0);
}

/* ---- children ---- */

/* Answers a line. Returns 0 if the connection is to be closed. */
static int answer(int conn, uint32_t self, char *line)
{
    char *colon = strchr(line, ':');
    int len;
    if (!strcmp(line, "pid")) {
        len = sprintf(reply, "%d\n", getpid());
    } else if (!strncmp(line, "hold ", 5)) {
        acquire(atoi(line + 5) % LOCKS, self);
        for (;;)
            pause();
    } else if (!strncmp(line, "touch ", 6)) {
        acquire(atoi(line + 6) % LOCKS, self);
        uint64_t now = now_ns();
        release(self);
        len = sprintf(reply, "%llu\n", (unsigned long long)now);
    } else if (colon) {
        *colon = 0;
        len = sprintf(reply, "server %d recvd message \"%s\" from user %s\n", getpid(), colon + 1, line);
    } else {
        return 0;
    }
    return send(conn, reply, len, MSG_NOSIGNAL) == len;
}

static void serve(int conn, uint32_t self)
{
    size_t have = 0;
    ssize_t got;
    while (have < sizeof request - 1 && (got = recv(conn, request + have, sizeof request - 1 - have, 0)) > 0) {
        have += got;
        request[have] = 0;
        char *newline = strchr(request, '\n');
        if (!newline)
            continue;
        *newline = 0;
        if (!answer(conn, self, request))
            return;
        have = 0;
    }
}

static void child(uint32_t self, pid_t parent)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpriority(PRIO_PROCESS, 0, former_nice);
    for (;;) {
        int conn = accept(listener, NULL, NULL);
        if (conn < 0)
            continue;
        serve(conn, self);
        close(conn);
    }
}

static void start_child(uint32_t number)
{
    pid_t parent = getpid(), pid = fork();
    if (pid < 0)
        fail("fork"); /* those already forked die with us */
    if (pid == 0)
        child(number, parent);
    pids[number] = pid;
}

/* ---- the chain ---- */

static void stand_by(int orders)
{
    static struct death taken[FRAME];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
        ssize_t got = recv(orders, taken, sizeof taken, 0);
        if (got <= 0)
            _exit(0);
        for (size_t i = 0; i < got / sizeof *taken; i++)
            release(taken[i].child);
        send(orders, taken, got, MSG_NOSIGNAL);
    }
}

static void reaped(struct death *death, pid_t pid, uint64_t seen)
{
    *death = (struct death){.child = MOST_CHILDREN - 1, .pid = pid, .seen = seen, .reaped = now_ns()};
    for (int i = 0; i < children; i++)
        if (pids[i] == pid)
            death->child = i;
}

/* Deaths that have not been told of, and children that are to be replaced. */
static struct death dead[MOST_CHILDREN], gone[MOST_CHILDREN];
static size_t dead_count, gone_count;

/* What the dead held is released, by the standby if there is one: `gone` when it has been. */
static void repair(struct death *first, size_t count, int orders)
{
    if (!in_parent_itself) {
        for (size_t sent = 0; sent < count; sent += FRAME) {
            size_t part = count - sent < FRAME ? count - sent : FRAME;
            if (send(orders, first + sent, part * sizeof *first, MSG_NOSIGNAL) < 0)
                fail("send");
        }
        return;
    }
    for (size_t i = 0; i < count; i++) {
        release(first[i].child);
        gone[gone_count++] = first[i];
    }
}

static void say_and_replace(void)
{
    for (size_t i = 0; i < dead_count; i++)
        fprintf(stderr, "dead %d %llu %llu\n", dead[i].pid, (unsigned long long)dead[i].seen,
                (unsigned long long)dead[i].reaped);
    for (size_t i = 0; i < gone_count; i++)
        start_child(gone[i].child);
    dead_count = gone_count = 0;
}

/* One signal may stand for many deaths: the kernel looks for them among all children. */
static void take_others(int orders)
{
    uint64_t seen = now_ns();
    size_t first = dead_count;
    pid_t pid;
    while (dead_count < MOST_CHILDREN && (pid = waitpid(-1, NULL, WNOHANG)) > 0)
        reaped(&dead[dead_count++], pid, seen);
    repair(dead + first, dead_count - first, orders);
    say_and_replace();
}

/* The signal names one of the dead, which is reaped and repaired without looking for it. Gives whether others are still
 * to be looked for. */
static int take_named(pid_t named, int orders)
{
    uint64_t seen = now_ns();
    if (waitpid(named, NULL, WNOHANG) != named) {
        take_others(orders);
        return 0;
    }
    reaped(&dead[dead_count], named, seen);
    repair(&dead[dead_count++], 1, orders);
    return 1;
}

static void run(int signals, int orders)
{
    struct pollfd fds[] = {{.fd = signals, .events = POLLIN}, {.fd = orders, .events = POLLIN}};
    struct signalfd_siginfo info;
    int others = 0; /* to be looked for after a millisecond without anything else */
    for (;;) {
        int count = poll(fds, 2, others ? 1 : -1);
        if (count == 0) {
            take_others(orders);
            others = 0;
        }
        if (count <= 0)
            continue;
        if (fds[0].revents && read(signals, &info, sizeof info) == sizeof info) {
            if (info.ssi_signo != SIGCHLD)
                return;
            others = take_named(info.ssi_pid, orders);
        }
        if (fds[1].revents) {
            ssize_t got = recv(orders, gone + gone_count, FRAME * sizeof *gone, MSG_DONTWAIT);
            if (got == 0)
                return;
            gone_count += got > 0 ? got / sizeof *gone : 0;
            if (!others)
                say_and_replace();
        }
    }
}

int main(int argc, char **argv)
{
    size_t size = 0;
    children = argc > 1 ? atoi(argv[1]) : 0;
    for (int i = 2; i < argc; i++) {
        if (!strcmp(argv[i], "--inline"))
            in_parent_itself = 1;
        else if (!strcmp(argv[i], "--size") && i + 1 < argc)
            size = strtoul(argv[++i], NULL, 10);
        else
            children = 0;
    }
    if (children < 1 || children > MOST_CHILDREN) {
        fprintf(stderr, "usage: chain N [--inline] [--size BYTES]\n");
        return 2;
    }

    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t addr_len = sizeof addr;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&addr, addr_len) || listen(listener, BACKLOG) ||
        getsockname(listener, (struct sockaddr *)&addr, &addr_len))
        fail("listen");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *memory = size ? malloc(size) : NULL;
    if (shared == MAP_FAILED || (size && !memory))
        fail("memory");
    if (memory)
        memset(memory, 1, size);

    int pair[2];
    sigset_t caught;
    sigemptyset(&caught);
    sigaddset(&caught, SIGCHLD);
    sigaddset(&caught, SIGTERM);
    sigaddset(&caught, SIGINT);
    sigprocmask(SIG_BLOCK, &caught, NULL);
    int signals = signalfd(-1, &caught, SFD_CLOEXEC);
    if (signals < 0 || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair))
        fail("signalfd");
    former_nice = getpriority(PRIO_PROCESS, 0);
    for (int i = 0; i < children; i++)
        start_child(i);
    setpriority(PRIO_PROCESS, 0, -20);
    pid_t standby = fork();
    if (standby < 0)
        fail("fork");
    if (standby == 0)
        stand_by(pair[1]);
    printf("Forked %d processes on tcp:127.0.0.1:%d\n", children, ntohs(addr.sin_port));
    fflush(stdout);
    run(signals, pair[0]);

    for (int i = 0; i < children; i++)
        kill(pids[i], SIGKILL);
    kill(standby, SIGKILL);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    return 0;
}
