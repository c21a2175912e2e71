/* Asking a question and showing the passages that answer it. */
#ifndef VICINAL_CLI_SEARCH_H
#define VICINAL_CLI_SEARCH_H

#include <stdio.h>

#include "cli/cli.h"

struct search_question {
    const char *collection;
    const char *text;   /* embedded by the collection's embedder */
    const char *filter; /* JSON object; NULL: none */
    uint64_t top_k;
    bool fresh; /* reflect every write answered before */
};

/* *out: the answer, owned.  Errors: ERR_CONFIG (filter), what the router says. */
MUST_CHECK enum err_code search_ask(struct http_client *client, const char *base,
                                    const struct search_question *question, json_t **out,
                                    struct err *err);

/* Score, place and, of each match, the lines that share most words with the question, for people.
 * Text from outside cannot steer the terminal. */
void search_print(FILE *out, json_t *answer, const char *question);

#endif
