/* Every function of holdfast.h that is about the region, used as it should be and as it should not:
 * `region_calls RUN_DIR NOWHERE`. */
#include <holdfast.h>
#include <pthread.h>
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

#define OK(call) CHECK((call) == HOLDFAST_OK)
#define GIVES(text) (length == strlen(text) && memcmp(data, text, length) == 0)

static const char *run_dir;
static const void *data;
static size_t length;
static uint64_t number;

/* What is wrong with a handle is told. */

static void handles(holdfast_session *session)
{
    int there;
    CHECK(holdfast_session_attach(run_dir, NULL) == HOLDFAST_INVALID);
    CHECK(holdfast_begin(NULL) == HOLDFAST_INVALID);
    CHECK(holdfast_begin((holdfast_session *)&there) == HOLDFAST_INVALID);
    OK(holdfast_session_close(NULL));
    OK(holdfast_session_attach(run_dir, &session));
    OK(holdfast_begin(session));
    OK(holdfast_session_close(session));
    CHECK(holdfast_begin(session) == HOLDFAST_INVALID && strstr(holdfast_last_error(), "closed"));
    CHECK(holdfast_session_close(session) == HOLDFAST_INVALID);
}

static void *elsewhere(void *session)
{
    holdfast_session *own = NULL;
    holdfast_map map;
    CHECK(holdfast_begin(session) == HOLDFAST_ELSEWHERE && strstr(holdfast_last_error(), "thread"));
    CHECK(holdfast_session_close(session) == HOLDFAST_ELSEWHERE);
    /* Its own, which ends with it, and with what is open. */
    OK(holdfast_session_attach(run_dir, &own));
    OK(holdfast_begin(own));
    OK(holdfast_map_open(own, "calls", "left open", &map));
    return NULL;
}

