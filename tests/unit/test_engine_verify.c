/* Verifying an engine's folder: a sound one has nothing to tell, whatever of it is cold; damage to
 * any file is told, vectors included; parts that are missing and vectors that are nowhere are told;
 * it can be stopped, and memory that runs out is an error and no damage. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/calibrate_file.h"
#include "engine/keeper.h"
#include "engine/verify.h"
#include "tests/lib/cold_data.h"
#include "tests/lib/scratch.h"

enum { DIM = 24, FIRST = 3000, ALL = 5200, ABOVE = 2000 };

static const struct engine_options options = {.dim = DIM,
                                              .metric = ENGINE_L2,
                                              .m = 8,
                                              .ef_construction = 40,
                                              .flat_below = 1,
                                              .cold_above = ABOVE,
                                              .seed = 7};
static char folder[200], segment[240], parts[COLD_PARTS_MAX][240];
static uint32_t part_count;
static uint32_t covered;
static uint64_t words[ALL / 64 + 2];
static struct engine_bitmap living = {.words = words, .word_count = ALL / 64 + 2};

/* What the verification that ran last has told. */
static uint64_t findings, looked_at, stop_at;
static char found[SCRUB_TEXT_BYTES], where[300];

static void find(void *state, const struct scrub_finding *finding)
{
    (void)state;
    if (findings++ > 0)
        return;
    snprintf(found, sizeof(found), "%s", finding->text);
    snprintf(where, sizeof(where), "%s", finding->file);
}

static bool go_on(void *state, uint64_t bytes)
{
    (void)state;
    looked_at += bytes;
    return stop_at == 0 || looked_at < stop_at;
}

static enum err_code verify(struct engine_verified *out, struct err *err)
{
    struct scrub scrub = {.find = find, .go_on = go_on};

    findings = looked_at = 0;
    *err = (struct err){0};
    return engine_verify(folder, &options, &living, &scrub, out, err);
}

/* It is told, and of that file. */
static void assert_told(const char *file, const char *text)
{
    struct engine_verified out;
    struct err err;

    assert_int_equal(verify(&out, &err), ERR_OK);
    if (findings == 0 || strstr(where, file) == NULL || strstr(found, text) == NULL)
        fail_msg("%s, %s: %llu findings, %s: %s", file, text, (unsigned long long)findings, where,
                 found);
}

static void maintain(struct engine *engine)
{
    struct err err = {0};

    data_link(engine);
    while (engine_is_due(engine))
        if (engine_maintain(engine, NULL, &err) != ERR_OK)
            fail_msg("%s", err.message);
}

/* Two cold parts or more, and a graph behind them; some of the vectors died before. */
static int make(void **state)
{
    struct data data = data_make(ALL, DIM, 0.0f, 78);
    struct engine *engine;
    struct err err;

    (void)state;
    if (!scratch_make(folder, sizeof(folder), "verify") ||
        engine_open(&engine, folder, &options, NULL, &err) != ERR_OK)
        return 1;
    snprintf(segment, sizeof(segment), "%s/" KEEPER_SEGMENT, folder);
    data_insert(engine, &data, 0, FIRST);
    for (uint32_t i = 0; i < FIRST; i += 7)
        engine_delete(engine, i);
    maintain(engine);
    data_insert(engine, &data, FIRST, ALL);
    maintain(engine);
    covered = engine_covered(engine);
    engine_close(engine);
    data_free(&data);
    for (uint32_t i = 0; i < ALL; i++)
        if (i >= FIRST || i % 7 != 0)
            words[i / 64] |= UINT64_C(1) << i % 64;
    for (uint32_t number = 1; number < 200 && part_count < COLD_PARTS_MAX; number++)
        if (cold_path(parts[part_count], sizeof(parts[0]), folder, number) &&
            access(parts[part_count], F_OK) == 0)
            part_count++;
    return part_count >= 1 && access(segment, F_OK) == 0 ? 0 : 1;
}

