/* Structured logs: see log.h.
 *
 * A line is put together in memory and written by one write(2), so that lines of several threads
 * and processes do not mix.  Which lines repeat is kept in a small table: message and level choose
 * a few slots, and one of them counts for a second.  When that second is over and lines were held
 * back, the next call of log_write, whoever makes it, writes their number.  A failed write is
 * ignored: there is nobody left to tell.
 */
#include "common/base/log.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/hash.h"
#include "common/base/json_number.h"
#include "common/base/json_writer.h"
#include "common/base/text.h"

#include <math.h>

#define MESSAGE_BYTES_MAX 400 /* escaped they are six times as many at most */
#define VALUE_BYTES_MAX   1024
#define SLOT_COUNT        64
#define PROBE_COUNT       4
#define FIELDS_MAX        64

/* One repeating message. */
struct slot {
    uint64_t key;      /* of message and level; 0: free */
    uint64_t began_ns; /* boot time of the first line of the second */
    uint32_t count;    /* lines in this second */
    uint32_t held;     /* of these, not written */
    enum log_level level;
    char message[MESSAGE_BYTES_MAX + 1];
};

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};

static const char *service_name = "vicinal";
static enum log_level threshold = LOG_INFO;
static int log_fd = STDERR_FILENO;

static pthread_mutex_t slots_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct slot slots[SLOT_COUNT]; /* guarded by slots_mutex, as are the next */
static uint32_t slots_holding;        /* slots whose held is not 0 */

void log_start(const char *service, enum log_level level)
{
    static bool is_registered;

    assert(service != NULL);
    service_name = service;
    threshold = level;
    if (!is_registered && atexit(log_flush) == 0)
        is_registered = true;
}

void log_redirect(int fd)
{
    log_fd = fd;
}

enum log_level log_level_from_text(const char *text, enum log_level otherwise)
{
    for (size_t i = 0; text != NULL && i < ARRAY_COUNT(level_names); i++)
        if (strcmp(text, level_names[i]) == 0)
            return (enum log_level)i;
    return otherwise;
}

enum log_level log_threshold(void)
{
    return threshold;
}

static void append_time(struct buffer *line)
{
    uint64_t us = env_wall_us(env_real());
    time_t seconds = (time_t)(us / 1000000);
    struct tm parts;

    /* Fails only for years that need more than an int. */
    if (gmtime_r(&seconds, &parts) == NULL)
        parts = (struct tm){.tm_year = 70, .tm_mday = 1};
    buffer_append_format(line, "{\"time\":\"%04d-%02d-%02dT%02d:%02d:%02d.%03uZ\"",
                         parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday, parts.tm_hour,
                         parts.tm_min, parts.tm_sec, (unsigned)(us / 1000 % 1000));
}

/* Begin ,"name": and say where to cut if the value does not fit. */
static size_t begin_field(struct buffer *line, const char *name)
{
    size_t mark = line->len;

    buffer_append_byte(line, ',');
    json_escape(line, name, strlen(name));
    buffer_append_byte(line, ':');
    return mark;
}

static void end_field(struct buffer *line, size_t mark, bool *is_cut)
{
    if (line->len > LOG_LINE_MAX) {
        line->len = mark;
        *is_cut = true;
    }
}

static void append_text(struct buffer *line, const char *name, const char *text, bool *is_cut)
{
    size_t len, mark;

    if (text == NULL)
        return;
    len = strlen(text);
    if (len > VALUE_BYTES_MAX)
        *is_cut = true;
    mark = begin_field(line, name);
    json_escape(line, text, text_utf8_cut(text, len, VALUE_BYTES_MAX));
    end_field(line, mark, is_cut);
}

static void append_field(struct buffer *line, const struct log_field *field, bool *is_cut)
{
    char number[NUMBER_TEXT_MAX];
    size_t mark, len;

    if (field->kind == LOG_KIND_TEXT || (field->kind == LOG_KIND_F64 && !isfinite(field->f64))) {
        append_text(line, field->name, field->kind == LOG_KIND_F64 ? "not finite" : field->text,
                    is_cut);
        return;
    }
    if (field->kind == LOG_KIND_U64)
        len = json_number_print_u64(number, field->u64);
    else
        len = json_number_print_double(number, field->f64);
    mark = begin_field(line, field->name);
    buffer_append(line, number, len);
    end_field(line, mark, is_cut);
}

static void append_context(struct buffer *line, const struct log_context *context, bool *is_cut)
{
    append_text(line, "request_id", context->request_id, is_cut);
    append_text(line, "trace_id", context->trace_id, is_cut);
    append_text(line, "tenant", context->tenant, is_cut);
    append_text(line, "collection", context->collection, is_cut);
    append_text(line, "shard_id", context->shard_id, is_cut);
    append_text(line, "operation", context->operation, is_cut);
    append_text(line, "error_code", context->error_code, is_cut);
}

