/* The front of the log: finds the back end of a URL's scheme, and holds both sides to the contract
 * of wal.h around each call.  The only file that names the back ends. */
#include "backends/wal/wal.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/base/limits.h"
#include "common/base/text.h"

#define BACKENDS_MAX 4

static const struct wal_ops *backends[BACKENDS_MAX] = {&wal_file_ops, &wal_kafka_ops};

void wal_register(const struct wal_ops *ops)
{
    size_t i = 0;

    while (i < BACKENDS_MAX && backends[i] != NULL && backends[i] != ops)
        i++;
    assert(i < BACKENDS_MAX);
    backends[i] = ops;
}

static const struct wal_ops *backend_of(const char *url)
{
    for (size_t i = 0; i < BACKENDS_MAX && backends[i] != NULL; i++)
        if (text_has_scheme(url, backends[i]->scheme))
            return backends[i];
    return NULL;
}

static enum err_code unknown_scheme(const char *url, struct err *err)
{
    char known[64] = "";

    for (size_t i = 0; i < BACKENDS_MAX && backends[i] != NULL; i++) {
        size_t len = strlen(known);

        (void)snprintf(known + len, sizeof(known) - len, "%s%s:", i == 0 ? "" : ", ",
                       backends[i]->scheme);
    }
    return err_set(err, ERR_CONFIG, "wal: no back end for \"%.80s\"; known: %s", url, known);
}

enum err_code wal_check_url(const char *url, struct err *err)
{
    const struct wal_ops *ops = backend_of(url);
    enum err_code code = ERR_OK;

    if (ops == NULL)
        return unknown_scheme(url, err);
    if (ops->check_url != NULL)
        code = ops->check_url(url, err);
    return code == ERR_OK || err == NULL ? code : err_wrap(err, "wal");
}

enum err_code wal_open(struct wal **out, const struct wal_options *options, struct err *err)
{
    const struct wal_ops *ops;
    enum err_code code;

    assert(options->url != NULL);
    assert(options->env != NULL);
    *out = NULL;
    ops = backend_of(options->url);
    if (ops == NULL)
        return unknown_scheme(options->url, err);
    if (options->partitions > PARTITIONS_MAX)
        return err_set(err, ERR_CONFIG, "wal: more than %d partitions", PARTITIONS_MAX);
    code = ops->open(out, options, err);
    if (code != ERR_OK) {
        assert(*out == NULL);
        return err == NULL ? code : err_wrap(err, "wal");
    }
    assert((*out)->ops == ops);
    assert((*out)->env == options->env);
    assert((*out)->region != 0);
    assert((*out)->partitions >= 1 && (*out)->partitions <= PARTITIONS_MAX);
    assert(options->partitions == 0 || options->partitions == (*out)->partitions);
    return ERR_OK;
}

enum err_code wal_look(const struct wal_options *options, uint32_t *partitions, struct err *err)
{
    const struct wal_ops *ops = backend_of(options->url);
    struct wal *wal;
    enum err_code code;

    if (ops != NULL && ops->look != NULL) {
        code = ops->look(options, partitions, err);
        return code == ERR_OK || err == NULL ? code : err_wrap(err, "wal");
    }
    code = wal_open(&wal, options, err);
    if (code == ERR_OK)
        *partitions = wal_partitions(wal);
    wal_close(wal);
    return code;
}

void wal_close(struct wal *wal)
{
    if (wal != NULL)
        wal->ops->close(wal);
}

uint32_t wal_partitions(const struct wal *wal)
{
    return wal->partitions;
}

uint32_t wal_region(const struct wal *wal)
{
    return wal->region;
}

/* Put "wal: " before a failure's message. */
static enum err_code finish(enum err_code code, struct err *err)
{
    if (code != ERR_OK && err != NULL) {
        assert(err->code == code);
        return err_wrap(err, "wal");
    }
    return code;
}

enum err_code wal_append(struct wal *wal, const struct wal_entry *entries, size_t count,
                         uint64_t deadline_ns, uint64_t *offsets, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        assert(entries[i].partition < wal->partitions);
        assert(entries[i].data != NULL);
        assert(entries[i].len >= 1 && entries[i].len <= RECORD_BYTES_MAX);
    }
    return finish(wal->ops->append(wal, entries, count, deadline_ns, offsets, err), err);
}

enum err_code wal_recover(struct wal *wal, struct err *err)
{
    return finish(wal->ops->recover(wal, err), err);
}

enum err_code wal_ends(struct wal *wal, const uint32_t *partitions, size_t count,
                       uint64_t deadline_ns, uint64_t *ends, struct err *err)
{
    for (size_t i = 0; i < count; i++)
        assert(partitions[i] < wal->partitions);
    return finish(wal->ops->ends(wal, partitions, count, deadline_ns, ends, err), err);
}

enum err_code wal_trim(struct wal *wal, const uint64_t *positions, struct err *err)
{
    if (wal->ops->trim == NULL)
        return err_set(err, ERR_NOT_SUPPORTED, "wal: this log cannot be trimmed");
    return finish(wal->ops->trim(wal, positions, err), err);
}

enum err_code wal_first(struct wal *wal, uint32_t partition, uint64_t *first, struct err *err)
{
    assert(partition < wal->partitions);
    return finish(wal->ops->first(wal, partition, first, err), err);
}

void wal_hint_set(struct wal *wal, uint32_t partition, uint64_t position)
{
    assert(partition < wal->partitions);
    wal->ops->hint_set(wal, partition, position);
}

uint64_t wal_hint(struct wal *wal, uint32_t partition)
{
    assert(partition < wal->partitions);
    return wal->ops->hint(wal, partition);
}

void wal_space(struct wal *wal, uint64_t *used_bytes, uint64_t *free_bytes)
{
    *used_bytes = 0;
    *free_bytes = 0;
    wal->ops->space(wal, used_bytes, free_bytes);
}

enum err_code wal_reader_open(struct wal_reader **out, struct wal *wal, const uint32_t *partitions,
                              const uint64_t *positions, size_t count, struct err *err)
{
    enum err_code code;

    for (size_t i = 0; i < count; i++)
        assert(partitions[i] < wal->partitions);
    *out = NULL;
    code = wal->ops->reader_open(out, wal, partitions, positions, count, err);
    assert((code == ERR_OK) == (*out != NULL));
    assert(*out == NULL || (*out)->ops == wal->ops);
    return finish(code, err);
}

enum err_code wal_reader_next(struct wal_reader *reader, struct wal_item *items, size_t max,
                              size_t *count, uint64_t deadline_ns, struct err *err)
{
    enum err_code code;

    assert(max >= 1);
    *count = 0;
    code = reader->ops->reader_next(reader, items, max, count, deadline_ns, err);
    assert(*count <= max);
    assert(code == ERR_OK || *count == 0);
    return finish(code, err);
}

void wal_reader_close(struct wal_reader *reader)
{
    if (reader != NULL)
        reader->ops->reader_close(reader);
}
