/* One to three regions, each a whole cluster, in one process, in simulated time, from one seed.
 *
 *   sim_flow.c     stacks to run on, one at a time
 *   sim_sched.c    threads that run only while they hold the baton; time
 *   sim_env.c      the env of a node: clocks, waits, death
 *   sim_wal.c      the logs: no lock, unknown outcomes, entries that land late
 *   sim_meta.c     the metadata stores: slow, away, of unknown outcome
 *   sim_blob.c     the blob store of all regions: objects that come late or not at all
 *   sim_store.c    a shard's disk;   sim_begin.c  how a shard begins, on an old one or a new one
 *   sim_trim.c     snapshots, and the logs that are trimmed because of them
 *   sim_net.c      the network: delays, losses, duplicates, cut links
 *   sim_node*.c    the services as objects on nodes that crash and come back
 *   sim_faults.c   what goes wrong, and when
 *   sim_client.c   writers;   sim_writes.c  patches, writes with a key;   sim_import.c  imports
 *   sim_reader.c   readers
 *   sim_follow.c   what the logs say;   sim_truth.c  every answer is compared with that
 *   sim_watch.c    what replicas publish on the way
 *   sim_report.c   what was done and looked at
 *   sim_run.c      one seed from the start to the end;   sim_end.c  the last checks
 *
 * The scheduler hands the baton on at every call of env and of a back end; time moves only when
 * nobody can run.  Only one thread runs at a time, so nothing here is locked. */
#ifndef VICINAL_TESTS_SIM_H
#define VICINAL_TESTS_SIM_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "backends/meta/meta.h"
#include "backends/store/store.h"
#include "backends/wal/wal.h"
#include "common/base/buffer.h"
#include "common/base/env.h"
#include "common/base/hash.h"
#include "common/http/client.h"
#include "common/http/route.h"
#include "common/model/position.h"
#include "common/model/record.h"
#include "tests/sim/sim_flow.h"

#define SIM_PARTITIONS   4
#define SIM_SHARDS       2
#define SIM_REPLICAS_MAX 3
#define SIM_REGIONS_MAX  3
#define SIM_NODES_MAX    32
#define SIM_IDS          14 /* the last SIM_KEYS of them are made of keys */
#define SIM_KEYS         4
#define SIM_FIRST_KEYED  (SIM_IDS - SIM_KEYS)
#define SIM_OPS_MAX      8192
#define SIM_THREADS_MAX  2048
#define SIM_WAITERS_BITS 8
#define SIM_TRACE_LINES  64
#define SIM_TRACE_BYTES  160
#define SIM_TOKENS       16
#define SIM_TOKEN_BYTES  1024
#define SIM_COLLECTION   "things"
#define SIM_CHANGING     "fleeting" /* dropped and created again all the time */
#define SIM_DIMENSION    4

struct sim;
struct sim_node;
struct sim_region;
struct sim_service;

/* --- threads and time: sim_sched.c ---------------------------------------------------------------
 */

enum sim_thread_state { SIM_READY, SIM_BLOCKED, SIM_ENDED };

struct sim_thread {
    struct env_thread base; /* first */
    struct sim *sim;
    struct sim_node *node; /* stands still with it; NULL: the world's own */
    char name[24];
    uint32_t number;
    env_thread_fn *fn;
    void *argument;
    struct sim_flow *flow;
    enum sim_thread_state state;
    bool detached;
    /* while blocked */
    struct sim_node *judge; /* whose death ends the wait and whose clock counts */
    const void *channel;    /* what it waits for; NULL: time only */
    uint64_t until_ns;      /* boot time of the judge */
    uint64_t due_ns;        /* the same in the world's time; NEVER_NS: not to be seen */
    size_t due_at;          /* its place in sim.due, plus one; 0: in none */
    enum err_code woken;
    struct sim_thread *before, *after;  /* of those in the channel's bucket */
    struct sim_thread *previous, *next; /* of all */
};

