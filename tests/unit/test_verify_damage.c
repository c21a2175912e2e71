/* Damage to a data folder is found, wherever it is, or it means nothing: flipped bytes and files
 * cut at many places of a log, a store, a segment, a spool and what an import left.  Nothing that
 * is looked at is changed, and nothing crashes, whatever the bytes are. */
#include "tests/unit/verify_rig.h"

#include "backends/store/store_verify.h"
#include "backends/wal/wal_file_internal.h"
#include "common/base/bytes.h"
#include "engine/segment_file.h"

/* It is about bytes: syncs would only take long. */
int fdatasync(int fd)
{
    (void)fd;
    return 0;
}

#define CASES (IS_SANITIZED ? 400u : 2500u) /* places of a file that are tried */

static struct rig rig;
static struct rig_file *store, *segment, *spool, *control, *logs[4];
static size_t log_count;
static struct hash128 rows; /* of all tables of the store but the state */

/* What readers get of the store, as one hash; the state is held against the log. */
static struct hash128 hash_rows(void)
{
    char url[200];
    struct store_options options = {.url = url, .env = env_real(), .read_only = true};
    struct store *opened;
    struct store_txn *txn;
    struct buffer all = {0};
    struct hash128 hash;
    struct err err = {0};

    snprintf(url, sizeof(url), "lmdb:%s/store", rig.shard);
    must(store_open(&opened, &options, &err), &err);
    must(store_begin(&txn, opened, false, &err), &err);
    for (int table = STORE_IDS; table < STORE_TABLES; table++) {
        struct store_cursor *cursor;
        struct store_value key, value;
        bool more = true;

        must(store_cursor_open(&cursor, txn, (enum store_table)table,
                               (struct store_value){.data = ""}, &err),
             &err);
        while (more) {
            must(store_cursor_next(cursor, &key, &value, &more, &err), &err);
            if (!more)
                break;
            buffer_append(&all, key.data, key.len);
            buffer_append(&all, value.data, value.len);
        }
        store_cursor_close(cursor);
    }
    store_abort(txn);
    store_close(opened);
    hash = hash_xxh128(all.data, all.len);
    buffer_free(&all);
    return hash;
}

static int make(void **state)
{
    char path[200];

    (void)state;
    rig_make(&rig);
    for (unsigned i = 1; i <= ARRAY_COUNT(logs); i++) {
        snprintf(path, sizeof(path), "%s/%016x.wal", rig.wal, i);
        if (access(path, F_OK) == 0)
            logs[log_count++] = rig_keep(&rig, path);
    }
    assert_in_range(log_count, 2, ARRAY_COUNT(logs));
    snprintf(path, sizeof(path), "%s/control", rig.wal);
    control = rig_keep(&rig, path);
    snprintf(path, sizeof(path), "%s/store/data.mdb", rig.shard);
    store = rig_keep(&rig, path);
    snprintf(path, sizeof(path), "%s/data.mdb", rig.spool);
    spool = rig_keep(&rig, path);
    segment = rig_keep(&rig, rig.segment);
    rows = hash_rows();
    return 0;
}

static int forget(void **state)
{
    (void)state;
    rig_free(&rig);
    return 0;
}

/* --- what is sound --------------------------------------------------------------------------- */

static void a_sound_folder_has_nothing_to_tell_and_stays_as_it_was(void **state)
{
    struct scrub scrub = rig_scrub(&rig);
    struct spool_verified found;
    struct err err = {0};

    (void)state;
    must(rig_verify(&rig), &err);
    if (rig.findings > 0)
        fail_msg("%s", rig.found);
    must(spool_verify(rig.spool, env_real(), &scrub, &found, &err), &err);
    assert_int_equal(scrub.findings, 0);
    assert_int_equal(found.waiting, 30);
    for (size_t i = 0; i < rig.file_count; i++) {
        struct rig_file *again = rig_keep(&rig, rig.files[i].path);

        assert_int_equal(again->len, rig.files[i].len);
        assert_memory_equal(again->bytes, rig.files[i].bytes, again->len);
        free(again->bytes);
        rig.file_count--;
    }
}

