/* See codes.h.  Numbers so large that sums overflow have codes that mean little, but every estimate
 * is a number.  All sums are taken in one fixed order, so codes are the same on every machine. */
#include "engine/codes.h"

#include <assert.h>
#include <float.h>
#include <math.h>

#include "common/base/checked.h"

enum { LANES = 16 }; /* numbers at a time: a loop of fixed length becomes an instruction or two */

/* Of few numbers, one that the largest step cuts off makes a code much worse than others. */
#define UNEVEN 2.5f

#define LARGEST 1e18f /* of a number that is placed: its square is far from overflowing */

/* The step that loses least of a normal distribution, in standard deviations, by bits. */
static float step_of(uint32_t bits)
{
    static const float steps[9] = {
        [1] = 1.596f, [2] = 0.9957f, [3] = 0.586f, [4] = 0.3352f, [8] = 0.0308f};

    return steps[bits];
}

/* Share of a normal distribution's variance that those steps lose. */
static float lost_of(uint32_t bits)
{
    static const float lost[9] = {
        [1] = 0.3634f, [2] = 0.1175f, [3] = 0.03744f, [4] = 0.01154f, [8] = 0.000117f};

    return lost[bits];
}

/* Counts are multiples of LANES. */
static float largest_of(const float *numbers, size_t count)
{
    float lanes[LANES] = {0};
    float largest = 0;

    for (size_t i = 0; i < count; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            float size = fabsf(numbers[i + j]);

            lanes[j] = size > lanes[j] ? size : lanes[j];
        }
    for (size_t j = 0; j < LANES; j++)
        largest = lanes[j] > largest ? lanes[j] : largest;
    return largest;
}

static float clamp(double number)
{
    return (float)fmin(fmax(number, -(double)FLT_MAX / 4), (double)FLT_MAX / 4);
}

/* Numbers relative to the centre, rotated; of numbers too large to be squared: zeros. */
static void place(const struct code_frame *frame, const float *vector, float *numbers)
{
    size_t dim = frame->rotation.dim;
    float largest = 0;

    for (size_t i = 0; i < dim; i++) {
        float size = fabsf(vector[i] - frame->centre[i]);

        numbers[i] = vector[i] - frame->centre[i];
        largest = size > largest ? size : largest;
    }
    if (largest > LARGEST)
        memset(numbers, 0, frame->rotation.padded * sizeof(*numbers));
    else
        rotation_apply(&frame->rotation, numbers, numbers);
}

/* Sums in double precision over numbers in lanes, so that no addition waits for the one before. */
static double sum_of_doubles(double *lanes)
{
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            lanes[j] += lanes[j + half];
    return lanes[0];
}

static double dot_with_centre(const struct code_frame *frame, const float *vector, bool relative)
{
    const float *centre = frame->centre;
    size_t dim = frame->rotation.dim, i = 0;
    double weight = relative ? 1.0 : 0.0;
    double lanes[LANES] = {0};

    for (; i + LANES <= dim; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] +=
                (double)centre[i + j] * ((double)vector[i + j] - weight * (double)centre[i + j]);
    for (; i < dim; i++)
        lanes[0] += (double)centre[i] * ((double)vector[i] - weight * (double)centre[i]);
    return sum_of_doubles(lanes);
}

static double square_from_centre(const struct code_frame *frame, const float *vector)
{
    const float *centre = frame->centre;
    size_t dim = frame->rotation.dim, i = 0;
    double lanes[LANES] = {0};

    for (; i + LANES <= dim; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            double number = (double)vector[i + j] - (double)centre[i + j];

            lanes[j] += number * number;
        }
    for (; i < dim; i++) {
        double number = (double)vector[i] - (double)centre[i];

        lanes[0] += number * number;
    }
    return sum_of_doubles(lanes);
}

void codes_place_vector(const struct code_frame *frame, const float *vector, struct code_place *out)
{
    place(frame, vector, out->numbers);
    out->add = clamp(frame->is_l2 ? square_from_centre(frame, vector)
                                  : -dot_with_centre(frame, vector, true));
}

void codes_place_query(const struct code_frame *frame, const float *query, struct code_place *out)
{
    place(frame, query, out->numbers);
    out->add = clamp(frame->is_l2 ? square_from_centre(frame, query)
                                  : (double)frame->base - dot_with_centre(frame, query, false));
}

static float sum_of_lanes(float *lanes)
{
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            lanes[j] += lanes[j + half];
    return lanes[0];
}

