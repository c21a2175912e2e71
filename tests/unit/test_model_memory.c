/* Memory that runs out at any allocation is an error that is told, or a slower way; nothing is
 * lost, leaked or half done.
 * link-flags: -Wl,--wrap=malloc -Wl,--wrap=calloc -Wl,--wrap=realloc */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/bytes.h"
#include "common/model/collection.h"
#include "common/model/filter.h"
#include "common/model/hits.h"
#include "common/model/position.h"
#include "common/model/record.h"
#include "common/model/shard_map.h"
#include "common/model/wire.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

static size_t until_failure = SIZE_MAX; /* this many allocations succeed, all further ones fail */

static bool fails(void)
{
    if (until_failure == 0)
        return true;
    if (until_failure != SIZE_MAX)
        until_failure--;
    return false;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails() ? NULL : __real_realloc(old, size);
}

typedef enum err_code attempt_fn(struct err *err);

/* Let the first, second, third… allocation fail until there is none left to fail. */
static void check_all_failures(attempt_fn *attempt)
{
    for (size_t allowed = 0;; allowed++) {
        struct err err = {0};
        enum err_code rc;
        bool failed;

        assert_true(allowed < 1000);
        until_failure = allowed;
        rc = attempt(&err);
        failed = until_failure == 0;
        until_failure = SIZE_MAX;
        if (rc == ERR_OK && !failed)
            return;
        if (rc != ERR_OK) {
            assert_int_equal(rc, ERR_NO_MEMORY);
            assert_int_equal(err.code, ERR_NO_MEMORY);
        }
    }
}

static char long_text[4000];

static enum err_code write_and_read_record(struct err *err)
{
    const struct record record = {.op = RECORD_UPSERT,
                                  .flags = RECORD_ZSTD,
                                  .id = "x",
                                  .id_len = 1,
                                  .text = long_text,
                                  .text_len = sizeof(long_text)};
    struct buffer out = {0}, scratch = {0};
    struct record read;
    enum err_code rc = record_encode(&record, &out, err);

    if (rc == ERR_OK)
        rc = record_decode(&read, out.data, out.len, &scratch, err);
    if (rc == ERR_OK)
        assert_int_equal(read.text_len, sizeof(long_text));
    buffer_free(&out);
    buffer_free(&scratch);
    return rc;
}

static enum err_code pass_token(struct err *err)
{
    struct token token = {0}, read = {0};
    struct buffer out = {0};
    enum err_code rc = ERR_OK;

    for (uint32_t i = 0; i < 100 && rc == ERR_OK; i++)
        rc = token_raise(&token, i % 3, i, i, err);
    if (rc == ERR_OK) {
        token_to_text(&token, &out);
        rc = buffer_check(&out, err);
    }
    if (rc == ERR_OK)
        rc = token_from_text(&read, (const char *)out.data, out.len, err);
    if (rc == ERR_OK)
        assert_int_equal(read.count, token.count);
    token_free(&token);
    token_free(&read);
    buffer_free(&out);
    return rc;
}

static enum err_code pass_wire(struct err *err)
{
    static const float vector[2] = {1, 2};
    static const struct wire_id id = {"x", 1};
    struct token_entry entry = {1, 2, 3};
    struct wire_question question = {.op = WIRE_SEARCH,
                                     .vector = vector,
                                     .dim = 2,
                                     .k = 1,
                                     .demands = {&entry, 1, 1},
                                     .ids = &id,
                                     .id_count = 1};
    struct buffer out = {0};
    struct arena arena = {0};
    enum err_code rc;

    buffer_append_byte(&out, 0); /* so that the vector is not aligned and is copied */
    wire_question_encode(&question, &out);
    rc = buffer_check(&out, err);
    if (rc == ERR_OK)
        rc = wire_question_decode(&question, out.data + 1, out.len - 1, &arena, err);
    arena_free(&arena);
    buffer_free(&out);
    return rc;
}

static enum err_code parse_and_match(struct err *err)
{
    static const char text[] =
        "{\"\\u0061.b\":{\"$in\":[1,2,3,4,5,6,7,8,9,\"a\",\"b\",\"c\"]},\"t\":{\"$itext\":\"Some "
        "Words\"},\"$or\":[{\"c\":{\"$like\":\"x%\"}},{\"$id\":\"q\"}]}";
    static const char metadata[] =
        "{\"a\":{\"b\":\"\\u0061\"},\"t\":\"some \\\"words\\\"\",\"c\":\"xyz\"}";
    struct filter_scratch scratch = {0};
    const struct filter *filter = NULL;
    struct arena arena = {0};
    enum err_code rc = filter_parse(&filter, text, strlen(text), &arena, err);

    if (rc == ERR_OK && !filter_matches(filter, "x", 1, metadata, strlen(metadata), &scratch)) {
        assert_true(scratch.failed);
        rc = err_set(err, ERR_NO_MEMORY, "told by the scratch");
    }
    filter_scratch_free(&scratch);
    arena_free(&arena);
    return rc;
}

#define ROWS 600

static struct wire_row merge_rows[ROWS];
static char merge_ids[ROWS][8];

/* Never fails: without a table it looks through the lists. */
static enum err_code merge(struct err *err)
{
    const struct hit_list lists[2] = {{merge_rows, ROWS}, {merge_rows, ROWS}};
    static struct wire_row out[ROWS + 1];

    assert_int_equal(hits_merge(lists, 2, ROWS + 1, out, err), ROWS);
    for (size_t i = 0; i < ROWS; i++)
        assert_ptr_equal(out[i].id, merge_ids[i]);
    return ERR_OK;
}

static enum err_code pick(struct err *err)
{
    static const float query[1] = {1};
    struct wire_row rows[2] = {{.vector = query, .dim = 1}, {.vector = query, .dim = 1}};
    size_t picks[2], count;

    return hits_mmr(query, rows, 2, 2, 0.5, picks, &count, err);
}

static enum err_code pass_definitions(struct err *err)
{
    static const char body[] = "{\"\\u0076ector\":{\"dimension\":4}}";
    struct collection collection = {0};
    enum collection_change change;
    struct buffer out = {0};
    enum err_code rc = collection_from_request(&collection, body, strlen(body), err);

    if (rc == ERR_OK) {
        memcpy(collection.name, "n", 2);
        collection_fill(&collection);
        collection_encode(&collection, COLLECTION_CREATE, &out);
        rc = buffer_check(&out, err);
    }
    if (rc == ERR_OK)
        rc = collection_decode(&collection, &change, out.data, out.len, err);
    buffer_free(&out);
    return rc;
}

static void every_failed_allocation_is_told(void **state)
{
    (void)state;
    memset(long_text, 'a', sizeof(long_text));
    for (size_t i = 0; i < ROWS; i++) {
        (void)snprintf(merge_ids[i], sizeof(merge_ids[i]), "%zu", i);
        merge_rows[i] = (struct wire_row){
            .id = merge_ids[i], .id_len = strlen(merge_ids[i]), .distance = (float)i};
    }
    check_all_failures(write_and_read_record);
    check_all_failures(pass_token);
    check_all_failures(pass_wire);
    check_all_failures(parse_and_match);
    check_all_failures(merge);
    check_all_failures(pick);
    check_all_failures(pass_definitions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_failed_allocation_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
