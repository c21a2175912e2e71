/* Arithmetic on foreign numbers that says when it overflows.  True = the result fits. */
#ifndef VICINAL_BASE_CHECKED_H
#define VICINAL_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define checked_add(a, b, result) (!__builtin_add_overflow((a), (b), (result)))
#define checked_sub(a, b, result) (!__builtin_sub_overflow((a), (b), (result)))
#define checked_mul(a, b, result) (!__builtin_mul_overflow((a), (b), (result)))

/* Zeroed array of count elements of size bytes; NULL when it does not fit.  Free with free(). */
static inline void *array_alloc(size_t count, size_t size)
{
    return calloc(count == 0 ? 1 : count, size == 0 ? 1 : size);
}

/* Resize to count elements; the old array stays valid when NULL is returned. */
static inline void *array_resize(void *array, size_t count, size_t size)
{
    size_t bytes;

    if (!checked_mul(count == 0 ? 1 : count, size, &bytes))
        return NULL;
    return realloc(array, bytes);
}

#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))

#endif
