/* The ingest service: the only appender of a region's log.
 *
 *   POST …/records: parse and check everything → take the ids (busy.h) → decide what depends on the
 *   present state → one batch to the sequencer → committed: counts, ids and a token
 *
 * While the log is away plain writes go into the spool (spool.h) and from there into the log
 * (replay.c).
 *
 * All state is in struct ingest, so that many can live in one process.  Threads: "appender" and
 * "lease" (sequencer.h), "spool" (replay.c), "settle" (settle.h), "trim" (trim.h); handlers run on
 * the server's.
 */
#ifndef VICINAL_INGEST_INGEST_H
#define VICINAL_INGEST_INGEST_H

#include <stdatomic.h>

#include "backends/blob/blob.h"
#include "backends/embedder/embedders.h"
#include "backends/meta/meta.h"
#include "backends/wal/wal.h"
#include "cluster/cluster.h"
#include "common/base/hash.h"
#include "common/http/route.h"
#include "common/http/service.h"
#include "common/model/collection.h"
#include "common/model/position.h"
#include "services/ingest/busy.h"
#include "services/ingest/catalogue.h"
#include "services/ingest/headroom.h"
#include "services/ingest/sequencer.h"
#include "services/ingest/spool.h"
#include "services/ingest/trim.h"

#define INGEST_RESERVE_DEFAULT MIB(16)
#define SELECTION_PAGE         1000           /* ids that a filter finds at a time */
#define PLAIN_READ_NS          (2 * NS_PER_S) /* for the 201 or 200 of a plain PUT */
#define QUORUM_WAITS_MAX       32 /* writes; below the workers, see write_check_quorum */

struct ingest_setup {
    struct env *env;
    struct meta *meta;
    struct cluster *cluster;    /* NULL: no shard can be asked */
    struct blob *blob;          /* of imports; NULL: there are none */
    struct metrics *metrics;    /* may be NULL */
    struct http_client *client; /* to embedding servers; may be NULL without embedders */
    const char *embedders, *embedders_cache; /* as in embedders_setup */
    const char *name;                        /* of the node */
    const char *url;                         /* NULL: told to ingest_start */
    sequencer_open_wal_fn *open_wal;
    void *open_wal_context;
    bool log_locks;           /* the log admits one writer at a time */
    uint64_t reserve_bytes;   /* free bytes below which writes are refused; 0: none are */
    uint64_t queue_bytes_max; /* 0: SEQUENCER_QUEUE_MAX */
    const char *spool;        /* URL of its store; NULL: there is none */
    spool_open_store_fn
        *open_spool; /* how to open that, with open_spool_context; NULL: by the URL */
    void *open_spool_context;
    uint64_t spool_bytes;     /* 0: SPOOL_BYTES_DEFAULT */
    struct trim_options trim; /* every_ns 0: the log is not trimmed */
};

struct import_spare;

struct ingest_metrics {
    struct metric *latency, *upserts, *deletes, *truncates, *changes, *foreign, *imported;
    struct metric *busy, *collections, *wal_used, *wal_free, *holder;
    struct metric *spooled, *replayed, *replayed_older;
    struct metric *spool_records, *spool_bytes, *spool_age, *spool_parked;
};

struct ingest_options {
    const char *wal;
    const char *meta;
    const char *blob;
    const char *name;
    const char *embedders, *embedders_cache;
    const char *spool;
    uint64_t spool_bytes;
    uint64_t partitions;
    uint64_t reserve;
    uint64_t trim_every, trim_records, region_retention;
    bool repair;
};

struct ingest {
    struct service_base base;      /* a process's; unused elsewhere */
    struct ingest_options options; /* likewise */
    struct ingest_setup setup;
    struct env *env;
    struct sequencer sequencer;
    struct catalogue catalogue;
    struct busy *busy;
    struct headroom headroom;
    struct spool *spool; /* NULL: what the log does not take is refused */
    struct env_thread *replayer;
    struct env_thread *settler; /* settle.h */
    struct trimmer *trimmer;    /* NULL: the log is not trimmed */
    struct ingest_metrics metrics;
    char url[160];
    atomic_uint writes;         /* of clients, under way */
    atomic_uint quorum_waits;   /* of those, with a write_quorum of other regions */
    atomic_uint parts;          /* of imports, under way */
    struct import_spare *spare; /* imports.h; NULL: without a blob store */
    bool registered;            /* before the threads start, then the appender's */
    /* a process's own back ends, main.c's */
    struct meta *meta;
    struct blob *blob;
    struct http_client *client;
    struct cluster *cluster;
    struct embedders *embedders;
};

