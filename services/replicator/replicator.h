/* The replicator: carries the other regions' records into this region's log.
 *
 *   peer's log → void rule → its own data records → runs → POST /internal/v1/append of our ingest
 *
 * One thread for each peer ("peer"), and one ("regions") that follows the rows about regions,
 * starts and ends the others, and writes the table of lag.  Nothing is kept here: where to go on is
 * what the ingest says, so any number of replicators may run, and any may die at any moment.
 *
 * Only data is a reason to ship, and only records that were first written in that region's log are
 * shipped: nothing echoes.  All state is in struct replicator, so that many can live in one
 * process.
 */
#ifndef VICINAL_REPLICATOR_REPLICATOR_H
#define VICINAL_REPLICATOR_REPLICATOR_H

#include <pthread.h>
#include <stdatomic.h>

#include "backends/meta/meta.h"
#include "backends/wal/wal.h"
#include "cluster/regions.h"
#include "common/http/client.h"
#include "common/http/route.h"
#include "common/http/service.h"
#include "common/model/record.h"
#include "common/observe/metrics.h"

#define SHIP_BYTES_MAX   MIB(4)            /* of all runs that are sent together */
#define SHIP_ITEMS_MAX   8192              /* entries read for them */
#define READ_ITEMS_MAX   1024              /* at a time */
#define POSITION_EVERY   (100 * NS_PER_MS) /* runs without records, of one partition */
#define ENDS_EVERY       (100 * NS_PER_MS) /* how often the peer's log is asked for its ends */
#define ENDS_WAIT        NS_PER_S          /* a log that takes longer counts as away */
#define LAG_EVERY        NS_PER_S          /* how often the table is written */
#define BEHIND_NS        (5 * NS_PER_S)    /* from here on a peer is "catching_up" */
#define RETRY_MIN_NS     (10 * NS_PER_MS)
#define RETRY_MAX_NS     NS_PER_S
#define SHIP_DEADLINE_NS (15 * NS_PER_S) /* of one POST; above the ingest's own */
#define SAMPLES          1024            /* of propagation times, for p50 and p99 */
#define WAITERS_MAX      96              /* requests that wait here; below the workers */
#define REACH_BODY_MAX   KIB(1)
#define HELD_BODY_MAX    (TOKEN_BYTES_MAX + KIB(1))

struct replicator;

/* Open a peer's log for reading; the simulation has its own. */
typedef enum err_code replicator_open_wal_fn(void *context, const char *url, struct wal **out,
                                             struct err *err);

struct replicator_setup {
    struct env *env;
    struct meta *meta;
    struct http_client *client;
    struct metrics *metrics; /* may be NULL */
    const char *region;      /* own name */
    replicator_open_wal_fn *open_wal;
    void *open_wal_context;
};

/* Records of one partition that wait to be shipped. */
struct run {
    struct buffer records; /* u32 length and bytes of each */
    struct buffer clocks;  /* u64 of each: when it was written */
    uint32_t count;
};

/* One partition of a peer's log; the peer thread's own. */
struct line {
    struct epoch_state epochs;
    uint64_t wanted;        /* what the ingest wants next: everything below is in our log */
    uint64_t read;          /* next offset to read */
    bool has_data;          /* data of any origin lies in [wanted, read) … */
    uint64_t data;          /* … and the newest of it below this */
    uint64_t shipped_ns;    /* boot time of the last run */
    uint64_t asked_ns, end; /* of the poll that is to be reached */
    uint64_t fresh_ns;      /* everything committed there before is here; 0: never */
    bool is_polled;         /* asked_ns and end stand */
    uint64_t held;          /* of our own log: everything below is in the peer's */
    struct run run;
};

enum peer_state {
    PEER_CONNECTING,
    PEER_FOLLOWING,
    PEER_CATCHING_UP,
    PEER_AWAY,    /* its log, or our ingest, does not answer */
    PEER_REFUSED, /* it is no peer: another number of partitions, our own log */
    PEER_STUCK,   /* something must be done by hand */
};

/* What others may see of a partition. */
struct line_view {
    uint64_t end, applied, fresh_ns;
    uint64_t own;  /* what the peer itself wrote below is in our log; 0 while not connected */
    uint64_t held; /* as in struct line */
};

/* A peer's log while it is open: the last who leaves closes it. */
struct peer_log {
    struct wal *wal;
    uint32_t refs; /* guarded by the replicator's lock */
};

struct peer_metrics {
    struct metric *lag, *lag_records, *propagation, *records, *state;
};

struct peer {
    struct replicator *replicator;
    struct region_row row;
    struct env_thread *thread;
    atomic_bool stopping;
    atomic_bool is_outdated; /* our own log is another than when it connected: connect anew */
    struct peer_metrics metrics;
    struct peer *next;

    /* the thread's own */
    struct wal *wal; /* log->wal, for short */
    struct wal_reader *reader;
    uint32_t number, partitions;
    struct line *lines;
    struct wal_item *items; /* READ_ITEMS_MAX: those read last, from item_at on still to be taken */
    size_t item_at, item_count;
    size_t run_bytes;
    uint64_t ends_ns;   /* when the ends were asked last */
    bool are_ends_told; /* the last time */
    char ingest_url[REGION_URL_BYTES];

