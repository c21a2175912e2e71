/* See scratch.h. */
#include "engine/scratch.h"

#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/memory.h"

/* Replace an array by a larger, zeroed one; its content is scratch and is not kept. */
static bool grow(struct engine *engine, struct scratch *scratch, void **array, size_t bytes_old,
                 size_t bytes)
{
    void *larger = memory_alloc(bytes, 1);

    if (larger == NULL)
        return false;
    memory_free(*array);
    *array = larger;
    scratch->bytes += bytes - bytes_old;
    atomic_fetch_add_explicit(&engine->scratch_bytes, bytes - bytes_old, memory_order_relaxed);
    return true;
}

static bool grow_keys(struct engine *engine, struct scratch *scratch, uint64_t **keys, size_t *max,
                      size_t wanted)
{
    if (wanted <= *max)
        return true;
    void *array = *keys;
    size_t size = MAX_OF(wanted + wanted / 2, (size_t)256);
    if (!grow(engine, scratch, &array, *max * sizeof(**keys), size * sizeof(**keys)))
        return false;
    *keys = array;
    *max = size;
    return true;
}

static bool grow_visited(struct engine *engine, struct scratch *scratch, size_t slots)
{
    if (slots <= scratch->visited_max)
        return true;
    void *array = scratch->visited;
    size_t size = MAX_OF(slots + slots / 4, (size_t)4096);
    if (!grow(engine, scratch, &array, scratch->visited_max, size))
        return false;
    scratch->visited = array;
    scratch->visited_max = size;
    scratch->tag = 0;
    return true;
}

/* All arrays whose size the engine's options fix. */
static bool grow_fixed(struct engine *engine, struct scratch *scratch)
{
    const size_t dim = engine->options.dim;
    const struct {
        void **array;
        size_t bytes;
    } arrays[] = {
        {(void **)&scratch->query, dim * sizeof(float)},
        {(void **)&scratch->placed, rotation_padded(dim) * sizeof(float)},
        {(void **)&scratch->codes, codes_query_bytes(dim, engine->bits)},
        {(void **)&scratch->fine_codes, codes_query_bytes(dim, FINE_BITS)},
        {(void **)&scratch->fresh, FRESH_MAX * sizeof(uint32_t)},
        {(void **)&scratch->rows, FRESH_MAX * sizeof(uint8_t *)},
        {(void **)&scratch->distances, FRESH_MAX * sizeof(float)},
    };

    for (size_t i = 0; i < ARRAY_COUNT(arrays); i++)
        if (!grow(engine, scratch, arrays[i].array, 0, arrays[i].bytes))
            return false;
    return true;
}

static void scratch_free(struct engine *engine, struct scratch *scratch)
{
    atomic_fetch_sub_explicit(&engine->scratch_bytes, scratch->bytes, memory_order_relaxed);
    memory_free(scratch->visited);
    memory_free(scratch->pool);
    memory_free(scratch->best);
    memory_free(scratch->query);
    memory_free(scratch->placed);
    memory_free(scratch->codes);
    memory_free(scratch->fine_codes);
    memory_free(scratch->fresh);
    memory_free(scratch->rows);
    memory_free(scratch->distances);
    memory_free(scratch);
}

static struct scratch *scratch_new(struct engine *engine)
{
    struct scratch *scratch = memory_alloc(1, sizeof(*scratch));

    if (scratch != NULL && !grow_fixed(engine, scratch)) {
        scratch_free(engine, scratch);
        return NULL;
    }
    return scratch;
}

struct scratch *scratch_get(struct engine *engine, size_t slots, size_t beam, size_t best)
{
    pthread_mutex_lock(&engine->scratch_lock);
    struct scratch *scratch = engine->scratch_free;
    if (scratch != NULL)
        engine->scratch_free = scratch->next;
    pthread_mutex_unlock(&engine->scratch_lock);

    if (scratch == NULL)
        scratch = scratch_new(engine);
    if (scratch == NULL)
        return NULL;
    if (!grow_visited(engine, scratch, slots) || !scratch_beam(engine, scratch, beam) ||
        !grow_keys(engine, scratch, &scratch->best, &scratch->best_max, best)) {
        scratch_put(engine, scratch);
        return NULL;
    }
    return scratch;
}

bool scratch_beam(struct engine *engine, struct scratch *scratch, size_t beam)
{
    return grow_keys(engine, scratch, &scratch->pool, &scratch->pool_max, beam);
}

void scratch_put(struct engine *engine, struct scratch *scratch)
{
    pthread_mutex_lock(&engine->scratch_lock);
    scratch->next = engine->scratch_free;
    engine->scratch_free = scratch;
    pthread_mutex_unlock(&engine->scratch_lock);
}

void scratch_free_all(struct engine *engine)
{
    while (engine->scratch_free != NULL) {
        struct scratch *scratch = engine->scratch_free;

        engine->scratch_free = scratch->next;
        scratch_free(engine, scratch);
    }
}

uint64_t scratch_predict(const struct engine_options *options, uint64_t slots)
{
    return slots + slots / 8 + (2 * options->dim + 4 * FRESH_MAX) * UINT64_C(4) +
           2 * codes_query_bytes(options->dim, 8) + options->ef_construction * UINT64_C(16);
}

void scratch_begin(struct scratch *scratch)
{
    scratch->tag++;
    scratch->pool_count = 0;
    if (scratch->tag == 0) {
        memset(scratch->visited, 0, scratch->visited_max);
        scratch->tag = 1;
    }
}
