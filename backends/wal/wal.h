/* The log: P partitions, each totally ordered, durable before an append returns.  One writer at a
 * time per log is the rule, not a promise of this interface: who writes what may count is decided
 * by epochs (common/model/record.h), which readers apply.
 *
 *   url                        kept in
 *   file:DIR                   one physical log of segment files (wal_file.c)
 *   kafka://host:port,…/prefix a topic of P + 1 partitions (wal_kafka.c)
 *   sim:                       the simulation's (tests/sim)
 *
 * An offset counts the entries of a partition from 0, without gaps on one log's life.  A position
 * is the next offset to read.  The committed end of a partition is the position behind its last
 * durable entry; no reader ever sees an entry beyond it.
 */
#ifndef VICINAL_BACKENDS_WAL_H
#define VICINAL_BACKENDS_WAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/env.h"
#include "common/base/err.h"
#include "common/model/position.h"

struct wal;
struct wal_reader;

struct wal_options {
    const char *url;
    struct env *env;
    bool writer;            /* false: reads only, any number of processes */
    uint32_t partitions;    /* when the log is created; 0: it must exist */
    bool repair;            /* file: cut at damage below a committed position instead of refusing */
    uint64_t segment_bytes; /* file: rotation; 0: 64 MiB */
};

/* Errors: ERR_CONFLICT (another writer has it: wait and try again), ERR_CONFIG (URL, other number
 * of partitions, newer format), ERR_CORRUPT (damage below a committed position: says where, and
 * which entries a cut there by --repair loses), ERR_NOT_FOUND (reader, and no log there yet),
 * ERR_UNAVAILABLE (the brokers cannot be reached: try again), ERR_IO, ERR_INSUFFICIENT_STORAGE. */
MUST_CHECK enum err_code wal_open(struct wal **out, const struct wal_options *options,
                                  struct err *err);

/* How many partitions a log has, without opening it where that need not be: one of files can be
 * read only once a writer has opened it since the machine started.  Of the options url and env
 * count.  Errors: ERR_NOT_FOUND (no log there yet), those of wal_open. */
MUST_CHECK enum err_code wal_look(const struct wal_options *options, uint32_t *partitions,
                                  struct err *err);

/* Is there a back end for the URL, and does it understand it?  For programs that open the log
 * later; nothing is opened.  Errors: ERR_CONFIG. */
MUST_CHECK enum err_code wal_check_url(const char *url, struct err *err);

void wal_close(struct wal *wal); /* after its readers; NULL is fine */

uint32_t wal_partitions(const struct wal *wal);

/* The region number: one life of this log; random, never 0, made when the log was created. */
uint32_t wal_region(const struct wal *wal);

struct wal_entry {
    uint32_t partition;
    const void *data;
    size_t len; /* 1..RECORD_BYTES_MAX */
};

/* Append all, in order within each partition; returns when all are committed, with the offset of
 * each.  One call at a time.
 * Errors: whatever the code, the outcome of every entry is unknown (it may even land later, where
 * the log is remote), and the log takes no more appends until wal_recover has succeeded.
 * ERR_INSUFFICIENT_STORAGE, ERR_IO, ERR_TIMEOUT, ERR_DEAD; ERR_READ_ONLY (not recovered yet). */
MUST_CHECK enum err_code wal_append(struct wal *wal, const struct wal_entry *entries, size_t count,
                                    uint64_t deadline_ns, uint64_t *offsets, struct err *err);

/* Make the log take appends again: file: cut at the committed position, sync, start a new segment
 * file.  What a failed append wrote is gone or committed afterwards (file), or may still land
 * (remote).  The caller then appends new epoch records before anything else. */
MUST_CHECK enum err_code wal_recover(struct wal *wal, struct err *err);

/* The committed end of each asked partition, no older than the call: count of them, into ends.
 * A remote log is asked by a round trip, shared by calls that arrive while one is under way only
 * if it was sent after they arrived.  Errors: ERR_TIMEOUT, ERR_IO, ERR_DEAD. */
MUST_CHECK enum err_code wal_ends(struct wal *wal, const uint32_t *partitions, size_t count,
                                  uint64_t deadline_ns, uint64_t *ends, struct err *err);

/* Forget everything below positions[p] of every partition p; a position below what is kept changes
 * nothing for its partition.  From then on wal_first says the new first offset, and a reader that
 * is opened below it, or meets a gap there, gets ERR_NOT_FOUND.  Who calls it sees to it that
 * nobody needs what goes, and that a version vector record that counts stands at each position: it
 * tells a reader which epoch is in force there.  The room is given back as far as the log can
 * (file: segments of which nothing is kept).  One call at a time, beside appends and readers.
 * Errors: ERR_CONFLICT (a position beyond the committed end; nothing is changed), ERR_IO and
 * ERR_TIMEOUT (nothing is forgotten, or all of it with its room not given back yet, or some
 * partitions of a remote log are: call it again), ERR_CORRUPT, ERR_NOT_SUPPORTED, ERR_UNAVAILABLE,
 * ERR_NO_MEMORY, ERR_DEAD. */
