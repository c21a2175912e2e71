/* Three regions, four writes of one id: whatever the order in which writes and shipments come, all
 * three end with the same winner.
 *
 * Each region is a whole ingest over a log of its own and a shard's state (apply.h) that follows
 * that log.  Shipping is what a replicator does: the local records of one log, as a run, through
 * the other ingest's /internal/v1/append; every run overlaps with what was sent before, and in the
 * end everything is sent once more.
 *
 * Exhaustive: who writes the second, third and fourth time (the first is region 0: names do not
 * matter, clocks change places), and after which write each write reaches each of the two others,
 * in the order of its log.  Which writes are deletes (16 mixes) and whose clock is how wrong (8
 * ways, 10 s apart or equal to the microsecond) goes round with the cases.
 * pace: long */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/checked.h"
#include "services/ingest/ingest.h"
#include "services/shard/apply.h"
#include "services/shard/rows.h"
#include "tests/lib/scratch.h"

#define REGIONS 3u
#define WRITES  4u
#define DIM     2u
#define WAIT_NS (30 * NS_PER_S)
#define SKEW_US (10 * (uint64_t)1000000)

/* A clock that the test turns; everything else is real. */
struct skewed {
    struct env env;
    uint64_t wall_us;
};

/* A local record of the case at hand. */
struct local {
    uint64_t offset;
    struct buffer bytes;
};

struct region {
    struct skewed clock;
    char url[96];
    struct meta *meta;
    struct wal *log;
    struct ingest ingest;
    struct wal_reader *reader;
    struct store *store;
    struct apply apply;
    uint64_t position; /* read so far */
    uint64_t newest;   /* clock of the newest local record */
    uint64_t shipped;  /* what the others knew of this log when the case began */
    struct epoch_state epochs;
    struct local locals[WRITES];
    size_t local_count;
};

static char folder[64];
static struct region regions[REGIONS];
static uint64_t seconds; /* of the deployment's life: every case is later than the one before */

/* --- a region ----------------------------------------------------------------------------------
 */

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s", err->message);
}

static uint64_t skewed_wall_us(struct env *env)
{
    return ((struct skewed *)env)->wall_us;
}

static enum err_code open_wal(void *context, struct wal **out, struct err *err)
{
    struct region *region = context;
    struct wal_options options = {
        .url = region->url, .env = env_real(), .writer = true, .partitions = 1};
    enum err_code rc = wal_open(out, &options, err);

    region->log = *out;
    return rc;
}

static void region_open(struct region *region, unsigned index)
{
    static struct env_ops ops;
    struct ingest_setup setup = {.env = &region->clock.env,
                                 .name = "0",
                                 .url = "http://test",
                                 .open_wal = open_wal,
                                 .open_wal_context = region,
                                 .log_locks = true};
    struct store_options store = {.url = "memory:", .env = env_real()};
    struct apply_origin origin = {0};
    uint64_t end = env_boot_ns(env_real()) + WAIT_NS;
    struct buffer why = {0};
    struct err err = {0};

    ops = *env_real()->ops;
    ops.wall_us = skewed_wall_us;
    region->clock.env.ops = &ops;
    region->clock.wall_us = 1;
    (void)snprintf(region->url, sizeof(region->url), "file:%s/%u", folder, index);
    must(meta_open(&region->meta, "memory:", env_real(), &err), &err);
    setup.meta = region->meta;
    must(ingest_open(&region->ingest, &setup, &err), &err);
    must(ingest_start(&region->ingest, NULL, &err), &err);
    while (!ingest_ready(&region->ingest, &why)) {
        assert_true(env_boot_ns(env_real()) < end);
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), &err);
    }
    buffer_free(&why);
    must(store_open(&region->store, &store, &err), &err);
    origin.region = wal_region(region->log);
    partition_set_fill(&origin.served, 1);
    must(apply_create(&region->apply, region->store, &origin, &err), &err);
    must(wal_reader_open(&region->reader, region->log, &(uint32_t){0}, &(uint64_t){0}, 1, &err),
         &err);
}

static void region_close(struct region *region)
{
    wal_reader_close(region->reader);
    apply_free(&region->apply);
    store_close(region->store);
    ingest_stop(&region->ingest);
    ingest_close(&region->ingest);
    meta_close(region->meta);
}

