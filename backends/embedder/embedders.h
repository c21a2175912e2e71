/* The embedders that collections may name: the built-in "hash:384" and those that the operator
 * configured.
 *
 * A collection only ever holds a name; which server stands behind it, with which model and key, is
 * said where router and ingest are started.  So no client can make the suite call an address.
 *
 *   NAME=URL;dimension=N[;model=M][;key_file=F][;timeout_ms=T]   several: between commas or blanks
 */
#ifndef VICINAL_BACKENDS_EMBEDDERS_H
#define VICINAL_BACKENDS_EMBEDDERS_H

#include "backends/embedder/embedder.h"

#define EMBEDDERS_CACHE_DEFAULT "memory:32MiB"

/* Rows of a service's option table; members of its struct that are const char *. */
/* clang-format off */
#define EMBEDDERS_OPTION_ROWS(owner, list, cache)                                                  \
    {.name = "embedders", .type = OPTION_TEXT, .offset = offsetof(owner, list),                    \
     .help = "Embedding servers: NAME=URL;dimension=N[;model=M][;key_file=F][;timeout_ms=T], ..."},\
    {.name = "embedders-cache", .type = OPTION_TEXT, .offset = offsetof(owner, cache),             \
     .fallback = EMBEDDERS_CACHE_DEFAULT,                                                          \
     .help = "Vectors of texts seen: memory:SIZE, redis://HOST:PORT or none:."}
/* clang-format on */

struct embedders;
struct http_client;
struct metrics;

struct embedders_setup {
    const char *list;      /* as above; NULL or "": only the built-in one */
    const char *cache_url; /* NULL: EMBEDDERS_CACHE_DEFAULT; opened if the list names any */
    struct env *env;
    struct http_client *client; /* borrowed until close; may be NULL without a list */
    struct metrics *metrics;    /* may be NULL */
};

/* Errors: ERR_CONFIG, ERR_NO_MEMORY. */
MUST_CHECK enum err_code embedders_open(struct embedders **out, const struct embedders_setup *setup,
                                        struct err *err);
void embedders_close(struct embedders *embedders); /* NULL is fine */

/* What a collection's definition names, or NULL: nobody configured it here.  Thread safe. */
struct embedder *embedders_find(const struct embedders *embedders, const char *name);

/* The configured names, for people: "a, b", or "none". */
const char *embedders_names(const struct embedders *embedders);

#endif