MUST_CHECK enum err_code wal_trim(struct wal *wal, const uint64_t *positions, struct err *err);

/* The first offset still kept. */
MUST_CHECK enum err_code wal_first(struct wal *wal, uint32_t partition, uint64_t *first,
                                   struct err *err);

/* A position at or below which the newest version-vector record of the partition stands, kept
 * beside the log as a hint for the next holder; 0 when there is none. */
void wal_hint_set(struct wal *wal, uint32_t partition, uint64_t position);
uint64_t wal_hint(struct wal *wal, uint32_t partition);

/* Bytes and free bytes of the log's medium, for gauges and for 507 before it is full; 0, 0 when
 * the log cannot tell. */
void wal_space(struct wal *wal, uint64_t *used_bytes, uint64_t *free_bytes);

/* --- reading ------------------------------------------------------------------------------- */

struct wal_item {
    uint32_t partition;
    uint64_t offset;
    const void *data;
    size_t len;
};

/* Read those partitions, each from its position.  A reader is used by one thread.
 * Errors: ERR_NOT_FOUND (a position below the first offset kept; trimmed), ERR_CONFLICT (beyond the
 * committed end: the log is another than the reader knew), ERR_NO_MEMORY, ERR_IO, ERR_CORRUPT. */
MUST_CHECK enum err_code wal_reader_open(struct wal_reader **out, struct wal *wal,
                                         const uint32_t *partitions, const uint64_t *positions,
                                         size_t count, struct err *err);

/* Up to max committed items, in order within each partition; waits until there is at least one or
 * deadline_ns has come (then *count is 0 and the code ERR_OK).  Items live until the next call or
 * the close.  Errors: ERR_CORRUPT, ERR_IO, ERR_DEAD, ERR_CONFLICT (the log was replaced),
 * ERR_NOT_FOUND (what comes next was trimmed). */
MUST_CHECK enum err_code wal_reader_next(struct wal_reader *reader, struct wal_item *items,
                                         size_t max, size_t *count, uint64_t deadline_ns,
                                         struct err *err);
void wal_reader_close(struct wal_reader *reader);

/* --- for back ends only -------------------------------------------------------------------- */

struct wal_ops {
    const char *scheme;
    enum err_code (*check_url)(const char *url, struct err *err); /* NULL: any will do */
    enum err_code (*open)(struct wal **out, const struct wal_options *options, struct err *err);
    enum err_code (*look)(const struct wal_options *options, uint32_t *partitions,
                          struct err *err); /* NULL: it is opened */
    void (*close)(struct wal *wal);
    enum err_code (*append)(struct wal *wal, const struct wal_entry *entries, size_t count,
                            uint64_t deadline_ns, uint64_t *offsets, struct err *err);
    enum err_code (*recover)(struct wal *wal, struct err *err);
    enum err_code (*ends)(struct wal *wal, const uint32_t *partitions, size_t count,
                          uint64_t deadline_ns, uint64_t *ends, struct err *err);
    enum err_code (*trim)(struct wal *wal, const uint64_t *positions,
                          struct err *err); /* NULL: it cannot */
    enum err_code (*first)(struct wal *wal, uint32_t partition, uint64_t *first, struct err *err);
    void (*hint_set)(struct wal *wal, uint32_t partition, uint64_t position);
    uint64_t (*hint)(struct wal *wal, uint32_t partition);
    void (*space)(struct wal *wal, uint64_t *used_bytes, uint64_t *free_bytes);
    enum err_code (*reader_open)(struct wal_reader **out, struct wal *wal,
                                 const uint32_t *partitions, const uint64_t *positions,
                                 size_t count, struct err *err);
    enum err_code (*reader_next)(struct wal_reader *reader, struct wal_item *items, size_t max,
                                 size_t *count, uint64_t deadline_ns, struct err *err);
    void (*reader_close)(struct wal_reader *reader);
};

/* First member of every back end's own struct. */
struct wal {
    const struct wal_ops *ops;
    struct env *env;
    uint32_t partitions;
    uint32_t region;
};

struct wal_reader {
    const struct wal_ops *ops;
};

extern const struct wal_ops wal_file_ops, wal_kafka_ops;

/* Add a back end that is not built into every program (the simulation's), before any wal_open and
 * before other threads. */
void wal_register(const struct wal_ops *ops);

#endif
