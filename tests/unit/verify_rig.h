/* A log, a shard's folder made from it, with a segment, and a spool, for tests of verification:
 * made once, kept in memory, written anew when a case has damaged it.  Included by unit tests. */
#ifndef VICINAL_TESTS_VERIFY_RIG_H
#define VICINAL_TESTS_VERIFY_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backends/blob/blob.h"
#include "backends/wal/wal_verify.h"
#include "common/base/checked.h"
#include "common/base/sanitized.h"
#include "common/model/bulk.h"
#include "engine/internal.h"
#include "engine/keeper.h"
#include "services/ingest/spool.h"
#include "services/ingest/spool_verify.h"
#include "services/shard/apply.h"
#include "services/shard/rows.h"
#include "services/shard/segments.h"
#include "services/shard/verify.h"
#include "tests/lib/scratch.h"

#define RIG_PARTITIONS 2u
#define RIG_DIM        4u
#define RIG_VECTORS    1100u /* as many as a graph takes */
#define RIG_IMPORTED   40u   /* rows of an import */
#define RIG_FILES      16u

struct rig_file {
    char path[200];
    uint8_t *bytes;
    size_t len;
};

struct rig {
    char folder[120];
    char wal[160], shard[160], spool[160], segment[200];
    struct buffer sections[RIG_PARTITIONS]; /* of the import: what the blob store has */
    struct blob *blob;                      /* as rows-0, rows-1 */
    bool is_without_blob;                   /* verify as if it were not at hand */
    struct wal *log;
    struct apply apply;
    struct collection collection;
    uint64_t clock;
    struct rig_file files[RIG_FILES];
    size_t file_count;
    /* of the verification that ran last */
    uint64_t findings;
    char found[SCRUB_TEXT_BYTES]; /* the first of them */
    char found_in[200];
    uint64_t compared, uncompared; /* rows; manifests */
};

static inline void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s: %s", err_word(code), err->message);
}

/* --- making ---------------------------------------------------------------------------------- */

static inline void rig_append(struct rig *rig, uint32_t partition, struct record record)
{
    struct buffer bytes = {0};
    struct wal_entry entry = {.partition = partition};
    struct err err = {0};
    uint64_t offset;

    if (record.epoch == 0)
        record.epoch = 1;
    if (stamp_is_none(record.stamp))
        record.stamp = (struct stamp){.clock = ++rig->clock, .region = wal_region(rig->log)};
    if (record.op != RECORD_EPOCH && record.op != RECORD_VERSION_VECTOR)
        memcpy(record.incarnation, rig->collection.incarnation, INCARNATION_BYTES);
    record.origin_offset = OFFSET_NONE;
    must(record_encode(&record, &bytes, &err), &err);
    entry.data = bytes.data;
    entry.len = bytes.len;
    must(wal_append(rig->log, &entry, 1, NEVER_NS, &offset, &err), &err);
    buffer_free(&bytes);
}

static inline void rig_append_heads(struct rig *rig)
{
    static const uint8_t holder[HOLDER_BYTES] = {1};
    struct version_vector vector = {.clock = 7, .count = 1};
    struct buffer json = {0}, packed = {0};

    vector.entries[0] = (struct version_entry){.region = 99, .position = 5};
    collection_encode(&rig->collection, COLLECTION_CREATE, &json);
    version_vector_encode(&vector, &packed);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++) {
        rig_append(
            rig, p,
            (struct record){.op = RECORD_EPOCH, .payload = holder, .payload_len = sizeof(holder)});
        rig_append(rig, p,
                   (struct record){.op = RECORD_VERSION_VECTOR,
                                   .payload = packed.data,
                                   .payload_len = packed.len});
        rig_append(rig, p,
                   (struct record){.op = RECORD_COLLECTION,
                                   .stamp = rig->collection.schema,
                                   .schema = rig->collection.schema,
                                   .payload = json.data,
                                   .payload_len = json.len});
    }
    buffer_free(&json);
    buffer_free(&packed);
}

