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

static void ranges(holdfast_session *session)
{
    holdfast_blob blob;
    char range[3];
    OK(holdfast_blob_open(session, "calls", "blob", &blob));
    OK(holdfast_blob_length(session, blob, &number));
    CHECK(number == 5);
    OK(holdfast_blob_write(session, blob, 1, "YT", 2));
    OK(holdfast_blob_read(session, blob, 1, range, 3));
    CHECK(memcmp(range, "YTe", 3) == 0);
    OK(holdfast_blob_read(session, blob, 5, NULL, 0));
    CHECK(holdfast_blob_read(session, blob, 3, range, 3) == HOLDFAST_INVALID);
    CHECK(holdfast_blob_read(session, blob, UINT64_MAX, range, 3) == HOLDFAST_INVALID);
    CHECK(holdfast_blob_read(session, blob, 0, NULL, 3) == HOLDFAST_INVALID);
    CHECK(holdfast_blob_read(session, blob, 0, range, (size_t)-1) == HOLDFAST_INVALID);
    CHECK(holdfast_blob_write(session, blob, 4, "YT", 2) == HOLDFAST_INVALID);

    OK(holdfast_begin(session));
    OK(holdfast_blob_write(session, blob, 0, "B", 1));
    OK(holdfast_blob_read(session, blob, 0, range, 2));
    CHECK(memcmp(range, "BY", 2) == 0);
    OK(holdfast_rollback(session));
    OK(holdfast_begin(session));
    CHECK(holdfast_blob_read(session, blob, 4, range, 2) == HOLDFAST_INVALID);
    CHECK(holdfast_commit(session) == HOLDFAST_ORDER);
    OK(holdfast_blob_get(session, blob, &data, &length));
    CHECK(GIVES("bYTes"));
}

static int name_it(const char *name, holdfast_kind kind, void *context)
{
    snprintf((char *)context + strlen(context), 100, "%s=%d ", name, kind);
    return strcmp(name, "last") == 0;
}

static void names(holdfast_session *session)
{
    holdfast_map map, other;
    holdfast_blob blob;
    char list[1000] = "";
    OK(holdfast_folder_make(session, "names/in"));
    OK(holdfast_map_open(session, "names", "a map", &map));
    OK(holdfast_blob_open(session, "names", "last", &blob));
    OK(holdfast_blob_open(session, "names", "later", &blob));
    OK(holdfast_folder_each(session, "names", name_it, list));
    CHECK(strcmp(list, "a map=2 in=1 last=5 ") == 0);
    list[0] = 0;
    OK(holdfast_folder_each(session, NULL, name_it, list));
    CHECK(strstr(list, "names=1 "));
    CHECK(holdfast_folder_each(session, "nothing", name_it, list) == HOLDFAST_UNKNOWN);
    CHECK(holdfast_folder_each(session, "names", NULL, list) == HOLDFAST_INVALID);

    CHECK(holdfast_rename(session, "names", "a map", "names", "last") == HOLDFAST_EXISTS);
    CHECK(holdfast_rename(session, "names", "no map", "names", "x") == HOLDFAST_UNKNOWN);
    CHECK(holdfast_rename(session, "nowhere", "no map", "names", "x") == HOLDFAST_UNKNOWN);
    OK(holdfast_map_put(session, map, "k", 1, "v", 1));
    OK(holdfast_rename(session, "names", "a map", "names/made", "moved"));
    OK(holdfast_map_open(session, "names/made", "moved", &other));
    CHECK(other.object == map.object);

    CHECK(holdfast_folder_delete(session, "names/made") == HOLDFAST_NOT_EMPTY);
    OK(holdfast_folder_rename(session, "names/made", "names/in/made"));
    CHECK(holdfast_folder_rename(session, "names/made", "names/in/other") == HOLDFAST_UNKNOWN);
    CHECK(holdfast_folder_rename(session, "names/in", "names/in/made/in") == HOLDFAST_INVALID);
    OK(holdfast_map_get(session, map, "k", 1, &data, &length));
    CHECK(GIVES("v"));
    OK(holdfast_delete(session, "names/in/made", "moved"));
    OK(holdfast_folder_delete(session, "names/in/made"));
    CHECK(holdfast_folder_delete(session, "names/in/made") == HOLDFAST_UNKNOWN);

    /* What is to be deleted and is not there is no failure of the transaction, and makes nothing. */
    OK(holdfast_begin(session));
    CHECK(holdfast_delete(session, "names/in", "nothing") == HOLDFAST_UNKNOWN);
    CHECK(holdfast_delete(session, "nowhere", "nothing") == HOLDFAST_UNKNOWN);
    CHECK(holdfast_folder_delete(session, "nowhere") == HOLDFAST_UNKNOWN);
    CHECK(holdfast_folder_each(session, "names", name_it, list) == HOLDFAST_ORDER);
    OK(holdfast_delete(session, "names", "last"));
    OK(holdfast_commit(session));
    CHECK(holdfast_delete(session, "names", "last") == HOLDFAST_UNKNOWN);
    CHECK(holdfast_folder_each(session, "nowhere", name_it, list) == HOLDFAST_UNKNOWN);
}

