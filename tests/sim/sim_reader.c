/* The readers: they ask in every way that the API has, and compare every answer with the log.
 *
 * Before it asks, a reader works out the position of each partition that the answer has to have
 * seen: the token's, that of every change of the id answered 200 before (fresh), that of
 * everything that landed more than s ago (max_staleness_seconds).  What the answer itself claims,
 * its token and its staleness, is a promise too. */
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

#define THINK_NS    (80 * NS_PER_MS)
#define TOP_K       50
#define UNKNOWN_AGE 1e8 /* seconds: it says that it does not know */

enum read_kind { READ_GET, READ_SEARCH, READ_SCROLL, READ_ONE, READ_KINDS };

struct reading {
    struct sim *sim;
    struct sim_region *region;
    enum read_kind kind;
    uint32_t ids[SIM_IDS];
    size_t id_count;                 /* asked for; all: SIM_IDS */
    bool fresh, global, serve_stale; /* global ones are fresh too */
    double max_staleness;            /* below 0: none */
    struct token token;
    char token_text[SIM_TOKEN_BYTES];           /* "": none */
    uint64_t from[SIM_PARTITIONS];              /* what the demands say */
    uint64_t fresh_from[SIM_IDS];               /* and for each id */
    uint64_t distant[SIM_REGIONS_MAX][SIM_IDS]; /* the same in the other regions' logs */
    uint64_t timeout_ms;
    bool with_vector; /* what comes has its vector */
    bool is_stale;    /* the answer, as it says */
    bool has_claims;  /* it says how old it is, and what it has seen */
};

static const char *name_of(enum read_kind kind)
{
    static const char *const NAMES[READ_KINDS] = {"get", "search", "scroll", "get of one"};

    return NAMES[kind];
}

/* --- what is asked ------------------------------------------------------------------------------
 */

static void choose_token(struct reading *reading, const char *own)
{
    struct sim *sim = reading->sim;
    const char *text = sim_below(sim, 2) == 0 ? own : sim->tokens[sim_below(sim, SIM_TOKENS)];
    struct err err = {0};

    if (text[0] == '\0')
        return;
    (void)snprintf(reading->token_text, sizeof(reading->token_text), "%s", text);
    if (token_from_text(&reading->token, text, strlen(text), &err) != ERR_OK)
        sim_fail(sim, "a token cannot be read: %s", err.message);
}

static void choose(struct reading *reading, const char *own_token)
{
    struct sim *sim = reading->sim;
    uint32_t first = (uint32_t)sim_below(sim, SIM_IDS);

    reading->kind = (enum read_kind)sim_below(sim, READ_KINDS);
    reading->id_count = reading->kind == READ_ONE   ? 1
                        : reading->kind == READ_GET ? 1 + sim_below(sim, 4)
                                                    : SIM_IDS;
    for (size_t i = 0; i < reading->id_count; i++)
        reading->ids[i] = (first + (uint32_t)i) % SIM_IDS;
    reading->max_staleness = -1;
    reading->timeout_ms = 200 + sim_below(sim, 2500);
    if (sim_below(sim, 3) == 0)
        choose_token(reading, own_token);
    if (sim_below(sim, 3) == 0)
        reading->fresh = true;
    reading->global = reading->fresh && sim_below(sim, 3) == 0;
    if (sim_below(sim, 4) == 0)
        reading->max_staleness = (double)sim_below(sim, 2000) / 1000;
    reading->serve_stale = sim_below(sim, 5) == 0;
    reading->with_vector = reading->kind != READ_ONE && sim_below(sim, 2) == 0;
}

/* Everything that was acknowledged, and everything that somebody has read: in one order for all. */
static uint64_t fresh_position(const struct sim_history *history)
{
    return history->acked_position > history->seen_position ? history->acked_position
                                                            : history->seen_position;
}