struct sim_waiters {
    struct sim_thread *first, *last;
};

/* One life of a process: after a crash the next life has an env of its own. */
struct sim_life {
    struct env env; /* first */
    struct sim_node *node;
    bool dead;
    struct sim_life *before; /* of the same node */
};

struct sim_node {
    struct sim *sim;
    struct sim_region *region;
    uint32_t number;
    char name[24]; /* "shard-0.1", "b-router"; its URL is http://NAME */
    struct sim_life *life;
    const struct sim_service *service; /* NULL: a client */
    void *object;                      /* the service's */
    uint32_t shard, replica;
    bool serving;              /* requests are taken */
    bool down;                 /* crashed or stopped; the supervisor has not opened it again */
    uint32_t guests;           /* requests under way */
    uint32_t crash_in;         /* calls until it dies; 0: it does not */
    struct meta meta;          /* sim_meta.c */
    struct http_client client; /* sim_net.c */
    struct store *store;       /* outlives a crash */
    struct store *old_store;   /* a copy of some time ago, which may be put back; NULL: none */
    bool loses_disk;           /* when it is closed next */
    bool loses_unsynced;       /* likewise: all commits that no sync has kept */
    bool gets_old_disk;        /* likewise: the copy takes the place of the store */
    bool is_new;               /* it has lost its disk */
    uint64_t disk_ns;          /* when it had another disk last; 0: never */
    uint64_t blob_gets;        /* objects that it has read */
    uint64_t opened_ns;        /* when it began to be in service last */
    /* clocks */
    uint64_t boot_base_ns;
    int64_t skew_us;
    int64_t drift_ppm;
    uint64_t frozen_ns; /* for so long its clocks have stood still */
    bool paused, freezing;
    uint64_t paused_at_ns, resume_ns;
    /* what is wrong with it now */
    bool isolated;
    uint32_t disk_fail; /* percent */
    uint64_t blob_slow_ns;
    bool log_away; /* reads of logs give nothing */
};

enum sim_check {
    CHECK_ACKED,
    CHECK_REFUSED,
    CHECK_CONDITION,
    CHECK_READ,
    CHECK_FRESH,
    CHECK_TOKEN,
    CHECK_BOUND,
    CHECK_CLAIM,
    CHECK_GLOBAL,
    CHECK_SEARCHABLE,
    CHECK_QUORUM,
    CHECK_DIGEST,
    CHECK_COMPARED,
    CHECK_SNAPSHOT,
    CHECK_BEGINNING,
    CHECK_END,
    CHECK_KINDS
};

struct sim_counts {
    uint64_t switches, calls, crashes, power_cuts, lost_commits, restarts, pauses, frozen,
        isolations;
    uint64_t disk_errors, dawdles, quiet, meta_outages, clock_steps, log_faults, net_faults;
    uint64_t dropped, doubled, broken, refused;
    uint64_t appends, unknown, never_landed, landed_late, landed_unanswered;
    uint64_t epochs, voided, takeovers;
    uint64_t acked, spooled, replays, log_outages, failed, undecided, wins, losses,
        precondition_failed, truncates, drops;
    uint64_t reads, fresh_reads, token_reads, bounded_reads, stale_served, unmet, searches,
        cache_hits;
    uint64_t regions, cuts, foreign, overtaken, distant_tokens, unknown_tokens, global_reads,
        quorums_missed;
    uint64_t disks_lost, handovers, reordered, links_cut, patches, repeats;
    uint64_t imports, parts, manifests, blob_puts, blob_gets, blob_faults, blob_late;
    uint64_t retries, hedges, hedge_wins, scrubs, copies, copied_bytes, copies_failed;
    uint64_t snapshots, snapshots_removed, trims, trimmed, trims_in_part, begun_with_snapshot,
        set_aside, old_disks, shards_lost;
    uint64_t checks[CHECK_KINDS];
};

/* --- the log ------------------------------------------------------------------------------------
 */