static inline void rig_upsert(struct rig *rig, unsigned number, uint64_t epoch)
{
    static char text[6000];
    float vector[RIG_DIM];
    char id[32];
    int len = snprintf(id, sizeof(id), "id/%u", number);

    /* Some texts are larger than a page of the store. */
    memset(text, 'a' + (int)(number % 26), sizeof(text));
    for (uint32_t i = 0; i < RIG_DIM; i++)
        vector[i] = (float)((number * 37 + i * 101) % 997) / 100;
    rig_append(rig, record_partition(id, (size_t)len, RIG_PARTITIONS),
               (struct record){.op = RECORD_UPSERT,
                               .epoch = epoch,
                               .id = id,
                               .id_len = (size_t)len,
                               .text = number % 3 == 0 ? NULL : text,
                               .text_len = number % 100 == 7 ? sizeof(text) : number % 50,
                               .metadata = "{\"a\":1}",
                               .metadata_len = 7,
                               .vector = number % 10 == 9 ? NULL : vector,
                               .vector_bytes = sizeof(vector)});
}

static inline void rig_delete(struct rig *rig, unsigned number)
{
    char id[32];
    int len = snprintf(id, sizeof(id), "id/%u", number);

    rig_append(rig, record_partition(id, (size_t)len, RIG_PARTITIONS),
               (struct record){.op = RECORD_DELETE, .id = id, .id_len = (size_t)len});
}

/* Those of the import's rows that are in the partition. */
static inline uint32_t rig_section(uint32_t partition, struct buffer *out)
{
    uint32_t rows = 0;

    for (unsigned i = 0; i < RIG_IMPORTED; i++) {
        float vector[RIG_DIM] = {(float)i, 1, 2, 3};
        char id[32];
        struct bulk_row row = {.id = id,
                               .vector = i % 4 == 0 ? NULL : vector,
                               .text = i % 3 == 0 ? NULL : "imported",
                               .text_len = i % 3 == 0 ? 0 : 8,
                               .metadata = "{\"b\":2}",
                               .metadata_len = 7};

        row.id_len = (size_t)snprintf(id, sizeof(id), "import/%u", i);
        if (record_partition(id, row.id_len, RIG_PARTITIONS) != partition)
            continue;
        bulk_row_encode(out, &row, RIG_DIM);
        rows++;
    }
    return rows;
}

/* An import whose stamp was taken long before it was appended. */
static inline void rig_import(struct rig *rig)
{
    char url[200];
    struct err err = {0};

    snprintf(url, sizeof(url), "file:%s/blob", rig->folder);
    must(blob_open(&rig->blob, url, env_real(), &err), &err);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++) {
        struct buffer *section = &rig->sections[p], payload = {0};
        struct bulk_manifest manifest = {.section.rows = rig_section(p, section)};

        assert_int_not_equal(manifest.section.rows, 0);
        snprintf(manifest.name, sizeof(manifest.name), "rows-%u", p);
        manifest.section.bytes = section->len;
        manifest.section.hash = hash_xxh128(section->data, section->len);
        must(blob_put(rig->blob, manifest.name, section->data, section->len, &err), &err);
        bulk_manifest_encode(&manifest, &payload);
        rig_append(rig, p,
                   (struct record){.op = RECORD_BULK_MANIFEST,
                                   .stamp = {.clock = 90, .region = wal_region(rig->log)},
                                   .payload = payload.data,
                                   .payload_len = payload.len});
        buffer_free(&payload);
    }
}

