/* vicinal promote: one region takes over from another as the primary one.
 *
 *   the old one becomes passive → wait until the new one's log holds all that it took → the new one
 *   becomes primary
 *
 * Positions are compared, not times.  Failure modes: the old one cannot be asked, or the new one
 * does not catch up in time: nothing is changed in the end (the old one gets back the role that it
 * had), unless --force is given; then what may be missing is said. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cluster/regions.h"
#include "common/model/position.h"

#define ASK_MS   3000u
#define ROLE_MS  15000u
#define PAUSE_NS (100 * NS_PER_MS)
#define PAGE     "/v1/admin/regions"

struct promote {
    const char *url, *from;
    uint64_t timeout_s;
    bool force;
    /* state */
    struct http_client *client;
    char new_base[512], old_base[512];
    char new_name[REGION_NAME_BYTES], old_name[REGION_NAME_BYTES], old_role[16];
    struct token taken; /* by the old one */
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct promote, row_member)

static const struct option options[] = {
    CLI_URL_ROW(struct promote),
    {ROW("from", OPTION_TEXT, from), .required = true,
     .help = "The router of the region that is the primary one now."},
    {ROW("timeout", OPTION_U64, timeout_s), .fallback = "60", .min = 1, .max = 86400, .unit = "s",
     .help = "How long to wait until everything is there."},
    {ROW("force", OPTION_BOOL, force), .fallback = "false",
     .help = "Go on when the old one is away or far ahead; says what may be missing."},
    {0},
};

/* --- asking ---------------------------------------------------------------------------------- */

static enum err_code get_page(const struct promote *promote, const char *base, json_t **out,
                              struct err *err)
{
    const struct cli_call ask = {.method = "GET", .path = PAGE, .timeout_ms = ASK_MS};

    return cli_ask(promote->client, base, &ask, out, NULL, err);
}

/* The name and role of the region behind a router. */
static enum err_code meet(const struct promote *promote, const char *base,
                          char name[REGION_NAME_BYTES], char role[16], struct err *err)
{
    json_t *page = NULL;
    enum err_code rc = get_page(promote, base, &page, err);

    if (rc != ERR_OK)
        return err_wrap(err, "%s", base);
    (void)snprintf(name, REGION_NAME_BYTES, "%s", cli_text(page, "self", ""));
    (void)snprintf(role, 16, "%s", cli_text(page, "role", "active"));
    json_decref(page);
    if (!region_name_is_valid(name))
        return err_set(err, ERR_CONFIG, "%s belongs to no region (vicinal up --regions)", base);
    return ERR_OK;
}

/* The answer's token goes into *taken, which may be NULL. */
static enum err_code set_role(const struct promote *promote, const char *base, const char *name,
                              const char *role, struct token *taken, struct err *err)
{
    char path[128], body[64];
    struct cli_call ask = {
        .method = "POST", .path = path, .body = body, .timeout_ms = ROLE_MS + ASK_MS};
    json_t *answer = NULL;
    const char *text;
    enum err_code rc;

    (void)snprintf(path, sizeof(path), PAGE "/%s/role", name);
    (void)snprintf(body, sizeof(body), "{\"role\":\"%s\"}", role);
    ask.body_len = strlen(body);
    rc = cli_ask(promote->client, base, &ask, &answer, NULL, err);
    text = cli_text(answer, "read_token", "");
    if (rc == ERR_OK && taken != NULL)
        rc = token_from_text(taken, text, strlen(text), err);
    json_decref(answer);
    return rc == ERR_OK ? ERR_OK : err_wrap(err, "region %s", name);
}

/* The new region's picture of the old one in its page, borrowed; NULL: there is none. */
static json_t *replication_of(const struct promote *promote, json_t *page)
{
    json_t *region;
    size_t i;

    json_array_foreach(json_object_get(page, "regions"), i, region)
    {
        bool same = promote->old_name[0] != '\0'
                        ? strcmp(cli_text(region, "name", ""), promote->old_name) == 0
                        : strcmp(cli_text(region, "router_url", ""), promote->old_base) == 0;

        if (same)
            return json_object_get(region, "replication");
    }
    return NULL;
}

/* --- waiting --------------------------------------------------------------------------------- */

/* How many entries of the old one's log are not in the new one's; UINT64_MAX: not known. */
static uint64_t missing(const struct promote *promote, json_t *page)
{
    const char *text = cli_text(replication_of(promote, page), "read_token", "");
    struct token there = {0};
    struct err ignored = {0};
    uint64_t sum = 0;

    if (token_from_text(&there, text, strlen(text), &ignored) != ERR_OK)
        return UINT64_MAX;
    for (size_t i = 0; i < promote->taken.count; i++) {
        const struct token_entry *wanted = &promote->taken.entries[i];
        uint64_t position = token_position(&there, wanted->region, wanted->partition);

        sum += wanted->position > position ? wanted->position - position : 0;
    }
    token_free(&there);
    return sum;
}

static enum err_code wait_until_there(const struct promote *promote, struct err *err)
{
    uint64_t until_ns = env_boot_ns(env_real()) + promote->timeout_s * NS_PER_S;
    uint64_t left = UINT64_MAX;
    struct err last = {0};