/* Everything but threads; base, options and main's back ends are left as they are.  Then start. */
MUST_CHECK enum err_code ingest_open(struct ingest *ingest, const struct ingest_setup *setup,
                                     struct err *err);

/* Register as node/ingest/NAME (later, when the store is away) and begin to stand by.  url NULL:
 * the setup's.  Errors: ERR_DEAD, ERR_NO_MEMORY. */
MUST_CHECK enum err_code ingest_start(struct ingest *ingest, const char *url, struct err *err);
void ingest_stop(struct ingest *ingest);  /* wakes all threads and waiters */
void ingest_close(struct ingest *ingest); /* joins them; zeroed is fine */
bool ingest_ready(struct ingest *ingest, struct buffer *why);
void ingest_measure(struct ingest *ingest);

extern const struct route ingest_routes[]; /* req->state is a struct ingest */

/* --- handlers ----------------------------------------------------------------------------------
 */

enum err_code handle_put_collection(struct request *req);    /* collections.c */
enum err_code handle_delete_collection(struct request *req); /* collections.c */
enum err_code handle_upsert_records(struct request *req);    /* records.c */
enum err_code handle_put_record(struct request *req);        /* record.c */
enum err_code handle_delete_record(struct request *req);     /* record.c */
enum err_code handle_delete_records(struct request *req);    /* delete.c */
enum err_code handle_patch_record(struct request *req);      /* record.c */
enum err_code handle_update_records(struct request *req);    /* update.c */
enum err_code handle_create_import(struct request *req);     /* imports.c */
enum err_code handle_get_import(struct request *req);        /* imports.c */
enum err_code handle_put_import_data(struct request *req);   /* imports.c */
enum err_code handle_cancel_import(struct request *req);     /* imports.c */
enum err_code handle_append(struct request *req);            /* foreign.c */
enum err_code handle_replay(struct request *req);            /* replay.c */
enum err_code handle_status(struct request *req);            /* status.c */

void replay_main(void *ingest); /* the thread "spool" */

/* --- the region's role: status.c
 * ------------------------------------------------------------------
 *
 * A write of a client is counted before the role is looked at, and until its outcome is known: once
 * the status says "passive" and no writes, none is under way, and none will be.  */
MUST_CHECK enum err_code ingest_admit(struct ingest *ingest, bool *counted, struct err *err);
void ingest_leave(struct ingest *ingest, bool *counted);

/* --- what handlers share: write.c ----------------------------------------------------------------
 */

/* One write on its way. */
struct write {
    struct ingest *ingest;
    struct request *req;
    struct collection collection;
    uint64_t generation; /* of the sequencer, when this write began */
    uint64_t deadline_ns;
    bool wait_searchable;
    uint64_t quorum;      /* regions that are to have it, this one included; 0 and 1: this one */
    bool awaits_quorum;   /* counted in quorum_waits */
    struct token written; /* of a write with a quorum: what it appended */
    bool holds_waits;     /* it is not complete yet: write_wait does nothing */
    bool may_spool;       /* it depends on nothing: the spool may take it while the log is away */
    bool spooled;         /* it has */
    const char *idempotency_key; /* NULL: none */
    struct err away;             /* why the log takes nothing at present; code ERR_OK: it does */
    bool counted;                /* ingest_admit */
    enum headroom_use headroom;
    struct busy_claim claim;
    struct sequence_batch *batch;
    struct token token;     /* of what was committed */
    uint64_t committed;     /* records, over all batches of this write */
    const char *count_name; /* how a failure half-way calls those; NULL: it does not tell */
};

/* The holder, a plain request, an active collection (its name is params[0]).
 * Errors: ERR_READ_ONLY, ERR_PASSIVE, ERR_COLLECTION_NOT_FOUND, ERR_NOT_SUPPORTED,
 * ERR_INSUFFICIENT_STORAGE … */
MUST_CHECK enum err_code write_begin(struct write *write, struct request *req);

/* The body is JSON; NDJSON is not supported yet.  Errors: ERR_NOT_SUPPORTED,
 * ERR_UNSUPPORTED_MEDIA_TYPE. */
MUST_CHECK enum err_code write_expect_json(struct request *req);
void write_set_timeout(struct write *write, uint64_t timeout_ms);

