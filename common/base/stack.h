/* How much room a thread has left on its stack. */
#ifndef VICINAL_BASE_STACK_H
#define VICINAL_BASE_STACK_H

#include <stddef.h>

/* Bytes below the caller's frame; 0: not known. */
size_t stack_left(void);

#endif
