/* A damaged cold part is refused with the reason, whatever the damage: flipped bytes anywhere, a
 * file cut or grown at any edge, and, with all checksums made good, lists that would lead a search
 * astray.  What is not refused can be searched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <unistd.h>

#include <cmocka.h>

#include "engine/kernels.h"
#include "tests/lib/cold_data.h"
#include "tests/lib/scratch.h"

enum { DIM = 20, COUNT = 1500 };

static char folder[160];
static char path[200];
static const struct kernels *kernels;
static const struct engine_options expected = {.dim = DIM, .metric = ENGINE_L2};

/* The sound file, a copy to be spoilt, and where everything stands. */
static unsigned char *sound;
static unsigned char *bytes;
static size_t size;
static struct cold_numbers numbers;
static struct section_layout layout;

static int make_sound(void **state)
{
    struct cold_recipe recipe = {
        .count = COUNT, .dim = DIM, .metric = ENGINE_L2, .kind = IVF_RABITQ};
    struct err err;

    (void)state;
    if (!scratch_make(folder, sizeof(folder), "cold") ||
        kernels_choose(NULL, &kernels, &err) != ERR_OK)
        return 1;
    snprintf(path, sizeof(path), "%s/cold-1.seg", folder);
    cold_data_write(path, &recipe);
    sound = segment_file_read(path, &size);
    bytes = malloc(size + 1);
    if (bytes == NULL || cold_header_decode(&numbers, &layout, sound, &err) != ERR_OK)
        return 1;
    return layout.bytes == size ? 0 : 1;
}

static int forget_sound(void **state)
{
    (void)state;
    free(sound);
    free(bytes);
    return scratch_remove(folder);
}

static int restore(void **state)
{
    (void)state;
    memcpy(bytes, sound, size);
    return 0;
}

static enum err_code open_bytes(size_t len, struct cold **cold, struct err *err)
{
    segment_file_write(path, bytes, len);
    return cold_open(cold, path, &expected, kernels, err);
}

static void assert_refused(size_t len, const char *reason)
{
    struct cold *cold;
    struct err err = {0};
    enum err_code code = open_bytes(len, &cold, &err);

    if (code != ERR_CORRUPT || strstr(err.message, reason) == NULL)
        fail_msg("not \"%s\" but %d: %s", reason, code, err.message);
    assert_non_null(strstr(err.message, "cold-1.seg"));
    assert_null(cold);
}

static unsigned char *at_section(unsigned section)
{
    return bytes + layout.places[section].offset;
}

static void a_sound_part_can_be_searched(void **state)
{
    const float origin[DIM] = {0};
    struct ivf_query query = {.vector = origin, .k = 10, .bound = INFINITY};
    struct engine_hit hits[10];
    struct cold *cold;
    struct err err;
    size_t count;

    (void)state;
    assert_int_equal(open_bytes(size, &cold, &err), ERR_OK);
    assert_int_equal(ivf_search(cold->ivf, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_equal(count, 10);
    assert_true(cold_delete(cold, hits[0].ordinal));
    assert_false(cold_delete(cold, hits[0].ordinal));
    assert_false(cold_delete(cold, 2));
    query.dead = cold->dead;
    struct engine_hit again[10];
    assert_int_equal(ivf_search(cold->ivf, &query, again, &count, NULL, &err), ERR_OK);
    for (size_t i = 0; i < 9; i++)
        assert_int_equal(again[i].ordinal, hits[i + 1].ordinal);
    cold_close(cold);
}

/* Padding between sections and vectors are not looked at. */
static void a_flipped_byte_is_noticed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COLD_SECTIONS; i++) {
        const struct section_place *place = &layout.places[i];

        for (uint64_t at = 0; at < place->length && i != COLD_VECTORS;
             at += 1 + place->length / 7) {
            bytes[place->offset + at] ^= 0x10;
            assert_refused(size, cold_form.names[i]);
            bytes[place->offset + at] ^= 0x10;
        }
    }
    for (size_t at = 0; at < SECTIONS_HEADER_BYTES; at += 37) {
        bytes[at] ^= 0x01;
        assert_refused(size, "header");
        bytes[at] ^= 0x01;
    }
}

/* What opening leaves out: every block of the vectors, and that it can be stopped. */
static bool never(void *state)
{
    (void)state;
    return false;
}

static void the_scrub_looks_at_the_vectors_too(void **state)
{
    const struct section_place *place = &layout.places[COLD_VECTORS];
    const struct engine_hooks hooks = {.go_on = never};
    struct cold *cold;
    struct err err = {0};

    (void)state;
    segment_file_write(path, bytes, size);
    assert_int_equal(cold_verify(path, NULL, &err), ERR_OK);
    assert_int_equal(cold_verify(path, &hooks, &err), ERR_DEAD);
    assert_int_equal(cold_verify("/proc/none", NULL, &err), ERR_NOT_FOUND);
    for (unsigned i = 0; i < COLD_SECTIONS; i++)
        for (uint64_t at = 0; at < layout.places[i].length; at += 1 + layout.places[i].length / 5) {
            char byte[40];

            bytes[layout.places[i].offset + at] ^= 0x10;
            segment_file_write(path, bytes, size);
            assert_int_equal(cold_verify(path, NULL, &err), ERR_CORRUPT);
            assert_non_null(strstr(err.message, cold_form.names[i]));
            snprintf(byte, sizeof(byte), "block %llu", (unsigned long long)(at >> 16));
            assert_true(i == COLD_CHECKS || strstr(err.message, byte) != NULL);
            bytes[layout.places[i].offset + at] ^= 0x10;
        }
    bytes[place->offset + place->length - 1] ^= 0x01;
    assert_int_equal(open_bytes(size, &cold, &err), ERR_OK);
    cold_close(cold);
    assert_int_equal(cold_verify(path, NULL, &err), ERR_CORRUPT);
}

