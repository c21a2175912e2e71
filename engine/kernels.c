/* The choice among the distance kernels: one table, fastest first, asked once at open.
 *
 * The tables for a particular CPU come from kernels_x86.c, which is the only file that knows the
 * architecture; the scalar one always stands last and is the oracle of the others.
 * Failure: a name that nobody knows or that this machine cannot run is a configuration error. */
#include "engine/kernels.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/kernels_internal.h"

#define TABLES_MAX 8

const struct kernels *const *kernels_all(size_t *count)
{
    static const struct kernels *const tables[] = {&kernels_vnni, &kernels_avx512, &kernels_avx2,
                                                   &kernels_scalar};

    *count = ARRAY_COUNT(tables);
    return tables;
}

static void list_supported(char *text, size_t size)
{
    size_t count;
    const struct kernels *const *tables = kernels_all(&count);
    size_t used = 0;

    text[0] = '\0';
    for (size_t i = 0; i < count; i++) {
        if (!tables[i]->supported())
            continue;
        int len =
            snprintf(text + used, size - used, "%s%s", used == 0 ? "" : ", ", tables[i]->name);
        assert(len > 0 && (size_t)len < size - used);
        used += (size_t)len;
    }
}

enum err_code kernels_choose(const char *name, const struct kernels **out, struct err *err)
{
    char supported[TABLES_MAX * 16];
    size_t count;
    const struct kernels *const *tables = kernels_all(&count);
    bool is_any = name == NULL || name[0] == '\0';

    assert(count <= TABLES_MAX);
    for (size_t i = 0; i < count; i++) {
        if (!is_any && strcmp(tables[i]->name, name) != 0)
            continue;
        if (tables[i]->supported()) {
            *out = tables[i];
            return ERR_OK;
        }
    }
    assert(!is_any);
    list_supported(supported, sizeof(supported));
    return err_set(err, ERR_CONFIG, "kernel \"%.32s\" is not available here; use one of: %s", name,
                   supported);
}

/* The plain sum of squares over- or underflows for vectors of extreme magnitude although their
 * direction is well defined, so those are brought to magnitude one first. */
float kernels_normalise(const struct kernels *kernels, float *out, const float *in, size_t dim)
{
    float square = kernels->dot(in, in, dim);
    float scale = 1.0f;

    if (!(square >= 1e-30f && square <= FLT_MAX)) {
        float largest = 0.0f;

        for (size_t i = 0; i < dim; i++)
            largest = fmaxf(largest, fabsf(in[i]));
        scale = largest;
        if (largest == 0.0f) {
            memset(out, 0, dim * sizeof(*out));
            return 0.0f;
        }
        for (size_t i = 0; i < dim; i++)
            out[i] = in[i] / scale;
        in = out;
        square = kernels->dot(in, in, dim);
    }
    float norm = sqrtf(square);
    for (size_t i = 0; i < dim; i++)
        out[i] = in[i] / norm + 0.0f;
    return norm * scale;
}
