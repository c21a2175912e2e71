/* One replica of a shard: it consumes the partitions that the map gives it, keeps their records in
 * its store and their vectors in engines, and answers questions.
 *
 * Threads, all made by shard_open:
 *   consume  reads the log, applies, commits, publishes (consume.c); the only one that changes the
 *            store and that inserts into or deletes from an engine
 *   index    links vectors into the graphs, syncs the store once a second (indexer.c)
 *   maintain leaves the dead behind, lets the oldest vectors become cold and writes segments, which
 *            may take minutes (maintain.c)
 *   fresh    asks the log's end every 100 ms (freshness.c)
 *   copy     makes copies for new replicas (copy.c)
 *   snapshot makes snapshots in the blob store (snapshot.c)
 *   link     as many as the setup says: lent to the index thread (helpers.c)
 * and the server's workers, which call the handlers of shard_routes.
 *
 * What readers see is `published`, changed by the consumer under `lock` after each commit.  No lock
 * is held across a call that can block. */
#ifndef VICINAL_SHARD_SHARD_H
#define VICINAL_SHARD_SHARD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "backends/meta/meta.h"
#include "backends/store/store.h"
#include "backends/wal/wal.h"
#include "common/base/env.h"
#include "common/http/route.h"
#include "common/model/shard_map.h"
#include "common/observe/metrics.h"
#include "engine/engine.h"
#include "services/shard/apply.h"
#include "services/shard/grace.h"

#define WAITERS_MAX_DEFAULT 64
#define POLL_MS_DEFAULT     100
#define MAINTAIN_MS_DEFAULT 1000
#define POLLS_KEPT          4

/* All borrowed until shard_close. */
struct shard_setup {
    struct env *env;
    struct meta *meta;
    struct store *store;
    struct blob *blob; /* what bulk manifests name; NULL: they cannot be applied */
    struct wal *wal;   /* NULL: opened from wal_url, once there is a log */
    const char *wal_url;
    const char *segments;  /* folder of the engines' segments; NULL: none are kept */
    const char *copies;    /* folder where copies for others are made; NULL: none are */
    uint64_t copy_rate;    /* of making and handing out copies, bytes per second; 0: no bound */
    uint64_t copied_bytes; /* with which this replica has begun, for the metrics */
    bool was_set_aside;    /* another store was in its place, for the metrics */
    const char *snapshots; /* folder where snapshots are made; NULL, or no blob: none are */
    uint64_t snapshot_every_ns; /* between two of them; 0: not because of the time */
    uint64_t snapshot_records;  /* of the log, between two of them; 0: however many */
    uint32_t snapshot_keep;     /* verified ones that are kept */
    /* The state is not in the log any more, and has to come from elsewhere: may not return soon, is
     * called by the consumer.  NULL: the shard only says so. */
    void (*begin_again)(void *context, const struct err *why);
    /* The store was found damaged: nothing more can be done with it; likewise. */
    void (*on_damage)(void *context, const struct err *why);
    void *process;           /* context of both */
    struct metrics *metrics; /* NULL: none */
    uint32_t shard;
    uint32_t replica;
    const char *simd;      /* name of the kernels; NULL: the best */
    uint64_t memory_bytes; /* of all engines; 0: no limit */
    uint32_t cold_above;   /* vectors that the graph of a collection may hold; 0: all */
    uint32_t link_threads; /* that help the index thread to link */
    uint32_t waiters_max;  /* 0: default */
    uint32_t poll_ms;      /* 0: default */
    uint32_t maintain_ms;  /* between two looks for what is due; 0: default */
};

enum shard_state { SHARD_STARTING, SHARD_READY, SHARD_FAILED };

/* The log's end was `end` or beyond at boot time asked_ns or after it. */
struct shard_poll {
    uint64_t asked_ns;
    uint64_t end;
};

