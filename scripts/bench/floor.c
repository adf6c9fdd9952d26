/* The bare pre-forking floor that Holdfast is measured against.
 *
 *     gcc -O2 -Wall -Wextra -o floor floor.c
 *     floor PORT N [--keep-alive]
 *
 * N processes block in accept() on one inherited socket, read a line, reply, close. No journal, no
 * counters, no checks: whatever a server does beyond this is the price of what it promises.
 * --keep-alive serves lines until the client closes. PORT 0 picks a free port.
 *
 * When all are forked it prints one line:
 *     Forked N processes on tcp:127.0.0.1:PORT in T ms
 * T runs from main() to the last fork() returned. SIGTERM or SIGINT ends it and its children.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BACKLOG 65535 /* the kernel clamps it to net.core.somaxconn */
#define LINE_MAX_BYTES 65536

static char request[LINE_MAX_BYTES + 1];
static char reply[LINE_MAX_BYTES + 128];

static void fail(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* Answers the line at `line`, which ends at `newline`. Returns 0 if the client is gone. */
static int answer(int conn, pid_t self, char *line, char *newline)
{
    *newline = 0;
    char *colon = strchr(line, ':');
    if (!colon)
        return 0;
    *colon = 0;
    int len = snprintf(reply, sizeof reply, "server %d recvd message \"%s\" from user %s\n",
                       self, colon + 1, line);
    return send(conn, reply, len, MSG_NOSIGNAL) == len;
}

static void serve(int conn, pid_t self, int keep_alive)
{
    size_t have = 0;
    for (;;) {
        ssize_t got = recv(conn, request + have, LINE_MAX_BYTES - have, 0);
        if (got <= 0)
            return;
        have += got;
        char *line = request, *end = request + have, *newline;
        while ((newline = memchr(line, '\n', end - line))) {
            if (!answer(conn, self, line, newline) || !keep_alive)
                return;
            line = newline + 1;
        }
        have = end - line;
        memmove(request, line, have);
    }
}

static void child(int listener, pid_t parent, int keep_alive)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    pid_t self = getpid();
    for (;;) {
        int conn = accept(listener, NULL, NULL);
        if (conn < 0)
            continue;
        serve(conn, self, keep_alive);
        close(conn);
    }
}

int main(int argc, char **argv)
{
    double start = now_ms();
    int keep_alive = argc == 4 && !strcmp(argv[3], "--keep-alive");
    int count = argc > 2 ? atoi(argv[2]) : 0;
    if (count < 1 || argc > 3 + keep_alive) {
        fprintf(stderr, "usage: floor PORT N [--keep-alive]\n");
        return 2;
    }

    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons(atoi(argv[1])),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t addr_len = sizeof addr;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0)
        fail("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&addr, addr_len) || listen(listener, BACKLOG) ||
        getsockname(listener, (struct sockaddr *)&addr, &addr_len))
        fail("listen");

    pid_t *children = calloc(count, sizeof *children), parent = getpid();
    if (!children)
        fail("calloc");
    for (int i = 0; i < count; i++) {
        children[i] = fork();
        if (children[i] < 0)
            fail("fork"); /* those already forked die with us */
        if (children[i] == 0)
            child(listener, parent, keep_alive);
    }
    double forked = now_ms();

    /* Until here a signal simply kills us, and PDEATHSIG the children. */
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    printf("Forked %d processes on tcp:127.0.0.1:%d in %.1f ms\n", count, ntohs(addr.sin_port),
           forked - start);
    fflush(stdout);

    int signal_number;
    sigwait(&stop, &signal_number);
    for (int i = 0; i < count; i++)
        kill(children[i], SIGKILL);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    return 0;
}
