/* vicinal healthcheck: exit code 0 when searches and writes can be served, else 1; for compose
 * files and scripts.  Nothing on stdout; why not, in one line on stderr. */
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"

#define CALL_MS 2000u

struct healthcheck {
    const char *url;
};

static const struct option options[] = {CLI_URL_ROW(struct healthcheck), {0}};

static int run_healthcheck(void *settings, const struct cli_operands *operands)
{
    const struct healthcheck *check = settings;
    const struct cli_call ask = {.method = "GET", .path = "/readyz", .timeout_ms = CALL_MS};
    struct http_client *client = NULL;
    json_t *answer = NULL;
    struct err err = {0};
    char base[512];
    enum err_code rc = cli_base_url(base, sizeof(base), check->url, &err);

    (void)operands;
    if (rc == ERR_OK)
        rc = http_client_open(&client, &(struct http_client_options){.env = env_real()}, &err);
    if (rc == ERR_OK)
        rc = cli_ask(client, base, &ask, &answer, NULL, &err);
    json_decref(answer);
    if (client != NULL)
        http_client_close(client);
    return rc == ERR_OK ? EXIT_SUCCESS : cli_fail("healthcheck", &err);
}

const struct verb verb_healthcheck = {
    .name = "healthcheck",
    .brief = "Exit code 0 when the suite can serve, else 1.",
    .synopsis = "[--url URL]",
    .about = "Asks the router's /readyz; waits at most two seconds.",
    .options = options,
    .settings_size = sizeof(struct healthcheck),
    .run = run_healthcheck,
};