struct sim_entry {
    uint8_t *data;
    size_t len;
    uint64_t landed_ns;
    bool is_void; /* as truth_follow found */
};

struct sim_partition {
    struct sim_entry *entries;
    size_t count, size;
};

struct sim_landing; /* what is on its way to the log */

struct sim_log {
    uint32_t region;
    struct sim_partition partitions[SIM_PARTITIONS];
    struct sim_landing *landings;
    uint64_t hints[SIM_PARTITIONS];  /* as kept beside the log */
    uint64_t firsts[SIM_PARTITIONS]; /* what is below was trimmed; only the truth still sees it */
    uint64_t trimmed_ns;             /* the last time */
    int changed;                     /* channel: something landed */
    /* in percent of appends and calls, set by the faults */
    uint32_t lose, late, unanswered, fail_reads;
    uint64_t slow_ns;
};

/* --- what is true --------------------------------------------------------------------------------
 */

enum sim_op_kind {
    OP_UPSERT,
    OP_CREATE,
    OP_SKIP,
    OP_IF_MATCH,
    OP_KEYED,  /* may be sent again */
    OP_PATCH,  /* keeps what is there besides */
    OP_IMPORT, /* may be appended again, with its stamp */
    OP_KINDS
};
/* Spooled: answered 202. */
enum sim_op_state { OP_PENDING, OP_ACKED, OP_SPOOLED, OP_FAILED, OP_UNKNOWN };

/* A value that a client wrote; its number is the value. */
struct sim_op {
    enum sim_op_kind kind;
    enum sim_op_state state;
    uint32_t id;
    uint32_t region;    /* where it was written */
    uint32_t base;      /* the value with which the image began that it changed; 0: not known yet */
    uint32_t expects;   /* a patch of what has this value; 0: of anything */
    uint32_t sends;     /* of one with a key */
    struct stamp stamp; /* of an imported one */
    char if_match[64];
    uint64_t began_ns;
    struct stamp spooled; /* its provisional stamp, where it was met in a spool: */
    const struct sim_node *spool;
    uint64_t spooled_ns; /* answered; 0: not by the holder of the log */
    uint64_t spool_number;
    uint32_t times;                           /* it was admitted into that region's log */
    uint64_t first_offset, offset;            /* the last one */
    bool is_shipped[SIM_REGIONS_MAX];         /* admitted there */
    uint64_t shipped_offset[SIM_REGIONS_MAX]; /* its origin, as it says there */
};

enum sim_event_kind { EVENT_VALUE, EVENT_DELETE };

/* A change of an id that counts, in the order of its partition. */
struct sim_event {
    enum sim_event_kind kind;
    uint64_t offset;
    uint64_t landed_ns;
    uint32_t value;
    struct stamp stamp;
};

struct sim_history {
    struct sim_event *events;
    size_t count, size;
    uint64_t acked_position; /* behind the newest change answered 200 */
    uint64_t seen_position;  /* behind the newest change that some answer has shown for certain */
};

/* Where the data records of one origin stand, in the order of its log. */
struct sim_places {
    struct sim_place {
        uint64_t origin, here; /* offsets in the origin's log and in this one */
    } * places;
    size_t count, size;
};

/* The digest that replicas have published at each position of a partition. */
struct sim_marks {
    struct sim_mark {
        bool is_known;
        struct hash128 digest;
        uint64_t live;
    } * marks;
    size_t size;
};

/* What one region's log says. */
struct sim_chronicle {
    struct epoch_state admitted[SIM_PARTITIONS];
    uint64_t read[SIM_PARTITIONS];
    struct stamp newest[SIM_PARTITIONS];
    struct sim_history ids[SIM_IDS];
    struct sim_marks marks[SIM_PARTITIONS];
    struct sim_places origins[SIM_PARTITIONS][SIM_REGIONS_MAX];
    uint8_t holder[HOLDER_BYTES]; /* of partition 0 */
    uint64_t held_ns;             /* since when */
};

