/* Puts lines into a queue of a running instance: `jobs RUN_DIR FOLDER NAME` reads them from stdin. Waits while it is full.
 *
 * cc jobs.c $(pkg-config --cflags --libs holdfast) -o jobs
 */
#include <holdfast.h>
#include <stdio.h>
#include <string.h>

static int failed(const char *what)
{
    fprintf(stderr, "jobs: %s: %s\n", what, holdfast_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    holdfast_session *session = NULL;
    holdfast_queue jobs;
    char line[4096];

    if (argc != 4) {
        fprintf(stderr, "usage: jobs RUN_DIR FOLDER NAME\n");
        return 2;
    }
    if (holdfast_session_attach(argv[1], &session) != HOLDFAST_OK)
        return failed("cannot attach");
    if (holdfast_queue_open(session, argv[2], argv[3], 100, &jobs) != HOLDFAST_OK)
        return failed("cannot open the queue");
    while (fgets(line, sizeof line, stdin)) {
        if (holdfast_queue_push_back(session, jobs, line, strcspn(line, "\n"), 10000) != HOLDFAST_OK)
            return failed("cannot push");
    }
    return holdfast_session_close(session) == HOLDFAST_OK ? 0 : failed("cannot leave");
}
