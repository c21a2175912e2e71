/* A damaged segment is refused with the reason, whatever the damage: flipped bytes anywhere, a file
 * cut or grown at any edge, and, with all checksums made good, graphs that would lead a walk
 * astray. What is not refused can be walked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <unistd.h>

#include <cmocka.h>

#include "tests/lib/scratch.h"
#include "tests/lib/segment_data.h"

enum { DIM = 20, M = 8, TWINS = 13 };

static char folder[160];
static char path[200];

/* The sound file, a copy to be spoilt, and where everything stands. */
static unsigned char *sound;
static unsigned char *bytes;
static size_t size;
static struct segment_parts parts;
static struct section_layout layout;

static const float origin[DIM];

static int make_sound(void **state)
{
    struct segment_recipe recipe = {.count = 1472,
                                    .dim = DIM,
                                    .metric = ENGINE_L2,
                                    .m = M,
                                    .twin_every = TWINS,
                                    .dead_every = 10};
    struct engine *engine = segment_engine(&recipe);
    struct segment_parts made = segment_parts_of(graph_of(engine));
    struct err err;

    (void)state;
    if (!scratch_make(folder, sizeof(folder), "segment"))
        return 1;
    snprintf(path, sizeof(path), "%s/one.segment", folder);
    if (segment_write(path, &made, NULL, &err) != ERR_OK)
        return 1;
    engine_close(engine);
    sound = segment_file_read(path, &size);
    bytes = malloc(size + 1);
    if (bytes == NULL || segment_header_decode(&parts, &layout, sound, &err) != ERR_OK)
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

/* Write so many of the bytes and open them. */
static enum err_code open_bytes(size_t len, uint32_t copied, struct segment **segment,
                                struct err *err)
{
    struct segment_how how = {.copied = copied};

    segment_file_write(path, bytes, len);
    return segment_open(segment, path, &how, err);
}

static void assert_refused(size_t len, uint32_t copied, const char *reason)
{
    struct segment *segment;
    struct err err = {0};
    enum err_code code = open_bytes(len, copied, &segment, &err);

    if (code != ERR_CORRUPT || strstr(err.message, reason) == NULL)
        fail_msg("not \"%s\" but %d: %s", reason, code, err.message);
    assert_null(segment);
}

static void any_byte_of_the_header(void **state)
{
    (void)state;
    for (size_t at = 0; at < SECTIONS_HEADER_BYTES; at += at < 512 || at > 4000 ? 1 : 37) {
        bytes[at] ^= (unsigned char)(1u << at % 8);
        assert_refused(size, 0, "header");
        bytes[at] = sound[at];
    }
}

/* The vectors are not read when they are mapped: the scrub finds it, and so does copying. */
static void flip_in_section(enum segment_section section, uint64_t at)
{
    const char *name = segment_form.names[section];
    size_t byte = (size_t)(layout.places[section].offset + at);
    struct segment *segment;
    struct err err = {0};

    bytes[byte] ^= (unsigned char)(1u << at % 8);
    assert_refused(size, SEGMENT_COPY_ALL, name);
    if (section != SEGMENT_VECTORS) {
        assert_refused(size, 0, name);
    } else {
        assert_int_equal(open_bytes(size, 0, &segment, &err), ERR_OK);
        assert_int_equal(segment_verify(segment, 0, UINT64_MAX, &err), ERR_CORRUPT);
        assert_non_null(strstr(err.message, name));
        segment_close(segment);
    }
    bytes[byte] = sound[byte];
}

static void any_byte_of_a_section(void **state)
{
    (void)state;
    for (enum segment_section i = 0; i < SEGMENT_SECTIONS; i++) {
        uint64_t length = layout.places[i].length;

        assert_true(length > 0);
        for (uint64_t at = 0; at < length; at += 1 + length / 60)
            flip_in_section(i, at);
        flip_in_section(i, length - 1);
    }
}

/* A scrub in small parts looks at every block once, and names the one that is damaged. */
static void the_scrub_names_the_block(void **state)
{
    uint64_t block = layout.places[SEGMENT_VECTORS].first_block + 1;
    struct segment *segment;
    struct err err = {0};

    (void)state;
    assert_true(block < layout.blocks);
    bytes[layout.places[SEGMENT_VECTORS].offset + SECTIONS_BLOCK_BYTES + 5] ^= 4;
    assert_int_equal(open_bytes(size, 0, &segment, &err), ERR_OK);
    assert_true(segment_blocks(segment) == layout.blocks);
    for (uint64_t i = 0; i < layout.blocks; i++)
        assert_int_equal(segment_verify(segment, i, 1, &err), i == block ? ERR_CORRUPT : ERR_OK);
    assert_non_null(strstr(err.message, "section vectors: block 1 "));
    assert_int_equal(segment_verify(segment, UINT64_MAX, UINT64_MAX, &err), ERR_OK);
    segment_close(segment);
}

static void any_edge_that_a_file_is_cut_at(void **state)
{
    (void)state;
    assert_refused(0, 0, "less than a header");
    assert_refused(1, 0, "less than a header");
    assert_refused(SECTIONS_HEADER_BYTES - 1, 0, "less than a header");
    assert_refused(SECTIONS_HEADER_BYTES, 0, "instead of");
    for (size_t i = 0; i < SEGMENT_SECTIONS; i++) {
        size_t from = (size_t)layout.places[i].offset;
        size_t to = from + (size_t)layout.places[i].length;
        const size_t edges[] = {from - 1, from, from + 1, to - 1, to, to + 1};

        for (size_t j = 0; j < ARRAY_COUNT(edges); j++)
            if (edges[j] != size && edges[j] > SECTIONS_HEADER_BYTES)
                assert_refused(edges[j], 0, "instead of");
    }
    bytes[size] = 0;
    assert_refused(size + 1, 0, "instead of");
}

/* Checksums vouch for the section they stand by: two sections' cannot be swapped. */
static void a_checksum_of_another_section(void **state)
{
    unsigned char *ground = bytes + SECTIONS_TABLE_AT + SEGMENT_GROUND * SECTIONS_TABLE_ROW + 24;
    unsigned char *codes = bytes + SECTIONS_TABLE_AT + SEGMENT_CODES * SECTIONS_TABLE_ROW + 24;

    (void)state;
    memcpy(ground, codes, sizeof(uint32_t));
    segment_header_seal(bytes);
    assert_refused(size, 0, "the checksums of section ground are not its own");
}

/* --- lies with good checksums ---------------------------------------------------------------- */

static void assert_lie(const char *reason)
{
    sections_seal(bytes, &segment_form, &layout);
    assert_refused(size, 0, reason);
    memcpy(bytes, sound, size);
}

static void numbers_of_the_header_that_cannot_be(void **state)
{
    static const struct {
        size_t at;
        uint32_t value;
        const char *reason;
    } lies[] = {
        {SECTIONS_VERSION_AT, 0, "version 0"},
        {12, 0x04030201, "another form"}, /* endian tag */
        {16, 8192, "another form"},       /* size of the header */
        {20, 7, "another form"},          /* sections */
        {20, 9, "another form"},
        {24, 5000, "the wrong size"},
        {32, 0, "dimension 0"},
        {32, 8193, "dimension 8193"},
        {32, DIM + 1, "is not where it should be"},
        {36, 3, "metric 3"},
        {36, UINT32_MAX, "metric"},
        {40, 3, "m 3"},
        {40, 65, "m 65"},
        {44, 3, "codes of 3 bits"},
        {44, 0, "codes of 0 bits"},
        {44, 8, "is not where it should be"},
        {48, 7, "ef_construction 7"},
        {48, 2001, "ef_construction 2001"},
        {52, 0, "flat_below 0"},
        {64, 0, "header: 0 slots"},
        {64, UINT32_MAX, "slots"},
        {64, 1 << 30, "slots"},
        {64, 1000, "is not where it should be"},
        {68, UINT32_MAX, "upper rows"},
        {68, 0, "is not where it should be"},
        {88, 0x7fc00000, "a length that is no number"},
        {88, 0xbf800000, "a length that is no number"},
        {92, 5, "below the floor"},
        {SECTIONS_TABLE_AT, 2, "section centre is not where it should be"},
        {SECTIONS_TABLE_AT + 8, 0, "section centre is not where it should be"},
        {SECTIONS_TABLE_AT + SEGMENT_FINE * SECTIONS_TABLE_ROW + 16, 0,
         "section fine is not where"},
        {SECTIONS_TABLE_AT + SEGMENT_VECTORS * SECTIONS_TABLE_ROW + 8, 1 << 30,
         "section vectors is not where"},
        {SECTIONS_TABLE_AT + SEGMENT_VECTORS * SECTIONS_TABLE_ROW + 20, 1,
         "section vectors is not where"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(lies); i++) {
        store_u32(bytes + lies[i].at, lies[i].value);
        segment_header_seal(bytes);
        assert_refused(size, 0, lies[i].reason);
        memcpy(bytes, sound, size);
    }
}

static unsigned char *slot_bytes(uint32_t slot)
{
    return bytes + layout.places[SEGMENT_SLOTS].offset + (size_t)slot * sizeof(struct slot);
}

static unsigned char *link_bytes(uint32_t slot, uint32_t i)
{
    return bytes + layout.places[SEGMENT_GROUND].offset +
           ((size_t)slot * 2 * M + i) * sizeof(uint32_t);
}

static bool is_twin(uint32_t slot)
{
    return (load_u32(slot_bytes(slot) + 12) & SLOT_TWIN) != 0;
}

static uint32_t level_at(uint32_t slot)
{
    return level_by(&parts.options, load_u32(slot_bytes(slot)));
}

/* The first slot from `from` on that is a twin, or is none, and has at least a level. */
static uint32_t find_slot(uint32_t from, bool twin, uint32_t level)
{
    while (is_twin(from) != twin || (!twin && level_at(from) < level))
        from++;
    assert_true(from < parts.count);
    return from;
}

/* A node with a chain of two twins or more. */
static uint32_t find_chain(void)
{
    for (uint32_t i = 0; i < parts.count; i++) {
        uint32_t first = load_u32(slot_bytes(i) + 8);

        if (!is_twin(i) && first != 0 && load_u32(slot_bytes(first - 1) + 8) != 0)
            return i;
    }
    fail_msg("there is no chain");
    return 0;
}

static void lies_about_slots(void **state)
{
    uint32_t high = find_slot(1, false, 1);

    (void)state;
    store_u32(slot_bytes(40), load_u32(slot_bytes(39)));
    assert_lie("the ordinals do not ascend at slot 40");
    store_u32(slot_bytes(40), UINT32_MAX);
    assert_lie("the ordinals do not ascend at slot 41");
    store_u32(slot_bytes(50) + 12, 4);
    assert_lie("slot 50 has the unknown state 0x4");
    store_u32(slot_bytes(high) + 4, load_u32(slot_bytes(high) + 4) + 1);
    assert_lie("has the wrong level rows");
    store_u32(slot_bytes(high) + 4, UINT32_MAX);
    assert_lie("has the wrong level rows");
    store_u32(slot_bytes(11) + 12, load_u32(slot_bytes(11) + 12) ^ SLOT_DEAD);
    assert_lie("slots live, the header says");
    /* Another seed: all levels differ. */
    store_u64(bytes + 56, 99);
    assert_lie("level rows");
    /* The level rows of the last node that has some are left over. */
    uint32_t last = parts.count - 1;
    while (is_twin(last) || level_at(last) == 0)
        last--;
    store_u32(slot_bytes(last) + 12, SLOT_TWIN);
    assert_lie("level rows");
}

static void lies_about_twins(void **state)
{
    uint32_t node = find_chain();
    uint32_t first = load_u32(slot_bytes(node) + 8) - 1;
    uint32_t second = load_u32(slot_bytes(first) + 8) - 1;

    (void)state;
    assert_true(first > node && second > first);
    store_u32(slot_bytes(second) + 8, first + 1);
    assert_lie("has the wrong twin"); /* a cycle */
    store_u32(slot_bytes(second) + 8, second + 1);
    assert_lie("has the wrong twin"); /* its own */
    store_u32(slot_bytes(first) + 8, parts.count + 1);
    assert_lie("has the wrong twin");
    store_u32(slot_bytes(first) + 8, UINT32_MAX);
    assert_lie("has the wrong twin");
    store_u32(slot_bytes(first) + 8, find_slot(second, false, 0) + 1);
    assert_lie("has the wrong twin"); /* a node */
    store_u32(slot_bytes(node) + 8, second + 1);
    assert_lie("chain"); /* the first is left out */
    store_u32(slot_bytes(first) + 8, 0);
    assert_lie("does not know its end");
    store_u32(slot_bytes(second) + 4, 1);
    assert_lie("level rows");
    /* Two chains that meet. */
    uint32_t other = find_slot(node + 1, false, 0);
    store_u32(slot_bytes(other) + 8, second + 1);
    assert_lie("twin");
}

static void lies_about_links(void **state)
{
    uint32_t node = find_slot(30, false, 0);
    uint32_t twin = find_slot(0, true, 0);
    uint32_t high = find_slot(1, false, 1);
    unsigned char *upper = bytes + layout.places[SEGMENT_UPPER].offset +
                           (size_t)load_u32(slot_bytes(high) + 4) * M * sizeof(uint32_t);
    uint32_t low = 0;

    (void)state;
    while (is_twin(low) || level_at(low) > 0 || low == high)
        low++;
    store_u32(link_bytes(node, 0), parts.count + 1);
    assert_lie("links to 1472 of 1472 on level 0");
    store_u32(link_bytes(node, 2), LINK_TREE);
    assert_lie("links to 4294967295 of 1472");
    store_u32(link_bytes(node, 1), UINT32_MAX);
    assert_lie("links to 2147483646 of 1472");
    store_u32(link_bytes(node, 1), LINK_TREE | (node + 1));
    assert_lie("links to itself on level 0");
    store_u32(link_bytes(node, 0), 0);
    assert_lie("has a hole in its list on level 0");
    store_u32(link_bytes(node, 0), twin + 1);
    assert_lie("which is a twin");
    store_u32(link_bytes(twin, 0), node + 1);
    assert_lie("has links");
    store_u32(upper, low + 1);
    assert_lie("on level 1, which that lacks");
    store_u32(upper, twin + 1);
    assert_lie("on level 1, which is a twin");
    store_u32(upper, high + 1);
    assert_lie("links to itself on level 1");
    store_u32(upper, parts.count + 1);
    assert_lie("links to 1472 of 1472 on level 1");
}

static void lies_about_the_rest(void **state)
{
    unsigned char *centre = bytes + layout.places[SEGMENT_CENTRE].offset;

    (void)state;
    const uint64_t entries[] = {0,
                                parts.entry + 1,
                                parts.entry - 1,
                                (uint64_t)(parts.count + 1) << 8 | (parts.entry & 0xff),
                                (uint64_t)(find_slot(0, true, 0) + 1) << 8,
                                parts.entry | UINT64_C(1) << 60,
                                UINT64_MAX};
    for (size_t i = 0; i < ARRAY_COUNT(entries); i++) {
        store_u64(bytes + 80, entries[i]);
        assert_lie("is no node of the top level");
    }
    store_u32(centre + 8, 0x7f800000);
    assert_lie("the centre is not finite");
}

/* The tail of slot 17 in codes of so many bits. */
static unsigned char *tail_at(unsigned char *file, const struct section_layout *places,
                              enum segment_section section, uint32_t bits)
{
    return file + places->places[section].offset + 17 * codes_stride(DIM, bits) +
           codes_bytes(DIM, bits);
}

struct tail_lie {
    size_t at;
    uint32_t value;
};

static const struct tail_lie tail_lies[] = {
    {0, 0x7fc00000}, {0, 0xbf800000}, {4, 0x7f800000}, {4, 0xffc00000}};

/* A sum is bounded by the codes of 64 numbers. */
static const struct tail_lie pair_lies[] = {
    {8, INT32_MAX},   {8, 0x80000000},  {8, 127 * 64 + 1}, {8, (uint32_t)(-128 * 64 - 1)},
    {12, 0x7fc00000}, {12, 0x7f800000}, {12, 0xff800000}};

static void lies_about_codes(void **state)
{
    unsigned char *codes = tail_at(bytes, &layout, SEGMENT_CODES, 4);
    unsigned char *fine = tail_at(bytes, &layout, SEGMENT_FINE, 8);

    (void)state;
    assert_int_equal(parts.options.bits, 4);
    for (size_t i = 0; i < ARRAY_COUNT(tail_lies); i++) {
        store_u32(codes + tail_lies[i].at, tail_lies[i].value);
        assert_lie("the 4-bit code of slot 17 is no number");
        store_u32(fine + tail_lies[i].at, tail_lies[i].value);
        assert_lie("the 8-bit code of slot 17 is no number");
    }
    for (size_t i = 0; i < ARRAY_COUNT(pair_lies); i++) {
        store_u32(fine + pair_lies[i].at, pair_lies[i].value);
        assert_lie("the 8-bit code of slot 17 is no number");
    }
}

static void try_tail_lie(unsigned char *file, size_t len, const struct section_layout *places,
                         const struct tail_lie *lie)
{
    unsigned char *tail = tail_at(file, places, SEGMENT_CODES, 8) + lie->at;
    uint32_t before = load_u32(tail);
    struct segment *segment;
    struct err err = {0};

    store_u32(tail, lie->value);
    sections_seal(file, &segment_form, places);
    segment_file_write(path, file, len);
    assert_int_equal(segment_open(&segment, path, NULL, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.message, "the 8-bit code of slot 17 is no number"));
    store_u32(tail, before);
}

/* Where the codes have 8 bits they are compared with each other themselves. */
static void lies_about_codes_of_8_bits(void **state)
{
    struct segment_recipe recipe = {.count = 64, .dim = DIM, .metric = ENGINE_L2, .bits = 8};
    struct engine *engine = segment_engine(&recipe);
    struct segment_parts made = segment_parts_of(graph_of(engine));
    struct section_layout places = segment_layout_of(&made);
    struct segment *segment;
    struct err err;
    size_t len;

    (void)state;
    assert_int_equal(segment_write(path, &made, NULL, &err), ERR_OK);
    unsigned char *file = segment_file_read(path, &len);
    for (size_t i = 0; i < ARRAY_COUNT(tail_lies); i++)
        try_tail_lie(file, len, &places, &tail_lies[i]);
    for (size_t i = 0; i < ARRAY_COUNT(pair_lies); i++)
        try_tail_lie(file, len, &places, &pair_lies[i]);
    sections_seal(file, &segment_form, &places);
    segment_file_write(path, file, len);
    assert_int_equal(segment_open(&segment, path, NULL, &err), ERR_OK);
    segment_close(segment);
    free(file);
    engine_close(engine);
}

/* Random lies: refused, or a graph that can be walked, searched and looked through. */
static void random_lies_do_no_harm(void **state)
{
    enum { ROUNDS = 3000 };
    uint64_t random = 5;
    uint32_t opened = 0;

    (void)state;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        const struct section_place *place = &layout.places[data_random(&random) % SEGMENT_CHECKS];
        struct segment *segment;
        struct err err = {0};

        for (uint64_t j = data_random(&random) % 3 + 1; j > 0; j--)
            bytes[place->offset + data_random(&random) % place->length] ^=
                (unsigned char)data_random(&random);
        sections_seal(bytes, &segment_form, &layout);
        if (open_bytes(size, i % 2 == 0 ? 0 : SEGMENT_COPY_ALL, &segment, &err) == ERR_OK) {
            struct engine *engine = segment_attach(segment_parts(segment));
            struct engine_query query = {.vector = origin, .k = 10, .bound = INFINITY};
            struct engine_hit hits[10];
            size_t count;

            query.ef = 200;
            assert_int_equal(engine_search(engine, &query, hits, &count, NULL, &err), ERR_OK);
            (void)!engine_validate(engine, &err);
            engine_close(engine);
            segment_close(segment);
            opened++;
        } else {
            assert_int_equal(err.code, ERR_CORRUPT);
        }
        memcpy(bytes, sound, size);
    }
    printf("%u of %d opened\n", opened, ROUNDS);
    assert_true(opened > 0 && opened < ROUNDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(any_byte_of_the_header, restore),
        cmocka_unit_test_setup(any_byte_of_a_section, restore),
        cmocka_unit_test_setup(the_scrub_names_the_block, restore),
        cmocka_unit_test_setup(any_edge_that_a_file_is_cut_at, restore),
        cmocka_unit_test_setup(a_checksum_of_another_section, restore),
        cmocka_unit_test_setup(numbers_of_the_header_that_cannot_be, restore),
        cmocka_unit_test_setup(lies_about_slots, restore),
        cmocka_unit_test_setup(lies_about_twins, restore),
        cmocka_unit_test_setup(lies_about_links, restore),
        cmocka_unit_test_setup(lies_about_the_rest, restore),
        cmocka_unit_test_setup(lies_about_codes, restore),
        cmocka_unit_test_setup(lies_about_codes_of_8_bits, restore),
        cmocka_unit_test_setup(random_lies_do_no_harm, restore),
    };

    return cmocka_run_group_tests(tests, make_sound, forget_sound);
}
