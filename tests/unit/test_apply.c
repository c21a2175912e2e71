/* The consistency core: state is a pure function of the log's prefixes, whatever the order in which
 * regions meet, however often a record comes, wherever the process dies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/checked.h"
#include "services/shard/apply.h"
#include "services/shard/rows.h"
#include "tests/unit/faulty_store.h"

#define REGION     7u
#define PARTITIONS 4u
#define DIM        3u
#define RECORDS    64u

/* --- a log in memory ---------------------------------------------------------------------------
 */

struct logged {
    uint32_t partition;
    uint64_t offset;
    struct buffer bytes;
};

struct script {
    struct logged records[RECORDS];
    size_t count;
    uint64_t ends[PARTITIONS_MAX];
    struct collection collection;
    uint64_t epoch;
};

static struct collection definition_of(const char *name, uint64_t generation)
{
    struct collection collection = {
        .generation = generation,
        .dimension = DIM,
        .metric = METRIC_L2,
        .m = 16,
        .ef_construction = 200,
        .created = {.clock = 1, .region = REGION},
        .schema = {.clock = 1, .region = REGION},
    };

    snprintf(collection.tenant, sizeof(collection.tenant), "%s", TENANT_DEFAULT);
    snprintf(collection.name, sizeof(collection.name), "%s", name);
    collection_identify(&collection);
    return collection;
}

static void push(struct script *script, uint32_t partition, struct record record)
{
    struct logged *logged = &script->records[script->count++];
    struct err err = {0};

    assert_true(script->count <= RECORDS);
    if (record.epoch == 0)
        record.epoch = script->epoch;
    if (record.op != RECORD_EPOCH && record.op != RECORD_VERSION_VECTOR)
        memcpy(record.incarnation, script->collection.incarnation, INCARNATION_BYTES);
    if (record.origin_region == 0)
        record.origin_offset = OFFSET_NONE;
    *logged = (struct logged){.partition = partition, .offset = script->ends[partition]++};
    must(record_encode(&record, &logged->bytes, &err), &err);
}

static void push_epoch(struct script *script, uint32_t partition, uint64_t epoch)
{
    static const uint8_t holder[HOLDER_BYTES] = {1};

    push(script, partition,
         (struct record){
             .op = RECORD_EPOCH, .epoch = epoch, .payload = holder, .payload_len = sizeof(holder)});
    script->epoch = epoch;
}

static void push_change(struct script *script, uint32_t partition, enum collection_change change,
                        uint64_t clock)
{
    struct collection definition = script->collection;
    struct buffer json = {0};

    definition.schema.clock = clock;
    collection_encode(&definition, change, &json);
    push(script, partition,
         (struct record){.op = RECORD_COLLECTION,
                         .stamp = {.clock = clock, .region = REGION},
                         .schema = definition.schema,
                         .payload = json.data,
                         .payload_len = json.len});
    buffer_free(&json);
}

static struct record upsert(const char *id, struct stamp stamp, const char *text)
{
    static const float vectors[8][DIM] = {{1, 2, 3}, {2, 3, 4}, {3, 4, 5}, {4, 5, 6},
                                          {5, 6, 7}, {6, 7, 8}, {7, 8, 9}, {8, 9, 1}};

    return (struct record){.op = RECORD_UPSERT,
                           .stamp = stamp,
                           .origin_region = stamp.region,
                           .origin_offset = stamp.clock,
                           .id = id,
                           .id_len = strlen(id),
                           .text = text,
                           .text_len = strlen(text),
                           .metadata = "{\"a\":1}",
                           .metadata_len = 7,
                           .vector = vectors[stamp.clock % 8],
                           .vector_bytes = sizeof(vectors[0])};
}

static struct record removal(const char *id, struct stamp stamp)
{
    return (struct record){.op = RECORD_DELETE,
                           .stamp = stamp,
                           .origin_region = stamp.region,
                           .origin_offset = stamp.clock,
                           .id = id,
                           .id_len = strlen(id)};
}

static struct stamp at(uint64_t clock, uint32_t region)
{
    return (struct stamp){.clock = clock, .region = region};
}

