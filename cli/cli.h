/* The program `vicinal`: a table of verbs, each with a table of options.
 *
 * Exit codes: 0 done; 1 it failed, said on stderr as "vicinal VERB: …"; 2 wrong options or
 * configuration; 3 (import) done, but rows were refused. */
#ifndef VICINAL_CLI_CLI_H
#define VICINAL_CLI_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/base/options.h"
#include "common/http/client.h"
#include "common/http/json_doc.h"

enum { EXIT_FAILED = 1, EXIT_CONFIG = 2, EXIT_REFUSED = 3 };

#define CLI_URL_DEFAULT  "http://127.0.0.1:8080"
#define CLI_OPERANDS_MAX 8

struct cli_operands {
    const char *items[CLI_OPERANDS_MAX];
    size_t count;
};

struct verb {
    const char *name;
    const char *brief;    /* one line for the list of verbs */
    const char *synopsis; /* behind "vicinal NAME " */
    const char *about;    /* a paragraph or more for --help */
    const struct option *options;
    size_t settings_size; /* of the struct that options fill */
    size_t operand_max;
    int (*run)(void *settings, const struct cli_operands *operands);
};

extern const struct verb verb_up, verb_import, verb_search, verb_status, verb_healthcheck,
    verb_bench, verb_demo, verb_region, verb_promote, verb_place, verb_verify, verb_snapshot;

/* "vicinal VERB: message" on stderr.  Returns the exit code: EXIT_CONFIG for ERR_CONFIG, else
 * EXIT_FAILED. */
int cli_fail(const char *verb, const struct err *err);

/* Rows that several tables have. */
#define CLI_URL_ROW(owner)                                                                         \
    {                                                                                              \
        .name = "url", .type = OPTION_TEXT, .fallback = CLI_URL_DEFAULT, .help = "The router.",    \
        .offset = offsetof(owner, url)                                                             \
    }
#define CLI_COLLECTION_ROW(owner)                                                                  \
    {                                                                                              \
        .name = "collection", .type = OPTION_TEXT, .help = "Name of the collection.",              \
        .offset = offsetof(owner, collection), .required = true                                    \
    }

/* --- talking to the router ------------------------------------------------------------------- */

/* One request and its answer. */
struct cli_call {
    const char *method;
    const char *path;
    const void *body; /* NULL: none; else JSON */
    size_t body_len;
    uint32_t timeout_ms;
};

/* base without its trailing slashes, which must be http:// or https://.  Errors: ERR_CONFIG. */
MUST_CHECK enum err_code cli_base_url(char *out, size_t size, const char *url, struct err *err);

/* "/v1/collections/NAME" + suffix, encoded.  Errors: ERR_CONFIG (too long). */
MUST_CHECK enum err_code cli_path(char *out, size_t size, const char *collection,
                                  const char *suffix, struct err *err);

/* Send; a status of 2xx gives the parsed object in *out (owned; NULL for an empty body), another
 * its problem as an error.  *status (may be NULL) is the HTTP status, 0 without an answer. */
MUST_CHECK enum err_code cli_ask(struct http_client *client, const char *base,
                                 const struct cli_call *ask, json_t **out, int *status,
                                 struct err *err);

/* Text of a member, or otherwise. */
const char *cli_text(json_t *object, const char *name, const char *otherwise);

#endif