/* quorum is given: there are so many regions, and not too many writes wait for others already.
 * Those who wait hold a worker each, and other regions' records, which make the same wait end over
 * there, need some.  Errors, at /write_quorum: ERR_INVALID_ARGUMENT; ERR_UNAVAILABLE. */
MUST_CHECK enum err_code write_check_quorum(struct write *write);

/* Take ids (or, with count 0, the gate in this mode), then make sure that the collection is still
 * the one that was found, and that nothing waits in the spool which this write would have to see.
 * Errors: ERR_COLLECTION_NOT_FOUND (gone), ERR_UNAVAILABLE (made anew: asked again, it is looked at
 * as it is now; …), the busy table's. */
MUST_CHECK enum err_code write_take(struct write *write, const struct wire_id *ids, size_t count,
                                    enum busy_mode mode);

/* A write that depends on the present state: the log takes appends, and nothing that was
 * acknowledged before waits for it.  Part of write_take.  Errors: ERR_UNAVAILABLE … */
MUST_CHECK enum err_code write_check_spool(struct write *write);

/* Commit what is in the batch, give up the claim, wait until searchable, and for other regions,
 * when asked for.  A failure half-way is answered in full here: ERR_OK with *answered true. */
MUST_CHECK enum err_code write_commit(struct write *write, bool *answered);
MUST_CHECK enum err_code write_wait(struct write *write, bool *answered);

/* The end of a write of several batches: a failure behind the first of them is answered in full
 * here, with the token and the number of what was committed: ERR_OK with *answered true.  Otherwise
 * rc. */
MUST_CHECK enum err_code write_half_way(struct write *write, enum err_code rc, bool *answered);
void write_next_batch(struct write *write); /* let go of the batch that was committed */

/* Commit a batch whose writer knows how to go on after a failure, half-way or not.
 * Errors: the sequencer's. */
MUST_CHECK enum err_code write_commit_whole(struct write *write);
void write_end(struct write *write);

/* Add a record of this write's collection to its batch (made when there is none). */
MUST_CHECK enum err_code write_add(struct write *write, uint32_t partition, struct record *record);
MUST_CHECK enum err_code write_add_delete(struct write *write, const char *id, size_t len);

/* Something waits in the spool, and whatever depends on the present state waits behind it.
 * Errors: ERR_UNAVAILABLE. */
MUST_CHECK enum err_code ingest_check_spool(struct ingest *ingest, struct err *err);

/* "read_token": the token so far, or "durability": "spooled"; as a member of an open object. */
struct json_writer;
void write_token_member(struct write *write, struct json_writer *w);

/* Vectors for texts by the collection's embedder.  Errors: the embedder's, and
 * ERR_EMBEDDING_FAILED where no embedder of that name is configured here. */
MUST_CHECK enum err_code ingest_embed(struct write *write, const struct embedder_text *texts,
                                      size_t count, float *out);

/* wait and timeout_ms, common to all bodies. */
MUST_CHECK enum err_code write_check_wait(const char *text, size_t len, bool *searchable,
                                          struct err *err);

/* Objects that were found while one request was read. */
#define IMPORT_KNOWN_MAX 256
struct import_known {
    struct hash128 names[IMPORT_KNOWN_MAX];
    size_t count;
};

/* import_foreign.c: the object that a bulk manifest of another region names is here.
 * Errors: ERR_INVALID_ARGUMENT (it is none), ERR_UNAVAILABLE (not yet), ERR_DEAD. */
MUST_CHECK enum err_code import_check_foreign(struct ingest *ingest, const struct record *record,
                                              struct import_known *known, struct err *err);

/* --- decide.c ------------------------------------------------------------------------------------
 */

/* Reads at the log's end: rows of what there is now.  Answers are owned: cluster_answer_free. */
MUST_CHECK enum err_code decide_get(struct write *write, const struct wire_id *ids, size_t count,
                                    uint32_t include, struct cluster_answer *out);
MUST_CHECK enum err_code decide_scroll(struct write *write, const char *filter, size_t filter_len,
                                       struct wire_id after, struct cluster_answer *out);
MUST_CHECK enum err_code decide_count(struct write *write, uint64_t *count);
MUST_CHECK enum err_code decide_wait(struct write *write);

/* The row of an id (newest stamp of those given), or NULL. */
const struct wire_row *decide_row(const struct cluster_answer *answer, const char *id, size_t len);

/* Does an If-Match value fit the row (NULL: there is none)? */
bool decide_if_match(const char *value, const struct wire_row *row);

#endif