static void items(holdfast_session *session)
{
    holdfast_queue queue;
    holdfast_item first, last;
    OK(holdfast_queue_open(session, "calls", "work", 3, &queue));
    CHECK(holdfast_queue_take_front(session, queue, 1, &first, &data, &length) == HOLDFAST_TIMED_OUT);
    OK(holdfast_queue_push_back(session, queue, "a", 1, 0));
    OK(holdfast_queue_push_back(session, queue, "b", 1, 0));
    OK(holdfast_queue_push_back(session, queue, "c", 1, 0));
    CHECK(holdfast_queue_take_front(session, queue, 1, NULL, &data, &length) == HOLDFAST_INVALID);
    OK(holdfast_queue_take_front(session, queue, 0, &first, &data, &length));
    CHECK(GIVES("a"));
    OK(holdfast_queue_take_back(session, queue, 0, &last, &data, &length));
    CHECK(GIVES("c") && first.serial != last.serial);
    OK(holdfast_queue_length(session, queue, &number));
    CHECK(number == 1);
    OK(holdfast_item_finish(session, first));
    CHECK(holdfast_item_finish(session, first) == HOLDFAST_UNKNOWN);
    CHECK(holdfast_item_put_back(session, first) == HOLDFAST_UNKNOWN);
    OK(holdfast_item_put_back(session, last));

    /* With the transaction, or not at all. */
    OK(holdfast_begin_with_item(session, queue, 1000));
    OK(holdfast_queue_take_back(session, queue, 0, &last, &data, &length));
    CHECK(GIVES("c"));
    OK(holdfast_item_finish(session, last));
    OK(holdfast_rollback(session));
    CHECK(holdfast_item_finish(session, last) == HOLDFAST_UNKNOWN);
    OK(holdfast_queue_length(session, queue, &number));
    CHECK(number == 2);
    OK(holdfast_begin(session));
    CHECK(holdfast_item_finish(session, first) == HOLDFAST_UNKNOWN);
    CHECK(holdfast_commit(session) == HOLDFAST_ORDER);

    /* A deleted queue leaves its items to those who have them. */
    OK(holdfast_queue_take_front(session, queue, 0, &first, &data, &length));
    OK(holdfast_delete(session, "calls", "work"));
    CHECK(holdfast_item_put_back(session, first) == HOLDFAST_UNKNOWN);
    OK(holdfast_item_finish(session, first));

    /* Who closes its session puts back what it has. */
    OK(holdfast_queue_open(session, "calls", "left", 0, &queue));
    OK(holdfast_queue_push_back(session, queue, "a", 1, 0));
    CHECK(holdfast_session_attach(run_dir, &session) == HOLDFAST_OK);
    OK(holdfast_queue_take_front(session, queue, 0, &first, &data, &length));
    OK(holdfast_session_close(session));
    OK(holdfast_session_attach(run_dir, &session));
    OK(holdfast_queue_pop_front(session, queue, 0, &data, &length));
    CHECK(GIVES("a"));
    OK(holdfast_session_close(session));
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
    ranges(session);
    queues(session);
    items(session);
    names(session);
    views();
    OK(holdfast_begin(session));
    OK(holdfast_session_close(session));
    return 0;
}
