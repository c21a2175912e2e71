/* See scratch.h. */
#include "engine/scratch.h"

#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/memory.h"

/* Replace an array by a larger, zeroed one; its content is scratch and is not kept. */
static bool grow(struct scratch *scratch, void **array, size_t bytes_old, size_t bytes)
{
    void *larger = memory_alloc(bytes, 1);

    if (larger == NULL)
        return false;
    memory_free(*array);
    *array = larger;
    scratch->bytes += bytes - bytes_old;
    atomic_fetch_add_explicit(&scratch->owner->bytes, bytes - bytes_old, memory_order_relaxed);
    return true;
}

static bool grow_keys(struct scratch *scratch, uint64_t **keys, size_t *max, size_t wanted)
{
    if (wanted <= *max)
        return true;
    void *array = *keys;
    size_t size = MAX_OF(wanted + wanted / 2, (size_t)256);
    if (!grow(scratch, &array, *max * sizeof(**keys), size * sizeof(**keys)))
        return false;
    *keys = array;
    *max = size;
    return true;
}

static bool grow_visited(struct scratch *scratch, size_t slots)
{
    if (slots <= scratch->visited_max)
        return true;
    void *array = scratch->visited;
    size_t size = MAX_OF(slots + slots / 4, (size_t)4096);
    if (!grow(scratch, &array, scratch->visited_max, size))
        return false;
    scratch->visited = array;
    scratch->visited_max = size;
    scratch->tag = 0;
    return true;
}

/* All arrays whose size the engine's options fix. */
static bool grow_fixed(struct scratch *scratch)
{
    const size_t dim = scratch->owner->dim;
    const struct {
        void **array;
        size_t bytes;
    } arrays[] = {
        {(void **)&scratch->query, dim * sizeof(float)},
        {(void **)&scratch->placed, rotation_padded(dim) * sizeof(float)},
        {(void **)&scratch->codes, codes_query_bytes(dim, scratch->owner->bits)},
        {(void **)&scratch->fresh, FRESH_MAX * sizeof(uint32_t)},
        {(void **)&scratch->rows, FRESH_MAX * sizeof(uint8_t *)},
        {(void **)&scratch->distances, FRESH_MAX * sizeof(float)},
    };

    for (size_t i = 0; i < ARRAY_COUNT(arrays); i++)
        if (!grow(scratch, arrays[i].array, 0, arrays[i].bytes))
            return false;
    return true;
}

static void scratch_free(struct scratch *scratch)
{
    atomic_fetch_sub_explicit(&scratch->owner->bytes, scratch->bytes, memory_order_relaxed);
    memory_free(scratch->visited);
    memory_free(scratch->pool);
    memory_free(scratch->best);
    memory_free(scratch->query);
    memory_free(scratch->placed);
    memory_free(scratch->codes);
    memory_free(scratch->fresh);
    memory_free(scratch->rows);
    memory_free(scratch->distances);
    memory_free(scratch);
}

static struct scratch *scratch_new(struct scratches *scratches)
{
    struct scratch *scratch = memory_alloc(1, sizeof(*scratch));

    if (scratch == NULL)
        return NULL;
    scratch->owner = scratches;
    if (!grow_fixed(scratch)) {
        scratch_free(scratch);
        return NULL;
    }
    return scratch;
}

void scratches_init(struct scratches *scratches, const struct engine_options *options)
{
    *scratches = (struct scratches){.dim = options->dim, .bits = options->bits};
    pthread_mutex_init(&scratches->lock, NULL);
    pthread_cond_init(&scratches->quiet, NULL);
}

void scratches_free(struct scratches *scratches)
{
    assert(scratches->users[0] == 0 && scratches->users[1] == 0);
    while (scratches->free != NULL) {
        struct scratch *scratch = scratches->free;

        scratches->free = scratch->next;
        scratch_free(scratch);
    }
    pthread_cond_destroy(&scratches->quiet);
    pthread_mutex_destroy(&scratches->lock);
}

static void leave_locked(struct scratches *scratches, uint32_t side)
{
    if (--scratches->users[side] == 0 && side != scratches->side)
        pthread_cond_broadcast(&scratches->quiet);
}

struct scratch *scratch_get(struct scratches *scratches)
{
    pthread_mutex_lock(&scratches->lock);
    struct scratch *scratch = scratches->free;
    uint32_t side = scratches->side;
    if (scratch != NULL)
        scratches->free = scratch->next;
    scratches->users[side]++;
    pthread_mutex_unlock(&scratches->lock);

    if (scratch == NULL)
        scratch = scratch_new(scratches);
    if (scratch != NULL) {
        scratch->side = side;
        return scratch;
    }
    pthread_mutex_lock(&scratches->lock);
    leave_locked(scratches, side);
    pthread_mutex_unlock(&scratches->lock);
    return NULL;
}

void scratch_put(struct scratch *scratch)
{
    struct scratches *scratches = scratch->owner;

    pthread_mutex_lock(&scratches->lock);
    scratch->next = scratches->free;
    scratches->free = scratch;
    leave_locked(scratches, scratch->side);
    pthread_mutex_unlock(&scratches->lock);
}

/* Those who come from now on are counted on the other side, which the last call left empty. */
void scratch_grace(struct scratches *scratches)
{
    pthread_mutex_lock(&scratches->lock);
    uint32_t before = scratches->side;
    assert(scratches->users[1 - before] == 0);
    scratches->side = 1 - before;
    while (scratches->users[before] > 0)
        pthread_cond_wait(&scratches->quiet, &scratches->lock);
    pthread_mutex_unlock(&scratches->lock);
}

bool scratch_room(struct scratch *scratch, size_t slots, size_t beam, size_t best)
{
    return grow_visited(scratch, slots) && scratch_beam(scratch, beam) &&
           grow_keys(scratch, &scratch->best, &scratch->best_max, best);
}

bool scratch_beam(struct scratch *scratch, size_t beam)
{
    return grow_keys(scratch, &scratch->pool, &scratch->pool_max, beam);
}

uint64_t scratch_predict(const struct engine_options *options, uint64_t slots)
{
    return slots + slots / 8 + (2 * options->dim + 4 * FRESH_MAX) * UINT64_C(4) +
           codes_query_bytes(options->dim, options->bits) + options->ef_construction * UINT64_C(16);
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
