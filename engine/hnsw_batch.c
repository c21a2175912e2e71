/* See hnsw_batch.h.  Failure: no memory. */
#include "engine/hnsw_batch.h"

#include "engine/memory.h"

static size_t span_of(const struct engine_options *options)
{
    return options->ef_construction + BATCH_MAX;
}

uint64_t batch_bytes(const struct engine_options *options)
{
    return sizeof(struct batch) + 2 * BATCH_MAX * (span_of(options) * sizeof(uint64_t)) +
           BATCH_MAX * (options->m + 1) * sizeof(struct pair);
}

bool batch_grow(struct batch *batch, size_t lists)
{
    if (lists <= batch->lists_max)
        return true;
    uint64_t *keys = memory_alloc(lists, batch->span * sizeof(*keys));
    if (keys == NULL)
        return false;
    memory_free(batch->keys);
    batch->keys = keys;
    batch->lists_max = lists;
    return true;
}

struct batch *batch_new(const struct engine_options *options,
                        const struct engine_executor *executor, struct scratches *scratches)
{
    struct batch *batch = memory_alloc(1, sizeof(*batch));

    if (batch == NULL)
        return NULL;
    batch->executor = executor;
    batch->scratches = scratches;
    batch->span = span_of(options);
    batch->pairs_max = BATCH_MAX * (options->m + 1);
    batch->pairs = memory_alloc(batch->pairs_max, sizeof(*batch->pairs));
    if (batch->pairs == NULL || !batch_grow(batch, 2 * BATCH_MAX)) {
        batch_free(batch);
        return NULL;
    }
    return batch;
}

void batch_free(struct batch *batch)
{
    if (batch == NULL)
        return;
    memory_free(batch->keys);
    memory_free(batch->pairs);
    memory_free(batch);
}