static void a_folder_in_use_is_said_to_be(void **state)
{
    char url[200];
    struct wal_options options = {.url = url, .env = env_real(), .writer = true};
    struct store_options stored = {.url = url, .env = env_real()};
    struct scrub scrub = rig_scrub(&rig);
    struct store *opened;
    struct wal *wal;
    struct err err = {0};

    (void)state;
    snprintf(url, sizeof(url), "file:%s", rig.wal);
    must(wal_open(&wal, &options, &err), &err);
    assert_int_equal(rig_verify_log(&rig, NULL, &scrub, NULL), ERR_CONFLICT);
    wal_close(wal);
    snprintf(url, sizeof(url), "lmdb:%s/store", rig.shard);
    must(store_open(&opened, &stored, &err), &err);
    assert_int_equal(rig_verify(&rig), ERR_CONFLICT);
    store_close(opened);
    /* The writer has begun a segment: back to what was. */
    snprintf(url, sizeof(url), "%s/%016zx.wal", rig.wal, log_count + 1);
    assert_int_equal(unlink(url), 0);
    for (size_t i = 0; i < log_count; i++)
        rig_mend(logs[i]);
    rig_mend(control);
    rig_mend(store);
    must(rig_verify(&rig), &err);
    assert_int_equal(rig.findings, 0);
}

/* --- the log --------------------------------------------------------------------------------- */

/* Where the frames of a segment end that anybody was promised. */
static size_t frames_end(size_t index)
{
    if (index + 1 < log_count)
        return load_u64(logs[index + 1]->bytes + 40);
    return load_u64(control->bytes + offsetof(struct wal_control, position)) & UINT32_MAX;
}

static void a_flipped_byte_of_a_log_is_found(void **state)
{
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < log_count; i++) {
        size_t end = frames_end(i), step = MAX_OF(end / (CASES / log_count), (size_t)1);

        for (size_t at = 0; at < logs[i]->len; at += at < end ? step : 5003) {
            struct scrub scrub = rig_scrub(&rig);
            bool is_promised = at < end;

            rig_flip(logs[i], at, (uint8_t)(1u << at % 8));
            must(rig_verify_log(&rig, NULL, &scrub, NULL), &err);
            if ((rig.findings > 0) != is_promised)
                fail_msg("segment %zu, byte %zu: %s", i + 1, at,
                         rig.findings > 0 ? rig.found : "not found");
            rig_mend(logs[i]);
        }
    }
}

static void a_segment_that_is_cut_or_missing_is_found(void **state)
{
    char away[200];
    struct err err = {0};

    (void)state;
    snprintf(away, sizeof(away), "%s/away", rig.folder);
    for (size_t i = 0; i < log_count; i++) {
        size_t end = frames_end(i), step = MAX_OF(end / 100, (size_t)1);
        struct scrub scrub;

        for (size_t len = 0; len < end; len += step) {
            scrub = rig_scrub(&rig);
            rig_cut(logs[i], len);
            must(rig_verify_log(&rig, NULL, &scrub, NULL), &err);
            if (rig.findings == 0)
                fail_msg("segment %zu cut at %zu", i + 1, len);
            rig_mend(logs[i]);
        }
        scrub = rig_scrub(&rig);
        assert_int_equal(rename(logs[i]->path, away), 0);
        must(rig_verify_log(&rig, NULL, &scrub, NULL), &err);
        assert_int_not_equal(rig.findings, 0);
        assert_int_equal(rename(away, logs[i]->path), 0);
    }
}

/* Words of the control page that a writer draws from elsewhere, or nobody relies on. */
static bool is_free(size_t at)
{
    const struct {
        size_t from, to;
    } free_places[] = {
        {24, 64},  /* reserved */
        {64, 80},  /* boot: another is a reboot; generation: what is newer is gone */
        {96, 128}, /* used_bytes, wake, reserved */
        {128, sizeof(struct wal_control)}, /* ends, of which lower ones were; hints */
    };

    for (size_t i = 0; i < ARRAY_COUNT(free_places); i++)
        if (at >= free_places[i].from && at < free_places[i].to)
            return true;
    return false;
}

