/* jansson with our errors, for bodies that are not hot. */
#ifndef VICINAL_HTTP_JSON_DOC_H
#define VICINAL_HTTP_JSON_DOC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"

/* Parse an object: UTF-8, depth at most JSON_DEPTH_MAX, no NUL, no duplicate keys, nothing behind
 * it.  *out is owned: json_decref.  Errors: ERR_INVALID_JSON, ERR_INVALID_ARGUMENT (no object). */
MUST_CHECK enum err_code json_doc_parse(json_t **out, const void *data, size_t len,
                                        struct err *err);

/* Every key is one of names (NULL-terminated).  Errors: ERR_UNKNOWN_FIELD at its pointer. */
MUST_CHECK enum err_code json_doc_only(json_t *object, const char *const *names, struct err *err);

/* Optional members: absent (or null) leaves *out as it is.  *out points into the document.
 * Errors: ERR_INVALID_ARGUMENT at "/name". */
MUST_CHECK enum err_code json_doc_text(json_t *object, const char *name, const char **out,
                                       struct err *err);
MUST_CHECK enum err_code json_doc_u64(json_t *object, const char *name, uint64_t min, uint64_t max,
                                      uint64_t *out, struct err *err);
MUST_CHECK enum err_code json_doc_bool(json_t *object, const char *name, bool *out,
                                       struct err *err);

/* Compact dump appended to a buffer. */
void json_doc_dump(json_t *value, struct buffer *out);

#endif