static void script_begin(struct script *script, uint32_t partitions)
{
    memset(script, 0, sizeof(*script));
    script->collection = definition_of("docs", 0);
    for (uint32_t p = 0; p < partitions; p++) {
        push_epoch(script, p, 1);
        push_change(script, p, COLLECTION_CREATE, 1);
    }
}

static void script_free(struct script *script)
{
    for (size_t i = 0; i < script->count; i++)
        buffer_free(&script->records[i].bytes);
}

/* --- a shard's state -----------------------------------------------------------------------------
 */

struct world {
    struct store *store;
    struct apply apply;
    bool is_in[1024]; /* ordinals that an engine would hold */
};

static void world_open(struct world *world, struct store *store)
{
    struct store_options options = {.url = "memory:", .env = env_real()};
    struct apply_origin origin = {.region = REGION};
    struct err err = {0};

    memset(world, 0, sizeof(*world));
    world->store = store;
    if (store == NULL)
        must(store_open(&world->store, &options, &err), &err);
    partition_set_fill(&origin.served, PARTITIONS);
    must(apply_create(&world->apply, world->store, &origin, &err), &err);
}

static void world_close(struct world *world)
{
    apply_free(&world->apply);
    store_close(world->store);
}

static void take_effects(struct world *world, const struct apply_effects *effects)
{
    for (size_t i = 0; i < effects->count; i++) {
        const struct apply_effect *effect = &effects->items[i];

        assert_true(effect->ordinal < ARRAY_COUNT(world->is_in));
        if (effect->kind == EFFECT_INSERTED) {
            assert_false(world->is_in[effect->ordinal]);
            world->is_in[effect->ordinal] = true;
        } else if (effect->kind == EFFECT_REMOVED) {
            assert_true(world->is_in[effect->ordinal]);
            world->is_in[effect->ordinal] = false;
        }
    }
}

static enum err_code world_try(struct world *world, const struct logged *records, size_t count,
                               struct err *err)
{
    struct apply_effects effects = {0};
    struct store_txn *txn = NULL;
    enum err_code code = store_begin(&txn, world->store, true, err);

    for (size_t i = 0; code == ERR_OK && i < count; i++) {
        struct apply_input input = {
            .partition = records[i].partition,
            .offset = records[i].offset,
            .data = records[i].bytes.data,
            .len = records[i].bytes.len,
        };

        code = apply_record(&world->apply, txn, &input, &effects, err);
    }
    if (code == ERR_OK)
        code = apply_flush(&world->apply, txn, err);
    if (code == ERR_OK) {
        code = store_commit(txn, err);
        txn = NULL;
    }
    if (code == ERR_OK) {
        apply_clean(&world->apply);
        take_effects(world, &effects);
    }
    store_abort(txn);
    apply_effects_free(&effects);
    return code;
}

static void world_apply(struct world *world, const struct logged *records, size_t count)
{
    struct err err = {0};

    must(world_try(world, records, count, &err), &err);
}

/* Everything that is a function of the log, as one hash: all tables, less the ordinals' revision.
 */
static struct hash128 world_hash(struct world *world)
{
    struct store_txn *txn = NULL;
    struct buffer all = {0};
    struct hash128 hash;
    struct err err = {0};

    must(store_begin(&txn, world->store, false, &err), &err);
    for (int table = 0; table < STORE_TABLES; table++) {
        struct store_cursor *cursor = NULL;
        bool more = true;

        must(store_cursor_open(&cursor, txn, (enum store_table)table,
                               (struct store_value){.data = "", .len = 0}, &err),
             &err);
        while (more) {
            struct store_value key, value;

            must(store_cursor_next(cursor, &key, &value, &more, &err), &err);
            if (!more || (table == STORE_META && *(const char *)key.data == 'n'))
                continue;
            buffer_append_u32(&all, (uint32_t)key.len);
            buffer_append(&all, key.data, key.len);
            buffer_append_u32(&all, (uint32_t)value.len);
            buffer_append(&all, value.data, value.len);
        }
        store_cursor_close(cursor);
    }
    store_abort(txn);
    hash = hash_xxh128(all.data, all.len);
    buffer_free(&all);
    return hash;
}

