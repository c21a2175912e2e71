/* Under TSan only what has threads of its own is run: all else would only be slow there. */
#ifndef VICINAL_TESTS_LIB_OWN_THREADS_H
#define VICINAL_TESTS_LIB_OWN_THREADS_H

#include <stdbool.h>
#include <string.h>

#include "common/base/sanitized.h"

/* Before the group is run; only: the name of the one test with threads, which has to be there in
 * any build. */
#define OWN_THREADS_ONLY_IN(tests, only)                                                           \
    do {                                                                                           \
        bool is_there = false;                                                                     \
                                                                                                   \
        for (size_t i = 0; i < sizeof(tests) / sizeof((tests)[0]); i++)                            \
            is_there |= strcmp((tests)[i].name, only) == 0;                                        \
        if (!is_there)                                                                             \
            return 2;                                                                              \
        if (IS_TSAN)                                                                               \
            cmocka_set_test_filter(only);                                                          \
    } while (0)

#endif