static const char *header(const struct request *req, const char *name)
{
    const char *media = req->method[1] == 'U' ? MEDIA_JSON : MEDIA_BINARY;

    return strcasecmp(name, "Content-Type") == 0 ? media : NULL;
}

/* The status; the answer's body is left in reply. */
static int ask(struct region *region, const char *method, const char *path,
               const struct buffer *body, struct buffer *reply)
{
    struct request req = {.state = &region->ingest,
                          .env = env_real(),
                          .method = method,
                          .path = path,
                          .query = "",
                          .body = body->data,
                          .body_len = body->len,
                          .received_ns = env_boot_ns(env_real()),
                          .header = header};
    int status;

    route_dispatch(ingest_routes, &req);
    status = req.reply.status;
    reply->len = 0;
    buffer_append(reply, req.reply.body.data, req.reply.body.len);
    request_free(&req);
    return status;
}

/* --- following the log -------------------------------------------------------------------------
 */

/* What a replicator would ship, with its place in the log; and local stamps rise. */
static void keep_local(struct region *region, const struct wal_item *item)
{
    struct record record;
    struct err err = {0};

    must(record_decode(&record, item->data, item->len, NULL, &err), &err);
    if (!epoch_admit(&region->epochs, &record, item->offset))
        return;
    if (record.origin_region != wal_region(region->log))
        return;
    assert_true(record.stamp.clock > region->newest);
    region->newest = record.stamp.clock;
    if (record.op != RECORD_UPSERT && record.op != RECORD_DELETE)
        return;
    assert_true(region->local_count < WRITES);
    assert_int_equal(record.origin_offset, item->offset);
    region->locals[region->local_count].offset = item->offset;
    buffer_append(&region->locals[region->local_count++].bytes, item->data, item->len);
}

/* Apply all that has been committed. */
static void follow(struct region *region)
{
    struct apply_effects effects = {0};
    struct store_txn *txn = NULL;
    struct wal_item items[64];
    struct err err = {0};
    uint64_t end;
    size_t count;

    must(wal_ends(region->log, &(uint32_t){0}, 1, NEVER_NS, &end, &err), &err);
    must(store_begin(&txn, region->store, true, &err), &err);
    while (region->position < end) {
        must(wal_reader_next(region->reader, items, ARRAY_COUNT(items), &count,
                             env_boot_ns(env_real()) + WAIT_NS, &err),
             &err);
        assert_true(count > 0);
        for (size_t i = 0; i < count; i++) {
            struct apply_input input = {
                .offset = items[i].offset, .data = items[i].data, .len = items[i].len};

            keep_local(region, &items[i]);
            must(apply_record(&region->apply, txn, &input, &effects, &err), &err);
            region->position = items[i].offset + 1;
        }
    }
    must(apply_flush(&region->apply, txn, &err), &err);
    must(store_commit(txn, &err), &err);
    apply_clean(&region->apply);
    apply_effects_free(&effects);
}

/* --- writing and shipping ------------------------------------------------------------------------
 */

struct written {
    struct stamp stamp;
    bool is_delete;
};

static struct written write_local(struct region *region, const char *id, bool is_delete, char name)
{
    static const float vector[DIM] = {1, 2};
    const struct apply_collection *collection = region->apply.collections[0];
    struct sequencer *s = &region->ingest.sequencer;
    struct record record = {.op = is_delete ? RECORD_DELETE : RECORD_UPSERT,
                            .schema = collection->definition.schema,
                            .id = id,
                            .id_len = strlen(id)};
    struct sequence_batch *batch;
    struct written written = {.is_delete = is_delete};
    struct err err = {0};

    memcpy(record.incarnation, collection->definition.incarnation, INCARNATION_BYTES);
    if (!is_delete) {
        record.text = &name;
        record.text_len = 1;
        record.vector = vector;
        record.vector_bytes = sizeof(vector);
    }
    must(sequence_batch_new(&batch, s, &err), &err);
    must(sequence_batch_add(batch, 0, &record, &err), &err);
    must(sequencer_commit(s, batch, env_boot_ns(env_real()) + WAIT_NS, &err), &err);
    written.stamp = batch->items[0].stamp;
    sequence_batch_put(s, batch);
    return written;
}

/* The first `count` local records of this case, all of them, again and again: the overlap is for
 * the ingest to drop. */
