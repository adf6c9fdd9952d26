/* Writes lines into a block, one content each: `producer NAME [DIRECTORY]` reads them from stdin.
 *
 * cc producer.c $(pkg-config --cflags --libs holdfast) -o producer
 */
#include <holdfast.h>
#include <stdio.h>
#include <string.h>

static int failed(const char *what)
{
    fprintf(stderr, "producer: %s: %s\n", what, holdfast_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    holdfast_blocks *blocks = NULL;
    holdfast_producer *producer = NULL;
    char line[4096];
    uint64_t version;

    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: producer NAME [DIRECTORY]\n");
        return 2;
    }
    if (holdfast_blocks_create(argc == 3 ? argv[2] : NULL, &blocks) != HOLDFAST_OK)
        return failed("cannot use the directory");
    if (holdfast_producer_open(blocks, argv[1], 0, NULL, &producer) != HOLDFAST_OK)
        return failed("cannot produce");
    while (fgets(line, sizeof line, stdin)) {
        size_t length = strcspn(line, "\n");
        if (length == 0)
            continue;
        if (holdfast_producer_publish(producer, line, length, 1000, &version) != HOLDFAST_OK)
            return failed("cannot publish");
        printf("version %llu\n", (unsigned long long)version);
        fflush(stdout);
    }
    holdfast_producer_close(producer);
    holdfast_blocks_close(blocks);
    return 0;
}
