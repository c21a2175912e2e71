/* k-means finds clusters that are there, is the same for any number of threads, and makes numbers
 * of whatever it is given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/blas.h"
#include "engine/kmeans.h"
#include "engine/memory.h"
#include "tests/lib/engine_data.h"
#include "tests/lib/engine_threads.h"

struct matrix {
    const float *floats;
    size_t dim;
};

static void read_matrix(void *state, uint32_t row, float *out)
{
    const struct matrix *matrix = state;

    memcpy(out, matrix->floats + row * matrix->dim, matrix->dim * sizeof(float));
}

static double square(const float *a, const float *b, size_t dim)
{
    double sum = 0;

    for (size_t i = 0; i < dim; i++)
        sum += (double)(a[i] - b[i]) * (double)(a[i] - b[i]);
    return sum;
}

/* Train and assign; centroids and assigned are the caller's to free. */
static void cluster(const struct kmeans_options *options, const float *floats, uint32_t count,
                    float **centroids, uint32_t **assigned)
{
    struct matrix matrix = {.floats = floats, .dim = options->dim};
    struct kmeans_rows rows = {.count = count, .read = read_matrix, .state = &matrix};
    struct err err;

    *centroids = data_floats(options->clusters, options->dim);
    *assigned = calloc(count + 1, sizeof(**assigned));
    assert_non_null(*assigned);
    assert_int_equal(kmeans_train(options, &rows, *centroids, &err), ERR_OK);
    assert_int_equal(kmeans_assign(options, &rows, *centroids, *assigned, &err), ERR_OK);
    for (size_t i = 0; i < (size_t)options->clusters * options->dim; i++)
        assert_true(isfinite((*centroids)[i]));
    for (uint32_t i = 0; i < count; i++)
        assert_true((*assigned)[i] < options->clusters);
}

static void dot_products_of_blocks_are_right(void **state)
{
    enum { ROWS = 37, OTHERS = 53, DIM = 65 };
    float *rows = data_floats(ROWS, DIM), *others = data_floats(OTHERS, DIM);
    float *out = data_floats(ROWS, OTHERS);
    uint64_t random = 1;
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < (size_t)ROWS * DIM; i++)
        rows[i] = data_normal(&random);
    for (size_t i = 0; i < (size_t)OTHERS * DIM; i++)
        others[i] = data_normal(&random);
    assert_int_equal(blas_open(&err), ERR_OK);
    blas_dots(rows, ROWS, others, OTHERS, DIM, out);
    blas_dots(rows, 0, others, OTHERS, DIM, NULL);
    for (size_t i = 0; i < ROWS; i++)
        for (size_t j = 0; j < OTHERS; j++) {
            double sum = 0;

            for (size_t d = 0; d < DIM; d++)
                sum += (double)rows[i * DIM + d] * (double)others[j * DIM + d];
            assert_true(fabs(sum - (double)out[i * OTHERS + j]) < 1e-4);
        }
    free(rows);
    free(others);
    free(out);
}

/* Assigned to the nearest; and the clusters are nearly as tight as those the data were drawn from.
 */
static void clusters_that_are_there_are_found(void **state)
{
    enum { COUNT = 6000, DIM = 24 };
    struct data data = data_make(COUNT, DIM, 0.0f, 3);
    struct kmeans_options options = {.dim = DIM, .clusters = data.clusters * 2, .seed = 1};
    float *centroids;
    uint32_t *assigned;
    double found = 0, drawn = 0;

    (void)state;
    cluster(&options, data.vectors, COUNT, &centroids, &assigned);
    for (uint32_t i = 0; i < COUNT; i++) {
        double own = square(data_at(&data, i), centroids + assigned[i] * DIM, DIM);

        for (uint32_t c = 0; c < options.clusters; c++)
            assert_true(own <= square(data_at(&data, i), centroids + c * DIM, DIM) + 1e-3);
        found += own;
        drawn += square(data_at(&data, i), data.centres + i % data.clusters * DIM, DIM);
    }
    assert_true(found < 1.02 * drawn);
    free(centroids);
    free(assigned);
    data_free(&data);
}

