/* Every function of holdfast.h, used as it should be and as it should not. */
#include <holdfast.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                                                       \
    do {                                                                                                       \
        if (!(condition)) {                                                                                    \
            fprintf(stderr, "line %d: %s (%s)\n", __LINE__, #condition, holdfast_last_error());                \
            exit(1);                                                                                           \
        }                                                                                                      \
    } while (0)

/* Another thread's call is going on: the handle is in use, and whoever closes it takes it from under nobody's feet. */

static void *waits(void *consumer)
{
    holdfast_code code;
    /* The other one, who looks whether this one is at it, may be at it itself. */
    while ((code = holdfast_consumer_wait(consumer, 60000)) == HOLDFAST_ORDER)
        sched_yield();
    CHECK(code == HOLDFAST_OK);
    return NULL;
}

static void threads(holdfast_blocks *blocks)
{
    holdfast_producer *producer = NULL;
    holdfast_consumer *consumer = NULL;
    pthread_t thread;
    size_t length;
    char text[8];
    CHECK(holdfast_producer_open(blocks, "threads", 0, NULL, &producer) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(producer, "one", 3, 1000, NULL) == HOLDFAST_OK);
    CHECK(holdfast_consumer_open(blocks, "threads", &consumer) == HOLDFAST_OK);
    CHECK(holdfast_consumer_read(consumer, text, sizeof text, &length, NULL) == HOLDFAST_OK);
    CHECK(pthread_create(&thread, NULL, waits, consumer) == 0);
    while (holdfast_consumer_unlock(consumer) == HOLDFAST_OK)
        sched_yield();
    CHECK(holdfast_consumer_unlock(consumer) == HOLDFAST_ORDER && strstr(holdfast_last_error(), "not over"));
    CHECK(holdfast_consumer_close(consumer) == HOLDFAST_OK);
    CHECK(holdfast_consumer_unlock(consumer) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_publish(producer, "two", 3, 1000, NULL) == HOLDFAST_OK);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(holdfast_producer_close(producer) == HOLDFAST_OK);
    CHECK(holdfast_blocks_remove(blocks, "threads", 1000) == HOLDFAST_OK);
}

/* Handles that are closed, of another kind, or none. */

static void handles(holdfast_blocks *blocks)
{
    holdfast_producer *producer = NULL, *other = NULL;
    int there;
    CHECK(holdfast_producer_release(NULL) == HOLDFAST_INVALID && strstr(holdfast_last_error(), "NULL"));
    CHECK(holdfast_producer_release((holdfast_producer *)&there) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_release((holdfast_producer *)blocks) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_open(blocks, "h", 0, NULL, &producer) == HOLDFAST_OK);
    CHECK(holdfast_producer_close(producer) == HOLDFAST_OK);
    CHECK(holdfast_producer_open(blocks, "h", 0, NULL, &other) == HOLDFAST_OK && other != producer);
    CHECK(holdfast_producer_release(producer) == HOLDFAST_INVALID);
    CHECK(strstr(holdfast_last_error(), "closed"));
    CHECK(holdfast_producer_close(producer) == HOLDFAST_INVALID);
    CHECK(holdfast_begin((holdfast_session *)other) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_close(other) == HOLDFAST_OK && holdfast_producer_close(NULL) == HOLDFAST_OK);
    CHECK(holdfast_blocks_names(blocks, NULL, NULL) == HOLDFAST_INVALID);
}

/* What was opened before a fork is the parent's: a child goes on with files and locks of its own. */

static void in_a_child(void (*deed)(void))
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        deed();
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static holdfast_producer *own, *begun, *of_group;
static holdfast_consumer *reader, *keeper;
static holdfast_pinned *seen;
static holdfast_group *together;
static char large[100000];

static void is_excluded(void)
{
    CHECK(holdfast_producer_publish(own, "x", 1, 1, NULL) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_producer_hold(own, 1) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_group_publish(together, of_group, "x", 1, 1, NULL) == HOLDFAST_ORDER);
    CHECK(holdfast_group_hold_for_reading(together, 1) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_producer_publish(of_group, "x", 1, 1, NULL) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_consumer_lock(reader, 1) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_producer_commit(begun, 1, NULL) == HOLDFAST_ORDER);
}

static void gives_nothing_back(void)
{
    CHECK(holdfast_group_release(together) == HOLDFAST_OK && holdfast_group_close(together) == HOLDFAST_OK);
    CHECK(holdfast_producer_release(own) == HOLDFAST_OK && holdfast_producer_close(own) == HOLDFAST_OK);
    CHECK(holdfast_producer_close(begun) == HOLDFAST_OK && holdfast_producer_close(of_group) == HOLDFAST_OK);
    CHECK(holdfast_pinned_close(seen) == HOLDFAST_OK);
    CHECK(holdfast_consumer_unlock(reader) == HOLDFAST_OK && holdfast_consumer_close(reader) == HOLDFAST_OK);
}

static void goes_on(void)
{
    size_t length;
    CHECK(holdfast_group_hold_for_writing(together, 1000) == HOLDFAST_OK);
    CHECK(holdfast_group_publish(together, of_group, "child", 5, 1000, NULL) == HOLDFAST_OK);
    CHECK(holdfast_producer_hold(own, 1000) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(own, large, sizeof large, 1000, NULL) == HOLDFAST_OK);
    CHECK(holdfast_consumer_pin(reader, &seen) == HOLDFAST_OK);
    CHECK(holdfast_consumer_read(reader, large, sizeof large, &length, NULL) == HOLDFAST_OK);
    CHECK(length == sizeof large && holdfast_pinned_length(seen) == length);
    CHECK(holdfast_consumer_lock(keeper, 1000) == HOLDFAST_OK);
}

/* It holds everything that it can, and lives until the pipe is closed. */

static pid_t goes_on_for_a_while(int *pipe_to_it)
{
    int to[2], from[2];
    char byte;
    pid_t child;
    CHECK(pipe(to) == 0 && pipe(from) == 0);
    child = fork();
    if (child == 0) {
        close(to[1]);
        goes_on();
        CHECK(write(from[1], "x", 1) == 1);
        _exit(read(to[0], &byte, 1) != 0);
    }
    CHECK(child > 0 && close(from[1]) == 0 && close(to[0]) == 0);
    CHECK(read(from[0], &byte, 1) == 1 && close(from[0]) == 0);
    *pipe_to_it = to[1];
    return child;
}

static void waits_for_the_pipe(int *pipe_to_it, pid_t *child)
{
    int to[2];
    char byte;
    CHECK(pipe(to) == 0);
    *child = fork();
    if (*child == 0) {
        close(to[1]);
        _exit(read(to[0], &byte, 1) != 0);
    }
    CHECK(*child > 0 && close(to[0]) == 0);
    *pipe_to_it = to[1];
}

static void ends(int pipe_to_it, pid_t child)
{
    int status;
    CHECK(close(pipe_to_it) == 0 && waitpid(child, &status, 0) == child && status == 0);
}

static void children(holdfast_blocks *blocks)
{
    holdfast_producer *other;
    holdfast_pinned *pinned[8];
    void *memory;
    int pipe_to_it, pins;
    pid_t child;
    CHECK(holdfast_producer_open(blocks, "forked", 0, NULL, &own) == HOLDFAST_OK);
    CHECK(holdfast_producer_open(blocks, "forked", 0, NULL, &other) == HOLDFAST_OK);
    CHECK(holdfast_producer_open(blocks, "begun", 0, NULL, &begun) == HOLDFAST_OK);
    CHECK(holdfast_producer_open(blocks, "grouped", 0, "f", &of_group) == HOLDFAST_OK);
    CHECK(holdfast_group_open(blocks, "f", &together) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(own, large, sizeof large, 1000, NULL) == HOLDFAST_OK);
    CHECK(holdfast_consumer_open(blocks, "forked", &reader) == HOLDFAST_OK);

    /* What the parent holds keeps a child out, and a child takes none of it off. */
    CHECK(holdfast_producer_hold(own, 1000) == HOLDFAST_OK);
    CHECK(holdfast_producer_begin(begun, 4, 1000, &memory) == HOLDFAST_OK);
    CHECK(holdfast_group_hold_for_writing(together, 1000) == HOLDFAST_OK);
    CHECK(holdfast_consumer_pin(reader, &seen) == HOLDFAST_OK);
    in_a_child(is_excluded);
    in_a_child(gives_nothing_back);
    CHECK(holdfast_producer_publish(other, "x", 1, 1, NULL) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_producer_publish(of_group, "x", 1, 1, NULL) == HOLDFAST_TIMED_OUT);
    memcpy(memory, "here", 4);
    CHECK(holdfast_producer_commit(begun, 1000, NULL) == HOLDFAST_OK);
    for (pins = 0; pins < 7; pins++) {
        CHECK(holdfast_producer_publish(own, large, sizeof large, 1000, NULL) == HOLDFAST_OK);
        CHECK(holdfast_consumer_pin(reader, &pinned[pins]) == HOLDFAST_OK);
    }
    CHECK(holdfast_producer_publish(own, large, sizeof large, 1, NULL) == HOLDFAST_TIMED_OUT);
    for (pins = 0; pins < 7; pins++)
        CHECK(holdfast_pinned_close(pinned[pins]) == HOLDFAST_OK);
    CHECK(holdfast_pinned_close(seen) == HOLDFAST_OK);

    /* What it gives back is free, though a child has the files open. */
    waits_for_the_pipe(&pipe_to_it, &child);
    CHECK(holdfast_producer_close(own) == HOLDFAST_OK && holdfast_group_close(together) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(other, large, sizeof large, 1000, NULL) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(of_group, "x", 1, 1000, NULL) == HOLDFAST_OK);
    ends(pipe_to_it, child);

    /* What a child takes keeps the parent out, and dies with it. */
    own = other;
    CHECK(holdfast_group_open(blocks, "f", &together) == HOLDFAST_OK);
    CHECK(holdfast_consumer_open(blocks, "begun", &keeper) == HOLDFAST_OK);
    child = goes_on_for_a_while(&pipe_to_it);
    is_excluded();
    CHECK(holdfast_consumer_lock(keeper, 1000) == HOLDFAST_OK && holdfast_consumer_close(keeper) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(begun, "x", 1, 1, NULL) == HOLDFAST_TIMED_OUT);
    ends(pipe_to_it, child);
    CHECK(holdfast_producer_publish(begun, "last", 4, 1000, NULL) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(own, "last", 4, 1000, NULL) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(of_group, "last", 4, 1000, NULL) == HOLDFAST_OK);
    seen = NULL;
    gives_nothing_back();
}

/* A thread that ends has no sentence any more, and still gets its codes. */

static pthread_key_t at_the_end;
static int ended;

static void fails(void *unused)
{
    (void)unused;
    ended += holdfast_producer_release(NULL) == HOLDFAST_INVALID && holdfast_begin(NULL) == HOLDFAST_ORDER;
    ended += holdfast_last_error()[0] == 0;
}

static void *ends_with_a_failure(void *unused)
{
    CHECK(pthread_setspecific(at_the_end, &ended) == 0);
    CHECK(holdfast_producer_release(NULL) == HOLDFAST_INVALID && holdfast_begin(NULL) == HOLDFAST_INVALID);
    return unused;
}

static void destructors(void)
{
    pthread_t thread;
    CHECK(pthread_key_create(&at_the_end, fails) == 0);
    CHECK(pthread_create(&thread, NULL, ends_with_a_failure, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(ended == 2);
}

static void count(const char *name, void *context)
{
    *(int *)context += strcmp(name, "a") == 0 || strcmp(name, "b") == 0;
}

int main(int argc, char **argv)
{
    holdfast_blocks *blocks = NULL;
    holdfast_producer *a = NULL, *b = NULL;
    holdfast_consumer *consumer = NULL;
    holdfast_pinned *pinned = NULL;
    holdfast_group *group = NULL;
    uint64_t version = 0;
    size_t length = 0;
    void *memory = NULL;
    char text[64];
    int names = 0;

    CHECK(argc == 2);
    CHECK(strlen(holdfast_version()) > 0);
    CHECK(holdfast_blocks_open(argv[1], &blocks) == HOLDFAST_UNKNOWN);
    CHECK(strstr(holdfast_last_error(), "does not exist"));
    CHECK(holdfast_blocks_create(argv[1], NULL) == HOLDFAST_INVALID);
    CHECK(holdfast_blocks_create(argv[1], &blocks) == HOLDFAST_OK);

    CHECK(holdfast_producer_open(NULL, "a", 0, NULL, &a) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_open(blocks, NULL, 0, NULL, &a) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_open(blocks, "../a", 0, NULL, &a) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_open(blocks, "\xff", 0, NULL, &a) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_open(blocks, "a", 100, "g", &a) == HOLDFAST_OK);
    CHECK(holdfast_producer_open(blocks, "b", 0, "g", &b) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(a, NULL, 3, 1000, NULL) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_publish(a, "", 0, 1000, NULL) == HOLDFAST_INVALID);
    CHECK(holdfast_producer_begin(a, 101, 1000, &memory) == HOLDFAST_TOO_LARGE);
    CHECK(holdfast_producer_commit(a, 1000, NULL) == HOLDFAST_ORDER);
    CHECK(holdfast_consumer_open(blocks, "a", &consumer) == HOLDFAST_UNKNOWN);
    CHECK(holdfast_producer_publish(a, "one", 3, 1000, &version) == HOLDFAST_OK && version == 1);
    CHECK(holdfast_producer_begin(a, 5, 1000, &memory) == HOLDFAST_OK);
    memcpy(memory, "other", 5);
    CHECK(holdfast_producer_abandon(a) == HOLDFAST_OK);
    CHECK(holdfast_producer_begin(a, 5, 1000, &memory) == HOLDFAST_OK);
    memcpy(memory, "three", 5);
    CHECK(holdfast_producer_commit(a, 1000, &version) == HOLDFAST_OK && version == 2);

    CHECK(holdfast_consumer_open(blocks, "a", &consumer) == HOLDFAST_OK);
    CHECK(holdfast_consumer_wait(consumer, 0) == HOLDFAST_OK);
    CHECK(holdfast_consumer_read(consumer, text, 2, &length, NULL) == HOLDFAST_TOO_LARGE && length == 5);
    CHECK(holdfast_consumer_read(consumer, text, sizeof text, &length, &version) == HOLDFAST_OK);
    CHECK(length == 5 && version == 2 && memcmp(text, "three", 5) == 0);
    CHECK(holdfast_consumer_wait(consumer, 1) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_consumer_lock(consumer, 1000) == HOLDFAST_OK);
    CHECK(holdfast_producer_hold(b, 1) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_consumer_unlock(consumer) == HOLDFAST_OK);
    CHECK(holdfast_producer_hold(b, 1000) == HOLDFAST_OK && holdfast_producer_release(b) == HOLDFAST_OK);

    CHECK(holdfast_group_open(blocks, "g", &group) == HOLDFAST_OK);
    CHECK(holdfast_group_publish(group, b, "x", 1, 1000, NULL) == HOLDFAST_ORDER);
    CHECK(holdfast_group_hold_for_writing(group, 1000) == HOLDFAST_OK);
    CHECK(holdfast_group_publish(group, b, "x", 1, 1000, &version) == HOLDFAST_OK && version == 1);
    CHECK(holdfast_producer_publish(a, "four", 4, 1, NULL) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_group_release(group) == HOLDFAST_OK);
    CHECK(holdfast_group_hold_for_reading(group, 1000) == HOLDFAST_OK);
    CHECK(holdfast_group_close(group) == HOLDFAST_OK && holdfast_group_release(group) == HOLDFAST_INVALID);

    CHECK(holdfast_blocks_names(blocks, count, &names) == HOLDFAST_OK && names == 2);
    CHECK(holdfast_consumer_pin(consumer, &pinned) == HOLDFAST_OK);
    CHECK(holdfast_blocks_remove(blocks, "a", 1000) == HOLDFAST_OK);
    CHECK(holdfast_consumer_wait(consumer, 1000) == HOLDFAST_REMOVED);
    holdfast_consumer_close(consumer);
    handles(blocks);
    threads(blocks);
    children(blocks);
    destructors();
    CHECK(holdfast_blocks_close(blocks) == HOLDFAST_OK && holdfast_blocks_close(blocks) == HOLDFAST_INVALID);
    CHECK(holdfast_pinned_length(pinned) == 5 && holdfast_pinned_version(pinned) == 2);
    CHECK(memcmp(holdfast_pinned_data(pinned), "three", 5) == 0);
    CHECK(holdfast_pinned_close(pinned) == HOLDFAST_OK);
    CHECK(holdfast_pinned_data(pinned) == NULL && holdfast_pinned_length(pinned) == 0);
    CHECK(holdfast_pinned_data(NULL) == NULL && holdfast_pinned_version(NULL) == 0);
    CHECK(holdfast_pinned_close(pinned) == HOLDFAST_INVALID && holdfast_pinned_close(NULL) == HOLDFAST_OK);
    CHECK(holdfast_producer_publish(a, "again", 5, 1000, &version) == HOLDFAST_OK && version == 1);
    holdfast_producer_close(a);
    holdfast_producer_close(b);
    return 0;
}