static inline void rig_make_log(struct rig *rig)
{
    char url[200];
    struct wal_options options = {.url = url,
                                  .env = env_real(),
                                  .writer = true,
                                  .partitions = RIG_PARTITIONS,
                                  .segment_bytes = KIB(96)};
    struct err err = {0};

    snprintf(url, sizeof(url), "file:%s", rig->wal);
    must(wal_open(&rig->log, &options, &err), &err);
    rig->collection = (struct collection){.dimension = RIG_DIM,
                                          .metric = METRIC_L2,
                                          .m = 8,
                                          .ef_construction = 40,
                                          .tenant = TENANT_DEFAULT,
                                          .name = "docs",
                                          .created = {.clock = 1, .region = wal_region(rig->log)},
                                          .schema = {.clock = 1, .region = wal_region(rig->log)}};
    collection_identify(&rig->collection);
    rig->clock = 100;
    rig_append_heads(rig);
    for (unsigned i = 0; i < RIG_VECTORS * 10 / 9; i++)
        rig_upsert(rig, i, 0);
    for (unsigned i = 0; i < 60; i += 2)
        rig_delete(rig, i);
    rig_upsert(rig, 5, 77); /* void: of no epoch that was begun */
    rig_import(rig);
    for (unsigned i = 1; i < 60; i += 4)
        rig_upsert(rig, i, 0);
}

/* A record, and what it names if it is a manifest. */
static inline struct apply_input rig_input(const struct rig *rig, const struct wal_item *item)
{
    return (struct apply_input){.partition = item->partition,
                                .offset = item->offset,
                                .data = item->data,
                                .len = item->len,
                                .bulk = rig->sections[item->partition].data,
                                .bulk_len = rig->sections[item->partition].len};
}

/* All of the log into the store, in several commits. */
static inline void rig_apply(struct rig *rig, struct store *store)
{
    struct apply_origin origin = {.region = wal_region(rig->log)};
    uint32_t partitions[RIG_PARTITIONS] = {0, 1};
    uint64_t positions[RIG_PARTITIONS] = {0, 0};
    struct wal_reader *reader;
    struct wal_item items[256];
    size_t count = 1;
    struct err err = {0};

    partition_set_fill(&origin.served, RIG_PARTITIONS);
    must(apply_create(&rig->apply, store, &origin, &err), &err);
    must(wal_reader_open(&reader, rig->log, partitions, positions, RIG_PARTITIONS, &err), &err);
    while (count > 0) {
        struct apply_effects effects = {0};
        struct store_txn *txn;

        must(wal_reader_next(reader, items, ARRAY_COUNT(items), &count, 0, &err), &err);
        must(store_begin(&txn, store, true, &err), &err);
        for (size_t i = 0; i < count; i++) {
            struct apply_input input = rig_input(rig, &items[i]);

            must(apply_record(&rig->apply, txn, &input, &effects, &err), &err);
        }
        must(apply_flush(&rig->apply, txn, &err), &err);
        must(store_commit(txn, &err), &err);
        apply_clean(&rig->apply);
        apply_effects_free(&effects);
    }
    wal_reader_close(reader);
    must(apply_take_life(&rig->apply, &err), &err);
}

/* Every vector that lives, as a shard's engine has them. */
static inline void rig_make_segment(struct rig *rig, struct store *store)
{
    char root[180], folder[SEGMENTS_PATH_BYTES];
    struct segments_place place = {
        .root = root, .life = rig->apply.life, .incarnation = rig->collection.incarnation};
    struct engine_options options = segments_engine_options(&rig->collection);
    struct ordinal_key from = ordinal_key_of(0, 0);
    struct store_cursor *cursor;
    struct store_txn *txn;
    struct engine *engine;
    struct err err = {0};
    uint64_t left = 1;
    bool more = true;

    snprintf(root, sizeof(root), "%s/segments", rig->shard);
    must(segments_make(root, rig->apply.life, &err), &err);
    must(segments_folder(folder, &place, &err), &err);
    must(engine_open(&engine, folder, &options, NULL, &err), &err);
    must(store_begin(&txn, store, false, &err), &err);
    must(store_cursor_open(&cursor, txn, STORE_VECTORS, ordinal_key_value(&from), &err), &err);
    while (more) {
        struct store_value key, value;
        float vector[RIG_DIM];
        uint32_t ordinal;

        must(store_cursor_next(cursor, &key, &value, &more, &err), &err);
        if (!more)
            break;
        assert_true(ordinal_key_is_of(key, 0, &ordinal));
        memcpy(vector, value.data, sizeof(vector));
        must(engine_insert(engine, ordinal, vector, &err), &err);
    }
    store_cursor_close(cursor);
    store_abort(txn);
    while (left > 0)
        must(engine_step(engine, UINT32_MAX, &left, &err), &err);
    must(keeper_seal(engine, NULL, &err), &err);
    assert_true(engine_covered(engine) > 1000);
    engine_close(engine);
    snprintf(rig->segment, sizeof(rig->segment), "%.160s/" KEEPER_SEGMENT, folder);
}

