/* The sequencer: the only appender of the log.
 *
 *   handler: batch of encoded records → queue → appender thread: everything queued gets its turn
 *   (epoch, stamp, origin), one append, every offset checked against the expected one → handlers
 *   wake with the offsets
 *
 * One line per partition keeps its epoch, clock, version vector and expected offset.  A failed
 * append or an unexpected offset puts what was appended in doubt: the holder then appends a new
 * epoch record to every partition and reads up to it (takeover.c).  What is found before it, and
 * not void, is committed; the rest is void for ever.  So no answer says "perhaps".
 *
 * Threads: handlers call sequencer_commit and the read-only functions; everything in `lines`
 * belongs to the appender thread.  `lock` guards what stands below it and is never held across a
 * call that blocks.
 */
#ifndef VICINAL_INGEST_SEQUENCER_H
#define VICINAL_INGEST_SEQUENCER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/meta/meta.h"
#include "backends/wal/wal.h"
#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/err.h"
#include "common/model/record.h"
#include "common/observe/metrics.h"
#include "services/ingest/queue.h"

#define VERSION_VECTOR_EVERY 10000           /* records of a partition from one to the next */
#define SEQUENCER_QUEUE_MAX  MIB(64)         /* bytes that wait; more are refused */
#define SEQUENCER_GROUP_MAX  MIB(32)         /* bytes of one append, unless one batch has more */
#define SEQUENCER_SHARED_MAX MIB(4)          /* of one append while several wait: turns are short */
#define SEQUENCER_IDLE_NS    (10 * NS_PER_S) /* after so long without writes vectors are written */
#define APPEND_DEADLINE_NS   (10 * NS_PER_S) /* of one append */
#define OUTCOME_GRACE_NS     (30 * NS_PER_S) /* beyond its deadline, for an append under way */
#define DOUBT_GRACE_NS       (2 * NS_PER_S)  /* at least so long for a doubt's end */
#define LEASE_TIMEOUT_NS     (3 * NS_PER_S)  /* without renewal, on a log without a lock */

enum sequencer_state { SEQUENCER_STANDBY, SEQUENCER_RECOVERING, SEQUENCER_HOLDER };

/* --- batches --------------------------------------------------------------------------------- */

/* From BATCH_APPENDING on the bytes are only read. */
enum batch_state { BATCH_NEW, BATCH_QUEUED, BATCH_TAKEN, BATCH_APPENDING, BATCH_DOUBT, BATCH_DONE };

struct sequence_item {
    uint32_t partition;
    size_t at, len;         /* of the encoded record in the batch's bytes */
    uint64_t vectors;       /* that a shard gets with it, at most */
    bool keeps_stamp;       /* a collection change, or foreign: the stamp is final already */
    uint64_t at_clock;      /* when it was written, of what waited in the spool; 0: now */
    uint32_t origin_region; /* of foreign ones */
    uint64_t origin_offset;
    bool skipped; /* foreign, and known already: not appended */
    /* the outcome */
    struct stamp stamp;
    uint64_t offset;
    bool committed;
};

/* A foreign run: the version vector of (region, partition) moves from `from` to `to`. */
struct foreign_run {
    uint32_t region; /* 0: the batch is local */
    uint32_t partition;
    uint64_t from, to;
    uint64_t position; /* outcome: what is wanted next */
};

/* Shared by handler and appender until both have let go: owns its bytes, so that a handler may
 * leave at any time. */
struct sequence_batch {
    struct buffer bytes;
    struct sequence_item *items;
    size_t count, size;
    struct foreign_run foreign;
    struct queue_key key; /* whose it is */
    uint64_t generation;  /* the decision behind it was made in this one; 0: does not matter */
    uint64_t defer_ns; /* its handler has somewhere else to go when the log has not answered until
                        * then; 0: it has not */
    /* guarded by the sequencer's lock */
    enum batch_state state;
    uint64_t doubt_until_ns; /* BATCH_DOUBT: its handler waits until then, or its deadline */
    bool left;               /* its handler has left, with its ids, before the outcome was known */
    bool met_away;           /* it was not queued, for the log was away */
    uint32_t refs;
    struct env_cond done;
    struct err err;          /* code ERR_OK: all committed */
    struct queue_flow *flow; /* while it waits: the queue's */
    struct sequence_batch *next;
};

struct sequencer;

MUST_CHECK enum err_code sequence_batch_new(struct sequence_batch **out, struct sequencer *s,
                                            struct err *err);
void sequence_batch_put(struct sequencer *s, struct sequence_batch *batch); /* NULL is fine */

/* Encode one record (turn zero) for a partition.  Errors: those of record_encode. */
MUST_CHECK enum err_code sequence_batch_add(struct sequence_batch *batch, uint32_t partition,
                                            const struct record *record, struct err *err);

/* Take over encoded bytes: a foreign record. */
MUST_CHECK enum err_code sequence_batch_add_encoded(struct sequence_batch *batch,
                                                    uint32_t partition, const void *data,
                                                    size_t len, const struct record *record,
                                                    struct err *err);

