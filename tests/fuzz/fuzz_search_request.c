/* Foreign bodies of searches: whatever comes is taken whole or refused; what is taken is within
 * the limits, and what is refused has a code. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/limits.h"
#include "services/router/search.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool is_true, const char *what)
{
    if (is_true)
        return;
    (void)fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void check_taken(const struct search_request *request)
{
    must(request->kind != QUERY_NONE, "a query has a kind");
    must(request->top_k >= 1 && request->top_k + request->offset <= TOP_K_MAX, "top_k");
    must(search_request_fetch(request) >= 1, "fetch");
    must(search_request_fetch(request) <= TOP_K_MAX, "fetch is bounded");
    must(request->ef <= SEARCH_EF_MAX, "ef");
    must(request->recall == 0 || (request->recall >= 0.8 && request->recall < 1), "recall");
    must(request->mmr.lambda >= 0 && request->mmr.lambda <= 1, "lambda");
    must(isfinite(request->threshold), "threshold");
    must(request->consistency.timeout_ms >= 1, "timeout");
    must(request->consistency.timeout_ms <= DEADLINE_MS_MAX, "timeout is bounded");
    if (request->kind == QUERY_VECTOR)
        for (uint32_t i = 0; i < request->dim; i++)
            must(isfinite(request->vector[i]), "vector is finite");
    if (request->kind == QUERY_ID)
        must(request->id.len >= 1 && request->id.len <= ID_BYTES_MAX, "id");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct search_request request;
    struct page_token token;
    struct json_reader reader;
    struct arena arena = {0};
    struct err err = {0};
    enum err_code rc;

    json_reader_init(&reader, data, size, &arena, &err);
    rc = search_request_decode(&request, &reader, size > 0 ? data[size - 1] % 4 + 1 : 1);
    if (rc == ERR_OK)
        check_taken(&request);
    else
        must(err.code == rc && err.message[0] != '\0', "a refusal says why");
    search_request_free(&request);
    rc = page_token_decode(&token, (struct json_text){(const char *)data, size}, &arena, &err);
    must(rc != ERR_OK || token.last_len <= ID_BYTES_MAX, "the last id of a page");
    arena_free(&arena);
    return 0;
}