static void a_flipped_byte_of_the_control_page_is_found(void **state)
{
    struct err err = {0};

    (void)state;
    for (size_t at = 0; at < 200; at++) {
        struct scrub scrub = rig_scrub(&rig);
        uint64_t digest = 0, sound = 0;
        enum err_code code;

        must(rig_verify_log(&rig, NULL, &scrub, &sound), &err);
        scrub = rig_scrub(&rig);
        rig_flip(control, at, (uint8_t)(1u << at % 8));
        code = rig_verify_log(&rig, NULL, &scrub, &digest);
        if (code != ERR_OK && code != ERR_CONFIG)
            fail_msg("control, byte %zu: %s", at, err_word(code));
        if (rig.findings == 0 && !is_free(at))
            fail_msg("control, byte %zu", at);
        if (rig.findings == 0 && digest != sound)
            fail_msg("control, byte %zu: other records", at);
        rig_mend(control);
    }
    /* An end beyond what there is. */
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++) {
        struct scrub scrub = rig_scrub(&rig);

        rig_flip(control, offsetof(struct wal_control, end[0]) + 8 * p + 2, 1);
        must(rig_verify_log(&rig, NULL, &scrub, NULL), &err);
        assert_int_equal(rig.findings, 1);
        rig_mend(control);
    }
}

/* Every segment with every other place damaged too: it is told where, for each of them. */
static void damage_in_several_segments_is_told_for_each(void **state)
{
    struct scrub scrub = rig_scrub(&rig);
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < log_count; i++)
        rig_flip(logs[i], frames_end(i) / 2, 1);
    must(rig_verify_log(&rig, NULL, &scrub, NULL), &err);
    assert_int_equal(rig.findings, log_count);
    for (size_t i = 0; i < log_count; i++)
        rig_mend(logs[i]);
}

/* --- the store ------------------------------------------------------------------------------- */

static void assert_found_or_meaningless(const char *what, size_t at)
{
    enum err_code code = rig_verify(&rig);
    struct hash128 now;

    /* A store that is empty, or newer than this program: loud enough. */
    if (code == ERR_NOT_FOUND || code == ERR_CONFIG || rig.findings > 0)
        return;
    if (code != ERR_OK)
        fail_msg("%s %zu: %s (%s)", what, at, err_word(code), rig.found);
    now = hash_rows();
    if (now.low == rows.low && now.high == rows.high)
        return;
    rig_mend(store); /* for the tests that follow */
    fail_msg("%s %zu: not found, and the rows are others", what, at);
}

static void a_flipped_byte_of_a_store_is_found_or_means_nothing(void **state)
{
    size_t step = store->len / CASES | 1;

    (void)state;
    for (size_t at = 0; at < store->len; at += at < 8192 && !IS_SANITIZED ? 7 : step) {
        rig_flip(store, at, (uint8_t)(1u << at % 8));
        assert_found_or_meaningless("store, byte", at);
        rig_flip(store, at, 0);
    }
    rig_mend(store);
}

/* Whole words, as a stray write leaves them, at the heads of pages and among the nodes' places. */
static void a_damaged_page_of_a_store_is_found_or_means_nothing(void **state)
{
    static const uint64_t words[] = {0, UINT64_MAX, 1, 0x0000000100000001u, 0x4142434445464748u};

    (void)state;
    for (size_t page = 0; page < store->len; page += 4096 * (IS_SANITIZED ? 3 : 1))
        for (size_t at = 0; at < 160; at += 8) {
            rig_put(store, page + at, &words[(page / 4096 + at / 8) % ARRAY_COUNT(words)], 8);
            assert_found_or_meaningless("store, word", page + at);
            rig_put(store, page + at, store->bytes + page + at, 8);
        }
    rig_mend(store);
}

