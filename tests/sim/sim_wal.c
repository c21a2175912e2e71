/* The simulation's logs: one for all nodes of a region, without any lock between writers, in
 * Kafka's ways; other regions' replicators read it too, as long as the way there is not cut.
 *
 * An append sends its entries, partition by partition; each lands after a while, in order within
 * its partition and between those of other writers.  By chance the rest of a partition's entries
 * is lost, or lands long after the caller has given up, even after its process has died; or all
 * land and the answer is lost.  Readers see what has landed, after a delay.  An entry once landed
 * never changes; when the log is trimmed it is kept all the same, for the truth, and nobody else
 * can read it. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define TRIP_NS     (200 * NS_PER_US) /* to the log or back, at best */
#define TRIP_MAX_NS (4 * NS_PER_MS)

/* One append call; its landings and its caller hold it. */
struct appending {
    uint32_t refs;
    size_t missing; /* entries that have not landed */
};

struct sim_landing {
    struct sim_region *region;
    uint64_t due_ns;
    uint32_t partition;
    uint8_t *data;
    size_t len;
    struct appending *request;
    uint64_t *offset; /* of the caller; NULL: it has given up */
    bool is_late;
    struct sim_landing *next;
};

struct sim_wal {
    struct wal base; /* first */
    struct sim *sim;
    struct sim_region *region; /* whose log it is */
    bool must_recover;
    uint64_t hints[SIM_PARTITIONS];
};

struct sim_reader {
    struct wal_reader base; /* first */
    struct sim_wal *wal;
    uint32_t partitions[SIM_PARTITIONS];
    uint64_t positions[SIM_PARTITIONS];
    size_t count;
};

static enum err_code dead(struct err *err)
{
    return err_set(err, ERR_DEAD, "the node is dead");
}

/* Is there no way from this node to that region's log? */
static bool is_cut(const struct env *env, const struct sim_region *region)
{
    struct sim_node *node = sim_node_of((struct env *)env);

    return node->log_away || node->region->cut_from[region->index];
}

static enum err_code log_open(struct wal **out, const struct wal_options *options, struct err *err)
{
    struct sim *sim = sim_node_of(options->env)->sim;
    uint32_t index = (uint32_t)strtoul(options->url + strlen("sim:"), NULL, 10);
    struct sim_region *region = &sim->regions[index];
    struct sim_wal *wal;