static inline void rig_make_shard(struct rig *rig)
{
    char url[200];
    struct store_options options = {.url = url, .env = env_real()};
    struct store *store;
    struct err err = {0};

    assert_int_equal(mkdir(rig->shard, 0755), 0);
    snprintf(url, sizeof(url), "lmdb:%s/store", rig->shard);
    must(store_open(&store, &options, &err), &err);
    rig_apply(rig, store);
    rig_make_segment(rig, store);
    apply_free(&rig->apply);
    store_close(store);
}

static inline void rig_make_spool(struct rig *rig)
{
    char url[200];
    struct spool_setup setup = {.env = env_real(), .url = url};
    struct spool *spool;
    struct err err = {0};

    snprintf(url, sizeof(url), "lmdb:%s", rig->spool);
    must(spool_open(&spool, &setup, &err), &err);
    for (unsigned i = 0; i < 40; i++) {
        char id[32];
        struct buffer bytes = {0};
        struct record record = {.op = RECORD_UPSERT, .id = id, .text = "waits", .text_len = 5};
        struct spool_row row = {.wall_us = 5, .stamp = {.clock = 5, .region = 1}};

        record.id_len = (size_t)snprintf(id, sizeof(id), "id/%u", i % 30);
        record.origin_offset = OFFSET_NONE;
        must(record_encode(&record, &bytes, &err), &err);
        snprintf(row.tenant, sizeof(row.tenant), "%s", TENANT_DEFAULT);
        snprintf(row.collection, sizeof(row.collection), "docs");
        row.id = id;
        row.id_len = record.id_len;
        row.record = bytes.data;
        row.record_len = bytes.len;
        must(spool_put(spool, &row, 1, &err), &err);
        buffer_free(&bytes);
    }
    spool_close(spool);
}

/* --- files ----------------------------------------------------------------------------------- */

static inline struct rig_file *rig_keep(struct rig *rig, const char *path)
{
    struct rig_file *file = &rig->files[rig->file_count++];
    struct stat info;
    int fd = open(path, O_RDONLY);

    assert_true(rig->file_count <= RIG_FILES);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &info), 0);
    snprintf(file->path, sizeof(file->path), "%s", path);
    file->len = (size_t)info.st_size;
    file->bytes = malloc(file->len);
    assert_non_null(file->bytes);
    assert_int_equal(read(fd, file->bytes, file->len), file->len);
    close(fd);
    return file;
}

static inline void rig_put(const struct rig_file *file, size_t at, const void *bytes, size_t len)
{
    int fd = open(file->path, O_WRONLY);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, len, (off_t)at), len);
    close(fd);
}

static inline void rig_flip(const struct rig_file *file, size_t at, uint8_t mask)
{
    uint8_t byte = file->bytes[at] ^ mask;

    rig_put(file, at, &byte, 1);
}

static inline void rig_cut(const struct rig_file *file, size_t len)
{
    assert_int_equal(truncate(file->path, (off_t)len), 0);
}

/* As it was. */
static inline void rig_mend(const struct rig_file *file)
{
    rig_put(file, 0, file->bytes, file->len);
    assert_int_equal(truncate(file->path, (off_t)file->len), 0);
}

static inline void rig_make(struct rig *rig)
{
    assert_true(scratch_make(rig->folder, sizeof(rig->folder), "verify"));
    snprintf(rig->wal, sizeof(rig->wal), "%s/wal", rig->folder);
    snprintf(rig->shard, sizeof(rig->shard), "%s/shard", rig->folder);
    snprintf(rig->spool, sizeof(rig->spool), "%s/spool", rig->folder);
    rig_make_log(rig);
    rig_make_shard(rig);
    rig_make_spool(rig);
    wal_close(rig->log);
}

