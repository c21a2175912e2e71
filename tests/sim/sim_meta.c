/* The metadata store as a node sees it: the memory back end behind a network that is slow, loses
 * answers (the change may have been made), and is away at times. */
#include "tests/sim/sim.h"

#define TRIP_NS     (100 * NS_PER_US)
#define TRIP_MAX_NS (5 * NS_PER_MS)

static struct sim *sim_of(struct meta *meta)
{
    return sim_node_of(meta->env)->sim;
}

static struct sim_region *region_of(struct meta *meta)
{
    return sim_node_of(meta->env)->region;
}

/* The way there.  Errors: ERR_DEAD, ERR_UNAVAILABLE. */
static enum err_code go(struct meta *meta, struct err *err)
{
    struct sim *sim = sim_of(meta);

    if (sim_pass(meta->env, sim_delay(sim, TRIP_NS, TRIP_MAX_NS)) != ERR_OK)
        return err_set(err, ERR_DEAD, "metadata: the node is dead");
    if (region_of(meta)->meta_away || sim_node_of(meta->env)->isolated ||
        sim_percent(sim, region_of(meta)->meta_fail))
        return err_set(err, ERR_UNAVAILABLE, "metadata: the store is away");
    return ERR_OK;
}

/* The way back. */
static enum err_code come_back(struct meta *meta, struct err *err)
{
    struct sim *sim = sim_of(meta);

    if (sim_pass(meta->env, sim_delay(sim, TRIP_NS, TRIP_MAX_NS)) != ERR_OK)
        return err_set(err, ERR_DEAD, "metadata: the node is dead");
    if (sim_percent(sim, region_of(meta)->meta_fail))
        return err_set(err, ERR_IO, "metadata: no answer came back");
    return ERR_OK;
}

static enum err_code rows_get(struct meta *meta, const char *key, uint64_t until_ns,
                              struct meta_row *row, struct err *err)
{
    struct meta *rows = region_of(meta)->rows;
    enum err_code code = go(meta, err);

    if (code == ERR_OK)
        code = rows->ops->get(rows, key, until_ns, row, err);
    if (code == ERR_OK && (code = come_back(meta, err)) != ERR_OK)
        meta_row_free(row);
    return code;
}

static enum err_code rows_put(struct meta *meta, const struct meta_put *put, uint64_t *version,
                              struct err *err)
{
    struct sim *sim = sim_of(meta);
    enum err_code code = go(meta, err);

    if (code == ERR_OK)
        code = region_of(meta)->rows->ops->put(region_of(meta)->rows, put, version, err);
    if (code == ERR_OK) {
        sim_note(sim, "metadata: %s puts %s", sim_node_of(meta->env)->name, put->key);
        sim_wake(sim, &region_of(meta)->meta_changed, true);
        code = come_back(meta, err);
    }
    return code;
}

static enum err_code rows_remove(struct meta *meta, const char *key, uint64_t expected,
                                 struct err *err)
{
    struct sim *sim = sim_of(meta);
    enum err_code code = go(meta, err);

    if (code == ERR_OK)
        code = region_of(meta)->rows->ops->remove(region_of(meta)->rows, key, expected, err);
    if (code == ERR_OK) {
        sim_wake(sim, &region_of(meta)->meta_changed, true);
        code = come_back(meta, err);
    }
    return code;
}

static enum err_code rows_list(struct meta *meta, const char *prefix, struct meta_row **list,
                               size_t *count, struct err *err)
{
    struct meta *rows = region_of(meta)->rows;
    enum err_code code = go(meta, err);

    if (code == ERR_OK)
        code = rows->ops->list(rows, prefix, list, count, err);
    if (code == ERR_OK && (code = come_back(meta, err)) != ERR_OK)
        meta_rows_free(*list, *count);
    return code;
}

static enum err_code rows_version(struct meta *meta, uint64_t *version, struct err *err)
{
    struct meta *rows = region_of(meta)->rows;
    enum err_code code = go(meta, err);

    return code == ERR_OK ? rows->ops->version(rows, version, err) : code;
}

static enum err_code rows_wait(struct meta *meta, uint64_t seen, uint64_t deadline_ns,
                               uint64_t *version, struct err *err)
{
    enum err_code code = go(meta, err), waited = ERR_OK;

    if (code == ERR_OK)
        code = region_of(meta)->rows->ops->version(region_of(meta)->rows, version, err);
    while (code == ERR_OK && waited == ERR_OK && *version <= seen) {
        waited = sim_wait(meta->env, &region_of(meta)->meta_changed, deadline_ns);
        code = region_of(meta)->rows->ops->version(region_of(meta)->rows, version, err);
    }
    return waited == ERR_DEAD ? err_set(err, ERR_DEAD, "metadata: the node is dead") : code;
}

static enum err_code lags_put(struct meta *meta, const struct meta_lag *lags, size_t count,
                              struct err *err)
{
    struct meta *rows = region_of(meta)->rows;
    enum err_code code = go(meta, err);

    if (code == ERR_OK)
        code = rows->ops->lag_put(rows, lags, count, err);
    return code == ERR_OK ? come_back(meta, err) : code;
}

static enum err_code lags_list(struct meta *meta, struct meta_lag **lags, size_t *count,
                               struct err *err)
{
    struct meta *rows = region_of(meta)->rows;
    enum err_code code = go(meta, err);

    return code == ERR_OK ? rows->ops->lag_list(rows, lags, count, err) : code;
}

static enum err_code lags_remove(struct meta *meta, const char *origin, struct err *err)
{
    struct meta *rows = region_of(meta)->rows;
    enum err_code code = go(meta, err);

    return code == ERR_OK ? rows->ops->lag_remove(rows, origin, err) : code;
}

static void rows_close(struct meta *meta)
{
    (void)meta;
}

static const struct meta_ops sim_meta_ops = {
    .scheme = "sim",
    .close = rows_close,
    .get = rows_get,
    .put = rows_put,
    .remove = rows_remove,
    .list = rows_list,
    .version = rows_version,
    .wait = rows_wait,
    .lag_put = lags_put,
    .lag_list = lags_list,
    .lag_remove = lags_remove,
};

void sim_meta_attach(struct sim_node *node)
{
    node->meta = (struct meta){.ops = &sim_meta_ops, .env = &node->life->env};
}
