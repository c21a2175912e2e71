/* Faults to order; see wal_faulty.h.  One thread appends; another may set faults. */
#include "tests/lib/wal_faulty.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/model/record.h"

struct late {
    struct wal_entry *entries;
    size_t count;
    bool behind;
};

struct wal_faulty {
    struct wal wal;
    struct wal *inner;
    struct late late;
    pthread_mutex_t lock;
    enum wal_fault fault;
    unsigned at, times, appends;
    enum wal_fault then;
    unsigned then_times;
};

static struct wal_faulty *faulty_of(struct wal *wal)
{
    return (struct wal_faulty *)wal;
}

static void faulty_close(struct wal *wal)
{
    struct wal_faulty *f = faulty_of(wal);

    for (size_t i = 0; i < f->late.count; i++)
        free((void *)f->late.entries[i].data);
    free(f->late.entries);
    wal_close(f->inner);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static enum wal_fault next_fault(struct wal_faulty *f)
{
    enum wal_fault fault = WAL_FAULT_NONE;

    pthread_mutex_lock(&f->lock);
    f->appends++;
    if (f->at > 0 && --f->at == 0) {
        fault = f->fault;
        if (--f->times == 0) {
            f->fault = f->then;
            f->times = f->then_times;
            f->then_times = 0;
        }
        f->at = f->times > 0;
    }
    pthread_mutex_unlock(&f->lock);
    return fault;
}

static void keep_late(struct wal_faulty *f, const struct wal_entry *entries, size_t count,
                      bool behind)
{
    assert(f->late.count == 0);
    f->late.entries = array_alloc(count, sizeof(*entries));
    assert(f->late.entries != NULL);
    f->late.behind = behind;
    for (size_t i = 0; i < count; i++) {
        void *copy = malloc(entries[i].len);

        assert(copy != NULL);
        memcpy(copy, entries[i].data, entries[i].len);
        f->late.entries[i] = entries[i];
        f->late.entries[i].data = copy;
    }
    f->late.count = count;
}

static void land(struct wal_faulty *f, const struct wal_entry *entries, size_t count)
{
    uint64_t *offsets = array_alloc(count, sizeof(*offsets));
    struct err err;

    assert(offsets != NULL);
    if (count > 0 && wal_append(f->inner, entries, count, NEVER_NS, offsets, &err) != ERR_OK)
        assert(!"the log under test failed by itself");
    free(offsets);
}

static void land_late(struct wal_faulty *f)
{
    land(f, f->late.entries, f->late.count);
    for (size_t i = 0; i < f->late.count; i++)
        free((void *)f->late.entries[i].data);
    free(f->late.entries);
    f->late = (struct late){0};
}

/* A record that nobody asked for, in every partition. */
static void intrude(struct wal_faulty *f, enum record_op op, uint64_t epoch)
{
    static const uint8_t other[HOLDER_BYTES] = {0x0f};
    struct record record = {.op = op, .epoch = epoch, .stamp = {.clock = 1, .region = 1}};
    struct buffer bytes = {0};
    struct wal_entry entry = {0};
    struct err err;

    if (op == RECORD_EPOCH) {
        record.payload = other;
        record.payload_len = sizeof(other);
    } else {
        record.id = "intruder";
        record.id_len = 8;
    }
    if (record_encode(&record, &bytes, &err) != ERR_OK)
        assert(!"out of memory");
    entry.data = bytes.data;
    entry.len = bytes.len;
    for (entry.partition = 0; entry.partition < f->wal.partitions; entry.partition++)
        land(f, &entry, 1);
    buffer_free(&bytes);
}

static uint64_t epoch_of(const struct wal_entry *entry)
{
    struct record record;

    if (record_peek(&record, entry->data, entry->len, NULL) != ERR_OK)
        assert(!"not a record");
    return record.epoch;
}

static enum err_code faulty_append(struct wal *wal, const struct wal_entry *entries, size_t count,
                                   uint64_t deadline_ns, uint64_t *offsets, struct err *err)
{
    struct wal_faulty *f = faulty_of(wal);
    enum wal_fault fault = next_fault(f);
    bool behind = f->late.behind;
    enum err_code rc;

    if (f->late.count > 0 && !behind)
        land_late(f);
    if (f->late.count > 0 && (fault == WAL_FAULT_LATE_BEFORE || fault == WAL_FAULT_LATE_BEHIND))
        fault = WAL_FAULT_BEFORE; /* one is on its way already */
    switch (fault) {
    case WAL_FAULT_BEFORE:
        return err_set(err, ERR_IO, "ordered: nothing landed");
    case WAL_FAULT_NO_SPACE:
        return err_set(err, ERR_INSUFFICIENT_STORAGE, "ordered: no space");
    case WAL_FAULT_HALF:
        land(f, entries, count / 2);
        return err_set(err, ERR_TIMEOUT, "ordered: half of it landed");
    case WAL_FAULT_AFTER:
        land(f, entries, count);
        return err_set(err, ERR_TIMEOUT, "ordered: it landed");
    case WAL_FAULT_LATE_BEFORE:
    case WAL_FAULT_LATE_BEHIND:
        keep_late(f, entries, count, fault == WAL_FAULT_LATE_BEHIND);
        return err_set(err, ERR_TIMEOUT, "ordered: it lands later");
    case WAL_FAULT_OTHER_EPOCH:
        intrude(f, RECORD_EPOCH, epoch_of(&entries[0]) + 5);
        break;
    case WAL_FAULT_VOID_BEFORE:
        intrude(f, RECORD_DELETE, 0);
        break;
    case WAL_FAULT_NONE:
        break;
    }
    rc = wal_append(f->inner, entries, count, deadline_ns, offsets, err);
    if (f->late.count > 0 && behind)
        land_late(f);
    return rc;
}

static enum err_code faulty_recover(struct wal *wal, struct err *err)
{
    return wal_recover(faulty_of(wal)->inner, err);
}

static enum err_code faulty_ends(struct wal *wal, const uint32_t *partitions, size_t count,
                                 uint64_t deadline_ns, uint64_t *ends, struct err *err)
{
    return wal_ends(faulty_of(wal)->inner, partitions, count, deadline_ns, ends, err);
}

static enum err_code faulty_trim(struct wal *wal, const uint64_t *positions, struct err *err)
{
    return wal_trim(faulty_of(wal)->inner, positions, err);
}

static enum err_code faulty_first(struct wal *wal, uint32_t partition, uint64_t *first,
                                  struct err *err)
{
    return wal_first(faulty_of(wal)->inner, partition, first, err);
}

static void faulty_hint_set(struct wal *wal, uint32_t partition, uint64_t position)
{
    wal_hint_set(faulty_of(wal)->inner, partition, position);
}

static uint64_t faulty_hint(struct wal *wal, uint32_t partition)
{
    return wal_hint(faulty_of(wal)->inner, partition);
}

static void faulty_space(struct wal *wal, uint64_t *used_bytes, uint64_t *free_bytes)
{
    wal_space(faulty_of(wal)->inner, used_bytes, free_bytes);
}

struct faulty_reader {
    struct wal_reader reader;
    struct wal_reader *inner;
};

static enum err_code faulty_reader_next(struct wal_reader *reader, struct wal_item *items,
                                        size_t max, size_t *count, uint64_t deadline_ns,
                                        struct err *err)
{
    return wal_reader_next(((struct faulty_reader *)reader)->inner, items, max, count, deadline_ns,
                           err);
}

static void faulty_reader_close(struct wal_reader *reader)
{
    wal_reader_close(((struct faulty_reader *)reader)->inner);
    free(reader);
}

static enum err_code faulty_reader_open(struct wal_reader **out, struct wal *wal,
                                        const uint32_t *partitions, const uint64_t *positions,
                                        size_t count, struct err *err)
{
    struct faulty_reader *reader = calloc(1, sizeof(*reader));
    enum err_code rc;

    assert(reader != NULL);
    reader->reader.ops = wal->ops;
    rc = wal_reader_open(&reader->inner, faulty_of(wal)->inner, partitions, positions, count, err);
    if (rc != ERR_OK)
        free(reader);
    else
        *out = &reader->reader;
    return rc;
}

static const struct wal_ops FAULTY_OPS = {
    .scheme = "faulty",
    .close = faulty_close,
    .append = faulty_append,
    .recover = faulty_recover,
    .ends = faulty_ends,
    .trim = faulty_trim,
    .first = faulty_first,
    .hint_set = faulty_hint_set,
    .hint = faulty_hint,
    .space = faulty_space,
    .reader_open = faulty_reader_open,
    .reader_next = faulty_reader_next,
    .reader_close = faulty_reader_close,
};

struct wal *wal_faulty_wrap(struct wal *inner)
{
    struct wal_faulty *f = calloc(1, sizeof(*f));

    assert(f != NULL);
    f->wal = *inner;
    f->wal.ops = &FAULTY_OPS;
    f->inner = inner;
    pthread_mutex_init(&f->lock, NULL);
    return &f->wal;
}

void wal_faulty_set(struct wal *wal, enum wal_fault fault, unsigned nth, unsigned times)
{
    struct wal_faulty *f = faulty_of(wal);

    assert(nth >= 1 && times >= 1);
    pthread_mutex_lock(&f->lock);
    f->fault = fault;
    f->at = nth;
    f->times = times;
    f->then_times = 0;
    pthread_mutex_unlock(&f->lock);
}

void wal_faulty_then(struct wal *wal, enum wal_fault fault, unsigned times)
{
    struct wal_faulty *f = faulty_of(wal);

    pthread_mutex_lock(&f->lock);
    if (f->at > 0) {
        f->then = fault;
        f->then_times = times;
    } else if (times > 0) { /* they have gone wrong already */
        f->fault = fault;
        f->at = 1;
        f->times = times;
    }
    pthread_mutex_unlock(&f->lock);
}

unsigned wal_faulty_appends(struct wal *wal)
{
    struct wal_faulty *f = faulty_of(wal);
    unsigned appends;

    pthread_mutex_lock(&f->lock);
    appends = f->appends;
    pthread_mutex_unlock(&f->lock);
    return appends;
}
