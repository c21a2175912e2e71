/* Names that do not exist: who says so is the machine's resolver, which may be away. */
#ifndef VICINAL_TESTS_RESOLVER_RIG_H
#define VICINAL_TESTS_RESOLVER_RIG_H

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "common/base/env.h"

/* Does it say of the name, within that time, that there is none?  If not, that is printed: what
 * would be checked with the name is not. */
static inline bool resolver_denies(const char *host, uint64_t within_ns)
{
    uint64_t until_ns = env_boot_ns(env_real()) + within_ns;
    struct addrinfo *found = NULL;
    int code = getaddrinfo(host, NULL, NULL, &found);

    if (code == 0)
        freeaddrinfo(found);
    if (code == EAI_NONAME && env_boot_ns(env_real()) < until_ns)
        return true;
    printf("not checked: the resolver does not deny %s (%s)\n", host,
           code == 0            ? "found"
           : code == EAI_NONAME ? "late"
                                : gai_strerror(code));
    return false;
}

#endif