/* What the demands promise, as of now. */
static void note_demands(struct reading *reading)
{
    struct sim *sim = reading->sim;
    uint64_t age = (uint64_t)(reading->max_staleness * 1e9);

    for (uint32_t p = 0; p < SIM_PARTITIONS; p++) {
        reading->from[p] = token_position(&reading->token, reading->region->log.region, p);
        if (reading->max_staleness >= 0) {
            /* Clocks drift by up to 200 ppm. */
            uint64_t before = sim->now_ns - NS_PER_MS - age - age / 4000;
            uint64_t landed =
                age > sim->now_ns / 2 ? 0 : truth_landed_before(reading->region, p, before);

            reading->from[p] = landed > reading->from[p] ? landed : reading->from[p];
        }
    }
    for (uint32_t id = 0; reading->fresh && id < SIM_IDS; id++)
        reading->fresh_from[id] = fresh_position(&reading->region->chronicle.ids[id]);
    for (uint32_t r = 0; reading->global && r < sim->region_count; r++)
        for (uint32_t id = 0; id < SIM_IDS; id++)
            reading->distant[r][id] = sim->regions[r].chronicle.ids[id].acked_position;
}

static void append_ids(struct reading *reading, struct buffer *body)
{
    buffer_append_text(body, "\"ids\":[");
    for (size_t i = 0; i < reading->id_count; i++)
        buffer_append_format(body, "%s\"%s\"", i == 0 ? "" : ",", sim_ids[reading->ids[i]]);
    buffer_append_text(body, "],");
}

static void make_body(struct reading *reading, struct buffer *body)
{
    buffer_append_text(body, "{");
    if (reading->kind == READ_GET)
        append_ids(reading, body);
    else if (reading->kind == READ_SEARCH)
        buffer_append_format(body, "\"vector\":[1,2,%llu,4],\"top_k\":%d,",
                             (unsigned long long)sim_below(reading->sim, 2), TOP_K);
    else
        buffer_append_text(body, "\"limit\":100,");
    if (reading->fresh)
        buffer_append_text(body, reading->global ? "\"fresh\":\"global\"," : "\"fresh\":true,");
    if (reading->max_staleness >= 0)
        buffer_append_format(body, "\"max_staleness_seconds\":%.3f,", reading->max_staleness);
    if (reading->token_text[0] != '\0')
        buffer_append_format(body, "\"read_token\":\"%s\",", reading->token_text);
    if (reading->serve_stale)
        buffer_append_text(body, "\"on_stale\":\"serve\",");
    buffer_append_format(body, "\"timeout_ms\":%llu,\"include\":[\"metadata\"%s]}",
                         (unsigned long long)reading->timeout_ms,
                         reading->with_vector ? ",\"vector\"" : "");
    buffer_append(body, "", 1);
}

static void make_path(const struct reading *reading, struct buffer *path)
{
    static const char *const PATHS[READ_KINDS] = {"/records/get", "/search", "/records/scroll",
                                                  "/records/"};

    buffer_append_format(path, "/v1/collections/%s%s", SIM_COLLECTION, PATHS[reading->kind]);
    if (reading->kind == READ_ONE) {
        buffer_append_format(path, "%s?timeout_ms=%llu", sim_ids[reading->ids[0]],
                             (unsigned long long)reading->timeout_ms);
        if (reading->fresh)
            buffer_append_text(path, reading->global ? "&fresh=global" : "&fresh=true");
        if (reading->max_staleness >= 0)
            buffer_append_format(path, "&max_staleness_seconds=%.3f", reading->max_staleness);
        if (reading->token_text[0] != '\0')
            buffer_append_format(path, "&read_token=%s", reading->token_text);
        if (reading->serve_stale)
            buffer_append_text(path, "&on_stale=serve");
    }
    buffer_append(path, "", 1);
}

/* --- what came -----------------------------------------------------------------------------------
 */

/* Of another region's log everything below that position is here, and counts from there on. */
static void raise_arrived(struct reading *reading, uint32_t r, uint32_t partition,
                          uint64_t position)
{
    struct sim *sim = reading->sim;
    uint64_t from;

    if (r == reading->region->index)
        return;
    from = truth_arrived(reading->region, &sim->regions[r], partition, position,
                         name_of(reading->kind));
    if (from > reading->from[partition])
        reading->from[partition] = from;
}

