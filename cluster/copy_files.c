/* Names and digests of copied files: see copy_files.h. */
#include "cluster/copy_files.h"

#include <string.h>

#include "common/base/bytes.h"

void copy_chain(struct hash128 *digest, const void *data, size_t len)
{
    struct hash128 hash = hash_xxh128(data, len);
    uint8_t both[32];

    store_u64(both, digest->low);
    store_u64(both + 8, digest->high);
    store_u64(both + 16, hash.low);
    store_u64(both + 24, hash.high);
    *digest = hash_xxh128(both, sizeof(both));
}

bool copy_name_is_valid(const char *name)
{
    size_t len = strlen(name), depth = 1;

    if (len >= COPY_NAME_BYTES ||
        (strcmp(name, COPY_STORE_NAME) != 0 && strncmp(name, "segments/", 9) != 0))
        return false;
    for (size_t i = 0; i < len; i++) {
        bool is_name = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') ||
                       name[i] == '.' || name[i] == '-' || name[i] == '_';

        if (!is_name && name[i] != '/')
            return false;
        if (name[i] == '/' && ++depth > 4)
            return false;
        /* No empty part, none that begins with a dot. */
        if (name[i] == '/' && (i + 1 == len || name[i + 1] == '/' || name[i + 1] == '.'))
            return false;
    }
    return true;
}