static void pages_that_change_places_are_found(void **state)
{
    (void)state;
    for (size_t page = 2 * 4096; page + 8192 <= store->len; page += 4096) {
        rig_put(store, page, store->bytes + page + 4096, 4096);
        rig_put(store, page + 4096, store->bytes + page, 4096);
        assert_found_or_meaningless("store, page", page);
        rig_put(store, page, store->bytes + page, 8192);
    }
}

static void a_store_that_is_cut_is_found(void **state)
{
    (void)state;
    for (size_t len = 0; len < store->len; len += store->len / 40 + 1) {
        rig_cut(store, len);
        assert_int_equal(rig_verify(&rig), ERR_OK);
        if (rig.findings == 0)
            fail_msg("store cut at %zu", len);
        rig_mend(store);
    }
}

/* --- the segment ----------------------------------------------------------------------------- */

static bool is_of_a_section(const struct section_layout *layout, size_t at)
{
    for (size_t i = 0; i < SEGMENT_SECTIONS; i++)
        if (at >= layout->places[i].offset &&
            at < layout->places[i].offset + layout->places[i].length)
            return true;
    return at < SECTIONS_HEADER_BYTES;
}

static void a_flipped_byte_of_a_segment_is_found(void **state)
{
    struct segment_parts parts;
    struct section_layout layout;
    struct err err = {0};

    (void)state;
    must(segment_header_decode(&parts, &layout, segment->bytes, &err), &err);
    for (size_t at = 0; at < segment->len; at += segment->len / (CASES / 8) | 1) {
        rig_flip(segment, at, (uint8_t)(1u << at % 8));
        must(rig_verify(&rig), &err);
        if ((rig.findings > 0) != is_of_a_section(&layout, at))
            fail_msg("segment, byte %zu: %s", at, rig.findings > 0 ? rig.found : "not found");
        rig_flip(segment, at, 0);
    }
    for (size_t len = 0; len < segment->len; len += segment->len / 30) {
        rig_cut(segment, len);
        must(rig_verify(&rig), &err);
        if (rig.findings == 0)
            fail_msg("segment cut at %zu", len);
        rig_mend(segment);
    }
}

/* --- imports --------------------------------------------------------------------------------- */

static void damage_to_an_imports_object_is_found_and_names_it(void **state)
{
    char path[200], away[200];
    struct rig_file *object;
    struct err err = {0};

    (void)state;
    snprintf(path, sizeof(path), "%s/blob/rows-1", rig.folder);
    snprintf(away, sizeof(away), "%s/blob/away", rig.folder);
    object = rig_keep(&rig, path);
    for (size_t at = 0; at < object->len; at += object->len / (CASES / 20) | 1) {
        rig_flip(object, at, (uint8_t)(1u << at % 8));
        must(rig_verify(&rig), &err);
        if (rig.findings != 1 || strcmp(rig.found_in, "rows-1") != 0)
            fail_msg("object, byte %zu: %llu in %s: %s", at, (unsigned long long)rig.findings,
                     rig.found_in, rig.found);
        rig_flip(object, at, 0);
    }
    rig_cut(object, object->len / 2);
    must(rig_verify(&rig), &err);
    assert_int_equal(rig.findings, 1);
    assert_string_equal(rig.found_in, "rows-1");
    rig_mend(object);
    assert_int_equal(rename(path, away), 0);
    must(rig_verify(&rig), &err);
    assert_int_equal(rig.findings, 1);
    assert_string_equal(rig.found_in, "rows-1");
    assert_int_equal(rename(away, path), 0);
    must(rig_verify(&rig), &err);
    assert_int_equal(rig.findings, 0);
}