/* A partition as it is published. */
struct shard_partition {
    uint64_t position;
    uint64_t synced; /* what a power cut cannot take back; at most position */
    uint64_t data;   /* behind the newest data record below it */
    uint64_t epoch;
    struct apply_counts counts;
    struct version_vector vector;
    struct apply_mark marks[APPLY_MARKS];
    uint64_t fresh_ns; /* everything committed before this boot time has been applied; 0: unknown */
    struct shard_poll polls[POLLS_KEPT]; /* not reached yet, rising */
    uint32_t poll_count;
};

/* A collection in a partition, as it is published. */
struct shard_part {
    enum apply_presence presence;
    uint64_t changed;
    uint64_t live;
    struct stamp truncate;
};

/* A collection as readers know it.  Immutable but for what is said. */
struct shard_collection {
    uint32_t references; /* guarded by shard.lock */
    uint32_t number;
    struct collection definition;
    struct engine *engine;        /* NULL: dropped */
    uint64_t life;                /* of the store beside which its segment lies; 0: none is kept */
    atomic_uint_fast32_t floor;   /* ordinals below were given to the engine, by the consumer */
    atomic_uint_fast64_t pending; /* ordinals in the engine that new snapshots do not show */
    atomic_bool is_leaving;       /* another entry, or none, is in its place, or about to be */
    uint64_t due_ns;              /* not maintained before this boot time; the maintainer's */
    uint64_t pause_ns;            /* after the next failure; 0: the shortest; the maintainer's */
    uint64_t linked;              /* at the last look, and looks since that changed; the */
    uint32_t looks;               /* maintainer's */
    /* below: guarded by shard.lock */
    bool is_published; /* readers may find it */
    bool is_maintained;
    bool is_dropped;               /* the segment goes with it */
    uint32_t committed;            /* ordinals below were used in a commit, or before the start */
    struct shard_part *parts;      /* by slot */
    struct shard_collection *next; /* in shard.gone */
};

struct shard_metrics {
    struct metric *latency[6]; /* by enum wire_op */
    struct metric *build;
    struct metric *searches, *read, *applied, *voided, *parked, *failures;
    struct metric *set_aside, *maintenance_failures;
    struct metric *staleness, *lag, *memory, *memory_limit, *linked, *unlinked, *cold, *records,
        *bytes;
};

struct bitmap_cache;
struct blob;
struct copier;
struct helpers;
struct retired;
struct snapshotter;

struct shard {
    struct shard_setup setup;
    struct env *env;
    struct grace grace;
    struct shard_metrics metrics;
    struct bitmap_cache *bitmaps;    /* bitmap.c */
    struct helpers *helpers;         /* helpers.c: of the index thread */
    struct copier *copier;           /* copy.c; NULL: no copies are handed out */
    struct snapshotter *snapshotter; /* snapshot.c; NULL: none are made */
    atomic_bool is_stopping;
    atomic_bool is_digesting;     /* a call of digest.c is under way */
    atomic_bool is_filling;       /* engines: nothing is linked meanwhile */
    atomic_uint_fast64_t commits; /* of the store, by the consumer */

    /* the consumer's own */
    struct apply apply;
    struct buffer bulk;      /* what the manifest in hand names */
    struct retired *retired; /* ordinals that wait for searches to end */
    size_t retired_head, retired_count, retired_size;
    bool must_rebuild;    /* the store is of another log */
    bool is_short;        /* the last batch met a vector that there was no room for */
    struct shard_map map; /* the last that was read */
    bool has_map;
    uint64_t swept_life; /* of the store at the last sweep of segments */