struct sim_truth {
    bool has_incarnation;
    uint8_t incarnation[INCARNATION_BYTES];
    struct sim_op ops[SIM_OPS_MAX];
    uint32_t op_count;
    struct buffer scratch;
};

/* A region: a log, a metadata store, and the nodes that use them. */
struct sim_region {
    struct sim *sim;
    uint32_t index;
    uint32_t replicas; /* of each shard */
    char name[2];      /* "a" */
    char prefix[4];    /* of its nodes' names: "", "b-" */
    struct sim_node *clients;
    struct sim_log log;
    struct meta *rows; /* the metadata store itself */
    int meta_changed;  /* channel */
    bool meta_away;
    uint32_t meta_fail;             /* percent */
    bool cut_from[SIM_REGIONS_MAX]; /* nothing is read of that region's log */
    struct sim_chronicle chronicle;
};

/* --- the blob store ------------------------------------------------------------------------------
 */

struct sim_object; /* sim_blob.c */

struct sim_blobs {
    struct sim_object *objects;
    uint32_t fail, late, unanswered; /* percent */
    uint64_t slow_ns;
    bool is_away;
};

/* --- the world -----------------------------------------------------------------------------------
 */

struct sim_options {
    uint64_t seed;
    uint32_t steps;   /* of each client */
    uint32_t regions; /* 0: the seed says */
    bool verbose;
    bool calm; /* no faults */
    int report_fd;
};

struct sim {
    struct sim_options options;
    uint64_t random[2];
    uint64_t now_ns; /* of the world */
    uint64_t hash;   /* of everything that happened */
    struct sim_counts counts;
    struct sim_life world; /* the env of what is no node's */
    struct sim_node world_node;
    struct sim_thread *threads, *last_thread; /* all that have not been freed */
    struct sim_thread *current;
    struct sim_thread *ready[SIM_THREADS_MAX];
    size_t ready_count;
    struct sim_thread *due[SIM_THREADS_MAX]; /* a heap by due_ns */
    size_t due_count;
    struct sim_waiters waiters[1 << SIM_WAITERS_BITS];
    uint32_t thread_numbers;
    struct sim_node nodes[SIM_NODES_MAX];
    uint32_t node_count;
    struct sim_region regions[SIM_REGIONS_MAX];
    uint32_t region_count;
    /* the network */
    uint32_t net_drop, net_break, net_double; /* percent */
    uint64_t net_slow_ns;
    uint64_t left_ns; /* the answer that was taken last has left its node */
    bool links_cut[SIM_NODES_MAX][SIM_NODES_MAX]; /* from, to */
    uint64_t sent[SIM_NODES_MAX][SIM_NODES_MAX], arrived[SIM_NODES_MAX][SIM_NODES_MAX];
    struct sim_blobs blobs;
    struct sim_truth truth;
    char tokens[SIM_TOKENS][SIM_TOKEN_BYTES]; /* some that were handed out */
    bool trims;                               /* snapshots are made and logs are trimmed */
    bool quiet;                               /* clients rest for a while */
    bool healing;                             /* nothing new goes wrong */
    bool healed;                              /* and nothing is wrong any more */
    bool stopping, log_stopping;
    uint32_t supervisors; /* threads that open and close nodes */
    uint32_t clients;     /* still at work */
    char trace[SIM_TRACE_LINES][SIM_TRACE_BYTES];
    uint64_t trace_count;
};

/* The calling thread becomes the first of the simulation. */
void sim_begin(struct sim *sim, struct sim_thread *self);
void sim_end(struct sim *sim, struct sim_thread *self);

uint64_t sim_random(struct sim *sim);
uint64_t sim_below(struct sim *sim, uint64_t bound); /* 0..bound-1; 0 for bound 0 */
bool sim_percent(struct sim *sim, uint32_t percent);
/* Mostly near low, sometimes up to high. */
uint64_t sim_delay(struct sim *sim, uint64_t low, uint64_t high);