static void threads_and_children(holdfast_session *session)
{
    pthread_t thread;
    int status;
    pid_t child;
    CHECK(pthread_create(&thread, NULL, elsewhere, session) == 0 && pthread_join(thread, NULL) == 0);
    OK(holdfast_begin(session));
    child = fork();
    if (child == 0) {
        CHECK(holdfast_commit(session) == HOLDFAST_ELSEWHERE && strstr(holdfast_last_error(), "forked"));
        CHECK(holdfast_begin(session) == HOLDFAST_ELSEWHERE);
        OK(holdfast_session_attach(run_dir, &session));
        OK(holdfast_begin(session));
        OK(holdfast_session_close(session));
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    OK(holdfast_commit(session));
}

static int count(const void *key, size_t key_length, const void *value, size_t value_length, void *context)
{
    CHECK(key_length == 1 && value_length == 1 && *(const char *)key == *(const char *)value);
    return ++*(int *)context == 2;
}

static void maps(holdfast_session *session)
{
    holdfast_map map, other;
    holdfast_counter counter;
    int counted = 0;
    CHECK(holdfast_map_open(session, "a//b", "map", &map) == HOLDFAST_INVALID);
    CHECK(holdfast_map_open(session, NULL, "map", &map) == HOLDFAST_INVALID);
    OK(holdfast_map_open(session, "calls/deeper", "map", &map));
    OK(holdfast_map_open(session, "calls/deeper", "map", &other));
    CHECK(map.object == other.object);
    CHECK(holdfast_counter_open(session, "calls/deeper", "map", &counter) == HOLDFAST_EXISTS);
    OK(holdfast_map_put(session, map, "a", 1, "a", 1));
    OK(holdfast_map_put(session, map, "b", 1, NULL, 0));
    CHECK(holdfast_map_put(session, map, NULL, 1, NULL, 0) == HOLDFAST_INVALID);
    CHECK(holdfast_map_get(session, map, "a", 1, NULL, &length) == HOLDFAST_INVALID);
    CHECK(holdfast_map_get(session, map, "c", 1, &data, &length) == HOLDFAST_NO_KEY && data == NULL);
    OK(holdfast_map_get(session, map, "b", 1, &data, &length));
    CHECK(data != NULL && length == 0);

    OK(holdfast_begin(session));
    CHECK(holdfast_begin(session) == HOLDFAST_ORDER);
    OK(holdfast_map_put(session, map, "a", 1, "z", 1));
    CHECK(holdfast_map_remove(session, map, "c", 1) == HOLDFAST_NO_KEY);
    OK(holdfast_map_get(session, map, "a", 1, &data, &length));
    CHECK(GIVES("z"));
    CHECK(holdfast_map_each(session, map, count, &counted) == HOLDFAST_ORDER);
    OK(holdfast_rollback(session));
    CHECK(holdfast_rollback(session) == HOLDFAST_ORDER && holdfast_commit(session) == HOLDFAST_ORDER);
    OK(holdfast_map_get(session, map, "a", 1, &data, &length));
    CHECK(GIVES("a"));

    OK(holdfast_map_put(session, map, "b", 1, "b", 1));
    OK(holdfast_map_put(session, map, "c", 1, "c", 1));
    CHECK(holdfast_map_each(session, map, NULL, NULL) == HOLDFAST_INVALID);
    OK(holdfast_map_each(session, map, count, &counted));
    CHECK(counted == 2);
    OK(holdfast_map_remove(session, map, "a", 1));
    OK(holdfast_map_length(session, map, &number));
    CHECK(number == 2);

    /* What fails in a transaction takes it along. */
    OK(holdfast_begin(session));
    OK(holdfast_map_put(session, map, "b", 1, "z", 1));
    other.object = ~UINT64_C(0);
    CHECK(holdfast_map_put(session, other, "b", 1, "z", 1) == HOLDFAST_UNKNOWN);
    CHECK(holdfast_map_put(session, map, "b", 1, "z", 1) == HOLDFAST_ORDER);
    CHECK(holdfast_commit(session) == HOLDFAST_ORDER);
    OK(holdfast_map_get(session, map, "b", 1, &data, &length));
    CHECK(GIVES("b"));
    OK(holdfast_delete(session, "calls/deeper", "map"));
    CHECK(holdfast_delete(session, "calls/deeper", "map") == HOLDFAST_UNKNOWN);
    CHECK(holdfast_map_get(session, map, "b", 1, &data, &length) == HOLDFAST_UNKNOWN);
}

static void counters_and_blobs(holdfast_session *session)
{
    holdfast_counter counter;
    holdfast_blob blob;
    OK(holdfast_counter_open(session, "calls", "counter", &counter));
    OK(holdfast_counter_add(session, counter, 5, &number));
    OK(holdfast_counter_add(session, counter, 5, NULL));
    OK(holdfast_counter_get(session, counter, &number));
    CHECK(number == 10);
    OK(holdfast_counter_set(session, counter, 1));
    OK(holdfast_blob_open(session, "calls", "blob", &blob));
    OK(holdfast_blob_get(session, blob, &data, &length));
    CHECK(length == 0);
    OK(holdfast_begin(session));
    OK(holdfast_blob_set(session, blob, "bytes", 5));
    OK(holdfast_counter_get(session, counter, &number));
    OK(holdfast_blob_get(session, blob, &data, &length));
    CHECK(GIVES("bytes") && number == 1);
    OK(holdfast_commit(session));
}

static void queues(holdfast_session *session)
{
    holdfast_queue queue;
    OK(holdfast_queue_open(session, "calls", "queue", 2, &queue));
    CHECK(holdfast_queue_pop_front(session, queue, 1, &data, &length) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_begin_with_item(session, queue, 1) == HOLDFAST_TIMED_OUT);
    OK(holdfast_queue_push_back(session, queue, "b", 1, 0));
    OK(holdfast_queue_push_front(session, queue, "a", 1, 0));
    CHECK(holdfast_queue_push_back(session, queue, "c", 1, 1) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_begin_with_room(session, queue, 1) == HOLDFAST_TIMED_OUT);
    CHECK(holdfast_queue_pop_front(session, queue, 1, NULL, NULL) == HOLDFAST_INVALID);
    OK(holdfast_begin_with_item(session, queue, 1000));
    OK(holdfast_queue_pop_front(session, queue, 0, &data, &length));
    CHECK(GIVES("a"));
    OK(holdfast_queue_pop_back(session, queue, 0, &data, &length));
    CHECK(GIVES("b"));
    CHECK(holdfast_queue_pop_back(session, queue, 1000, &data, &length) == HOLDFAST_TIMED_OUT);
    OK(holdfast_queue_length(session, queue, &number));
    CHECK(number == 0);
    OK(holdfast_rollback(session));
    OK(holdfast_queue_pop_back(session, queue, 0, &data, &length));
    CHECK(GIVES("b"));
    OK(holdfast_begin_with_room(session, queue, 0));
    OK(holdfast_queue_push_back(session, queue, "c", 1, 0));
    OK(holdfast_commit(session));
    OK(holdfast_queue_length(session, queue, &number));
    CHECK(number == 2);
}

static void views(void)
{
    holdfast_session *view = NULL;
    holdfast_counter counter;
    holdfast_queue queue;
    OK(holdfast_session_view(run_dir, &view));
    OK(holdfast_counter_open(view, "calls", "counter", &counter));
    OK(holdfast_counter_get(view, counter, &number));
    CHECK(number == 1);
    CHECK(holdfast_counter_add(view, counter, 1, NULL) == HOLDFAST_ORDER);
    CHECK(holdfast_counter_open(view, "calls", "none", &counter) == HOLDFAST_UNKNOWN);
    CHECK(strstr(holdfast_last_error(), "none"));
    OK(holdfast_queue_open(view, "calls", "queue", 0, &queue));
    CHECK(holdfast_queue_pop_front(view, queue, 1, &data, &length) == HOLDFAST_ORDER);
    CHECK(holdfast_begin(view) == HOLDFAST_ORDER && holdfast_session_doing(view, "?") == HOLDFAST_ORDER);
    OK(holdfast_session_close(view));
}

int main(int argc, char **argv)
{
    holdfast_session *session = NULL;
    CHECK(argc == 3);
    run_dir = argv[1];
    CHECK(holdfast_session_attach(argv[2], &session) == HOLDFAST_AWAY && session == NULL);
    CHECK(holdfast_session_view(argv[2], &session) == HOLDFAST_AWAY);
    OK(holdfast_session_attach(run_dir, &session));
    OK(holdfast_session_doing(session, "calling"));
    handles(session);
    threads_and_children(session);
    maps(session);
    counters_and_blobs(session);
    queues(session);
    views();
    OK(holdfast_begin(session));
    OK(holdfast_session_close(session));
    return 0;
}
