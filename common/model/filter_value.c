/* Scalars of filters: numbers compared exactly, and sets of values to look up in.  See
 * filter_internal.h.
 *
 * 9007199254740993 and 9007199254740992 are the same double and not the same id of something: so
 * whole numbers below 2^64 are kept as integers, however they are written (1, 1.0, 1e0). */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/text.h"
#include "common/model/filter_internal.h"

#define TWO_TO_64 18446744073709551616.0

static bool number_whole(struct filter_number *out, bool is_negative, uint64_t magnitude)
{
    *out = (struct filter_number){
        .is_whole = true, .is_negative = is_negative && magnitude != 0, .magnitude = magnitude};
    return true;
}

bool filter_number_parse(struct filter_number *out, const char *text, size_t len)
{
    bool is_negative = len > 0 && text[0] == '-';
    size_t sign = is_negative ? 1 : 0;
    uint64_t magnitude;
    double real;

    if (text_to_u64(text + sign, len - sign, &magnitude))
        return number_whole(out, is_negative, magnitude);
    if (!text_to_double(text, len, &real))
        return false;
    if (real == trunc(real) && fabs(real) < TWO_TO_64)
        return number_whole(out, real < 0, (uint64_t)fabs(real));
    *out = (struct filter_number){.real = real};
    return true;
}

static int compare_whole(const struct filter_number *a, const struct filter_number *b)
{
    int order;

    if (a->is_negative != b->is_negative)
        return a->is_negative ? -1 : 1;
    order = (a->magnitude > b->magnitude) - (a->magnitude < b->magnitude);
    return a->is_negative ? -order : order;
}

/* A whole number against one that is not: never equal.  Either real is beyond 2^64, or it has a
 * fraction and so lies below 2^53, where rounding the whole one does not change the order. */
static int compare_mixed(const struct filter_number *whole, double real)
{
    double rounded = (double)whole->magnitude;

    if (fabs(real) >= TWO_TO_64)
        return real > 0 ? -1 : 1;
    return (whole->is_negative ? -rounded : rounded) < real ? -1 : 1;
}

int filter_number_compare(const struct filter_number *a, const struct filter_number *b)
{
    if (a->is_whole && b->is_whole)
        return compare_whole(a, b);
    if (a->is_whole)
        return compare_mixed(a, b->real);
    if (b->is_whole)
        return -compare_mixed(b, a->real);
    return (a->real > b->real) - (a->real < b->real);
}

int filter_text_compare(struct json_text a, struct json_text b)
{
    size_t len = MIN_OF(a.len, b.len);
    int order = len == 0 ? 0 : memcmp(a.data, b.data, len);

    if (order != 0)
        return order;
    return (a.len > b.len) - (a.len < b.len);
}

static int sort_numbers(const void *a, const void *b)
{
    return filter_number_compare(a, b);
}

static int sort_texts(const void *a, const void *b)
{
    const struct json_text *x = a;
    const struct json_text *y = b;

    return filter_text_compare(*x, *y);
}

void filter_set_finish(struct filter_set *set)
{
    size_t kept = 0;

    if (set->number_count > 0)
        qsort(set->numbers, set->number_count, sizeof(set->numbers[0]), sort_numbers);
    for (size_t i = 0; i < set->number_count; i++) {
        if (kept == 0 || filter_number_compare(&set->numbers[kept - 1], &set->numbers[i]) != 0)
            set->numbers[kept++] = set->numbers[i];
    }
    set->number_count = kept;
    kept = 0;
    if (set->string_count > 0)
        qsort(set->strings, set->string_count, sizeof(set->strings[0]), sort_texts);
    for (size_t i = 0; i < set->string_count; i++) {
        if (kept == 0 || filter_text_compare(set->strings[kept - 1], set->strings[i]) != 0)
            set->strings[kept++] = set->strings[i];
    }
    set->string_count = kept;
    set->count = (size_t)set->has_null + set->has_true + set->has_false + set->number_count +
                 set->string_count;
    assert(set->count <= FILTER_VALUES_MAX);
}

static size_t first_number(const struct filter_set *set)
{
    return (size_t)set->has_null + set->has_true + set->has_false;
}

int32_t filter_set_find_number(const struct filter_set *set, const struct filter_number *number)
{
    size_t low = 0;
    size_t high = set->number_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = filter_number_compare(&set->numbers[middle], number);

        if (order == 0)
            return (int32_t)(first_number(set) + middle);
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

int32_t filter_set_find_string(const struct filter_set *set, struct json_text text)
{
    size_t low = 0;
    size_t high = set->string_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = filter_text_compare(set->strings[middle], text);

        if (order == 0)
            return (int32_t)(first_number(set) + set->number_count + middle);
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

int32_t filter_set_find_bool(const struct filter_set *set, bool value)
{
    if (value)
        return set->has_true ? set->has_null : -1;
    return set->has_false ? set->has_null + set->has_true : -1;
}

int32_t filter_set_find_null(const struct filter_set *set)
{
    return set->has_null ? 0 : -1;
}