static void assert_same(struct hash128 a, struct hash128 b)
{
    assert_true(a.low == b.low && a.high == b.high);
}

/* The ordinals that effects told of are those that have a vector in the store. */
static void check_effects(struct world *world)
{
    struct store_txn *txn = NULL;
    struct err err = {0};

    must(store_begin(&txn, world->store, false, &err), &err);
    for (uint32_t i = 0; i < 200; i++) {
        struct ordinal_key key = ordinal_key_of(0, i);
        struct store_value value;
        enum err_code code = store_get(txn, STORE_VECTORS, ordinal_key_value(&key), &value, &err);

        assert_int_equal(code == ERR_OK, world->is_in[i]);
    }
    store_abort(txn);
}

/* The live text of an id, or "" for none. */
static void text_of(struct world *world, uint32_t partition, const char *id, char out[64])
{
    struct store_txn *txn = NULL;
    struct id_key key = id_key_of(0, partition, id, strlen(id));
    struct id_entry entry;
    struct row row;
    struct err err = {0};

    out[0] = '\0';
    must(store_begin(&txn, world->store, false, &err), &err);
    if (id_entry_get(&entry, txn, &key, &err) == ERR_OK && entry.is_live) {
        must(row_get(&row, txn, 0, entry.ordinal, &err), &err);
        assert_int_equal(stamp_compare(row.stamp, entry.stamp), 0);
        snprintf(out, 64, "%.*s", (int)row.text_len, row.text);
    }
    store_abort(txn);
}

/* --- last writer wins ----------------------------------------------------------------------------
 */

/* Stamps of three regions whose clocks are skewed by seconds; two of them tie but for the region.
 */
static const struct stamp stamps[4] = {
    {.clock = 10000000, .region = 11},
    {.clock = 20000000, .region = 12},
    {.clock = 20000000, .region = 13},
    {.clock = 5000001, .region = 12},
};

static void every_order(unsigned deletes, struct hash128 *digest, const unsigned order[4],
                        bool twice)
{
    struct script *script = calloc(1, sizeof(*script));
    struct world world;
    const struct apply_partition *partition;
    char text[64], name[8];

    script_begin(script, 1);
    for (unsigned i = 0; i < (twice ? 8u : 4u); i++) {
        /* The second delivery comes in the opposite order. */
        unsigned which = order[i < 4 ? i : 7 - i];

        snprintf(name, sizeof(name), "w%u", which);
        push(script, 0,
             (deletes >> which & 1) != 0 ? removal("id", stamps[which])
                                         : upsert("id", stamps[which], name));
    }
    world_open(&world, NULL);
    world_apply(&world, script->records, script->count);
    check_effects(&world);
    text_of(&world, 0, "id", text);
    assert_string_equal(text, (deletes >> 2 & 1) != 0 ? "" : "\"w2\"");
    partition = &world.apply.partitions[0];
    assert_int_equal(partition->counts.live + partition->counts.tombstones, 1);
    if (digest->low == 0 && digest->high == 0)
        *digest = partition->counts.digest;
    assert_same(*digest, partition->counts.digest);
    assert_int_equal(partition->vector.count, 3);
    assert_int_equal(version_vector_find(&partition->vector, 12)->position, 20000001);
    world_close(&world);
    script_free(script);
    free(script);
}

static void every_interleaving_of_four_writes_has_one_winner(void **state)
{
    (void)state;
    for (unsigned deletes = 0; deletes < 16; deletes++) {
        struct hash128 digest = {0};

        for (unsigned code = 0; code < 256; code++) {
            unsigned order[4] = {code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6 & 3};
            unsigned seen = 0;

            for (unsigned i = 0; i < 4; i++)
                seen |= 1u << order[i];
            if (seen != 15)
                continue;
            every_order(deletes, &digest, order, false);
            every_order(deletes, &digest, order, true);
        }
    }
}

/* --- the void rule -------------------------------------------------------------------------------
 */