static void threads_do_not_matter(void **state)
{
    enum { COUNT = 5000, DIM = 33 };
    struct data data = data_make(COUNT, DIM, 0.2f, 4);
    struct kmeans_options options = {
        .dim = DIM, .clusters = 70, .iterations = 4, .sample = 50, .seed = 9};
    float *expected, *centroids;
    uint32_t *expected_assigned, *assigned;

    (void)state;
    cluster(&options, data.vectors, COUNT, &expected, &expected_assigned);
    for (uint32_t threads = 2; threads <= 5; threads++) {
        struct engine_executor executor = threads_executor(&threads);

        options.executor = &executor;
        cluster(&options, data.vectors, COUNT, &centroids, &assigned);
        assert_memory_equal(centroids, expected, sizeof(float) * options.clusters * DIM);
        assert_memory_equal(assigned, expected_assigned, sizeof(uint32_t) * COUNT);
        free(centroids);
        free(assigned);
    }
    free(expected);
    free(expected_assigned);
    data_free(&data);
}

static void whatever_comes_centroids_are_numbers(void **state)
{
    static const float values[] = {0.0f, 1.0f, -3.0f, 1e-42f, 1e30f};
    static float floats[1000 * 3];
    float *centroids;
    uint32_t *assigned;

    (void)state;
    for (size_t v = 0; v < ARRAY_COUNT(values); v++)
        for (uint32_t dim = 1; dim <= 3; dim += 2)
            for (uint32_t count = 0; count <= 1000; count = count * 10 + 1) {
                struct kmeans_options options = {.dim = dim, .clusters = 40};

                for (size_t i = 0; i < ARRAY_COUNT(floats); i++)
                    floats[i] = values[v];
                cluster(&options, floats, count, &centroids, &assigned);
                for (uint32_t i = 1; i < count; i++)
                    assert_int_equal(assigned[i], assigned[0]);
                free(centroids);
                free(assigned);
                for (size_t i = 0; i < ARRAY_COUNT(floats); i++)
                    floats[i] = i % 2 == 0 ? values[v] : -values[v];
                cluster(&options, floats, count, &centroids, &assigned);
                free(centroids);
                free(assigned);
            }
}

/* All rows in one place but a few: empty clusters divide what can be divided. */
static void empty_clusters_are_put_to_use(void **state)
{
    enum { COUNT = 4000, CLUSTERS = 64 };
    static float floats[COUNT];
    struct kmeans_options options = {.dim = 1, .clusters = CLUSTERS};
    float *centroids;
    uint32_t *assigned, sizes[CLUSTERS] = {0}, used = 0;

    (void)state;
    for (uint32_t i = 0; i < COUNT; i++)
        floats[i] = i < COUNT * 9 / 10 ? 1.0f : 5.0f + (float)(i % 50);
    cluster(&options, floats, COUNT, &centroids, &assigned);
    for (uint32_t i = 0; i < COUNT; i++)
        sizes[assigned[i]]++;
    for (uint32_t c = 0; c < CLUSTERS; c++)
        used += sizes[c] > 0;
    assert_true(used >= 20);
    free(centroids);
    free(assigned);
}

static void any_allocation_may_fail(void **state)
{
    enum { COUNT = 600, DIM = 5 };
    struct data data = data_make(COUNT, DIM, 0.0f, 6);
    struct matrix matrix = {.floats = data.vectors, .dim = DIM};
    struct kmeans_rows rows = {.count = COUNT, .read = read_matrix, .state = &matrix};
    struct kmeans_options options = {.dim = DIM, .clusters = 4};
    float centroids[4 * DIM];
    uint32_t assigned[COUNT];
    struct err err;

    (void)state;
    for (uint64_t n = 1; n <= 6; n++) {
        (void)memory_fail_at(n);
        enum err_code code = kmeans_train(&options, &rows, centroids, &err);
        assert_int_equal(code, n <= 5 ? ERR_NO_MEMORY : ERR_OK);
    }
    for (uint64_t n = 1; n <= 3; n++) {
        (void)memory_fail_at(n);
        enum err_code code = kmeans_assign(&options, &rows, centroids, assigned, &err);
        assert_int_equal(code, n <= 2 ? ERR_NO_MEMORY : ERR_OK);
    }
    (void)memory_fail_at(0);
    data_free(&data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dot_products_of_blocks_are_right),
        cmocka_unit_test(clusters_that_are_there_are_found),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(whatever_comes_centroids_are_numbers),
        cmocka_unit_test(empty_clusters_are_put_to_use),
        cmocka_unit_test(any_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