/* --- the sequencer --------------------------------------------------------------------------- */

typedef enum err_code sequencer_open_wal_fn(void *context, struct wal **out, struct err *err);

/* Before a new holder serves: what else has to be read or completed.  Runs on the appender's
 * thread; may use sequencer_append_now. */
typedef enum err_code sequencer_taken_fn(void *context, struct err *err);

struct sequencer_setup {
    struct env *env;
    struct meta *meta; /* NULL: no lease row (tests) */
    struct metrics *metrics;
    const char *url; /* for the lease row; must live */
    sequencer_open_wal_fn *open_wal;
    void *open_wal_context;
    bool log_locks;            /* the log admits one writer: its lock is the lease */
    uint64_t queue_bytes_max;  /* 0: SEQUENCER_QUEUE_MAX */
    sequencer_taken_fn *taken; /* may be NULL */
    void *taken_context;
};

/* One partition, the appender's own. */
struct line {
    struct epoch_state admitted; /* the void rule, over what was read */
    uint64_t read;               /* next offset to read back */
    uint64_t epoch;              /* ours, in force */
    uint64_t tried;              /* the highest that we, or the lease row, ever named */
    uint64_t next;               /* expected offset of the next append */
    uint64_t committed;          /* behind the last record known as committed */
    uint64_t since_vector;       /* records behind the newest version vector record */
    uint64_t safe_since;         /* the same, of what is committed */
    bool touched;                /* staged for, since the last commit */
    uint64_t vector_offset;
    bool has_vector;
    bool from_hint; /* reading began at a hint: the first record tells the epoch */
    bool own_met, own_void, other_met; /* of one take-over */
    size_t doubt_head;                 /* SIZE_MAX: none */
    struct version_vector vector;      /* with everything staged */
    struct version_vector safe;        /* with everything committed */
};

/* What others may see of a line. */
struct line_view {
    uint64_t end, clock, epoch;
    uint64_t vector; /* offset of the newest version vector record that is known */
};

struct staged {
    struct sequence_batch *batch; /* NULL: of our own */
    size_t item;
    uint32_t partition;
    uint64_t expected;
    struct stamp stamp;
    size_t at, len; /* in the scratch bytes when batch is NULL */
    bool is_vector;
};

struct doubt {
    struct sequence_batch *batch;
    size_t item;
    struct stamp stamp;
    uint32_t crc;
    uint64_t offset;
    bool found;
    size_t next; /* in the same partition */
};

struct sequencer_metrics {
    struct metric *append, *queue, *epochs, *takeovers, *doubts, *records;
};

struct sequencer {
    struct sequencer_setup setup;
    struct env *env;
    uint8_t nonce[HOLDER_BYTES]; /* of this life of the process */
    struct sequencer_metrics metrics;
    struct env_thread *appender, *renewer;

    /* the appender's own */
    struct line *lines;
    struct staged *staged;
    size_t staged_count, staged_size;
    struct wal_entry *entries;
    uint64_t *offsets;
    struct buffer scratch;
    struct doubt *doubts;
    size_t doubt_count, doubt_size;
    struct sequence_batch *doubtful; /* their batches, a list */
    struct err doubt_cause;
    bool lines_known;    /* the log has been read once */
    size_t last_batches; /* of the last append */
    uint64_t last_ended_ns, last_took_ns;

    pthread_mutex_t lock;
    struct env_cond work;    /* for the appender */
    struct env_cond renewal; /* for the lease's thread */
    struct wal *wal;         /* NULL until opened; then until close */
    uint32_t partitions, region;
    enum sequencer_state state;
    struct err refusal;      /* code not ERR_OK: why nothing is accepted */
    struct line_view *views; /* partitions of them */
    uint64_t generation;     /* rises whenever the log may hold what no decision knew of */
    uint64_t term;           /* take-overs: in one of them nobody else has held the log */
    uint64_t last_change;    /* clock of the newest change stamp given */
    uint64_t append_began;   /* boot time of the append under way; 0: none is */
    uint64_t last_staged;    /* highest clock of what was ever on its way into the log */
    struct queue queue;
    bool stopping, wanted, step_down;
    /* lease, on a log without a lock */
    uint64_t lease_version, lease_seen_ns, lease_counter;
    /* vectors that somebody waits for: how often they were asked for, tried, and appended */
    uint64_t vectors_wanted, vectors_done, vectors_good;
    struct env_cond vectors_come;
};

MUST_CHECK enum err_code sequencer_open(struct sequencer *s, const struct sequencer_setup *setup,
                                        struct err *err);
MUST_CHECK enum err_code sequencer_start(struct sequencer *s, struct err *err);
void sequencer_stop(struct sequencer *s);  /* takes nothing more; wakes all */
void sequencer_close(struct sequencer *s); /* joins the threads; appends version vectors */

