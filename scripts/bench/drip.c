/* Load at a given rate: an open model, where a request is due when its time has come, whoever is still being served.
 *
 *     gcc -O2 -Wall -Wextra -o drip drip.c
 *     drip PORT RATE SECONDS [FILE]
 *
 * Every request has a connection of its own to 127.0.0.1; its latency counts from the moment at which it was due, so
 * that a server that stands still for a moment is not spared the requests that it kept from being sent. At the end it
 * prints one JSON object: requests (answered), errors, late (not answered at the end), seconds (that it took),
 * latency_us {p50 p90 p99 p999 max}. FILE is given two 64-bit words for each request that was answered: when it was due, by
 * CLOCK_MONOTONIC, and its latency, both in nanoseconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_OPEN 4096   /* descriptors; what is due beyond waits, and its time counts */
#define PATIENCE_MS 2000 /* after the last one was sent */

static const char message[] = "arijort:bench\n";
static uint64_t due_at[MOST_OPEN]; /* by descriptor */
static struct request {
    uint64_t due, latency;
} *requests; /* answered */
static size_t answered, errors, open_now;
static struct sockaddr_in server = {.sin_family = AF_INET};
static int events;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void done(int conn)
{
    /* Reset instead of closed: no port waits for its last packets. */
    struct linger none = {.l_onoff = 1};
    setsockopt(conn, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(conn);
    open_now--;
}

static void failed(int conn)
{
    errors++;
    done(conn);
}

static void wait_for(int conn, int operation, uint32_t what)
{
    struct epoll_event event = {.events = what, .data.fd = conn};
    epoll_ctl(events, operation, conn, &event);
}

static void ask(int conn, int operation)
{
    if (send(conn, message, sizeof message - 1, MSG_NOSIGNAL) < 0)
        failed(conn);
    else
        wait_for(conn, operation, EPOLLIN);
}

static void start(uint64_t due)
{
    int conn = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (conn < 0 || conn >= MOST_OPEN) {
        fprintf(stderr, "drip: socket: %s\n", conn < 0 ? strerror(errno) : "too many");
        exit(1);
    }
    open_now++;
    due_at[conn] = due;
    if (connect(conn, (struct sockaddr *)&server, sizeof server) == 0)
        ask(conn, EPOLL_CTL_ADD);
    else if (errno == EINPROGRESS)
        wait_for(conn, EPOLL_CTL_ADD, EPOLLOUT);
    else
        failed(conn);
}

static void take(struct epoll_event *event)
{
    char reply[512];
    int conn = event->data.fd;
    if (event->events & EPOLLOUT) {
        ask(conn, EPOLL_CTL_MOD);
        return;
    }
    ssize_t got = recv(conn, reply, sizeof reply, 0);
    if (got > 7 && reply[got - 1] == '\n' && !memcmp(reply, "server ", 7)) {
        requests[answered++] = (struct request){due_at[conn], now_ns() - due_at[conn]};
        done(conn);
    } else {
        failed(conn);
    }
}

static int by_latency(const void *a, const void *b)
{
    uint64_t x = ((const struct request *)a)->latency, y = ((const struct request *)b)->latency;
    return (x > y) - (x < y);
}

static uint64_t quantile_us(double q)
{
    return answered ? requests[(size_t)(q * (answered - 1))].latency / 1000 : 0;
}

static int write_down(const char *path)
{
    FILE *file = fopen(path, "w");
    int written = file && fwrite(requests, sizeof *requests, answered, file) == answered;
    if (file && fclose(file))
        written = 0;
    if (!written)
        perror(path);
    return written;
}

int main(int argc, char **argv)
{
    int given = argc == 4 || argc == 5;
    double rate = given ? atof(argv[2]) : 0, seconds = given ? atof(argv[3]) : 0;
    if (rate < 1 || seconds <= 0) {
        fprintf(stderr, "usage: drip PORT RATE SECONDS [FILE]\n");
        return 2;
    }
    struct rlimit files = {MOST_OPEN, MOST_OPEN};
    setrlimit(RLIMIT_NOFILE, &files);
    server.sin_port = htons(atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    size_t planned = rate * seconds, sent = 0;
    requests = calloc(planned, sizeof *requests);
    events = epoll_create1(0);
    if (!requests || events < 0)
        return 1;

    uint64_t begun = now_ns(), last = begun + seconds * 1e9 + PATIENCE_MS * 1000000ull;
    for (;;) {
        uint64_t now = now_ns(), due = 0;
        while (sent < planned && (due = begun + sent * 1e9 / rate) <= now && open_now < MOST_OPEN - 64) {
            start(due);
            sent++;
        }
        if ((sent == planned && open_now == 0) || now > last)
            break;
        uint64_t wait = sent < planned && due > now ? due - now : 10000000;
        struct timespec limit = {.tv_nsec = wait};
        struct epoll_event ready[64];
        int count = epoll_pwait2(events, ready, 64, &limit, NULL);
        for (int i = 0; i < count; i++)
            take(&ready[i]);
    }
    double took = (now_ns() - begun) / 1e9;
    if (argc == 5 && !write_down(argv[4]))
        return 1;
    qsort(requests, answered, sizeof *requests, by_latency);
    printf("{\"requests\": %zu, \"errors\": %zu, \"late\": %zu, \"seconds\": %.3f, \"latency_us\": {\"p50\": %lu, \"p90\": %lu, "
           "\"p99\": %lu, \"p999\": %lu, \"max\": %lu}}\n",
           answered, errors, planned - answered - errors, took, quantile_us(.5), quantile_us(.9), quantile_us(.99),
           quantile_us(.999), quantile_us(1));
    return 0;
}