static float sum_of_squares(const float *numbers, size_t count)
{
    float lanes[LANES] = {0};

    for (size_t i = 0; i < count; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] += numbers[i + j] * numbers[i + j];
    return sum_of_lanes(lanes);
}

/* Numbers as codes.  Returns dot(y, v). */
static float quantise(const float *numbers, size_t count, uint32_t bits, float inverse,
                      uint8_t *codes)
{
    float lanes[LANES] = {0};
    float half = (float)(1u << (bits - 1));
    float top = 2 * half - 1;

    for (size_t i = 0; i < count; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            float code = numbers[i + j] * inverse + half;

            code = code > 0.0f ? code : 0.0f;
            code = code < top ? code : top;
            codes[i + j] = (uint8_t)(int32_t)code;
            lanes[j] += numbers[i + j] * ((float)(int32_t)code - top / 2);
        }
    return sum_of_lanes(lanes);
}

static uint64_t load_eight(const uint8_t *bytes)
{
    uint64_t eight;

    memcpy(&eight, bytes, sizeof(eight));
    return eight;
}

/* Eight bytes at a time: codes do not reach into the next byte.  Of each code the bits above `from`
 * that mask lets through are packed. */
static void pack(const uint8_t *codes, size_t bytes, uint32_t bits, uint32_t from, uint64_t mask,
                 uint8_t *row, size_t row_step)
{
    for (size_t block = 0; block < bytes; block += 64, row += row_step) {
        size_t size = MIN_OF(bytes - block, (size_t)64);

        for (size_t i = 0; i < size; i += 8) {
            uint64_t eight = 0;

            for (size_t j = 0; j < 8 / bits; j++)
                eight |= (load_eight(codes + j * size + i) >> from & mask) << (j * bits);
            memcpy(row + i, &eight, sizeof(eight));
        }
        codes += size * (8 / bits);
    }
}

/* A row of 8 bits, behind its codes. */
struct row_tail {
    struct code_tail tail;
    struct code_pair_tail pair;
};

static struct row_tail row_tail_of(const uint8_t *row, size_t padded)
{
    struct row_tail tail;

    static_assert(sizeof(tail) == sizeof(tail.tail) + sizeof(tail.pair), "no padding");
    memcpy(&tail, row + padded, sizeof(tail));
    return tail;
}

/* Dot product of what two rows stand for, from the sum over their codes: v = u - 128 + 1/2. */
static float dot_of_pair(size_t padded, const struct row_tail *a, const struct row_tail *b,
                         int32_t sum)
{
    return a->tail.scale * b->tail.scale *
           ((float)sum + 0.5f * (float)(a->pair.sum + b->pair.sum) + 0.25f * (float)padded);
}

static void finish_pair_tail(const struct kernels *kernels, size_t padded, uint8_t *row)
{
    const uint8_t *self = row;
    struct row_tail tail = row_tail_of(row, padded);
    int32_t sum;

    tail.pair = (struct code_pair_tail){0};
    for (size_t i = 0; i < padded; i++)
        tail.pair.sum += (int32_t)row[i] - 128;
    kernels->pairs(row, &self, 1, padded, &sum);
    tail.pair.square = clamp((double)dot_of_pair(padded, &tail, &tail, sum));
    memcpy(row + padded, &tail, sizeof(tail));
}

void codes_pairs(const struct kernels *kernels, const struct code_frame *frame, const uint8_t *row,
                 const uint8_t *const *rows, size_t count, float *distances)
{
    size_t padded = frame->rotation.padded;
    struct row_tail a = row_tail_of(row, padded);
    int32_t sums[CODES_ROWS_MAX];

    assert(count <= CODES_ROWS_MAX);
    kernels->pairs(row, rows, count, padded, sums);
    for (size_t i = 0; i < count; i++) {
        struct row_tail b = row_tail_of(rows[i], padded);
        float dot = dot_of_pair(padded, &a, &b, sums[i]);
        float distance = frame->pair_weight * ((a.pair.square + b.pair.square) - 2.0f * dot);

        if (frame->pair_weight == 0.0f)
            distances[i] = frame->pair_base + (a.tail.add + b.tail.add) - dot;
        else
            distances[i] = distance > 0.0f ? distance : 0.0f;
    }
}