static void void_records_move_the_position_only(void **state)
{
    struct script *script = calloc(1, sizeof(*script));
    struct world world;
    const struct apply_partition *partition;
    struct record late = upsert("b", at(12, REGION), "late");
    char text[64];

    (void)state;
    script_begin(script, 1);
    push(script, 0, upsert("a", at(10, REGION), "one"));
    push_epoch(script, 0, 3);
    late.epoch = 1;
    push(script, 0, late);
    push_epoch(script, 0, 2); /* not higher: void */
    script->epoch = 3;
    push(script, 0, upsert("a", at(13, REGION), "two"));
    world_open(&world, NULL);
    world_apply(&world, script->records, script->count);
    partition = &world.apply.partitions[0];
    assert_int_equal(partition->position, script->ends[0]);
    assert_int_equal(partition->voided, 2);
    assert_int_equal(partition->epoch.epoch, 3);
    assert_int_equal(partition->counts.live, 1);
    text_of(&world, 0, "a", text);
    assert_string_equal(text, "\"two\"");
    text_of(&world, 0, "b", text);
    assert_string_equal(text, "");
    world_close(&world);
    script_free(script);
    free(script);
}

/* --- truncations and drops -----------------------------------------------------------------------
 */

/* Five records in every order: the digest is the same. */
static void truncation_commutes_with_writes(void **state)
{
    struct hash128 digest = {0};
    unsigned runs = 0;

    (void)state;
    for (unsigned code = 0; code < 3125; code++) {
        unsigned rest = code, seen = 0, order[5];
        struct script *script;
        struct world world;
        const struct apply_part *part;
        char text[64];

        for (unsigned i = 0; i < 5; i++, rest /= 5) {
            order[i] = rest % 5;
            seen |= 1u << order[i];
        }
        if (seen != 31)
            continue;
        script = calloc(1, sizeof(*script));
        script_begin(script, 1);
        for (unsigned i = 0; i < 5; i++) {
            struct record all[] = {
                upsert("a", at(10, 11), "old"),
                upsert("a", at(30, 12), "new"),
                upsert("b", at(15, 12), "gone"),
                removal("c", at(12, 13)),
                {.op = RECORD_TRUNCATE, .stamp = at(20, 13)},
            };

            push(script, 0, all[order[i]]);
        }
        world_open(&world, NULL);
        world_apply(&world, script->records, script->count);
        check_effects(&world);
        part = &world.apply.collections[0]->parts[0];
        text_of(&world, 0, "a", text);
        assert_string_equal(text, "\"new\"");
        assert_int_equal(part->counts.live, 1);
        assert_int_equal(part->counts.tombstones, 0);
        if (runs++ == 0)
            digest = part->counts.digest;
        assert_same(digest, part->counts.digest);
        world_close(&world);
        script_free(script);
        free(script);
    }
    assert_int_equal(runs, 120);
}

static void a_large_truncation_takes_its_partition_only(void **state)
{
    struct script *script = calloc(1, sizeof(*script));
    struct world world;
    struct err err = {0};
    struct apply_effects effects = {0};
    struct store_txn *txn = NULL;
    char id[16];

    (void)state;
    script_begin(script, 2);
    world_open(&world, NULL);
    world_apply(&world, script->records, script->count);
    must(store_begin(&txn, world.store, true, &err), &err);
    for (unsigned i = 0; i < 1000; i++) {
        struct apply_input input = {.partition = i % 2};

        script_free(script);
        script->count = 0;
        snprintf(id, sizeof(id), "id%u", i);
        push(script, i % 2, upsert(id, at(100 + i, REGION), "x"));
        input.offset = script->records[0].offset;
        input.data = script->records[0].bytes.data;
        input.len = script->records[0].bytes.len;
        must(apply_record(&world.apply, txn, &input, &effects, &err), &err);
    }
    must(apply_flush(&world.apply, txn, &err), &err);
    must(store_commit(txn, &err), &err);
    apply_clean(&world.apply);
    apply_effects_free(&effects);
    assert_int_equal(world.apply.partitions[0].counts.live, 500);
    script_free(script);
    script->count = 0;
    memset(world.is_in, true, 1000);
    push(script, 0, (struct record){.op = RECORD_TRUNCATE, .stamp = at(100 + 600, REGION)});
    world_apply(&world, script->records, script->count);
    assert_int_equal(world.apply.partitions[0].counts.live, 200);
    assert_int_equal(world.apply.partitions[1].counts.live, 500);
    assert_int_equal(world.apply.collections[0]->parts[0].counts.live, 200);
    world_close(&world);
    script_free(script);
    free(script);
}