static int forget(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

static void flip(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    int byte;

    assert_non_null(file);
    assert_int_equal(fseek(file, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    byte = fgetc(file);
    assert_int_equal(fseek(file, -1, SEEK_CUR), 0);
    assert_int_equal(fputc(byte ^ 0x20, file), byte ^ 0x20);
    assert_int_equal(fclose(file), 0);
}

static void a_sound_folder_has_nothing_to_tell(void **state)
{
    struct engine_verified out;
    struct err err;

    (void)state;
    assert_int_equal(verify(&out, &err), ERR_OK);
    if (findings > 0)
        fail_msg("%s: %s", where, found);
    assert_int_equal(out.covered, covered);
    assert_int_equal(out.parts, part_count);
    assert_true(out.vectors > 3000);
    assert_true(looked_at > out.bytes / 2);
}

static void damage_to_any_file_is_told(void **state)
{
    struct stat info;

    (void)state;
    for (uint32_t i = 0; i <= part_count; i++) {
        const char *path = i < part_count ? parts[i] : segment;
        const char *name = strrchr(path, '/') + 1;

        assert_int_equal(stat(path, &info), 0);
        flip(path, 3);
        assert_told(name, "header");
        flip(path, 3);
        flip(path, -1);
        assert_told(name, "checksums");
        flip(path, -1);
        assert_int_equal(truncate(path, info.st_size + 1), 0);
        assert_told(name, "bytes instead of");
        assert_int_equal(truncate(path, info.st_size), 0);
    }
    for (uint32_t i = 0; i <= part_count; i++) {
        const char *path = i < part_count ? parts[i] : segment;

        assert_int_equal(stat(path, &info), 0);
        flip(path, (long)info.st_size * 2 / 3); /* among the vectors */
        assert_told(strrchr(path, '/') + 1, "");
        flip(path, (long)info.st_size * 2 / 3);
    }
}

static void damage_to_the_calibration_is_told(void **state)
{
    uint8_t bytes[CALIBRATE_FILE_BYTES] =
        CALIBRATE_MAGIC; /* of another graph, which is no damage */
    char path[240];

    snprintf(path, sizeof(path), "%s/" KEEPER_CALIBRATION, folder);
    store_u32(bytes + CALIBRATE_CHECKSUM_AT, hash_crc32c(0, bytes, CALIBRATE_CHECKSUM_AT));
    segment_file_write(path, bytes, sizeof(bytes));
    a_sound_folder_has_nothing_to_tell(state);
    for (long at = 0; at < CALIBRATE_FILE_BYTES; at += 7) {
        flip(path, at);
        assert_told(KEEPER_CALIBRATION, "checksum");
        flip(path, at);
    }
    segment_file_write(path, bytes, sizeof(bytes) - 1);
    assert_told(KEEPER_CALIBRATION, "size");
    assert_int_equal(unlink(path), 0);
}

static void a_part_that_is_missing_is_told(void **state)
{
    char away[260];

    (void)state;
    snprintf(away, sizeof(away), "%s/away", folder);
    assert_int_equal(rename(parts[0], away), 0);
    assert_told(KEEPER_SEGMENT, "are not there");
    assert_int_equal(rename(away, parts[0]), 0);
    /* One that a killed process left unfinished is none. */
    snprintf(away, sizeof(away), "%s/cold-99.seg.tmp", folder);
    assert_int_equal(fclose(fopen(away, "w")), 0);
    a_sound_folder_has_nothing_to_tell(state);
    assert_int_equal(unlink(away), 0);
}

static void a_vector_that_lives_and_is_nowhere_is_told(void **state)
{
    (void)state;
    words[0] |= 1; /* it died before anything was written */
    assert_told("verify-", "ordinal 0 lives and is in no file");
    words[0] &= ~UINT64_C(1);
}

static void it_stops_when_it_is_told_to(void **state)
{
    struct engine_verified out;
    struct err err;

    (void)state;
    stop_at = 1;
    assert_int_equal(verify(&out, &err), ERR_DEAD);
    stop_at = 0;
}

static void memory_that_runs_out_is_no_damage(void **state)
{
    struct engine_verified out;
    struct err err;
    uint64_t count;

    (void)state;
    (void)memory_fail_at(0);
    assert_int_equal(verify(&out, &err), ERR_OK);
    count = memory_fail_at(0);
    assert_in_range(count, 3, 2000);
    for (uint64_t n = 1; n <= count; n++) {
        (void)memory_fail_at(n);
        assert_int_equal(verify(&out, &err), ERR_NO_MEMORY);
        assert_int_equal(findings, 0);
    }
    (void)memory_fail_at(0);
    a_sound_folder_has_nothing_to_tell(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sound_folder_has_nothing_to_tell),
        cmocka_unit_test(damage_to_any_file_is_told),
        cmocka_unit_test(damage_to_the_calibration_is_told),
        cmocka_unit_test(a_part_that_is_missing_is_told),
        cmocka_unit_test(a_vector_that_lives_and_is_nowhere_is_told),
        cmocka_unit_test(it_stops_when_it_is_told_to),
        cmocka_unit_test(memory_that_runs_out_is_no_damage),
    };

    return cmocka_run_group_tests(tests, make, forget);
}