    assert(index < sim->region_count);
    if (sim_pass(options->env, sim_delay(sim, TRIP_NS, TRIP_MAX_NS)) != ERR_OK)
        return dead(err);
    if (sim_percent(sim, region->log.fail_reads) ||
        (!options->writer && is_cut(options->env, region)))
        return err_set(err, ERR_IO, "the log cannot be reached");
    wal = calloc(1, sizeof(*wal));
    if (wal == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    wal->base = (struct wal){.ops = &wal_sim_ops,
                             .env = options->env,
                             .partitions = SIM_PARTITIONS,
                             .region = region->log.region};
    wal->sim = sim;
    wal->region = region;
    memcpy(wal->hints, region->log.hints, sizeof(wal->hints));
    *out = &wal->base;
    return ERR_OK;
}

static void log_close(struct wal *base)
{
    free(base);
}

/* --- landing --------------------------------------------------------------------------------- */

static void appending_put(struct appending *request)
{
    if (--request->refs == 0)
        free(request);
}

static void land(struct sim_landing *landing)
{
    struct sim *sim = landing->region->sim;
    struct sim_partition *partition = &landing->region->log.partitions[landing->partition];

    if (partition->count == partition->size) {
        partition->size = partition->size * 2 + 64;
        partition->entries =
            realloc(partition->entries, partition->size * sizeof(*partition->entries));
        if (partition->entries == NULL)
            abort();
    }
    sim_note(sim, "log %s: partition %u offset %zu: %zu bytes%s", landing->region->name,
             landing->partition, partition->count, landing->len, landing->is_late ? ", late" : "");
    if (landing->offset != NULL)
        *landing->offset = partition->count;
    partition->entries[partition->count++] =
        (struct sim_entry){.data = landing->data, .len = landing->len, .landed_ns = sim->now_ns};
    sim->counts.landed_late += landing->is_late;
    if (--landing->request->missing == 0)
        sim_wake(sim, landing->request, true);
    appending_put(landing->request);
    free(landing);
}

/* The thread that lets entries land when they are due. */
static void log_pump(void *argument)
{
    struct sim_region *region = argument;
    struct sim *sim = region->sim;
    struct sim_log *log = &region->log;

    while (!sim->log_stopping) {
        bool landed = false;

        while (log->landings != NULL && log->landings->due_ns <= sim->now_ns) {
            struct sim_landing *landing = log->landings;

            log->landings = landing->next;
            land(landing);
            landed = true;
        }
        if (landed)
            sim_wake(sim, &log->changed, true);
        (void)!sim_wait(&sim->world.env, &log->landings,
                        log->landings == NULL ? NEVER_NS : log->landings->due_ns);
    }
}

void sim_log_start(struct sim_region *region)
{
    sim_spawn(region->sim, "log", log_pump, region);
}

void sim_log_free(struct sim_log *log)
{
    for (uint32_t i = 0; i < SIM_PARTITIONS; i++) {
        for (size_t j = 0; j < log->partitions[i].count; j++)
            free(log->partitions[i].entries[j].data);
        free(log->partitions[i].entries);
    }
    while (log->landings != NULL) {
        struct sim_landing *landing = log->landings;

        log->landings = landing->next;
        appending_put(landing->request);
        free(landing->data);
        free(landing);
    }
}

/* --- appending ------------------------------------------------------------------------------- */

struct sending {
    struct sim_wal *wal;
    const struct wal_entry *entries;
    size_t count;
    uint64_t *offsets;
    struct appending *request;
    uint64_t give_up_ns; /* the world's time; NEVER_NS: nothing went wrong so far */
};

/* Of equal due times the first sent lands first. */
static void send_entry(struct sending *sending, size_t index, uint64_t due_ns, bool is_late)
{
    const struct wal_entry *entry = &sending->entries[index];
    struct sim_landing *landing = calloc(1, sizeof(*landing)),
                       **at = &sending->wal->region->log.landings;

    if (landing == NULL || (landing->data = malloc(entry->len)) == NULL)
        abort();
    memcpy(landing->data, entry->data, entry->len);
    landing->region = sending->wal->region;
    landing->len = entry->len;
    landing->due_ns = due_ns;
    landing->partition = entry->partition;
    landing->request = sending->request;
    landing->offset = is_late ? NULL : &sending->offsets[index];
    landing->is_late = is_late;
    sending->request->refs++;
    while (*at != NULL && (*at)->due_ns <= due_ns)
        at = &(*at)->next;
    landing->next = *at;
    *at = landing;
}

static void give_up_at(struct sending *sending, uint64_t ns)
{
    if (ns < sending->give_up_ns)
        sending->give_up_ns = ns;
}

/* Send what is of this partition; by chance only a part of it, or a part later. */
static void send_partition(struct sending *sending, uint32_t partition)
{
    struct sim *sim = sending->wal->sim;
    const struct sim_log *log = &sending->wal->region->log;
    uint64_t due =
        sim->now_ns + sim_delay(sim, TRIP_NS, TRIP_MAX_NS) + sim_below(sim, log->slow_ns);
    bool loses = sim_percent(sim, log->lose), delays = sim_percent(sim, log->late);
    uint64_t gives_up = sim->now_ns + sim_delay(sim, 20 * NS_PER_MS, 2 * NS_PER_S);
    uint64_t late = gives_up + sim_delay(sim, NS_PER_MS, 6 * NS_PER_S);
    size_t total = 0, whole, seen = 0;

    for (size_t i = 0; i < sending->count; i++)
        total += sending->entries[i].partition == partition;
    if (total == 0)
        return;
    whole = loses || delays ? sim_below(sim, total) : total;
    for (size_t i = 0; i < sending->count; i++) {
        if (sending->entries[i].partition != partition)
            continue;
        if (seen++ < whole) {
            send_entry(sending, i, due, false);
        } else {
            give_up_at(sending, gives_up);
            if (delays)
                send_entry(sending, i, late > due ? late : due, true);
            else
                sim->counts.never_landed++;
        }
        due += sim_below(sim, 2) * sim_below(sim, 300 * NS_PER_US);
    }
}

/* Forget the caller's memory. */
static void disown(const struct sim_log *log, const struct appending *request)
{
    for (struct sim_landing *landing = log->landings; landing != NULL; landing = landing->next)
        if (landing->request == request) {
            landing->offset = NULL;
            landing->is_late = true;
        }
}

static enum err_code await_landing(struct sending *sending, uint64_t deadline_ns, struct err *err)
{
    struct sim_wal *wal = sending->wal;
    struct env *env = wal->base.env;
    struct sim *sim = wal->sim;
    enum err_code code = ERR_OK;

