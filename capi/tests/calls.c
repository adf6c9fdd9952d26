/* Every function of holdfast.h, used as it should be and as it should not. */
#include <holdfast.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    CHECK(holdfast_consumer_wait(consumer, 60000) == HOLDFAST_OK);
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