/* A read over all regions says of all of them how old it is; stale or not. */
static void raise_global_claims(struct reading *reading, uint64_t before_ns)
{
    struct sim *sim = reading->sim;

    for (uint32_t r = 0; r < sim->region_count; r++)
        for (uint32_t p = 0; p < SIM_PARTITIONS; p++)
            raise_arrived(reading, r, p, truth_landed_before(&sim->regions[r], p, before_ns));
}

/* The positions that the answer has to have seen, from the demands and from what it says itself. */
static void raise_claims(struct reading *reading, json_t *read, const struct sim_reply *reply,
                         char *own_token)
{
    bool is_stale = json_is_true(json_object_get(read, "stale"));
    struct sim *sim = reading->sim;
    double age = json_number_value(json_object_get(read, "staleness_seconds"));
    struct token seen = {0};

    reading->has_claims = true;
    if (!sim_reply_token(sim, read, &seen))
        sim_fail(sim, "a read's answer has no token");
    (void)snprintf(own_token, SIM_TOKEN_BYTES, "%s",
                   json_string_value(json_object_get(read, "read_token")));
    for (uint32_t p = 0; p < SIM_PARTITIONS; p++) {
        uint64_t position = token_position(&seen, reading->region->log.region, p);

        if (position > reading->region->log.partitions[p].count)
            sim_fail(sim, "a read's token is beyond the log's end");
        if (age < UNKNOWN_AGE && age * 1e9 * 1.001 + 2e6 < (double)reply->left_ns) {
            uint64_t before = reply->left_ns - (uint64_t)(age * 1e9 * 1.001) - 2 * NS_PER_MS;
            uint64_t landed = truth_landed_before(reading->region, p, before);

            /* Partitions that were not asked are in no token. */
            if (position > 0 || reading->id_count == SIM_IDS)
                reading->from[p] = landed > reading->from[p] ? landed : reading->from[p];
        }
        /* A stale answer's token still holds what it was asked with. */
        if (!is_stale)
            reading->from[p] = position > reading->from[p] ? position : reading->from[p];
    }
    /* Who keeps only the last token reads monotonically. */
    for (size_t i = 0; i < reading->token.count; i++) {
        const struct token_entry *asked = &reading->token.entries[i];

        if (token_position(&seen, asked->region, asked->partition) < asked->position)
            sim_fail(sim, "a read's token says less than the one that it was asked with");
    }
    if (reading->global && age < UNKNOWN_AGE && age * 1e9 * 1.001 + 2e6 < (double)reply->left_ns &&
        reading->id_count == SIM_IDS)
        raise_global_claims(reading,
                            reply->left_ns - (uint64_t)(age * 1e9 * 1.001) - 2 * NS_PER_MS);
    token_free(&seen);
}

/* Every write that was answered anywhere before the read began has come, and counts. */
static void raise_global_demands(struct reading *reading)
{
    struct sim *sim = reading->sim;

    truth_follow(sim);
    for (uint32_t r = 0; reading->global && r < sim->region_count; r++)
        for (size_t i = 0; i < reading->id_count; i++) {
            uint32_t id = reading->ids[i];

            if (reading->distant[r][id] > 0)
                raise_arrived(reading, r, truth_partition(id), reading->distant[r][id]);
        }
    sim->counts.global_reads += reading->global && sim->region_count > 1;
}

/* What a token of another region asks for: everything below its positions has come, and counts. */
static void raise_distant_demands(struct reading *reading)
{
    struct sim *sim = reading->sim;

    truth_follow(sim);
    for (size_t i = 0; i < reading->token.count; i++) {
        const struct token_entry *entry = &reading->token.entries[i];
        bool is_asked = reading->id_count == SIM_IDS;

        for (size_t j = 0; j < reading->id_count; j++)
            is_asked = is_asked || truth_partition(reading->ids[j]) == entry->partition;
        for (uint32_t r = 0; is_asked && r < sim->region_count; r++) {
            if (sim->regions[r].log.region != entry->region || r == reading->region->index)
                continue;
            raise_arrived(reading, r, entry->partition, entry->position);
            sim->counts.distant_tokens++;
        }
    }
}