    pthread_mutex_t lock;
    struct env_cond changed; /* of anything below */
    struct env_cond errand;  /* for the maintainer: `gone`, or the end */
    struct env_cond wanted;  /* for the consumer: a waiter has come, or the end */
    /* below: guarded by lock */
    enum shard_state state;
    bool is_open;                   /* questions are answered */
    char detail[ERR_MESSAGE_BYTES]; /* why it is not ready */
    struct wal *wal;                /* in use now; NULL: none */
    uint32_t wal_users;             /* calls under way in other threads than the consumer's */
    uint32_t region;
    uint64_t generation; /* rises when the store is cleared */
    uint64_t map_version;
    uint32_t partitions_all; /* P; 0: not known */
    struct partition_set served;
    uint32_t served_count;
    uint16_t slot_of[PARTITIONS_MAX];
    uint32_t partition_of[PARTITIONS_MAX]; /* slot -> partition */
    struct shard_partition *partitions;    /* by slot: PARTITIONS_MAX of them */
    struct shard_collection **collections; /* by number */
    uint32_t collection_count;
    uint32_t collection_size;
    uint32_t *index; /* incarnation -> number + 1; 0: free */
    uint32_t index_size;
    struct shard_collection *gone;    /* dropped, to be freed with their segments */
    uint64_t applied, voided, parked; /* records, over all partitions */
    uint32_t waiters;                 /* for positions */
    bool should_reload;               /* the map changed: start anew */
    /* rounds of asking the log's end */
    bool round_is_open; /* one is under way */
    uint64_t rounds_begun, rounds_ended;
    enum err_code round_code; /* of the one that ended last */
    bool round_was_cut;       /* it had less time than a log may take */
    uint64_t *round_ends;     /* by slot */

    struct env_thread *consumer, *indexer, *poller, *maintainer;
};

/* Everything begins: threads, loading, catching up.  shard is zeroed.
 * Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code shard_open(struct shard *shard, const struct shard_setup *setup,
                                    struct err *err);

/* All waits and loops end; questions are refused from now on. */
void shard_stop(struct shard *shard);

/* After shard_stop, and after the last question was answered.  Zeroed is fine. */
void shard_close(struct shard *shard);

/* True when questions are answered; otherwise the reason is appended as a JSON string. */
bool shard_ready(struct shard *shard, struct buffer *why);

/* Set the gauges. */
void shard_measure(struct shard *shard);

extern const struct route shard_routes[];

/* --- shard.c ---------------------------------------------------------------------------------- */

/* The consumer tells how it goes; err: NULL or why not.  READY opens the shard to questions. */
void shard_set_state(struct shard *shard, enum shard_state state, const struct err *err);

/* The consumer's: no questions from now on, and nothing is served. */
void shard_shut(struct shard *shard);
bool shard_is_stopping(const struct shard *shard);

/* The log, for a call that is made without a lock; NULL: there is none now.  shard_wal_put when the
 * call has returned. */
struct wal *shard_wal_get(struct shard *shard);
void shard_wal_put(struct shard *shard);

/* --- collections.c ---------------------------------------------------------------------------- */

/* The published collection, referenced; NULL: not known. */
struct shard_collection *collections_get(struct shard *shard,
                                         const uint8_t incarnation[INCARNATION_BYTES]);
void collections_put(struct shard *shard, struct shard_collection *collection); /* NULL is fine */

/* The collection of this number, referenced, if it has an engine; NULL otherwise.  *is_last: there
 * are none of higher numbers. */
struct shard_collection *collections_at(struct shard *shard, uint32_t number, bool *is_last);

/* The consumer's: make the entry of a collection of apply, with an engine when it is active.
 * stored: the snapshot that apply was loaded from; the engine takes its segment over then, as far
 * as it agrees, and wants the vectors from entry->floor on.  NULL: the collection has no vector
 * yet, and what lies in its folder is removed. */
MUST_CHECK enum err_code collections_open(struct shard *shard, struct apply_collection *from,
                                          struct store_txn *stored, struct err *err);

/* The consumer's: the entry loses its engine.  Its segment goes when the last of those who use it
 * has let go of it. */
MUST_CHECK enum err_code collections_drop_engine(struct shard *shard, uint32_t number,
                                                 struct err *err);

/* The consumer's, caller holds the lock: take over what apply has. */
void collections_publish_locked(struct shard *shard, const struct apply_collection *from);

/* The consumer's: forget the entries from this number on.  None of them is maintained at the
 * return: their folders may be opened again. */
void collections_cut(struct shard *shard, uint32_t count);

/* Close the engines of dropped collections that nobody uses any more, and remove their segments.
 * The maintainer's; at the end the owner's. */
