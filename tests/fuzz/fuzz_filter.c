/* Filters: any bytes as a filter, and, behind the first NUL, any bytes as metadata; a filter and
 * its negation never agree; what is refused has a code that clients know. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/buffer.h"
#include "common/model/filter.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool is_true, const char *what)
{
    if (is_true)
        return;
    (void)fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void check_negation(const uint8_t *data, size_t len, const char *metadata,
                           size_t metadata_len, bool matched)
{
    struct filter_scratch scratch = {0};
    const struct filter *filter = NULL;
    struct arena arena = {0};
    struct buffer text = {0};
    struct err err = {0};

    buffer_append_text(&text, "{\"$not\":");
    buffer_append(&text, data, len);
    buffer_append_text(&text, "}");
    /* Nested once more it may be too deep. */
    if (filter_parse(&filter, text.data, text.len, &arena, &err) == ERR_OK)
        must(filter_matches(filter, "id", 2, metadata, metadata_len, &scratch) != matched,
             "a filter and its negation differ");
    filter_scratch_free(&scratch);
    arena_free(&arena);
    buffer_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size == 0 ? NULL : memchr(data, 0, size);
    size_t len = nul == NULL ? size : (size_t)(nul - data);
    size_t metadata_len = nul == NULL ? 0 : size - len - 1;
    char *metadata = malloc(metadata_len + 1);
    struct filter_scratch scratch = {0};
    const struct filter *filter = NULL;
    struct arena arena = {0};
    struct err err = {0};
    enum err_code rc;
    size_t count;

    if (metadata == NULL)
        return 0;
    if (metadata_len > 0)
        memcpy(metadata, nul + 1, metadata_len);
    rc = filter_parse(&filter, data, len, &arena, &err);
    must(rc == ERR_OK || rc == ERR_INVALID_FILTER || rc == ERR_INVALID_JSON, "a known code");
    must(rc == err.code, "the code is the error's");
    if (rc == ERR_OK) {
        bool matched = filter_matches(filter, "id", 2, metadata, metadata_len, &scratch);

        must(!scratch.failed, "there is memory");
        must(matched == filter_matches(filter, "id", 2, metadata, metadata_len, &scratch),
             "the same twice");
        (void)filter_ids(filter, &count);
        if (len > 0)
            check_negation(data, len, metadata, metadata_len, matched);
    }
    filter_scratch_free(&scratch);
    arena_free(&arena);
    free(metadata);
    return 0;
}