static void a_file_of_another_size_is_refused(void **state)
{
    const struct section_place *last = &layout.places[COLD_CHECKS];

    (void)state;
    assert_refused(0, "less than a header");
    assert_refused(SECTIONS_HEADER_BYTES - 1, "less than a header");
    assert_refused(SECTIONS_HEADER_BYTES, "instead of");
    assert_refused((size_t)last->offset, "instead of");
    assert_refused(size - 1, "instead of");
    bytes[size] = 0;
    assert_refused(size + 1, "instead of");
}

static void a_newer_version_and_other_options_are_told_apart(void **state)
{
    struct engine_options other = expected;
    struct cold *cold;
    struct err err;

    (void)state;
    store_u32(bytes + SECTIONS_VERSION_AT, COLD_VERSION + 1);
    segment_header_seal(bytes);
    assert_int_equal(open_bytes(size, &cold, &err), ERR_CONFIG);
    memcpy(bytes, sound, size);
    segment_file_write(path, bytes, size);
    other.dim = DIM + 1;
    assert_int_equal(cold_open(&cold, path, &other, kernels, &err), ERR_CONFIG);
    other = expected;
    other.metric = ENGINE_IP;
    assert_int_equal(cold_open(&cold, path, &other, kernels, &err), ERR_CONFIG);
    assert_int_equal(cold_open(&cold, "/proc/none", &expected, kernels, &err), ERR_NOT_FOUND);
    assert_null(cold);
}

/* A number of the header, by its place, and what is said of it. */
static void numbers_that_cannot_be_are_refused(void **state)
{
    static const struct {
        size_t at;
        uint32_t value;
        const char *reason;
    } lies[] = {{12, 7, "another form"},
                {16, 1, "another form"},
                {20, 1, "another form"},
                {24, 1, "wrong size"},
                {32, 0, "dimension"},
                {32, UINT32_MAX, "dimension"},
                {36, 3, "metric"},
                {40, 3, "kind"},
                {44, 0, "lists"},
                {44, UINT32_MAX, "lists"},
                {44, COUNT + 1, "lists"},
                {48, 3, "codes of"},
                {48, UINT32_MAX, "codes of"},
                {60, UINT32_MAX, "rows"},
                {60, COUNT - 1, "where it should be"},
                {64, 0, "blocks"},
                {64, UINT32_MAX, "blocks"},
                {72, 0, "ordinals"},
                {72, COUNT - 1, "ordinals"},
                {76, 0x7fc00000, "radius"},
                {76, 0xbf800000, "radius"},
                {44, 1, "blocks"},
                {44, 40, "where it should be"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(lies); i++) {
        store_u32(bytes + lies[i].at, lies[i].value);
        segment_header_seal(bytes);
        assert_refused(size, lies[i].reason);
        memcpy(bytes, sound, size);
    }
}

static void lists_that_lead_astray_are_refused(void **state)
{
    (void)state;
    static const struct {
        unsigned section;
        size_t word;
        uint32_t value;
        const char *reason;
    } lies[] = {
        {IVF_PART_LISTS, 0, 1, "begins at block"},
        {IVF_PART_LISTS, 1, UINT32_MAX, "ends behind"},
        {IVF_PART_LISTS, 1, 0, "begins at block"},
        {IVF_PART_BLOCKS, 0, COUNT, "stands behind"},
        {IVF_PART_BLOCKS, 0, UINT32_MAX, "stands behind"},
        {IVF_PART_BLOCKS, 1, 0, "list 0"},
        {IVF_PART_BLOCKS, 32, 0x7fc00000, "no number"},
        {IVF_PART_SQUARES, 0, 0xbf800000, "no number"},
        {IVF_PART_STEPS, 2, 0x7fc00000, "no number"},
        {IVF_PART_ORDINALS, 5, 0, "does not ascend"},
        {IVF_PART_ORDINALS, COUNT - 1, UINT32_MAX, "lies outside"},
    };

    for (size_t i = 0; i < ARRAY_COUNT(lies); i++) {
        store_u32(at_section(lies[i].section) + 4 * lies[i].word, lies[i].value);
        sections_seal(bytes, &cold_form, &layout);
        assert_refused(size, lies[i].reason);
        memcpy(bytes, sound, size);
    }
}

int main(void)
{
#define SPOILT(test) cmocka_unit_test_setup(test, restore)
    const struct CMUnitTest tests[] = {
        SPOILT(a_sound_part_can_be_searched),
        SPOILT(a_flipped_byte_is_noticed),
        SPOILT(the_scrub_looks_at_the_vectors_too),
        SPOILT(a_file_of_another_size_is_refused),
        SPOILT(a_newer_version_and_other_options_are_told_apart),
        SPOILT(numbers_that_cannot_be_are_refused),
        SPOILT(lists_that_lead_astray_are_refused),
    };

    return cmocka_run_group_tests(tests, make_sound, forget_sound);
}