static void a_drop_is_final_for_its_incarnation(void **state)
{
    struct script *script = calloc(1, sizeof(*script));
    struct world world;
    struct apply_collection *first;

    (void)state;
    script_begin(script, PARTITIONS);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        push(script, p, upsert("a", at(10 + p, REGION), "x"));
    push_change(script, 0, COLLECTION_DROP, 20);
    world_open(&world, NULL);
    world_apply(&world, script->records, script->count);
    first = apply_find(&world.apply, script->collection.incarnation);
    assert_non_null(first);
    assert_true(apply_is_active(&world.apply, first));
    assert_int_equal(world.apply.partitions[0].counts.live, 0);
    assert_int_equal(world.apply.partitions[1].counts.live, 1);
    script_free(script);
    script->count = 0;
    for (uint32_t p = 1; p < PARTITIONS; p++)
        push_change(script, p, COLLECTION_DROP, 20);
    push(script, 2, upsert("late", at(15, 12), "x"));
    push_change(script, 2, COLLECTION_CREATE, 30); /* another region's, late */
    world_apply(&world, script->records, script->count);
    check_effects(&world);
    assert_false(apply_is_active(&world.apply, first));
    for (uint32_t p = 0; p < PARTITIONS; p++) {
        struct apply_counts none = {0};

        assert_memory_equal(&world.apply.partitions[p].counts, &none, sizeof(none));
    }
    /* The name again is another collection, and a record nobody knows is parked. */
    script_free(script);
    script->count = 0;
    script->collection = definition_of("docs", 1);
    push(script, 1, upsert("a", at(40, REGION), "parked"));
    push_change(script, 1, COLLECTION_CREATE, 41);
    push(script, 1, upsert("a", at(42, REGION), "again"));
    world_apply(&world, script->records, script->count);
    assert_int_equal(world.apply.partitions[1].parked, 1);
    assert_int_equal(world.apply.partitions[1].counts.live, 1);
    assert_int_equal(world.apply.collection_count, 2);
    world_close(&world);
    script_free(script);
    free(script);
}

static void a_drop_before_the_create_wins_too(void **state)
{
    struct script *script = calloc(1, sizeof(*script));
    struct world world;

    (void)state;
    script->collection = definition_of("docs", 0);
    push_epoch(script, 0, 1);
    push_change(script, 0, COLLECTION_DROP, 5);
    push_change(script, 0, COLLECTION_CREATE, 9);
    push(script, 0, upsert("a", at(10, REGION), "x"));
    world_open(&world, NULL);
    world_apply(&world, script->records, script->count);
    assert_int_equal(world.apply.collections[0]->parts[0].presence, PRESENCE_DROPPED);
    assert_int_equal(world.apply.partitions[0].counts.live, 0);
    assert_int_equal(world.apply.partitions[0].parked, 0);
    world_close(&world);
    script_free(script);
    free(script);
}

/* --- restarts and failures -----------------------------------------------------------------------
 */

/* A bit of everything, over all partitions. */
static void script_mixed(struct script *script)
{
    struct version_vector vector = {.clock = 50, .count = 1};
    struct record without = upsert("plain", at(33, REGION), "no vector");
    struct buffer bytes = {0};

    script_begin(script, PARTITIONS);
    push(script, 0, upsert("a", at(10, REGION), "one"));
    push(script, 1, upsert("b", at(11, REGION), "two"));
    push(script, 0, upsert("a", at(12, 12), "three"));
    push(script, 2, removal("never", at(13, REGION)));
    push(script, 1, removal("b", at(14, 13)));
    push(script, 3, upsert("d", at(15, REGION), "four \"quoted\""));
    push(script, 3, upsert("e", at(16, REGION), "five"));
    push(script, 3, (struct record){.op = RECORD_TRUNCATE, .stamp = at(16, REGION)});
    without.vector = NULL;
    without.vector_bytes = 0;
    push(script, 2, without);
    push_epoch(script, 2, 2);
    vector.entries[0] = (struct version_entry){.region = 12, .position = 99, .newest = at(44, 12)};
    version_vector_encode(&vector, &bytes);
    push(script, 2,
         (struct record){
             .op = RECORD_VERSION_VECTOR, .payload = bytes.data, .payload_len = bytes.len});
    buffer_free(&bytes);
    script->epoch = 1;
    push(script, 0, upsert("a", at(30, REGION), "six"));
    push_change(script, 1, COLLECTION_DROP, 40);
    push_change(script, 0, COLLECTION_ALTER, 41);
}

