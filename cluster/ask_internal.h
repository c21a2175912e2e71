/* What ask.c and attempt.c share; nobody else includes this.  All of it belongs to the one thread
 * that asks. */
#ifndef VICINAL_CLUSTER_ASK_INTERNAL_H
#define VICINAL_CLUSTER_ASK_INTERNAL_H

#include "cluster/internal.h"

/* A question on its way to one replica, or held back as a hedge. */
struct attempt {
    struct aim *aim;
    struct http_call *call;
    uint32_t replica;
    uint64_t began_ns;
    bool is_open; /* under way */
};

/* One shard's part in one round. */
struct aim {
    struct asking *asking;
    uint32_t shard;
    uint32_t tried; /* bit per replica */
    struct buffer body;
    struct attempt first, hedge;
    struct attempt *winner; /* whose reply counts; NULL: none has come */
    uint64_t took_ns;       /* of the winner */
    bool is_hedged;
    enum err_code failed; /* how the last attempt ended; ERR_OK: answered */
    struct err err;
};

struct asking {
    struct cluster *cluster;
    const struct cluster_ask *ask;
    struct cluster_answer *out;
    struct view *view;
    uint64_t key;                 /* whose caches know the question */
    struct partition_set missing; /* wanted and not served yet */
    uint32_t avoided[SHARDS_MAX]; /* replicas asked in earlier rounds, bit per replica */
    uint64_t last_turn_ns;        /* from then on nobody else is asked in this round */
    enum err_code rc;             /* a failure that another replica cannot mend */
    struct err *err;
    enum err_code last_failure; /* of a replica; why the missing are missing */
    struct err last_err;
};

/* How an attempt ends, for the replica's health. */
enum ending { ENDED_ANSWERED, ENDED_BROKEN, ENDED_OVERDUE, ENDED_DROPPED };

/* Must the answer see anything in particular? */
bool ask_demands(const struct wire_question *question);

/* Is the failure of one replica worth asking another? */
bool ask_another_may_help(enum err_code rc);

/* Aim at the best replica that has not been tried; false: none is left. */
bool attempt_begin(struct attempt *attempt, bool wants_healthy);

/* What became of it is told to the replica's health. */
void attempt_end(struct attempt *attempt, enum ending ending);
enum ending attempt_ending(const struct http_call *call);

/* The call of an attempt; of a hedge it is held back until hedge_ns. */
void attempt_fill_call(struct attempt *attempt, struct http_call *call, uint64_t hedge_ns);

/* When a question to this shard has waited for too long; 0: nobody else could be asked. */
uint64_t attempt_hedge_ns(const struct asking *asking, const struct aim *aim);

/* For http_watcher, with the asking as context.
 * A call has ended: true when it was aimed at another replica. */
bool attempt_call_ended(void *asking, struct http_call *call);
/* The first replica takes long: true when another one is to be asked too. */
bool attempt_call_due(void *asking, struct http_call *call);

#endif