void codes_encode(const struct kernels *kernels, const struct code_frame *frame,
                  const struct code_place *place, uint32_t bits, uint8_t *row)
{
    size_t padded = frame->rotation.padded;
    size_t bytes = padded * bits / 8;
    uint8_t codes[DIMENSION_MAX];
    float square = sum_of_squares(place->numbers, padded);
    float step = sqrtf(square / (float)padded) * step_of(bits);
    struct code_tail tail = {.add = place->add};

    float inverse = step > FLT_MIN ? 1.0f / step : 0.0f;
    float dot = quantise(place->numbers, padded, bits, inverse, codes);
    if (step > FLT_MIN && dot > 0.0f)
        tail.scale = square / dot;
    pack(codes, bytes, bits, 0, UINT64_MAX, row, 64);
    memcpy(row + bytes, &tail, sizeof(tail));
    if (bits == 8)
        finish_pair_tail(kernels, padded, row);
}

/* The query's codes in the order in which a kernel meets a row's. */
static void spread(const float *numbers, size_t bytes, uint32_t bits, float inverse, int8_t *codes)
{
    size_t per_byte = 8 / bits;

    for (size_t block = 0; block < bytes; block += 64) {
        size_t size = MIN_OF(bytes - block, (size_t)64);

        for (size_t j = 0; j < per_byte; j++, codes += 64, numbers += size) {
            for (size_t i = 0; i < size; i += 8)
                for (size_t l = 0; l < 8; l++) {
                    float number = numbers[i + l] * inverse;

                    codes[i + l] = (int8_t)(int32_t)(number + (number < 0 ? -0.5f : 0.5f));
                }
            memset(codes + size, 0, 64 - size);
        }
    }
}

/* The query's numbers as 0..15, a plane for each bit, packed as rows are. */
static void spread_planes(const float *numbers, size_t count, float inverse, int8_t *planes)
{
    uint8_t codes[DIMENSION_MAX];
    size_t bytes = count / 8;

    for (size_t i = 0; i < count; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            codes[i + j] = (uint8_t)(int32_t)(numbers[i + j] * inverse + 8.0f);
    memset(planes, 0, (bytes + 63) / 64 * 64 * CODE_PLANES);
    for (uint32_t j = 0; j < CODE_PLANES; j++)
        pack(codes, bytes, 1, j, UINT64_C(0x0101010101010101), (uint8_t *)planes + (size_t)j * 64,
             (size_t)64 * CODE_PLANES);
}

void codes_query(const struct kernels *kernels, const struct code_frame *frame,
                 const struct code_place *place, uint32_t bits, int8_t *codes,
                 struct code_query *out)
{
    size_t padded = frame->rotation.padded;
    float largest = largest_of(place->numbers, padded);
    float weight = frame->is_l2 ? 2.0f : 1.0f;
    float middle = (float)((1u << bits) - 1) / 2;
    float lanes[LANES] = {0};

    for (size_t i = 0; i < padded; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            lanes[j] += place->numbers[i + j];
    float length = sqrtf(sum_of_squares(place->numbers, padded));
    float lost = lost_of(bits);
    float uneven = 1.0f + UNEVEN / sqrtf((float)padded);
    *out = (struct code_query){.kernel = kernels->codes[__builtin_ctz(bits)],
                               .codes = codes,
                               .bytes = padded * bits / 8,
                               .step = weight * largest / (bits == 1 ? 15.0f : 127.0f),
                               .bias = -weight * middle * sum_of_lanes(lanes),
                               .base = place->add,
                               .floor = frame->is_l2 ? 0.0f : -FLT_MAX,
                               .deviation = uneven * weight * length * sqrtf(lost / (1.0f - lost)) /
                                            step_of(bits)};
    float inverse = largest > FLT_MIN ? 1.0f / largest : 0.0f;
    if (bits == 1)
        spread_planes(place->numbers, padded, inverse * 7.5f, codes);
    else
        spread(place->numbers, out->bytes, bits, inverse * 127.0f, codes);
}

void codes_distances(const struct code_query *query, const uint8_t *const *rows, size_t count,
                     float *distances)
{
    int32_t sums[CODES_ROWS_MAX];

    assert(count <= CODES_ROWS_MAX);
    query->kernel(rows, count, query->codes, query->bytes, sums);
    for (size_t i = 0; i < count; i++) {
        struct code_tail tail;

        memcpy(&tail, rows[i] + query->bytes, sizeof(tail));
        float distance =
            query->base + tail.add - tail.scale * (query->step * (float)sums[i] + query->bias);
        distances[i] = distance > query->floor ? distance : query->floor;
    }
}