static void without_the_blob_store_its_rows_are_not_compared_and_that_is_told(void **state)
{
    struct err err = {0};
    uint64_t compared;

    (void)state;
    must(rig_verify(&rig), &err);
    assert_int_equal(rig.findings, 0);
    assert_int_equal(rig.uncompared, 0);
    compared = rig.compared;
    rig.is_without_blob = true;
    must(rig_verify(&rig), &err);
    assert_int_equal(rig.findings, 0);
    assert_int_equal(rig.uncompared, RIG_PARTITIONS);
    assert_int_equal(rig.compared, compared - RIG_IMPORTED);
    rig.is_without_blob = false;
}

static enum err_code away(struct blob *blob, const struct blob_range *range, struct buffer *out,
                          struct err *err)
{
    (void)blob;
    (void)range;
    (void)out;
    return err_set(err, ERR_UNAVAILABLE, "away");
}

static void a_blob_store_that_is_away_is_no_damage_and_ends_nothing(void **state)
{
    struct blob *sound = rig.blob;
    struct blob_ops ops = *sound->ops;
    struct blob faulty = {.ops = &ops, .env = env_real()};

    (void)state;
    ops.get = away;
    rig.blob = &faulty;
    assert_int_equal(rig_verify(&rig), ERR_UNAVAILABLE);
    assert_int_equal(rig.findings, 0);
    assert_int_equal(rig.uncompared, RIG_PARTITIONS);
    rig.blob = sound;
}

/* --- the spool ------------------------------------------------------------------------------- */

static void damage_to_a_spool_never_crashes_and_its_records_are_checked(void **state)
{
    size_t step = spool->len / CASES | 1, found = 0, records = 0;

    (void)state;
    for (size_t at = 0; at < spool->len; at += step) {
        struct scrub scrub = rig_scrub(&rig);
        struct spool_verified result;
        struct err err = {0};
        enum err_code code;

        rig_flip(spool, at, (uint8_t)(1u << at % 8));
        code = spool_verify(rig.spool, env_real(), &scrub, &result, &err);
        if (code != ERR_OK && code != ERR_NOT_FOUND && code != ERR_CONFIG)
            fail_msg("spool, byte %zu: %s", at, err.message);
        found += scrub.findings > 0;
        rig_flip(spool, at, 0);
    }
    assert_int_not_equal(found, 0);
    /* The text of every record, wherever it stands in a page that is in use. */
    for (size_t at = 0; at + 5 < spool->len; at++) {
        struct scrub scrub = rig_scrub(&rig);
        struct spool_verified result;
        struct err err = {0};

        if (memcmp(spool->bytes + at, "waits", 5) != 0)
            continue;
        rig_flip(spool, at, 1);
        must(spool_verify(rig.spool, env_real(), &scrub, &result, &err), &err);
        records += scrub.findings > 0;
        rig_flip(spool, at, 0);
    }
    assert_int_equal(records, 30);
    rig_mend(spool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sound_folder_has_nothing_to_tell_and_stays_as_it_was),
        cmocka_unit_test(a_folder_in_use_is_said_to_be),
        cmocka_unit_test(a_flipped_byte_of_a_log_is_found),
        cmocka_unit_test(a_segment_that_is_cut_or_missing_is_found),
        cmocka_unit_test(a_flipped_byte_of_the_control_page_is_found),
        cmocka_unit_test(damage_in_several_segments_is_told_for_each),
        cmocka_unit_test(a_flipped_byte_of_a_store_is_found_or_means_nothing),
        cmocka_unit_test(a_damaged_page_of_a_store_is_found_or_means_nothing),
        cmocka_unit_test(pages_that_change_places_are_found),
        cmocka_unit_test(a_store_that_is_cut_is_found),
        cmocka_unit_test(a_flipped_byte_of_a_segment_is_found),
        cmocka_unit_test(damage_to_an_imports_object_is_found_and_names_it),
        cmocka_unit_test(without_the_blob_store_its_rows_are_not_compared_and_that_is_told),
        cmocka_unit_test(a_blob_store_that_is_away_is_no_damage_and_ends_nothing),
        cmocka_unit_test(damage_to_a_spool_never_crashes_and_its_records_are_checked),
    };

    return cmocka_run_group_tests(tests, make, forget);
}