/* Between sim_sched.c and sim_env.c: give the baton away until the channel, the judge's boot clock
 * or the judge's death; a blocked thread may run again; a thread of its own and its end; when, in
 * the world's time, the node's boot clock shows that (NEVER_NS: it will not). */
MUST_CHECK enum err_code sim_block(struct sim_node *judge, const void *channel, uint64_t until_ns);
void sim_ready(struct sim_thread *thread, enum err_code woken);
struct sim_thread *sim_thread_new(struct sim *sim, struct sim_node *node, const char *name,
                                  env_thread_fn *fn, void *argument);
void sim_thread_free(struct sim_thread *thread);
uint64_t sim_world_time_of(const struct sim_node *node, uint64_t boot_ns);
/* The node's clocks have stopped, or go on: who waits for them is due at another time. */
void sim_retime(struct sim_node *judge);
bool sim_is_awaited(struct sim *sim, const void *channel);
extern const struct env_ops sim_env_ops;

/* A fresh life for the node, whose env services are opened with. */
struct sim_life *sim_life_new(struct sim_node *node);
struct sim_node *sim_node_of(struct env *env);
bool sim_env_is_dead(const struct env *env);

/* The current life ends here and now. */
void sim_kill(struct sim_node *node);

/* An env call of this env: it may be the one at which the node dies.  Errors: ERR_DEAD. */
MUST_CHECK enum err_code sim_touch(struct env *env);

/* Hand the baton on without waiting. */
void sim_switch(struct sim *sim);

/* Wait for the channel, the time of env's own boot clock, or env's death.
 * Errors: ERR_TIMEOUT, ERR_DEAD. */
MUST_CHECK enum err_code sim_wait(struct env *env, const void *channel, uint64_t until_ns);
void sim_wake(struct sim *sim, const void *channel, bool all);

/* Let that much of the world's time pass.  Errors: ERR_DEAD. */
MUST_CHECK enum err_code sim_pass(struct env *env, uint64_t ns);
void sim_world_sleep(struct sim *sim, uint64_t ns);

/* A thread nobody joins, of the world's own. */
void sim_spawn(struct sim *sim, const char *name, env_thread_fn *fn, void *argument);

void sim_pause(struct sim_node *node, uint64_t ns, bool freezing);
void sim_resume(struct sim_node *node);

/* Something that belongs to the trace and its hash. */
void sim_note(struct sim *sim, const char *format, ...) PRINTF_LIKE(2, 3);

/* The promise is broken: report and end the process. */
_Noreturn void sim_fail(struct sim *sim, const char *format, ...) PRINTF_LIKE(2, 3);

/* --- sim_wal.c, sim_meta.c, sim_net.c ------------------------------------------------------------
 */

extern const struct wal_ops wal_sim_ops;
void sim_log_start(struct sim_region *region);
void sim_log_free(struct sim_log *log);

/* sim_blob.c: the store as the node sees it, owned; the bytes of an object, or NULL. */
struct blob *sim_blob_open(struct sim_node *node);
const struct buffer *sim_blob_find(struct sim *sim, const char *name);
void sim_blob_free(struct sim *sim);

void sim_meta_attach(struct sim_node *node);
void sim_net_attach(struct sim_node *node);
/* The node's disk, for its present life; node->store is what survives. */
struct store *sim_store_open(struct sim_node *node);
/* A store with the same content. */
struct store *sim_store_clone(struct sim *sim, struct store *store);

/* sim_begin.c: a folder for this process's simulation, made and removed; folders of the node's. */
void sim_folder_make(void);
void sim_folder_remove(pid_t pid);
#define SIM_PATH_BYTES 128
void sim_node_path(const struct sim_node *node, const char *what, char path[SIM_PATH_BYTES]);

/* What a shard's process does before it opens its store: goes on from that, or begins with a copy
 * of another replica or a snapshot.  *bytes: how much was copied.
 * Errors: those of begin_run. */