static void ship(struct region *from, struct region *to, size_t count)
{
    static struct buffer body, reply;
    json_t *answer, *answered;

    if (count == 0)
        return;
    body.len = 0;
    buffer_append_byte(&body, 2);
    buffer_append_u32(&body, wal_region(from->log));
    buffer_append_u32(&body, 1); /* run */
    buffer_append_u32(&body, 0);
    buffer_append_u64(&body, from->shipped);
    buffer_append_u64(&body, from->locals[count - 1].offset + 1);
    buffer_append_u32(&body, (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        buffer_append_u32(&body, (uint32_t)from->locals[i].bytes.len);
        buffer_append(&body, from->locals[i].bytes.data, from->locals[i].bytes.len);
    }
    assert_int_equal(ask(to, "POST", "/internal/v1/append", &body, &reply), 200);
    answer = json_loadb((const char *)reply.data, reply.len, 0, NULL);
    answered = json_array_get(json_object_get(answer, "runs"), 0);
    assert_true((uint64_t)json_integer_value(json_object_get(answered, "position")) >
                from->locals[count - 1].offset);
    json_decref(answer);
}

/* Everything before the case's first record is of no interest to the others: a run without records
 * says so, and no gap is left. */
static void close_gap(struct region *from, struct region *to)
{
    static struct buffer body, reply;

    body.len = 0;
    buffer_append_byte(&body, 2);
    buffer_append_u32(&body, wal_region(from->log));
    buffer_append_u32(&body, 1); /* run */
    buffer_append_u32(&body, 0);
    buffer_append_u64(&body, 0);
    buffer_append_u64(&body, from->shipped);
    buffer_append_u32(&body, 0);
    assert_int_equal(ask(to, "POST", "/internal/v1/append", &body, &reply), 200);
}

/* --- one case ------------------------------------------------------------------------------------
 */

struct plan {
    unsigned writer[WRITES];
    unsigned arrival[WRITES][2]; /* after which write it reaches the next region, and the one after
                                  * that; for each writer they never fall back */
    unsigned deletes, skews;
};

static const uint8_t SKEWS[8][REGIONS] = {{0, 0, 0}, {1, 1, 0}, {0, 1, 2}, {0, 2, 1},
                                          {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

/* Ship what has its turn after the given write; the regions' order changes from write to write. */
static void ship_due(const struct plan *plan, unsigned after)
{
    for (unsigned turn = 0; turn < REGIONS * 2; turn++) {
        unsigned pair = after % 2 == 0 ? turn : REGIONS * 2 - 1 - turn;
        unsigned from = pair / 2, step = pair % 2, count = 0;

        for (unsigned i = 0; i < WRITES; i++)
            count += plan->writer[i] == from && plan->arrival[i][step] <= after;
        ship(&regions[from], &regions[(from + step + 1) % REGIONS], count);
    }
}

static void check_winner(struct region *region, const char *id, const struct written *written,
                         unsigned winner)
{
    struct store_txn *txn = NULL;
    struct id_key key = id_key_of(0, 0, id, strlen(id));
    struct id_entry entry;
    struct row row;
    struct err err = {0};
    char text[8];

    must(store_begin(&txn, region->store, false, &err), &err);
    must(id_entry_get(&entry, txn, &key, &err), &err);
    assert_int_equal(stamp_compare(entry.stamp, written[winner].stamp), 0);
    assert_int_equal(entry.is_live, !written[winner].is_delete);
    if (entry.is_live) {
        must(row_get(&row, txn, 0, entry.ordinal, &err), &err);
        (void)snprintf(text, sizeof(text), "\"%c\"", (char)('0' + winner));
        assert_int_equal(row.text_len, strlen(text));
        assert_memory_equal(row.text, text, row.text_len);
    }
    store_abort(txn);
}

static void check_equal(const char *id, const struct written *written)
{
    struct hash128 first = regions[0].apply.partitions[0].counts.digest;
    unsigned winner = 0;

    for (unsigned i = 1; i < WRITES; i++)
        if (stamp_compare(written[i].stamp, written[winner].stamp) > 0)
            winner = i;
    for (unsigned r = 0; r < REGIONS; r++) {
        struct hash128 digest = regions[r].apply.partitions[0].counts.digest;

        assert_true(digest.low == first.low && digest.high == first.high);
        check_winner(&regions[r], id, written, winner);
    }
}

static void run_case(const struct plan *plan, const char *id)
{
    struct written written[WRITES];
    uint64_t ends[REGIONS];

    seconds += 100;
    for (unsigned r = 0; r < REGIONS; r++) {
        regions[r].clock.wall_us = seconds * 1000000 + (uint64_t)SKEWS[plan->skews][r] * SKEW_US;
        if (regions[r].local_count > 0)
            regions[r].shipped = regions[r].locals[regions[r].local_count - 1].offset + 1;
        regions[r].local_count = 0;
        for (unsigned i = 0; i < WRITES; i++)
            regions[r].locals[i].bytes.len = 0;
    }
    for (unsigned i = 0; i < WRITES; i++) {
        struct region *writer = &regions[plan->writer[i]];

        written[i] = write_local(writer, id, (plan->deletes >> i & 1) != 0, (char)('0' + i));
        follow(writer);
        ship_due(plan, i);
    }
    for (unsigned r = 0; r < REGIONS; r++) {
        follow(&regions[r]);
        ends[r] = regions[r].position;
    }
    check_equal(id, written);
    /* Once more, all of it: nothing is taken twice. */
    ship_due(plan, WRITES - 1);
    for (unsigned r = 0; r < REGIONS; r++) {
        follow(&regions[r]);
        assert_int_equal(regions[r].position, ends[r]);
    }
}

/* --- every case ----------------------------------------------------------------------------------
 */

/* Arrivals from a number: of write i there are WRITES - i times for each of two targets.  False:
 * one of them would overtake an earlier record of its log. */
static bool plan_arrivals(struct plan *plan, unsigned number)
{
    for (unsigned i = 0; i < WRITES; i++)
        for (unsigned step = 0; step < 2; step++) {
            plan->arrival[i][step] = i + number % (WRITES - i);
            number /= WRITES - i;
            for (unsigned before = 0; before < i; before++)
                if (plan->writer[before] == plan->writer[i] &&
                    plan->arrival[before][step] > plan->arrival[i][step])
                    return false;
        }
    return true;
}

static void every_interleaving_has_one_winner_everywhere(void **state)
{
    enum { WRITER_CASES = 27, ARRIVAL_CASES = 16 * 9 * 4 };
    unsigned cases = 0;

    (void)state;
    for (unsigned writers = 0; writers < WRITER_CASES; writers++)
        for (unsigned arrivals = 0; arrivals < ARRIVAL_CASES; arrivals++) {
            struct plan plan = {
                .writer = {0, writers % 3, writers / 3 % 3, writers / 9},
                .deletes = cases * 7 % 16,
                .skews = cases / 16 % 8,
            };
            char id[16];

            if (!plan_arrivals(&plan, arrivals))
                continue;
            (void)snprintf(id, sizeof(id), "id%u", cases++);
            run_case(&plan, id);
        }
    print_message(
        "%u cases, 3 regions, %llu records of each log in the mean\n", cases,
        (unsigned long long)((regions[0].position + regions[1].position + regions[2].position) /
                             REGIONS));
    assert_true(cases > 4000);
}

/* --- set up --------------------------------------------------------------------------------------
 */

static int set_up(void **state)
{
    struct buffer body = {0}, reply = {0};
    bool in_memory = access("/dev/shm", W_OK) == 0; /* thousands of syncs that nobody tests */

    (void)state;
    (void)snprintf(folder, sizeof(folder), "%s/vicinal-three-XXXXXX",
                   in_memory ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(folder));
    buffer_append_text(&body, "{\"vector\":{\"dimension\":2}}");
    for (unsigned r = 0; r < REGIONS; r++) {
        region_open(&regions[r], r);
        assert_int_equal(ask(&regions[r], "PUT", "/v1/collections/docs", &body, &reply), 201);
        follow(&regions[r]);
        regions[r].shipped = regions[r].position;
    }
    buffer_free(&body);
    buffer_free(&reply);
    for (unsigned from = 0; from < REGIONS; from++)
        for (unsigned step = 1; step < REGIONS; step++)
            close_gap(&regions[from], &regions[(from + step) % REGIONS]);
    for (unsigned r = 0; r < REGIONS; r++)
        follow(&regions[r]);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (unsigned r = 0; r < REGIONS; r++) {
        region_close(&regions[r]);
        for (unsigned i = 0; i < WRITES; i++)
            buffer_free(&regions[r].locals[i].bytes);
    }
    (void)scratch_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_interleaving_has_one_winner_everywhere),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
