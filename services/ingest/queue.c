/* See queue.h.  Tenants and flows exist while something of theirs waits; there are few of them at a
 * time, no more than requests, so they are found by looking. */
#include "services/ingest/queue.h"

#include <assert.h>
#include <stdlib.h>

#include "services/ingest/sequencer.h"

struct queue_flow {
    struct queue_flow *next; /* in the tenant's ring */
    struct queue_tenant *tenant;
    uint64_t collection;
    struct sequence_batch *head, **tail;
    size_t bytes;
    size_t deficit; /* may be sent in this visit */
    bool visited;   /* the quantum of this visit is in the deficit */
};

struct queue_tenant {
    struct queue_tenant *next; /* in the queue's ring */
    uint64_t tenant;
    struct queue_flow *turn; /* a ring, never empty */
    size_t bytes;
    size_t deficit;
    bool visited;
};

static struct queue_tenant *find_tenant(const struct queue *queue, uint64_t tenant)
{
    struct queue_tenant *at = queue->turn;

    do {
        if (at == NULL || at->tenant == tenant)
            return at;
        at = at->next;
    } while (at != queue->turn);
    return NULL;
}

static struct queue_flow *find_flow(const struct queue_tenant *tenant, uint64_t collection)
{
    struct queue_flow *at = tenant == NULL ? NULL : tenant->turn;

    do {
        if (at == NULL || at->collection == collection)
            return at;
        at = at->next;
    } while (at != tenant->turn);
    return NULL;
}

enum err_code queue_check(const struct queue *queue, struct queue_key key, size_t bytes,
                          size_t bytes_max, struct err *err)
{
    size_t left = bytes_max - (queue->bytes < bytes_max ? queue->bytes : bytes_max);
    const struct queue_tenant *tenant = find_tenant(queue, key.tenant);
    const struct queue_flow *flow = find_flow(tenant, key.collection);

    if (queue->bytes == 0)
        return ERR_OK;
    if (left < bytes)
        return err_set(err, ERR_UNAVAILABLE, "too many writes wait for the log");
    if (key.tenant == 0 || flow == NULL)
        return ERR_OK;
    if (flow->bytes + bytes > left || (tenant->bytes + bytes) / 2 > left)
        return err_set(err, ERR_RATE_LIMITED,
                       "too many writes of this collection wait for the log; nothing was written");
    return ERR_OK;
}

/* Last in the round: behind the one whose turn has just been. */
static struct queue_tenant *add_tenant(struct queue *queue, uint64_t number)
{
    struct queue_tenant *tenant = calloc(1, sizeof(*tenant)), *last = queue->turn;

    if (tenant == NULL)
        return NULL;
    tenant->tenant = number;
    tenant->next = tenant;
    if (last == NULL) {
        queue->turn = tenant;
        return tenant;
    }
    while (last->next != queue->turn)
        last = last->next;
    tenant->next = queue->turn;
    last->next = tenant;
    return tenant;
}

static struct queue_flow *add_flow(struct queue_tenant *tenant, uint64_t collection)
{
    struct queue_flow *flow = calloc(1, sizeof(*flow)), *last = tenant->turn;

    if (flow == NULL)
        return NULL;
    flow->tenant = tenant;
    flow->collection = collection;
    flow->tail = &flow->head;
    flow->next = flow;
    if (last == NULL) {
        tenant->turn = flow;
        return flow;
    }
    while (last->next != tenant->turn)
        last = last->next;
    flow->next = tenant->turn;
    last->next = flow;
    return flow;
}

static void drop_tenant(struct queue *queue, struct queue_tenant *tenant)
{
    struct queue_tenant *before = tenant;

    while (before->next != tenant)
        before = before->next;
    before->next = tenant->next;
    if (queue->turn == tenant)
        queue->turn = before == tenant ? NULL : tenant->next;
    free(tenant);
}