/* Append the batch and wait until its outcome is known.
 * Errors: ERR_TIMEOUT (nothing was written), ERR_UNAVAILABLE (queue full, or void for ever; items
 * say what was committed), ERR_READ_ONLY (not the holder), ERR_INSUFFICIENT_STORAGE,
 * ERR_VERSION_CONFLICT (a gap in a foreign run; its position says what is wanted),
 * ERR_UNKNOWN_OUTCOME (the log has not come back within the grace), ERR_DEAD. */
MUST_CHECK enum err_code sequencer_commit(struct sequencer *s, struct sequence_batch *batch,
                                          uint64_t deadline_ns, struct err *err);

/* The same for several, which go into one append where they fit: errs[i] (code ERR_OK: committed)
 * is what became of batches[i]. */
void sequencer_commit_all(struct sequencer *s, struct sequence_batch *const *batches, size_t count,
                          uint64_t deadline_ns, struct err *errs);

/* The same at once, on the appender's thread, inside `taken`. */
MUST_CHECK enum err_code sequencer_append_now(struct sequencer *s, struct sequence_batch *batch,
                                              struct err *err);

/* The log is away, as far as is known, and this ingest holds it.  Caller holds the lock: what is
 * said of a refusal has to be of the same moment. */
bool sequencer_is_away_locked(const struct sequencer *s);

/* ERR_OK with the generation in force, or why nothing is accepted.  *is_away (may be NULL): because
 * the log is away. */
MUST_CHECK enum err_code sequencer_check(struct sequencer *s, uint64_t *generation, bool *is_away,
                                         struct err *err);

/* Another one holds the log, or nobody does yet. */
bool sequencer_stands_by(struct sequencer *s);

/* It takes appends just now, as far as is known: the last one was answered, or began a moment ago.
 */
bool sequencer_is_prompt(struct sequencer *s);

/* After a commit that failed: the log is away and nothing of the batch stands in it, or may stand
 * there only with nobody having been told: it may be kept elsewhere and appended later. */
bool sequencer_may_defer(struct sequencer *s, const struct sequence_batch *batch);

/* The take-over since which this ingest holds the log. */
uint64_t sequencer_term(struct sequencer *s);

/* Above the clocks of all partitions, of everything that is on its way there, and all change stamps
 * given before. */
struct stamp sequencer_change_stamp(struct sequencer *s);

/* The committed end of a partition. */
uint64_t sequencer_end(struct sequencer *s, uint32_t partition);

/* Copies of every partition's view; NULL when there is no log yet.  Free with free(). */
struct line_view *sequencer_views(struct sequencer *s, uint32_t *partitions);

/* Append a version vector record to every partition; positions (one for each partition) are where
 * they stand: a log that is trimmed may begin there.
 * Errors: ERR_TIMEOUT, ERR_DEAD, ERR_READ_ONLY (not the holder), ERR_UNAVAILABLE. */
MUST_CHECK enum err_code sequencer_checkpoint(struct sequencer *s, uint64_t deadline_ns,
                                              uint64_t *positions, struct err *err);

/* --- between sequencer.c, sequencer_ask.c, append.c, takeover.c and lease.c --------------------
 */

/* Give everything in the list its turn and append it. Errors: the append's; all is in doubt then.
 */
MUST_CHECK enum err_code append_group(struct sequencer *s, struct sequence_batch *list,
                                      struct err *err);

/* Version vector records for all lines, or for those that have records behind their newest one. */
MUST_CHECK enum err_code append_vectors(struct sequencer *s, bool all, struct err *err);

/* What sequencer_checkpoint waits for; those who wait are told, whatever becomes of it. */
MUST_CHECK enum err_code append_wanted(struct sequencer *s, uint64_t wanted, struct err *err);

/* The batch's outcome is known: wake its handler.  Caller holds no lock. */
void batch_finish(struct sequencer *s, struct sequence_batch *batch, const struct err *outcome);
void batch_unref_locked(struct sequencer *s, struct sequence_batch *batch);

/* A take-over, a recovery, or an append that nobody held the ids of any more: what was decided
 * before may be wrong now.  Decisions that are queued are refused.  Caller holds the lock. */
void begin_generation_locked(struct sequencer *s);

/* Open the log if need be, become holder. ERR_CONFLICT: another one is. */
MUST_CHECK enum err_code take_over(struct sequencer *s, struct err *err);

/* After a doubt: a new epoch, read up to it, resolve.  ERR_READ_ONLY: another holder was met and
 * everything is resolved: stand by. */
MUST_CHECK enum err_code recover_holder(struct sequencer *s, struct err *err);

/* The epoch that a take-over would take in this partition. */
uint64_t next_epoch(const struct line *line);

/* lease.c.  Errors: ERR_CONFLICT (someone else's turn), the store's. */
MUST_CHECK enum err_code lease_look(struct sequencer *s, uint64_t *version, uint64_t *hints,
                                    struct err *err);
MUST_CHECK enum err_code lease_take(struct sequencer *s, uint64_t version, struct err *err);
void lease_thread(void *sequencer);

#endif