/* The row of a partition as a release before wrote it: without the position of the newest data. */
static void make_row_older(struct world *world, uint32_t partition)
{
    uint8_t key[5] = {'p'};
    struct store_value at_key = {.data = key, .len = sizeof(key)}, row;
    size_t vector_len = 13 + 24 * world->apply.partitions[partition].vector.count;
    struct store_txn *txn = NULL;
    struct buffer older = {0};
    struct err err = {0};

    key[4] = (uint8_t)partition; /* big-endian */
    must(store_begin(&txn, world->store, true, &err), &err);
    must(store_get(txn, STORE_META, at_key, &row, &err), &err);
    buffer_append(&older, row.data, row.len - vector_len - 9);
    buffer_append(&older, (const uint8_t *)row.data + row.len - vector_len, vector_len);
    must(store_put(txn, STORE_META, at_key,
                   (struct store_value){.data = older.data, .len = older.len}, &err),
         &err);
    must(store_commit(txn, &err), &err);
    buffer_free(&older);
}

static void the_newest_data_is_remembered(void **state)
{
    struct script *script = calloc(1, sizeof(*script));
    const struct apply_partition *partition;
    struct world world;
    struct err err = {0};

    (void)state;
    script_mixed(script);
    world_open(&world, NULL);
    world_apply(&world, script->records, script->count);
    for (int round = 0; round < 2; round++) {
        /* An epoch and a version vector came behind it. */
        partition = &world.apply.partitions[2];
        assert_int_equal(partition->data, partition->position - 2);
        assert_int_equal(world.apply.partitions[0].data, world.apply.partitions[0].position);
        apply_free(&world.apply);
        must(apply_load(&world.apply, world.store, &err), &err);
    }
    make_row_older(&world, 2);
    apply_free(&world.apply);
    must(apply_load(&world.apply, world.store, &err), &err);
    partition = &world.apply.partitions[2];
    assert_int_equal(partition->data, partition->position);
    assert_int_equal(version_vector_find(&partition->vector, 12)->position, 99);
    world_close(&world);
    script_free(script);
    free(script);
}

static void a_restart_after_any_record_changes_nothing(void **state)
{
    struct script *script = calloc(1, sizeof(*script));
    struct world whole, parts;
    struct err err = {0};

    (void)state;
    script_mixed(script);
    world_open(&whole, NULL);
    world_apply(&whole, script->records, script->count);
    world_open(&parts, NULL);
    for (size_t i = 0; i < script->count; i++) {
        world_apply(&parts, &script->records[i], 1);
        apply_free(&parts.apply);
        must(apply_load(&parts.apply, parts.store, &err), &err);
        /* What was applied before changes nothing, however often it comes. */
        world_apply(&parts, script->records, i + 1);
    }
    assert_same(world_hash(&whole), world_hash(&parts));
    check_effects(&whole);
    check_effects(&parts);
    assert_int_equal(parts.apply.partitions[2].vector.clock, 50);
    assert_int_equal(version_vector_find(&parts.apply.partitions[2].vector, 12)->position, 99);
    world_close(&whole);
    world_close(&parts);
    script_free(script);
    free(script);
}

#define BATCH 3u

