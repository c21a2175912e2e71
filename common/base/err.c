/* Errors: see err.h. */
#include "common/base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct err_row {
    int status;
    bool retry;
    const char *word;
    const char *title;
};

static const struct err_row rows[ERR_CODE_COUNT] = {
#define ERR_ROW(code, status, retry, word, title) [code] = {status, retry, word, title},
    ERR_TABLE(ERR_ROW)
#undef ERR_ROW
};

static const struct err_row *row_of(enum err_code code)
{
    assert((unsigned)code < ERR_CODE_COUNT);
    return &rows[code];
}

static enum err_code set_va(struct err *err, enum err_code code, const char *pointer,
                            const char *format, va_list args)
{
    assert(code != ERR_OK);
    assert((unsigned)code < ERR_CODE_COUNT);
    if (err == NULL)
        return code;
    err->code = code;
    (void)vsnprintf(err->message, sizeof(err->message), format, args);
    (void)snprintf(err->pointer, sizeof(err->pointer), "%s", pointer);
    return code;
}

enum err_code err_set(struct err *err, enum err_code code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set_va(err, code, "", format, args);
    va_end(args);
    return code;
}

enum err_code err_set_at(struct err *err, enum err_code code, const char *pointer,
                         const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set_va(err, code, pointer, format, args);
    va_end(args);
    return code;
}

enum err_code err_set_errno(struct err *err, int errnum, const char *format, ...)
{
    enum err_code code = ERR_IO;
    va_list args;
    size_t used;

    if (errnum == ENOSPC || errnum == EDQUOT)
        code = ERR_INSUFFICIENT_STORAGE;
    else if (errnum == ENOMEM)
        code = ERR_NO_MEMORY;
    va_start(args, format);
    set_va(err, code, "", format, args);
    va_end(args);
    if (err == NULL)
        return code;
    used = strlen(err->message);
    (void)snprintf(err->message + used, sizeof(err->message) - used, ": %s", strerror(errnum));
    return code;
}

enum err_code err_wrap(struct err *err, const char *format, ...)
{
    char inner[ERR_MESSAGE_BYTES];
    va_list args;
    size_t used;

    assert(err != NULL);
    assert(err->code != ERR_OK);
    memcpy(inner, err->message, sizeof(inner));
    va_start(args, format);
    (void)vsnprintf(err->message, sizeof(err->message), format, args);
    va_end(args);
    used = strlen(err->message);
    (void)snprintf(err->message + used, sizeof(err->message) - used, ": %s", inner);
    return err->code;
}

void err_prefix_pointer(struct err *err, const char *prefix)
{
    char inner[ERR_POINTER_BYTES];
    size_t used;

    assert(err != NULL);
    memcpy(inner, err->pointer, sizeof(inner));
    (void)snprintf(err->pointer, sizeof(err->pointer), "%s", prefix);
    used = strlen(err->pointer);
    (void)snprintf(err->pointer + used, sizeof(err->pointer) - used, "%s", inner);
}

void err_clear(struct err *err)
{
    *err = (struct err){.code = ERR_OK};
}

int err_status(enum err_code code)
{
    return row_of(code)->status;
}

bool err_is_retriable(enum err_code code)
{
    return row_of(code)->retry;
}

const char *err_word(enum err_code code)
{
    return row_of(code)->word;
}

const char *err_title(enum err_code code)
{
    return row_of(code)->title;
}

enum err_code err_from_word(const char *word, size_t len)
{
    for (size_t i = 0; i < ERR_CODE_COUNT; i++)
        if (strlen(rows[i].word) == len && memcmp(rows[i].word, word, len) == 0)
            return (enum err_code)i;
    return ERR_INTERNAL;
}