static void count_checks(struct reading *reading)
{
    uint64_t *checks = reading->sim->counts.checks;

    checks[CHECK_READ]++;
    checks[CHECK_FRESH] += reading->fresh && !reading->is_stale;
    checks[CHECK_GLOBAL] += reading->global && !reading->is_stale && reading->sim->region_count > 1;
    checks[CHECK_TOKEN] += reading->token_text[0] != '\0' && !reading->is_stale;
    checks[CHECK_BOUND] += reading->max_staleness >= 0 && !reading->is_stale;
    checks[CHECK_CLAIM] += reading->has_claims;
}

static void check_one(struct reading *reading, uint32_t id, uint32_t value)
{
    uint64_t from = reading->from[truth_partition(id)];
    char what[64];

    if (reading->fresh_from[id] > from)
        from = reading->fresh_from[id];
    (void)snprintf(what, sizeof(what), "%s%s%s%s", name_of(reading->kind),
                   reading->global  ? ", global"
                   : reading->fresh ? ", fresh"
                                    : "",
                   reading->token_text[0] != '\0' ? ", token" : "",
                   reading->max_staleness >= 0 ? ", bounded" : "");
    truth_check_read(reading->region, id, value, from, what);
    truth_seen(reading->region, id, value, from);
    count_checks(reading);
}

/* All of a record is of one image. */
static void check_image(struct reading *reading, json_t *row, uint32_t value)
{
    json_int_t base = json_integer_value(json_object_get(json_object_get(row, "metadata"), "w"));
    json_t *vector = json_object_get(row, "vector");
    double last = json_number_value(json_array_get(vector, SIM_DIMENSION - 1));

    truth_follow(reading->sim);
    if (base != reading->sim->truth.ops[value].base)
        sim_fail(reading->sim, "value %u was read as an image of %lld, and is one of %u", value,
                 (long long)base, reading->sim->truth.ops[value].base);
    if (reading->with_vector && last != (double)base)
        sim_fail(reading->sim, "value %u, an image of %lld, was read with the vector of %.0f",
                 value, (long long)base, last);
}

static uint32_t value_of_row(struct reading *reading, json_t *row, int *id)
{
    const char *text = json_string_value(json_object_get(row, "id"));
    json_int_t value = json_integer_value(json_object_get(json_object_get(row, "metadata"), "v"));

    *id = text == NULL ? -1 : truth_id(text, strlen(text));
    if (*id < 0 || value <= 0 || value > reading->sim->truth.op_count)
        sim_fail(reading->sim, "a record that nobody wrote was read");
    check_image(reading, row, (uint32_t)value);
    return (uint32_t)value;
}

static void check_rows(struct reading *reading, json_t *rows)
{
    uint32_t values[SIM_IDS] = {0};
    json_t *row;
    size_t i;
    int id;

    json_array_foreach(rows, i, row)
    {
        uint32_t value = value_of_row(reading, row, &id);

        if (values[id] != 0)
            sim_fail(reading->sim, "'%s' is twice in one answer", sim_ids[id]);
        values[id] = value;
    }
    for (i = 0; i < reading->id_count; i++)
        check_one(reading, reading->ids[i], values[reading->ids[i]]);
}