/* Apply in batches; the call fail_at fails.  Returns whether it was reached. */
static bool run_with_fault(const struct script *script, unsigned fail_at, struct hash128 expected)
{
    struct faulty *faulty = faulty_new(false);
    struct world world;
    bool failed = false;
    size_t i = 0;

    world_open(&world, &faulty->base);
    faulty_fail_at(faulty, fail_at);
    while (i < script->count) {
        size_t count = MIN_OF(BATCH, script->count - i);
        struct err err = {0};

        if (world_try(&world, &script->records[i], count, &err) == ERR_OK) {
            i += count;
            continue;
        }
        assert_int_equal(err.code, ERR_IO);
        assert_false(failed);
        failed = true;
        must(apply_load(&world.apply, world.store, &err), &err);
    }
    faulty_fail_at(faulty, 0);
    assert_same(expected, world_hash(&world));
    check_effects(&world);
    world_close(&world);
    return failed;
}

static void a_store_that_fails_at_any_call_leaves_a_prefix(void **state)
{
    struct script *script = calloc(1, sizeof(*script));
    struct world whole;
    struct hash128 expected;
    unsigned n = 1;

    (void)state;
    script_mixed(script);
    world_open(&whole, NULL);
    world_apply(&whole, script->records, script->count);
    expected = world_hash(&whole);
    while (run_with_fault(script, n, expected))
        n++;
    assert_true(n > 100);
    world_close(&whole);
    script_free(script);
    free(script);
}

static void damaged_records_are_refused(void **state)
{
    struct script *script = calloc(1, sizeof(*script));
    struct world world;
    struct err err = {0};

    (void)state;
    script_begin(script, 1);
    push(script, 0, upsert("a", at(10, REGION), "x"));
    script->records[2].bytes.data[90] ^= 1;
    world_open(&world, NULL);
    world_apply(&world, script->records, 2);
    assert_int_equal(world_try(&world, &script->records[2], 1, &err), ERR_CORRUPT);
    must(apply_load(&world.apply, world.store, &err), &err);
    assert_int_equal(world.apply.partitions[0].position, 2);
    world_close(&world);
    script_free(script);
    free(script);
}

static void half_floats_are_stored_as_floats(void **state)
{
    static const uint16_t halves[DIM] = {0x3c00, 0xc000, 0x0001}; /* 1, -2, 2^-24 */
    struct script *script = calloc(1, sizeof(*script));
    struct record record = upsert("a", at(10, REGION), "x");
    struct world world;
    struct store_txn *txn = NULL;
    struct ordinal_key key = ordinal_key_of(0, 0);
    struct store_value value;
    struct err err = {0};
    float floats[DIM];

    (void)state;
    script_begin(script, 1);
    record.vector = halves;
    record.vector_bytes = sizeof(halves);
    record.vector_is_f16 = true;
    push(script, 0, record);
    record = upsert("b", at(11, REGION), "wrong dimension");
    record.vector_bytes = 2 * sizeof(float);
    push(script, 0, record);
    world_open(&world, NULL);
    world_apply(&world, script->records, script->count);
    must(store_begin(&txn, world.store, false, &err), &err);
    must(store_get(txn, STORE_VECTORS, ordinal_key_value(&key), &value, &err), &err);
    assert_int_equal(value.len, sizeof(floats));
    memcpy(floats, value.data, sizeof(floats));
    assert_true(floats[0] == 1.0f && floats[1] == -2.0f && floats[2] == 0x1p-24f);
    store_abort(txn);
    assert_int_equal(world.apply.partitions[0].parked, 1);
    world_close(&world);
    script_free(script);
    free(script);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_interleaving_of_four_writes_has_one_winner),
        cmocka_unit_test(void_records_move_the_position_only),
        cmocka_unit_test(truncation_commutes_with_writes),
        cmocka_unit_test(a_large_truncation_takes_its_partition_only),
        cmocka_unit_test(a_drop_is_final_for_its_incarnation),
        cmocka_unit_test(a_drop_before_the_create_wins_too),
        cmocka_unit_test(the_newest_data_is_remembered),
        cmocka_unit_test(a_restart_after_any_record_changes_nothing),
        cmocka_unit_test(a_store_that_fails_at_any_call_leaves_a_prefix),
        cmocka_unit_test(damaged_records_are_refused),
        cmocka_unit_test(half_floats_are_stored_as_floats),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