void collections_free_gone(struct shard *shard);

/* The consumer's: its own entry; the number is known. */
struct shard_collection *collections_own(struct shard *shard, uint32_t number);

/* Bytes that all engines take. */
uint64_t collections_memory(struct shard *shard);

/* --- start.c ---------------------------------------------------------------------------------- */

/* How far the log reached when the shard began, and whose first records are still to be compared
 * with what the store remembers; by slot. */
struct start {
    uint64_t ends[PARTITIONS_MAX];
    bool is_unproven[PARTITIONS_MAX];
    uint32_t unproven_count;
    struct wal_reader *reader;
};

/* From the map to a reader that stands where the store ends, engines filled.  Called again after
 * every failure.  Errors: ERR_UNAVAILABLE (something is not there yet), ERR_DEAD, all others. */
MUST_CHECK enum err_code start_shard(struct shard *shard, struct start *start, struct err *err);

/* Close the log if it is the shard's own, after everyone has let go of it. */
void start_close_wal(struct shard *shard);

/* The consumer's: forget what waits to leave the engines of collections from this number on. */
void consume_forget_retired(struct shard *shard, uint32_t collection);

/* --- engines.c --------------------------------------------------------------------------------
 */

/* The consumer's: what lies beside another store than the one that is loaded goes, and what is of
 * no collection of it.  To be called before an engine is opened.
 * Errors: those of apply_take_life and segments_make. */
MUST_CHECK enum err_code engines_prepare(struct shard *shard, struct err *err);

/* The consumer's, before the entry is in the table: open its engine; stored: see collections_open.
 * Errors: those of engine_open, ERR_CORRUPT, ERR_IO (the store). */
MUST_CHECK enum err_code engines_open(struct shard *shard, struct shard_collection *entry,
                                      const struct apply_collection *from, struct store_txn *stored,
                                      struct err *err);

/* The consumer's: every stored vector from entry->floor on into the engine, in the order of the
 * ordinals.  Errors: those of engine_insert, ERR_CORRUPT, ERR_IO, ERR_DEAD (stopping). */
MUST_CHECK enum err_code engines_fill(struct shard *shard, struct shard_collection *entry,
                                      struct store_txn *stored, struct err *err);

/* bulk.c, the consumer's: fetch what a manifest that counts names, into input->bulk; anything else
 * is left as it is.  Errors: those of blob_get, ERR_CORRUPT. */
MUST_CHECK enum err_code bulk_prepare(struct shard *shard, struct apply_input *input,
                                      struct err *err);

/* --- consume.c, indexer.c, maintain.c, freshness.c -------------------------------------------- */

void consume_run(void *shard);
void indexer_run(void *shard);
void maintain_run(void *shard);
void freshness_run(void *shard);

/* What a reader must see before it is answered; filled by ask.c. */
struct demand {
    const struct token *token;         /* positions to have been reached */
    const struct partition_set *asked; /* partitions that are asked, served or not */
    bool fresh;
    uint64_t max_staleness_ns; /* NEVER_NS: none */
    uint64_t arrived_ns;
    uint64_t deadline_ns;
};

/* Wait until the demand is met.
 * Errors: ERR_BEHIND (deadline, too many waiters, the log's end cannot be asked),
 * ERR_TOKEN_LOG_GONE, ERR_INVALID_ARGUMENT, ERR_UNAVAILABLE (not ready), ERR_DEAD. */
MUST_CHECK enum err_code freshness_await(struct shard *shard, const struct demand *demand,
                                         struct err *err);

/* Caller holds the lock: the partition's position has moved. */
void freshness_reached_locked(struct shard_partition *partition);

/* Caller holds the lock: the log's end was this or beyond at asked_ns or later. */
void freshness_note_locked(struct shard_partition *partition, uint64_t asked_ns, uint64_t end);

/* Caller holds the lock: how stale the partition is; NEVER_NS when it never caught up. */
uint64_t freshness_of_locked(const struct shard *shard, uint32_t slot, uint64_t now_ns);

#endif