static inline void rig_free(struct rig *rig)
{
    for (size_t i = 0; i < rig->file_count; i++)
        free(rig->files[i].bytes);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        buffer_free(&rig->sections[p]);
    blob_close(rig->blob);
    assert_int_equal(scratch_remove(rig->folder), 0);
}

/* --- looking --------------------------------------------------------------------------------- */

static inline void rig_find(void *state, const struct scrub_finding *finding)
{
    struct rig *rig = state;

    if (rig->findings++ > 0)
        return;
    snprintf(rig->found, sizeof(rig->found), "%s", finding->text);
    snprintf(rig->found_in, sizeof(rig->found_in), "%.190s", finding->file);
}

static inline bool rig_go_on(void *state, uint64_t bytes)
{
    (void)state;
    (void)bytes;
    return true;
}

static inline struct scrub rig_scrub(struct rig *rig)
{
    rig->findings = 0;
    return (struct scrub){.find = rig_find, .go_on = rig_go_on, .state = rig};
}

struct rig_pass {
    struct record_verifier rules;
    struct shard_verify *shard;
    struct scrub *scrub;
    uint64_t digest; /* of all items */
    bool is_whole;
};

static inline enum err_code rig_take(void *state, const struct wal_verified *log,
                                     const struct wal_item *item, const struct scrub_finding *place,
                                     struct err *err)
{
    struct rig_pass *pass = state;
    struct record_verified verified;

    pass->rules.region = log->region;
    pass->rules.partitions = log->partitions;
    pass->digest = hash_xxh64(item->data, item->len, pass->digest + item->partition);
    enum err_code code = record_verify(&pass->rules, item->partition, item->offset, item->data,
                                       item->len, &verified, err);

    if (code == ERR_NO_MEMORY)
        return code;
    if (code != ERR_OK) {
        scrub_find(pass->scrub, place->file, place->byte, "%s", err->message);
        pass->is_whole = false;
        return ERR_OK;
    }
    return pass->shard == NULL ? ERR_OK
                               : shard_verify_record(pass->shard, item, &verified, place, err);
}

/* Of the log, and of the shard (NULL: not of it) against it.  *digest: of what the log holds. */
static inline enum err_code rig_verify_log(struct rig *rig, struct shard_verify *shard,
                                           struct scrub *scrub, uint64_t *digest)
{
    static struct rig_pass pass; /* not of the allocations that a test lets fail */
    static struct wal_verified log;
    struct wal_verify_request request = {
        .folder = rig->wal, .each = rig_take, .state = &pass, .scrub = scrub};
    struct err err = {0};
    enum err_code code;

    pass = (struct rig_pass){.shard = shard, .scrub = scrub, .is_whole = true};
    code = wal_verify(&request, &log, &err);
    if (code == ERR_OK && shard != NULL)
        code = shard_verify_log(shard, &log, log.is_whole && pass.is_whole, &err);
    if (digest != NULL)
        *digest = pass.digest;
    buffer_free(&pass.rules.unpacked);
    return code;
}

/* All of the shard and the log. */
static inline enum err_code rig_verify(struct rig *rig)
{
    struct scrub scrub = rig_scrub(rig);
    struct shard_verify_setup setup = {.data = rig->shard, .env = env_real(), .scrub = &scrub};
    struct shard_verify *shard;
    struct err err = {0};
    enum err_code code;

    setup.blob = rig->is_without_blob ? NULL : rig->blob;
    code = shard_verify_open(&shard, &setup, &err);
    if (code != ERR_OK) {
        snprintf(rig->found, sizeof(rig->found), "%.300s", err.message);
        return code;
    }
    code = rig_verify_log(rig, shard, &scrub, NULL);
    rig->compared = shard_verify_result(shard)->compared;
    rig->uncompared = shard_verify_result(shard)->bulk_uncompared;
    shard_verify_close(shard);
    return code;
}

#endif
