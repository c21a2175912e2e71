/* Structured logs: one JSON object a line on stderr, written in one piece.
 *
 *   log_info(&(struct log_context){ .request_id = id, .operation = "search" },
 *            "served", LOG_U64("latency_us", t), LOG_TEXT("collection", name));
 *
 * Fields always there: time (RFC 3339, milliseconds), level, service, message.  Thread safe.  A
 * message that repeats more than LOG_REPEAT_MAX times a second from one place is counted, and the
 * count is written when it ends: a fault cannot fill the disk. */
#ifndef VICINAL_BASE_LOG_H
#define VICINAL_BASE_LOG_H

#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define LOG_REPEAT_MAX 20   /* lines of one message and level in a second */
#define LOG_LINE_MAX   4000 /* bytes; fields that do not fit are left out, and "cut":true says so */

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR, LOG_OFF };

enum log_kind { LOG_KIND_END, LOG_KIND_TEXT, LOG_KIND_U64, LOG_KIND_F64 };

struct log_field {
    const char *name;
    enum log_kind kind;
    const char *text;
    uint64_t u64;
    double f64;
};

#define LOG_TEXT(n, v) ((struct log_field){.name = (n), .kind = LOG_KIND_TEXT, .text = (v)})
#define LOG_U64(n, v)  ((struct log_field){.name = (n), .kind = LOG_KIND_U64, .u64 = (v)})
#define LOG_F64(n, v)  ((struct log_field){.name = (n), .kind = LOG_KIND_F64, .f64 = (v)})

/* What a line is about; NULL members are left out. */
struct log_context {
    const char *request_id;
    const char *trace_id;
    const char *tenant;
    const char *collection;
    const char *shard_id;
    const char *operation;
    const char *error_code;
};

/* Set once at start, before other threads; counts of held back lines are written at exit.
 * service must stay valid. */
void log_start(const char *service, enum log_level level);
enum log_level log_level_from_text(const char *text, enum log_level otherwise);
enum log_level log_threshold(void);

void log_write(enum log_level level, const struct log_context *context, const char *message,
               const struct log_field *fields);

#define LOG_AT(level, context, message, ...)                                                       \
    do {                                                                                           \
        if ((level) >= log_threshold())                                                            \
            log_write((level), (context), (message),                                               \
                      (const struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){.name = NULL}});       \
    } while (0)

#define log_debug(context, message, ...) LOG_AT(LOG_DEBUG, context, message, __VA_ARGS__)
#define log_info(context, message, ...)  LOG_AT(LOG_INFO, context, message, __VA_ARGS__)
#define log_warn(context, message, ...)  LOG_AT(LOG_WARN, context, message, __VA_ARGS__)
#define log_error(context, message, ...) LOG_AT(LOG_ERROR, context, message, __VA_ARGS__)

/* Write the counts of all lines held back so far. */
void log_flush(void);

/* The descriptor that lines go to, 2 unless changed: for tests. */
void log_redirect(int fd);

/* err's code word and message as fields. */
void log_err(enum log_level level, const struct log_context *context, const char *message,
             const struct err *err);

#endif