    while (sending->request->missing > 0 && code == ERR_OK && sending->give_up_ns == NEVER_NS)
        code = sim_wait(env, sending->request, deadline_ns);
    if (sending->give_up_ns != NEVER_NS) {
        uint64_t wait = sending->give_up_ns - sim->now_ns;

        code = sim_pass(env, wait) == ERR_DEAD ? ERR_DEAD : ERR_TIMEOUT;
    } else if (code == ERR_OK) {
        code = sim_pass(env, sim_delay(sim, TRIP_NS, TRIP_MAX_NS));
        if (code == ERR_OK && sim_percent(sim, wal->region->log.unanswered)) {
            sim->counts.landed_unanswered++;
            code = ERR_TIMEOUT;
        }
    }
    if (code == ERR_OK)
        return ERR_OK;
    if (code == ERR_DEAD)
        return dead(err);
    sim->counts.unknown++;
    sim_note(sim, "log: an append of %s has no answer", sim_node_of(env)->name);
    return sim_below(sim, 2) == 0 ? err_set(err, ERR_TIMEOUT, "no answer from the log")
                                  : err_set(err, ERR_IO, "the connection to the log broke");
}

static enum err_code log_append(struct wal *base, const struct wal_entry *entries, size_t count,
                                uint64_t deadline_ns, uint64_t *offsets, struct err *err)
{
    struct sim_wal *wal = (struct sim_wal *)base;
    struct sending sending = {
        .wal = wal, .entries = entries, .count = count, .offsets = offsets, .give_up_ns = NEVER_NS};
    enum err_code code;

    if (wal->must_recover)
        return err_set(err, ERR_READ_ONLY, "not recovered yet");
    if (sim_touch(base->env) != ERR_OK) {
        sim_switch(wal->sim);
        return dead(err);
    }
    sending.request = calloc(1, sizeof(*sending.request));
    if (sending.request == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    sending.request->refs = 1;
    sending.request->missing = count;
    wal->sim->counts.appends++;
    for (uint32_t partition = 0; partition < SIM_PARTITIONS; partition++)
        send_partition(&sending, partition);
    sim_wake(wal->sim, &wal->region->log.landings, true);
    code = await_landing(&sending, deadline_ns, err);
    if (code != ERR_OK) {
        wal->must_recover = true;
        disown(&wal->region->log, sending.request);
    }
    appending_put(sending.request);
    return code;
}

static enum err_code log_recover(struct wal *base, struct err *err)
{
    struct sim_wal *wal = (struct sim_wal *)base;

    if (sim_pass(base->env, sim_delay(wal->sim, TRIP_NS, TRIP_MAX_NS)) != ERR_OK)
        return dead(err);
    if (sim_percent(wal->sim, wal->region->log.fail_reads))
        return err_set(err, ERR_IO, "the log cannot be reached");
    wal->must_recover = false;
    return ERR_OK;
}

/* --- reading --------------------------------------------------------------------------------- */

static bool is_away(struct wal *base)
{
    return is_cut(base->env, ((struct sim_wal *)base)->region);
}

static enum err_code log_ends(struct wal *base, const uint32_t *partitions, size_t count,
                              uint64_t deadline_ns, uint64_t *ends, struct err *err)
{
    struct sim *sim = ((struct sim_wal *)base)->sim;
    const struct sim_log *log = &((struct sim_wal *)base)->region->log;

    if (sim_pass(base->env, sim_delay(sim, TRIP_NS, TRIP_MAX_NS)) != ERR_OK)
        return dead(err);
    if (is_away(base)) {
        (void)!sim_wait(base->env, NULL, deadline_ns);
        return sim_env_is_dead(base->env) ? dead(err)
                                          : err_set(err, ERR_TIMEOUT, "no answer from the log");
    }
    for (size_t i = 0; i < count; i++)
        ends[i] = log->partitions[partitions[i]].count;
    if (sim_pass(base->env, sim_delay(sim, TRIP_NS, TRIP_MAX_NS) + sim_below(sim, log->slow_ns)) !=
        ERR_OK)
        return dead(err);
    if (sim_percent(sim, log->fail_reads))
        return err_set(err, ERR_IO, "the log cannot be reached");
    if (env_boot_ns(base->env) >= deadline_ns)
        return err_set(err, ERR_TIMEOUT, "no answer from the log");
    return ERR_OK;
}

static enum err_code log_first(struct wal *base, uint32_t partition, uint64_t *first,
                               struct err *err)
{
    const struct sim_log *log = &((struct sim_wal *)base)->region->log;

    if (sim_pass(base->env, TRIP_NS) != ERR_OK)
        return dead(err);
    if (is_away(base))
        return err_set(err, ERR_IO, "the log cannot be reached");
    *first = log->firsts[partition];
    return ERR_OK;
}

static enum err_code log_trim(struct wal *base, const uint64_t *positions, struct err *err)
{
    struct sim_wal *wal = (struct sim_wal *)base;
    struct sim_log *log = &wal->region->log;
    enum err_code code = ERR_OK;

    if (sim_pass(base->env, sim_delay(wal->sim, TRIP_NS, TRIP_MAX_NS)) != ERR_OK)
        return dead(err);
    for (uint32_t p = 0; p < SIM_PARTITIONS; p++)
        if (positions[p] > log->partitions[p].count)
            return err_set(err, ERR_CONFLICT, "trimming beyond the log's end");
    if (!sim_trim(wal->region, positions))
        code = ERR_IO;
    if (sim_pass(base->env, sim_delay(wal->sim, TRIP_NS, TRIP_MAX_NS)) != ERR_OK)
        return dead(err);
    if (code == ERR_OK && sim_percent(wal->sim, log->unanswered))
        code = ERR_TIMEOUT;
    return code == ERR_OK ? ERR_OK : err_set(err, code, "how far the log is trimmed is not known");
}

/* Other holders go by the lease row; replicators, which read another region's log, by what is kept
 * beside it: by chance new, old or wrong. */
static void log_hint_set(struct wal *base, uint32_t partition, uint64_t position)
{
    struct sim_wal *wal = (struct sim_wal *)base;

    wal->hints[partition] = position;
    if (sim_below(wal->sim, 2) == 0)
        wal->region->log.hints[partition] =
            sim_below(wal->sim, 5) == 0 ? sim_below(wal->sim, position + 1) : position;
}

static uint64_t log_hint(struct wal *base, uint32_t partition)
{
    return ((struct sim_wal *)base)->hints[partition];
}

static void log_space(struct wal *base, uint64_t *used_bytes, uint64_t *free_bytes)
{
    (void)base;
    (void)used_bytes;
    (void)free_bytes;
}

static enum err_code log_reader_open(struct wal_reader **out, struct wal *base,
                                     const uint32_t *partitions, const uint64_t *positions,
                                     size_t count, struct err *err)
{
    struct sim_wal *wal = (struct sim_wal *)base;
    struct sim_reader *reader;

    if (sim_pass(base->env, TRIP_NS) != ERR_OK)
        return dead(err);
    if (is_away(base))
        return err_set(err, ERR_IO, "the log cannot be reached");
    assert(count <= SIM_PARTITIONS);
    for (size_t i = 0; i < count; i++)
        if (positions[i] > wal->region->log.partitions[partitions[i]].count)
            return err_set(err, ERR_CONFLICT, "beyond the log's end");
        else if (positions[i] < wal->region->log.firsts[partitions[i]])
            return err_set(err, ERR_NOT_FOUND, "before the log's beginning");
    reader = calloc(1, sizeof(*reader));
    if (reader == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    reader->base.ops = &wal_sim_ops;
    reader->wal = wal;
    reader->count = count;
    memcpy(reader->partitions, partitions, count * sizeof(*partitions));
    memcpy(reader->positions, positions, count * sizeof(*positions));
    *out = &reader->base;
    return ERR_OK;
}

/* Has something been trimmed that this reader has not read yet? */
static bool has_gap(const struct sim_reader *reader)
{
    const struct sim_log *log = &reader->wal->region->log;

    for (size_t i = 0; i < reader->count; i++)
        if (reader->positions[i] < log->firsts[reader->partitions[i]])
            return true;
    return false;
}

/* What is there now, from partitions in an order of chance. */
static size_t take_items(struct sim_reader *reader, struct wal_item *items, size_t max)
{
    struct sim *sim = reader->wal->sim;
    size_t first = sim_below(sim, reader->count), taken = 0;

    max = 1 + sim_below(sim, max < 40 ? max : 40);
    for (size_t i = 0; i < reader->count; i++) {
        size_t at = (first + i) % reader->count;
        const struct sim_partition *partition =
            &reader->wal->region->log.partitions[reader->partitions[at]];

        while (taken < max && reader->positions[at] < partition->count) {
            const struct sim_entry *entry = &partition->entries[reader->positions[at]];

            items[taken++] = (struct wal_item){.partition = reader->partitions[at],
                                               .offset = reader->positions[at]++,
                                               .data = entry->data,
                                               .len = entry->len};
        }
    }
    return taken;
}

static enum err_code log_reader_next(struct wal_reader *base, struct wal_item *items, size_t max,
                                     size_t *count, uint64_t deadline_ns, struct err *err)
{
    struct sim_reader *reader = (struct sim_reader *)base;
    struct env *env = reader->wal->base.env;
    struct sim *sim = reader->wal->sim;
    struct sim_log *log = &reader->wal->region->log;
    enum err_code code = ERR_OK;
    size_t taken = 0;

    if (sim_percent(sim, log->fail_reads))
        return err_set(err, ERR_IO, "the log cannot be read");
    while (code == ERR_OK && taken == 0) {
        if (has_gap(reader))
            return err_set(err, ERR_NOT_FOUND, "what comes next was trimmed");
        if (!is_away(&reader->wal->base))
            taken = take_items(reader, items, max);
        code = taken > 0 ? sim_pass(env, sim_delay(sim, TRIP_NS, TRIP_MAX_NS))
                         : sim_wait(env, &log->changed, deadline_ns);
    }
    if (code == ERR_DEAD)
        return dead(err);
    *count = taken;
    return ERR_OK;
}

static void log_reader_close(struct wal_reader *reader)
{
    free(reader);
}

const struct wal_ops wal_sim_ops = {
    .scheme = "sim",
    .open = log_open,
    .close = log_close,
    .append = log_append,
    .recover = log_recover,
    .ends = log_ends,
    .trim = log_trim,
    .first = log_first,
    .hint_set = log_hint_set,
    .hint = log_hint,
    .space = log_space,
    .reader_open = log_reader_open,
    .reader_next = log_reader_next,
    .reader_close = log_reader_close,
};