MUST_CHECK enum err_code sim_begin_shard(struct sim_node *node, uint64_t *bytes, struct err *err);
/* It has to do so again, and not with this store: begin_again of the shard's setup. */
void sim_begin_again(void *node, const struct err *why);
void sim_begin_lose_disk(struct sim_node *node); /* and whatever lies beside the store */

/* sim_trim.c: an object was put, or removed; the log is trimmed to the positions, wholly or in part
 * (false), and nothing goes that somebody needs; the thread that asks for both. */
void sim_snapshot_put(struct sim *sim, const char *name);
void sim_snapshot_removed(struct sim *sim, const char *name);
bool sim_had_other_disk(const struct sim_node *node, uint64_t trimmed_ns); /* since it was asked */
MUST_CHECK bool sim_trim(struct sim_region *region, const uint64_t *positions);
void sim_operator(void *sim);

struct sim_node *sim_find_node(struct sim *sim, const char *url);

/* --- sim_node.c and one file per service --------------------------------------------------------
 */

struct sim_service {
    const char *name;
    size_t object_size;
    /* Open and start on the node's present life. */
    enum err_code (*open)(struct sim_node *node, struct err *err);
    void (*stop)(struct sim_node *node);
    void (*close)(struct sim_node *node); /* zeroed is fine */
    const struct route *routes;
    void *(*state)(struct sim_node *node); /* what handlers get */
};

struct ingest;
struct ingest *sim_ingest_of(struct sim_node *node); /* the object's */
struct shard;
struct shard *sim_shard_of(struct sim_node *node); /* the object's */

extern const struct sim_service sim_shard_service, sim_ingest_service, sim_router_service,
    sim_replicator_service;

/* name: less the region's prefix. */
struct sim_node *sim_add_node(struct sim_region *region, const struct sim_service *service,
                              const char *name);

/* The thread that opens the node and opens it again after it went down. */
void sim_supervise(void *node);

/* Stop it in good order; the supervisor opens it again. */
void sim_stop_node(struct sim_node *node);

/* --- sim_follow.c, sim_truth.c -------------------------------------------------------------------
 */

/* Take in what has landed since, in all logs. */
void truth_follow(struct sim *sim);

extern const char *const sim_ids[SIM_IDS];
uint32_t truth_partition(uint32_t id);
int truth_id(const char *text, size_t len); /* -1: not ours */

/* sim_follow.c: the value in a record's metadata. */
uint32_t truth_value_of(struct sim *sim, const struct record *record);

const struct sim_event *truth_last_event(const struct sim_history *history); /* NULL: none */
bool truth_is_live(const struct sim_event *event);                           /* NULL: no */

/* A new value.  SIM_OPS_MAX are enough. */
uint32_t truth_new_op(struct sim_region *region, enum sim_op_kind kind, uint32_t id,
                      const char *if_match);

/* The write of this value was answered: it stands in the log below the token's position. */
void truth_acked(struct sim *sim, uint32_t value, const struct token *token);
/* It was answered 202: in the end it counts, unless a newer change of its id does. */
void truth_spooled(struct sim *sim, uint32_t value);
void truth_failed(struct sim *sim, uint32_t value, const char *why);

/* Rows that wait in an ingest's spool.  Where one holds the value, its stamp is noted in `wanted`
 * (may be NULL). */
uint64_t truth_look_into_spool(struct sim_node *node, struct sim_op *wanted, uint32_t value);

/* A delete of the id was answered 200. */
void truth_deleted(struct sim_region *region, uint32_t id, const struct token *token,
                   int64_t deleted_count);

#define VALUE_ABSENT 0

/* The id was read as value (or VALUE_ABSENT) by an answer that had to show at least `from` of its
 * partition: is that one of its states since? */
void truth_check_read(struct sim_region *region, uint32_t id, uint32_t value, uint64_t from,
                      const char *what);