    /* guarded by the replicator's lock */
    enum peer_state state;
    char detail[ERR_MESSAGE_BYTES];
    struct line_view *views; /* view_count of them */
    uint32_t view_count, view_number;
    uint32_t own_number;  /* of our own log; 0: not known yet */
    uint32_t refs;        /* the list's, and those of requests that wait for it */
    struct peer_log *log; /* NULL while not connected */
    uint64_t rounds_begun, rounds_ended;
    bool round_is_open;   /* its ends are being asked for those who wait */
    struct err round_err; /* of the last one; code ERR_OK: round_ends stand */
    uint64_t *round_ends; /* view_count of them */
    uint64_t seen_us;     /* wall clock when the ends were told last */
    uint32_t samples_us[SAMPLES];
    uint64_t sampled; /* in all */
};

struct replicator {
    struct replicator_setup setup;
    struct env *env;
    struct env_thread *regions;
    atomic_bool stopping;
    pthread_mutex_t lock;
    struct env_cond changed; /* stopping; for those who wait, all that reach.c tells */
    struct metric *waiting;
    /* guarded by lock */
    struct peer *peers;
    uint32_t waiters;
    char trouble[ERR_MESSAGE_BYTES]; /* why the rows are not followed; "": they are */
    bool has_rows;
};

MUST_CHECK enum err_code replicator_open(struct replicator *replicator,
                                         const struct replicator_setup *setup, struct err *err);
MUST_CHECK enum err_code replicator_start(struct replicator *replicator, struct err *err);
void replicator_stop(struct replicator *replicator);
void replicator_close(struct replicator *replicator); /* joins; zeroed is fine */
bool replicator_ready(struct replicator *replicator, struct buffer *why);
void replicator_measure(struct replicator *replicator);

extern const struct route replicator_routes[]; /* req->state is a struct replicator */

/* --- between the files -------------------------------------------------------------------------
 */

enum err_code handle_replicator_status(struct request *req); /* status.c */
enum err_code handle_reach(struct request *req);             /* reach.c */
enum err_code handle_held(struct request *req);              /* held.c */

/* peer.c: a peer's thread, from connecting to closing. */
void peer_run(void *peer);
void peer_set_state(struct peer *peer, enum peer_state state, const struct err *err);
const char *peer_state_text(enum peer_state state);
bool peer_is_stopping(const struct peer *peer);
/* Sleep, or until the end.  Errors: ERR_DEAD. */
MUST_CHECK enum err_code peer_pause(struct peer *peer, uint64_t ns);

/* follow.c: read what there is into the runs, at most SHIP_BYTES_MAX, waiting until the boot time
 * for the first of it.  Errors: those of wal_reader_next, ERR_CORRUPT. */
MUST_CHECK enum err_code follow_read(struct peer *peer, uint64_t until_ns, struct err *err);

/* Open the reader where nothing is missed, and the void rule is known.  The lines' `wanted` is set.
 */
MUST_CHECK enum err_code follow_open(struct peer *peer, struct err *err);

/* ship.c: ask the ingest what it wants of each partition.  Errors: those of a call; ERR_READ_ONLY
 * (no ingest). */
MUST_CHECK enum err_code ship_positions(struct peer *peer, struct err *err);

/* Ship all runs that are due, trying again until they are taken.  Errors: ERR_VERSION_CONFLICT (a
 * gap: begin anew), ERR_INVALID_ARGUMENT (refused for ever), ERR_DEAD. */
MUST_CHECK enum err_code ship_due(struct peer *peer, struct err *err);

/* lag.c: ask the peer's ends when it is time; publish what is known.  An end that is not told is no
 * error: the lag grows. */
MUST_CHECK enum err_code lag_poll(struct peer *peer, struct err *err);
void lag_publish(struct peer *peer);
void lag_sample_locked(struct peer *peer, uint64_t us);
/* Write the rows of all peers. */
MUST_CHECK enum err_code lag_write(struct replicator *replicator, struct err *err);

/* reach.c: the log was opened, or is closed as soon as nobody asks it; tell those who wait what is
 * in our log, and of ours in the peer's.  reach_open: peer->wal is open. */
MUST_CHECK enum err_code reach_open(struct peer *peer, struct err *err);
void reach_close(struct peer *peer);
void reach_publish(struct peer *peer);

/* A place among those who wait.  Errors: ERR_BEHIND (there are too many). */
MUST_CHECK enum err_code reach_enter_locked(struct replicator *replicator, struct err *err);

/* The last one frees it. */
void peer_put_locked(struct peer *peer);

/* The worst of a peer's partitions; LAG_NEVER: some have never been reached. */
struct lag_summary {
    uint64_t lag_ms, lag_records;
    double p50_ms, p99_ms; /* of propagation; < 0: nothing came yet */
};
void lag_summarise_locked(const struct peer *peer, struct lag_summary *out);

#endif
