/* vicinal region: which regions a region knows, in its metadata store.  `vicinal up --regions` does
 * this by itself; deployments that are put together by hand do it with this.  The replicator and
 * the routers see the change at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/meta/meta.h"
#include "backends/wal/wal.h"
#include "cli/cli.h"
#include "cluster/regions.h"

struct region_settings {
    const char *meta_url, *wal, *router;
    bool self;
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct region_settings, row_member)

static const struct option options[] = {
    {ROW("meta", OPTION_TEXT, meta_url), .required = true,
     .help = "The metadata store of the region that is told."},
    {ROW("wal", OPTION_TEXT, wal), .help = "add: the log of the region that is named."},
    {ROW("router", OPTION_TEXT, router), .help = "add: its public URL, for people and `promote`."},
    {ROW("self", OPTION_BOOL, self), .fallback = "false",
     .help = "add: it is the region whose metadata store this is."},
    {0},
};

static enum err_code only_one_self(struct meta *meta, const char *name, struct err *err)
{
    struct region_row *rows = NULL;
    size_t count = 0;
    enum err_code rc = regions_read(meta, &rows, &count, err);

    for (size_t i = 0; i < count && rc == ERR_OK; i++)
        if (rows[i].is_self && strcmp(rows[i].name, name) != 0)
            rc = err_set(err, ERR_CONFIG, "this metadata store is that of region %s already",
                         rows[i].name);
    free(rows);
    return rc;
}

static enum err_code add(const struct region_settings *settings, struct meta *meta,
                         const char *name, struct err *err)
{
    struct region_row row = {.is_self = settings->self};
    const char *router = settings->router == NULL ? "" : settings->router;
    enum err_code rc = ERR_OK;

    if (!region_name_is_valid(name))
        return err_set(err, ERR_CONFIG, "a region's name has 1 to %d of a-z, 0-9 and -",
                       REGION_NAME_BYTES - 1);
    if (settings->wal == NULL)
        return err_set(err, ERR_CONFIG, "--wal is wanted: the log of region %s", name);
    rc = wal_check_url(settings->wal, err);
    if (rc != ERR_OK)
        return err_wrap(err, "--wal");
    if (strlen(settings->wal) >= sizeof(row.wal_url))
        return err_set(err, ERR_CONFIG, "--wal is too long");
    (void)snprintf(row.name, sizeof(row.name), "%s", name);
    (void)snprintf(row.wal_url, sizeof(row.wal_url), "%s", settings->wal);
    if (router[0] != '\0')
        rc = cli_base_url(row.router_url, sizeof(row.router_url), router, err);
    if (rc == ERR_OK && settings->self)
        rc = only_one_self(meta, name, err);
    return rc == ERR_OK ? region_write(meta, &row, err) : rc;
}

/* Its row, and what is written about how far behind it we are. */
static enum err_code forget(struct meta *meta, const char *name, struct err *err)
{
    struct region_row *rows = NULL;
    size_t count = 0;
    bool found = false;
    enum err_code rc = regions_read(meta, &rows, &count, err);

    for (size_t i = 0; i < count; i++)
        found = found || strcmp(rows[i].name, name) == 0;
    free(rows);
    if (rc == ERR_OK && !found)
        rc = err_set(err, ERR_NOT_FOUND, "there is no region \"%.40s\"", name);
    if (rc == ERR_OK)
        rc = region_remove(meta, name, err);
    return rc == ERR_OK ? meta_lag_remove(meta, name, err) : rc;
}

static enum err_code list(struct meta *meta, struct err *err)
{
    struct region_row *rows = NULL;
    enum region_role role;
    size_t count = 0;
    enum err_code rc = regions_read(meta, &rows, &count, err);

    if (rc == ERR_OK)
        rc = region_role_read(meta, &role, err);
    if (rc == ERR_OK && count == 0)
        (void)printf("no regions\n");
    else if (rc == ERR_OK)
        (void)printf("%-33s %-8s %10s  %-28s %s\n", "REGION", "ROLE", "NUMBER", "ROUTER", "LOG");
    for (size_t i = 0; i < count && rc == ERR_OK; i++)
        (void)printf("%-33s %-8s %10u  %-28s %s\n", rows[i].name,
                     rows[i].is_self ? region_role_text(role) : "-", rows[i].number,
                     rows[i].router_url[0] == '\0' ? "-" : rows[i].router_url, rows[i].wal_url);
    free(rows);
    return rc;
}

static enum err_code obey(const struct region_settings *settings,
                          const struct cli_operands *operands, struct err *err)
{
    const char *action = operands->count > 0 ? operands->items[0] : "";
    const char *name = operands->count > 1 ? operands->items[1] : NULL;
    bool is_list = strcmp(action, "list") == 0;
    struct meta *meta = NULL;
    enum err_code rc;

    if (!is_list && strcmp(action, "add") != 0 && strcmp(action, "remove") != 0)
        return err_set(err, ERR_CONFIG, "what? add NAME, remove NAME or list");
    if (is_list != (name == NULL))
        return err_set(err, ERR_CONFIG, is_list ? "list takes no name" : "%s which region?",
                       action);
    rc = meta_open(&meta, settings->meta_url, env_real(), err);
    if (rc != ERR_OK)
        return err_wrap(err, "--meta");
    if (is_list)
        rc = list(meta, err);
    else if (strcmp(action, "add") == 0)
        rc = add(settings, meta, name, err);
    else
        rc = forget(meta, name, err);
    meta_close(meta);
    return rc;
}

static int run_region(void *settings, const struct cli_operands *operands)
{
    struct err err = {0};

    return obey(settings, operands, &err) == ERR_OK ? EXIT_SUCCESS : cli_fail("region", &err);
}

const struct verb verb_region = {
    .name = "region",
    .brief = "Tell a region of another one, or that it is gone.",
    .synopsis = "add NAME --meta URL --wal URL [--router URL] [--self] | remove NAME --meta URL | "
                "list --meta URL",
    .about = "A region follows the logs of all regions in its metadata store.  Each region has a\n"
             "store of its own: tell all of them, and give each its own row with --self.",
    .options = options,
    .settings_size = sizeof(struct region_settings),
    .operand_max = 2,
    .run = run_region,
};