/* An answer has shown the id as value, at `from` or later: what is asked for from now on and wants
 * to be fresh shows at least that. */
void truth_seen(struct sim_region *region, uint32_t id, uint32_t value, uint64_t from);

/* The id was there (or was not) at some time since began_ns. */
void truth_check_between(struct sim_region *region, uint32_t id, uint64_t began_ns, bool live,
                         const char *what);

/* Position behind the newest change of the id's partition that landed before that time. */
uint64_t truth_landed_before(struct sim_region *region, uint32_t partition, uint64_t ns);

/* Position behind which everything stands that another region's log holds of the partition below
 * `position`; fails when it has not come here. */
bool truth_has_arrived(const struct sim_region *region, const struct sim_region *origin,
                       uint32_t partition, uint64_t position);
uint64_t truth_arrived(struct sim_region *region, const struct sim_region *origin,
                       uint32_t partition, uint64_t position, const char *what);

/* The value at the log's end, and how many ids of a partition live there. */
uint32_t truth_last(struct sim_region *region, uint32_t id);
void truth_free(struct sim *sim);

/* At the end: every answered write is in every log, no failed one in any. */
void truth_check_ops(struct sim *sim);

/* --- clients, faults, the whole
 * ------------------------------------------------------------------- */

struct sim_reply {
    enum err_code rc;
    int status;
    struct buffer body;
    char etag[64];
    uint64_t sent_ns, left_ns; /* the answer has left the other node */
};

struct sim_ask {
    const char *method;
    const char *path;
    const char *body; /* NULL: none */
    const char *if_match;
    const char *key;          /* Idempotency-Key; NULL: none */
    const char *content_type; /* NULL: JSON */
    uint64_t timeout_ns;
};

/* Ask the router of the node's region, from a node of its own. */
void sim_call_router(struct sim_node *from, const struct sim_ask *ask, struct sim_reply *reply);
void sim_reply_free(struct sim_reply *reply);
json_t *sim_reply_json(struct sim *sim, const struct sim_reply *reply); /* owned */

/* The member read_token, which others may use from now on; false: there is none. */
bool sim_reply_token(struct sim *sim, json_t *object, struct token *token);

/* sim_client.c: what the answer to a write of values means; statuses below 500 that are not allowed
 * fail; a record as JSON, with its id where that is to stand there. */
void sim_settle(struct sim *sim, struct sim_reply *reply, const uint32_t *values, size_t count);
void sim_expect(struct sim *sim, const struct sim_reply *reply, const char *allowed);
void sim_append_record(struct buffer *body, uint32_t id, uint32_t value, bool with_id);

/* sim_writes.c */
void sim_write_keyed(struct sim_node *client);
void sim_patch_record(struct sim_node *client);
void sim_patch_some(struct sim_node *client);

/* sim_import.c: one import, in parts, through whatever comes between. */
void sim_import(struct sim_node *client);

/* sim_watch.c: the thread that compares what replicas publish; one state more to compare; and
 * whether some replica shows the log up to that position, or none has been in service since then.
 */
struct sim_shown {
    uint32_t partition;
    uint64_t position, live;
    struct hash128 digest;
};
void sim_watch(void *sim);
void sim_compare(struct sim_region *region, const char *who, const struct sim_shown *shown);
void sim_check_searchable(struct sim_region *region, uint32_t partition, uint64_t position,
                          uint64_t since_ns);

/* sim_report.c */
void sim_report_print(const struct sim_counts *counts);
void sim_report_add(struct sim_counts *sum, const struct sim_counts *one);

#define SIM_PATIENCE_NS (12 * NS_PER_S)

void sim_writer(void *node);
void sim_reader(void *node);
void sim_changer(void *node); /* drops and creates a collection */
void sim_faults(void *sim);

/* Everything of one seed; returns the trace's hash. */
uint64_t sim_run(struct sim *sim);
void sim_check_end(struct sim *sim);

#endif
