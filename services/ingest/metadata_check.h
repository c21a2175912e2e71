/* No object inside a metadata object has a key twice. */
#ifndef VICINAL_INGEST_METADATA_CHECK_H
#define VICINAL_INGEST_METADATA_CHECK_H

#include <stddef.h>

#include "common/base/arena.h"
#include "common/base/err.h"

/* data: a well-formed JSON object, nested at most METADATA_DEPTH_MAX deep.
 * Errors: ERR_INVALID_ARGUMENT (a key twice), ERR_NO_MEMORY. */
MUST_CHECK enum err_code metadata_check_keys(const char *data, size_t len, struct arena *arena,
                                             struct err *err);

#endif
