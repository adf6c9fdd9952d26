/* Shares a map of a running instance: `stock RUN_DIR ITEM [COUNT]` prints how many there are, or how many there are now that
 * COUNT more have come. Both in one transaction: whoever asks at the same time, nothing is counted twice or lost.
 *
 * cc stock.c $(pkg-config --cflags --libs holdfast) -o stock
 */
#include <holdfast.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(const char *what)
{
    fprintf(stderr, "stock: %s: %s\n", what, holdfast_last_error());
    return 1;
}

int main(int argc, char **argv)
{
    holdfast_session *session = NULL;
    holdfast_map stock;
    const void *value;
    size_t length;
    char text[32] = "0";

    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: stock RUN_DIR ITEM [COUNT]\n");
        return 2;
    }
    if (holdfast_session_attach(argv[1], &session) != HOLDFAST_OK)
        return failed("cannot attach");
    if (holdfast_begin(session) != HOLDFAST_OK || holdfast_map_open(session, "shop", "stock", &stock) != HOLDFAST_OK)
        return failed("cannot open the stock");
    switch (holdfast_map_get(session, stock, argv[2], strlen(argv[2]), &value, &length)) {
    case HOLDFAST_OK:
        snprintf(text, sizeof text, "%.*s", (int)length, (const char *)value);
        break;
    case HOLDFAST_NO_KEY:
        break;
    default:
        return failed("cannot read");
    }
    if (argc == 4) {
        snprintf(text, sizeof text, "%ld", atol(text) + atol(argv[3]));
        if (holdfast_map_put(session, stock, argv[2], strlen(argv[2]), text, strlen(text)) != HOLDFAST_OK)
            return failed("cannot write");
    }
    if (holdfast_commit(session) != HOLDFAST_OK)
        return failed("cannot commit");
    printf("%s %s\n", text, argv[2]);
    return holdfast_session_close(session) == HOLDFAST_OK ? 0 : failed("cannot leave");
}