    for (;;) {
        json_t *page = NULL;

        err_clear(&last);
        if (get_page(promote, promote->new_base, &page, &last) == ERR_OK)
            left = missing(promote, page);
        json_decref(page);
        if (left == 0)
            return ERR_OK;
        if (env_boot_ns(env_real()) >= until_ns)
            break;
        if (env_sleep_until(env_real(), env_boot_ns(env_real()) + PAUSE_NS) != ERR_OK)
            return err_set(err, ERR_DEAD, "stopped");
    }
    if (left == UINT64_MAX)
        return err_set(err, ERR_TIMEOUT, "region %s does not say how far it follows %s%s%.150s",
                       promote->new_name, promote->old_name, last.code == ERR_OK ? "" : ": ",
                       last.message);
    return err_set(err, ERR_TIMEOUT, "after %llu s region %s still lacks %llu entries of %s",
                   (unsigned long long)promote->timeout_s, promote->new_name,
                   (unsigned long long)left, promote->old_name);
}

/* --- force ----------------------------------------------------------------------------------- */

/* What the new one knows of the old one's log, for a person who has to decide. */
static void say_missing(const struct promote *promote)
{
    json_t *page = NULL, *known;
    struct err ignored = {0};

    (void)(get_page(promote, promote->new_base, &page, &ignored) == ERR_OK);
    known = replication_of(promote, page);
    if (json_is_number(json_object_get(known, "seen_seconds_ago")))
        (void)fprintf(
            stderr,
            "vicinal promote: %lld entries that the old region's log held %.1f s ago are not here, "
            "and nothing of what it took since then\n",
            (long long)json_integer_value(json_object_get(known, "lag_records")),
            json_number_value(json_object_get(known, "seen_seconds_ago")));
    else
        (void)fprintf(stderr, "vicinal promote: what is missing of the old region's records is not "
                              "known\n");
    (void)fprintf(stderr, "vicinal promote: they come when it is back.  Then it still takes writes "
                          "unless it is made passive: run this again\n");
    json_decref(page);
}

/* --- the verb -------------------------------------------------------------------------------- */

/* The old one passive, and all that it took in the new one. */
static enum err_code take_from_old(struct promote *promote, struct err *err)
{
    struct err ignored = {0};
    enum err_code rc = meet(promote, promote->old_base, promote->old_name, promote->old_role, err);

    if (rc != ERR_OK)
        return rc;
    if (strcmp(promote->old_name, promote->new_name) == 0)
        return err_set(err, ERR_CONFIG, "--url and --from are the same region, %s",
                       promote->new_name);
    rc = set_role(promote, promote->old_base, promote->old_name, "passive", &promote->taken, err);
    if (rc == ERR_OK)
        rc = wait_until_there(promote, err);
    if (rc == ERR_OK || promote->force)
        return rc;
    if (set_role(promote, promote->old_base, promote->old_name, promote->old_role, NULL,
                 &ignored) == ERR_OK)
        return err_wrap(err, "region %s is %s again", promote->old_name, promote->old_role);
    return err_wrap(err, "region %s may be passive still", promote->old_name);
}

static enum err_code promote_it(struct promote *promote, struct err *err)
{
    char role[16];
    struct err why = {0};
    enum err_code rc = meet(promote, promote->new_base, promote->new_name, role, err);

    if (rc != ERR_OK)
        return rc;
    rc = take_from_old(promote, &why);
    if (rc != ERR_OK && (!promote->force || rc == ERR_CONFIG)) {
        *err = why;
        return rc;
    }
    if (rc != ERR_OK) {
        (void)fprintf(stderr, "vicinal promote: %s\n", why.message);
        say_missing(promote);
    }
    rc = set_role(promote, promote->new_base, promote->new_name, "primary", NULL, err);
    if (rc == ERR_OK && why.code == ERR_OK)
        (void)printf("region %s is primary; region %s is passive, and all that it took is here\n",
                     promote->new_name, promote->old_name);
    else if (rc == ERR_OK)
        (void)printf("region %s is primary, by force\n", promote->new_name);
    else if (why.code == ERR_OK)
        (void)err_wrap(err, "region %s is passive; run this again", promote->old_name);
    return rc;
}

static int run_promote(void *settings, const struct cli_operands *operands)
{
    struct promote *promote = settings;
    struct err err = {0};
    enum err_code rc =
        cli_base_url(promote->new_base, sizeof(promote->new_base), promote->url, &err);

    (void)operands;
    if (rc == ERR_OK)
        rc = cli_base_url(promote->old_base, sizeof(promote->old_base), promote->from, &err);
    if (rc == ERR_OK)
        rc = http_client_open(&promote->client, &(struct http_client_options){.env = env_real()},
                              &err);
    if (rc == ERR_OK)
        rc = promote_it(promote, &err);
    token_free(&promote->taken);
    http_client_close(promote->client);
    return rc == ERR_OK ? EXIT_SUCCESS : cli_fail("promote", &err);
}

const struct verb verb_promote = {
    .name = "promote",
    .brief = "Make a region the primary one, in place of another.",
    .synopsis = "--url NEW --from OLD [--force]",
    .about =
        "The old region becomes passive: it takes no writes and goes on answering reads.  The\n"
        "new one becomes primary once it has everything that the old one ever took.",
    .options = options,
    .settings_size = sizeof(struct promote),
    .run = run_promote,
};
