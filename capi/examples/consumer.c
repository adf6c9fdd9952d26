/* Prints every content of a block, as it comes, until it is removed or nothing came for so long:
 * `consumer NAME DIRECTORY MILLISECONDS`.
 * The content is used where it lies; no producer writes to it meanwhile.
 *
 * cc consumer.c $(pkg-config --cflags --libs holdfast) -o consumer
 */
#include <holdfast.h>
#include <stdio.h>
#include <stdlib.h>

static int failed(const char *what)
{
    fprintf(stderr, "consumer: %s: %s\n", what, holdfast_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    holdfast_blocks *blocks = NULL;
    holdfast_consumer *consumer = NULL;
    holdfast_pinned *pinned = NULL;
    holdfast_code code;

    if (argc != 4) {
        fprintf(stderr, "usage: consumer NAME DIRECTORY MILLISECONDS\n");
        return 2;
    }
    if (holdfast_blocks_open(argv[2], &blocks) != HOLDFAST_OK)
        return failed("cannot use the directory");
    if (holdfast_consumer_open(blocks, argv[1], &consumer) != HOLDFAST_OK)
        return failed("cannot consume");
    while ((code = holdfast_consumer_wait(consumer, strtoull(argv[3], NULL, 10))) == HOLDFAST_OK) {
        if (holdfast_consumer_pin(consumer, &pinned) != HOLDFAST_OK)
            return failed("cannot read");
        printf("version %llu: ", (unsigned long long)holdfast_pinned_version(pinned));
        fwrite(holdfast_pinned_data(pinned), 1, holdfast_pinned_length(pinned), stdout);
        printf("\n");
        fflush(stdout);
        holdfast_pinned_close(pinned);
    }
    if (code != HOLDFAST_TIMED_OUT && code != HOLDFAST_REMOVED)
        return failed("cannot wait");
    holdfast_consumer_close(consumer);
    holdfast_blocks_close(blocks);
    return 0;
}
