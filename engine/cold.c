/* See cold.h.  Parts and lists of them in memory: who is dead, what they take, whether they hold.
 */
#include "engine/cold.h"

#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/memory.h"

uint64_t cold_bytes(const struct cold *cold)
{
    return sizeof(*cold) + ivf_memory_used(cold->ivf) +
           (cold->ivf->rows.count / 64 + 1) * sizeof(*cold->dead);
}

static bool bury(struct cold *cold, uint32_t row)
{
    uint64_t bit = UINT64_C(1) << row % 64;
    /* Relaxed: the bit stands for nothing but itself. */
    uint64_t before = atomic_fetch_or_explicit(&cold->dead[row / 64], bit, memory_order_relaxed);

    if ((before & bit) != 0)
        return false;
    atomic_store_explicit(&cold->has_dead, true, memory_order_relaxed);
    atomic_fetch_sub_explicit(&cold->live, 1, memory_order_relaxed);
    return true;
}

static void revive(struct cold *cold, uint32_t row)
{
    uint64_t bit = UINT64_C(1) << row % 64;
    uint64_t before = atomic_fetch_and_explicit(&cold->dead[row / 64], ~bit, memory_order_relaxed);

    if ((before & bit) != 0)
        atomic_fetch_add_explicit(&cold->live, 1, memory_order_relaxed);
}

bool cold_delete(struct cold *cold, uint32_t ordinal)
{
    uint32_t row = 0;

    return ivf_find_row(cold->ivf, ordinal, &row) && bury(cold, row);
}

/* --- lists ----------------------------------------------------------------------------------- */

struct colds *colds_changed(const struct colds *colds, uint32_t at, uint32_t drop,
                            struct cold *part)
{
    struct colds *changed = memory_alloc(1, sizeof(*changed));
    uint32_t count = colds == NULL ? 0 : colds->count;

    assert(at + drop <= count && count - drop < COLD_PARTS_MAX);
    if (changed == NULL)
        return NULL;
    for (uint32_t i = 0; i < at; i++)
        changed->parts[changed->count++] = colds->parts[i];
    changed->parts[changed->count++] = part;
    for (uint32_t i = at + drop; i < count; i++)
        changed->parts[changed->count++] = colds->parts[i];
    return changed;
}

void colds_close(struct colds *colds)
{
    if (colds == NULL)
        return;
    for (uint32_t i = 0; i < colds->count; i++)
        cold_close(colds->parts[i]);
    memory_free(colds);
}

uint32_t colds_floor(const struct colds *colds)
{
    return colds == NULL || colds->count == 0 ? 0 : colds->parts[colds->count - 1]->to;
}

uint64_t colds_rows(const struct colds *colds)
{
    uint64_t rows = 0;

    for (uint32_t i = 0; colds != NULL && i < colds->count; i++)
        rows += colds->parts[i]->ivf->rows.count;
    return rows;
}

uint64_t colds_live(const struct colds *colds)
{
    uint64_t live = 0;

    for (uint32_t i = 0; colds != NULL && i < colds->count; i++)
        live += cold_live(colds->parts[i]);
    return live;
}

uint64_t colds_bytes(const struct colds *colds)
{
    uint64_t bytes = colds == NULL ? 0 : sizeof(*colds);

    for (uint32_t i = 0; colds != NULL && i < colds->count; i++)
        bytes += cold_bytes(colds->parts[i]);
    return bytes;
}

bool colds_delete(struct colds *colds, uint32_t ordinal)
{
    for (uint32_t i = 0; colds != NULL && i < colds->count; i++)
        if (ordinal < colds->parts[i]->to)
            return cold_delete(colds->parts[i], ordinal);
    return false;
}

void colds_keep(struct colds *colds, const struct engine_bitmap *living)
{
    for (uint32_t i = 0; colds != NULL && i < colds->count; i++) {
        struct cold *cold = colds->parts[i];

        for (uint32_t row = 0; row < cold->ivf->rows.count; row++) {
            if (engine_bitmap_names(living, ivf_ordinal(cold->ivf, row)))
                revive(cold, row);
            else
                (void)bury(cold, row);
        }
    }
}

static enum err_code check_dead(const struct cold *cold, struct err *err)
{
    uint64_t dead = 0;

    for (uint32_t row = 0; row < cold->ivf->rows.count; row++)
        dead += cold_is_dead(cold, row);
    if (dead + cold_live(cold) != cold->ivf->rows.count)
        return err_set(err, ERR_CORRUPT, "%llu live and %llu dead of %u",
                       (unsigned long long)cold_live(cold), (unsigned long long)dead,
                       cold->ivf->rows.count);
    return ERR_OK;
}

enum err_code colds_validate(const struct colds *colds, struct err *err)
{
    uint32_t end = 0;

    for (uint32_t i = 0; colds != NULL && i < colds->count; i++) {
        const struct cold *cold = colds->parts[i];
        enum err_code code = ivf_validate(cold->ivf, err);

        if (code == ERR_OK && cold->from != end)
            code = err_set(err, ERR_CORRUPT, "it begins at ordinal %u, not at %u", cold->from, end);
        if (code == ERR_OK)
            code = check_dead(cold, err);
        if (code != ERR_OK)
            return err_wrap(err, "cold part %u", cold->number);
        end = cold->to;
    }
    return ERR_OK;
}

uint64_t colds_digest(const struct colds *colds, uint64_t digest)
{
    for (uint32_t i = 0; colds != NULL && i < colds->count; i++) {
        const struct cold *cold = colds->parts[i];

        digest = (digest ^ ivf_digest(cold->ivf)) * UINT64_C(0x100000001b3);
        for (uint32_t row = 0; row < cold->ivf->rows.count; row++) {
            uint64_t word = (uint64_t)ivf_ordinal(cold->ivf, row) << 1 | cold_is_dead(cold, row);

            digest = (digest ^ word) * UINT64_C(0x100000001b3);
            digest ^= digest >> 29;
        }
    }
    return digest;
}