static void drop_flow(struct queue *queue, struct queue_flow *flow)
{
    struct queue_tenant *tenant = flow->tenant;
    struct queue_flow *before = flow;

    while (before->next != flow)
        before = before->next;
    before->next = flow->next;
    if (tenant->turn == flow)
        tenant->turn = before == flow ? NULL : flow->next;
    free(flow);
    queue->flows--;
    if (tenant->turn == NULL)
        drop_tenant(queue, tenant);
}

enum err_code queue_push(struct queue *queue, struct sequence_batch *batch, struct err *err)
{
    struct queue_tenant *tenant = find_tenant(queue, batch->key.tenant);
    struct queue_flow *flow = find_flow(tenant, batch->key.collection);

    if (tenant == NULL)
        tenant = add_tenant(queue, batch->key.tenant);
    if (tenant != NULL && flow == NULL) {
        flow = add_flow(tenant, batch->key.collection);
        queue->flows += flow != NULL;
        if (flow == NULL && tenant->turn == NULL)
            drop_tenant(queue, tenant);
    }
    if (flow == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to wait for the log");
    batch->flow = flow;
    batch->next = NULL;
    *flow->tail = batch;
    flow->tail = &batch->next;
    flow->bytes += batch->bytes.len;
    tenant->bytes += batch->bytes.len;
    queue->bytes += batch->bytes.len;
    queue->count++;
    return ERR_OK;
}

void queue_take(struct queue *queue, struct sequence_batch *next)
{
    struct queue_flow *flow = next->flow;

    assert(flow == queue->turn->turn && flow->head == next);
    assert(flow->deficit >= next->bytes.len && flow->tenant->deficit >= next->bytes.len);
    flow->deficit -= next->bytes.len;
    flow->tenant->deficit -= next->bytes.len;
    queue_remove(queue, next);
}

/* The flow whose turn it is within its tenant. */
static struct queue_flow *next_flow(struct queue_tenant *tenant)
{
    for (;;) {
        struct queue_flow *flow = tenant->turn;

        if (!flow->visited)
            flow->deficit += QUEUE_QUANTUM;
        flow->visited = true;
        if (flow->head->bytes.len <= flow->deficit)
            return flow;
        flow->visited = false;
        tenant->turn = flow->next;
    }
}

struct sequence_batch *queue_next(struct queue *queue)
{
    while (queue->turn != NULL) {
        struct queue_tenant *tenant = queue->turn;
        struct sequence_batch *batch = next_flow(tenant)->head;

        if (!tenant->visited)
            tenant->deficit += QUEUE_QUANTUM;
        tenant->visited = true;
        if (batch->bytes.len <= tenant->deficit)
            return batch;
        tenant->visited = false;
        queue->turn = tenant->next;
    }
    return NULL;
}

void queue_remove(struct queue *queue, struct sequence_batch *batch)
{
    struct queue_flow *flow = batch->flow;
    struct queue_tenant *tenant = flow->tenant;
    struct sequence_batch **at = &flow->head;
    size_t bytes = batch->bytes.len;

    while (*at != batch)
        at = &(*at)->next;
    *at = batch->next;
    if (*at == NULL)
        flow->tail = at;
    flow->bytes -= bytes;
    tenant->bytes -= bytes;
    queue->bytes -= bytes;
    queue->count--;
    batch->next = NULL;
    batch->flow = NULL;
    if (flow->head == NULL)
        drop_flow(queue, flow);
}

struct sequence_batch *queue_any(const struct queue *queue, bool decided_only)
{
    struct queue_tenant *tenant = queue->turn;

    do {
        struct queue_flow *flow = tenant == NULL ? NULL : tenant->turn;

        do {
            struct sequence_batch *batch = flow == NULL ? NULL : flow->head;

            while (batch != NULL && decided_only && batch->generation == 0)
                batch = batch->next;
            if (batch != NULL)
                return batch;
            flow = flow == NULL ? NULL : flow->next;
        } while (flow != NULL && flow != tenant->turn);
        tenant = tenant == NULL ? NULL : tenant->next;
    } while (tenant != NULL && tenant != queue->turn);
    return NULL;
}