static void check_answer(struct reading *reading, const struct sim_reply *reply, char *own_token)
{
    struct sim *sim = reading->sim;
    json_t *document = sim_reply_json(sim, reply), *read = json_object_get(document, "read");
    int id;

    sim_note(sim, "%s: %.3f s stale%s, from %llu %llu %llu %llu", name_of(reading->kind),
             json_number_value(json_object_get(read, "staleness_seconds")),
             json_is_true(json_object_get(read, "stale")) ? " (served)" : "",
             (unsigned long long)reading->from[0], (unsigned long long)reading->from[1],
             (unsigned long long)reading->from[2], (unsigned long long)reading->from[3]);
    truth_follow(sim);
    sim->counts.reads++;
    sim->counts.fresh_reads += reading->fresh;
    sim->counts.token_reads += reading->token_text[0] != '\0';
    sim->counts.bounded_reads += reading->max_staleness >= 0;
    sim->counts.searches += reading->kind == READ_SEARCH;
    if (json_is_true(json_object_get(read, "stale"))) {
        if (!reading->serve_stale)
            sim_fail(sim, "a stale answer that was not asked for");
        sim->counts.stale_served++;
        reading->is_stale = true;
        memset(reading->from, 0, sizeof(reading->from));
        memset(reading->fresh_from, 0, sizeof(reading->fresh_from));
    }
    if (json_is_true(json_object_get(read, "partial")))
        sim_fail(sim, "a partial answer that was not asked for");
    if (!json_is_true(json_object_get(read, "stale"))) {
        raise_distant_demands(reading);
        raise_global_demands(reading);
    }
    raise_claims(reading, read, reply, own_token);
    if (reading->kind == READ_ONE)
        check_one(reading, reading->ids[0], value_of_row(reading, document, &id));
    else
        check_rows(reading,
                   json_object_get(document, reading->kind == READ_SEARCH ? "matches" : "records"));
    json_decref(document);
}

/* Before the first contact a region's number is not known here: "token_log_gone". */
static bool has_distant_token(const struct reading *reading)
{
    for (size_t i = 0; i < reading->token.count; i++)
        if (reading->token.entries[i].region != reading->region->log.region)
            return true;
    return false;
}

static void take_reply(struct reading *reading, const struct sim_reply *reply, char *own_token)
{
    struct sim *sim = reading->sim;

    if (reply->rc != ERR_OK)
        return;
    if (reply->status == 200) {
        check_answer(reading, reply, own_token);
    } else if (reply->status == 404 && reading->kind == READ_ONE &&
               memmem(reply->body.data, reply->body.len, "record_not_found", 16) != NULL) {
        sim->counts.reads++;
        if (!reading->serve_stale) { /* a problem does not say whether it was stale */
            raise_distant_demands(reading);
            raise_global_demands(reading);
            check_one(reading, reading->ids[0], VALUE_ABSENT);
        }
    } else if (reply->status == 409 && has_distant_token(reading)) {
        sim->counts.unknown_tokens++;
    } else if (reply->status == 503 || reply->status == 504) {
        sim->counts.unmet++;
    } else {
        sim_fail(sim, "%s: status %d was not to be expected: %.*s", name_of(reading->kind),
                 reply->status, (int)reply->body.len, (const char *)reply->body.data);
    }
}

static void read_once(struct sim_node *client, char *own_token)
{
    struct sim *sim = client->sim;
    struct reading reading = {.sim = sim, .region = client->region};
    struct buffer body = {0}, path = {0};
    struct sim_ask ask = {.method = "POST"};
    struct sim_reply reply;

    choose(&reading, own_token);
    make_path(&reading, &path);
    ask.path = (const char *)path.data;
    if (reading.kind == READ_ONE) {
        ask.method = "GET";
    } else {
        make_body(&reading, &body);
        ask.body = (const char *)body.data;
    }
    ask.timeout_ns = reading.timeout_ms * NS_PER_MS + NS_PER_S;
    truth_follow(sim);
    note_demands(&reading);
    sim_call_router(client, &ask, &reply);
    take_reply(&reading, &reply, own_token);
    sim_reply_free(&reply);
    buffer_free(&body);
    buffer_free(&path);
    token_free(&reading.token);
}

void sim_reader(void *argument)
{
    struct sim_node *client = argument;
    struct sim *sim = client->sim;
    char own_token[SIM_TOKEN_BYTES] = "";

    for (uint32_t step = 0; step < sim->options.steps; step++) {
        read_once(client, own_token);
        if (sim_below(sim, 4) != 0)
            sim_world_sleep(sim, sim_delay(sim, 0, THINK_NS));
    }
    sim->clients--;
    sim_wake(sim, &sim->clients, true);
}
