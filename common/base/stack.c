/* See stack.h. */
#include "common/base/stack.h"

#include <pthread.h>

size_t stack_left(void)
{
    const char *here = __builtin_frame_address(0);
    pthread_attr_t attributes;
    void *lowest = NULL;
    size_t bytes = 0;

    if (pthread_getattr_np(pthread_self(), &attributes) != 0)
        return 0;
    (void)pthread_attr_getstack(&attributes, &lowest, &bytes);
    (void)pthread_attr_destroy(&attributes);
    return lowest == NULL ? 0 : (size_t)(here - (const char *)lowest);
}