static void write_whole(const struct buffer *line)
{
    size_t at = 0;

    while (at < line->len) {
        ssize_t done = write(log_fd, line->data + at, line->len - at);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return;
        at += (size_t)done;
    }
}

static void write_line(enum log_level level, const struct log_context *context, const char *message,
                       const struct log_field *fields)
{
    struct buffer line = {0};
    bool is_cut = false;
    size_t len = strlen(message);

    append_time(&line);
    append_text(&line, "level", level_names[level], &is_cut);
    append_text(&line, "service", service_name, &is_cut);
    is_cut = is_cut || len > MESSAGE_BYTES_MAX;
    buffer_append_text(&line, ",\"message\":");
    json_escape(&line, message, text_utf8_cut(message, len, MESSAGE_BYTES_MAX));
    if (context != NULL)
        append_context(&line, context, &is_cut);
    for (size_t i = 0; fields != NULL && i < FIELDS_MAX && fields[i].name != NULL; i++)
        append_field(&line, &fields[i], &is_cut);
    if (is_cut)
        buffer_append_text(&line, ",\"cut\":true");
    buffer_append_text(&line, "}\n");
    if (!line.failed)
        write_whole(&line);
    buffer_free(&line);
}

/* Take the count of a slot whose second is over, to be written when the lock is gone.
 * Caller holds slots_mutex. */
static bool take_held_locked(struct slot *slot, struct slot *out)
{
    if (slot->held == 0)
        return false;
    *out = *slot;
    slot->held = 0;
    slots_holding--;
    return true;
}

static void write_held(const struct slot *slot)
{
    write_line(slot->level, NULL, slot->message,
               (const struct log_field[]){LOG_U64("repeated", slot->held), {.name = NULL}});
}

/* The slot for key: its own, else a free or an old one, else the first that may be taken.
 * Caller holds slots_mutex. */
static struct slot *find_slot_locked(uint64_t key, uint64_t now)
{
    struct slot *old = NULL;

    for (size_t i = 0; i < PROBE_COUNT; i++) {
        struct slot *slot = &slots[(key + i) % SLOT_COUNT];

        if (slot->key == key)
            return slot;
        if (old == NULL && (slot->key == 0 || now - slot->began_ns >= NS_PER_S))
            old = slot;
    }
    return old != NULL ? old : &slots[key % SLOT_COUNT];
}

/* Count one line.  True when it is to be written; *held gets a count that is to be written first
 * (held->held 0: none). */
static bool admit(enum log_level level, const char *message, struct slot *held)
{
    size_t len = text_utf8_cut(message, strlen(message), MESSAGE_BYTES_MAX);
    uint64_t key = hash_xxh64(message, len, level) | 1;
    uint64_t now = env_boot_ns(env_real());
    struct slot *slot;
    bool is_admitted;

    held->held = 0;
    pthread_mutex_lock(&slots_mutex);
    slot = find_slot_locked(key, now);
    if (slot->key != key || now - slot->began_ns >= NS_PER_S) {
        (void)take_held_locked(slot, held);
        *slot = (struct slot){.key = key, .began_ns = now, .level = level};
        memcpy(slot->message, message, len);
    }
    slot->count++;
    is_admitted = slot->count <= LOG_REPEAT_MAX;
    if (!is_admitted && slot->held++ == 0)
        slots_holding++;
    /* Look after others whose second is over: one a call is enough to keep up. */
    for (size_t i = 0; slots_holding > 0 && held->held == 0 && i < SLOT_COUNT; i++)
        if (now - slots[i].began_ns >= NS_PER_S)
            (void)take_held_locked(&slots[i], held);
    pthread_mutex_unlock(&slots_mutex);
    return is_admitted;
}

void log_write(enum log_level level, const struct log_context *context, const char *message,
               const struct log_field *fields)
{
    struct slot held;
    bool is_admitted;

    assert(message != NULL);
    assert(level < LOG_OFF);
    is_admitted = admit(level, message, &held);
    if (held.held > 0)
        write_held(&held);
    if (is_admitted)
        write_line(level, context, message, fields);
}

void log_flush(void)
{
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        struct slot held;
        bool has_held;

        pthread_mutex_lock(&slots_mutex);
        has_held = take_held_locked(&slots[i], &held);
        pthread_mutex_unlock(&slots_mutex);
        if (has_held)
            write_held(&held);
    }
}

void log_err(enum log_level level, const struct log_context *context, const char *message,
             const struct err *err)
{
    struct log_context with_code = context == NULL ? (struct log_context){0} : *context;

    if (level < threshold)
        return;
    with_code.error_code = err_word(err->code);
    log_write(level, &with_code, message,
              (const struct log_field[]){
                  LOG_TEXT("error", err->message),
                  {.name = err->pointer[0] == '\0' ? NULL : "pointer",
                   .kind = LOG_KIND_TEXT,
                   .text = err->pointer},
                  {.name = NULL},
              });
}
