/* Changes of collections that failed half-way are brought to an end, without anybody asking again.
 *
 * Two things may be left over.  A change that may stand in the log in part is pending, in the row
 * and in memory: it is carried out.  A row whose change nobody here believes in (the store did not
 * answer when it was written, or when it was put back) says pending, or not: it is put back as
 * memory has it, so that routers see the collection again.  What another holder has completed since
 * is left alone.
 *
 * The thread "settle" sleeps until something is left over, and then tries every RETRY_NS. */
#include "services/ingest/settle.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/ingest/catalogue_row.h"
#include "services/ingest/ingest.h"

#define RETRY_NS (200 * NS_PER_MS)

static const struct log_context CONTEXT = {.operation = "settle"};

static bool is_same_name(const struct collection *a, const struct collection *b)
{
    return strcmp(a->tenant, b->tenant) == 0 && strcmp(a->name, b->name) == 0;
}

void catalogue_leave_over(struct catalogue *catalogue, const struct collection *change)
{
    struct left_over *left = &catalogue->left;
    size_t at = 0;

    pthread_mutex_lock(&catalogue->lock);
    while (at < left->count && !is_same_name(&left->changes[at], change))
        at++;
    if (at == left->size) {
        size_t size = left->size == 0 ? 8 : left->size * 2;
        struct collection *grown = array_resize(left->changes, size, sizeof(*grown));

        if (grown != NULL) { /* or the next change of it, or the next take-over, will */
            left->changes = grown;
            left->size = size;
        }
    }
    if (at < left->size) {
        left->changes[at] = *change;
        left->count += at == left->count;
        env_cond_signal(&left->come);
    }
    pthread_mutex_unlock(&catalogue->lock);
}

/* The first one goes, if it is still this one; or to the end. */
static void take_off(struct catalogue *catalogue, const struct collection *change, bool is_settled)
{
    struct left_over *left = &catalogue->left;

    pthread_mutex_lock(&catalogue->lock);
    if (left->count > 0 && is_same_name(&left->changes[0], change) &&
        stamp_compare(left->changes[0].schema, change->schema) == 0) {
        memmove(left->changes, left->changes + 1, (left->count - 1) * sizeof(*left->changes));
        if (is_settled)
            left->count--;
        else
            left->changes[left->count - 1] = *change;
    }
    pthread_mutex_unlock(&catalogue->lock);
}

/* The first one, waited for, but not before that time.  False: the end. */
static bool next_left(struct catalogue *catalogue, uint64_t not_before_ns, struct collection *out)
{
    struct left_over *left = &catalogue->left;
    enum err_code rc = ERR_OK;
    bool more;

    pthread_mutex_lock(&catalogue->lock);
    while (rc != ERR_DEAD && !left->stopping &&
           (left->count == 0 || env_boot_ns(catalogue->env) < not_before_ns))
        rc = env_cond_wait(&left->come, &catalogue->lock,
                           left->count == 0 ? NEVER_NS : not_before_ns);
    more = rc != ERR_DEAD && !left->stopping;
    if (more)
        *out = left->changes[0];
    pthread_mutex_unlock(&catalogue->lock);
    return more;
}

/* Caller has the name alone. */
static enum err_code settle_held(struct catalogue *catalogue, const struct collection *change,
                                 uint64_t deadline_ns, struct err *err)
{
    struct catalogue_entry entry;
    bool known = catalogue_find(catalogue, change->tenant, change->name, &entry);

    if (known && entry.state == COLLECTION_PENDING)
        return catalogue_change(catalogue, &entry.collection, deadline_ns, err);
    return catalogue_row_settle(catalogue, change, known ? &entry : NULL, err);
}

static enum err_code settle_one(struct ingest *ingest, const struct collection *change,
                                struct err *err)
{
    uint64_t generation,
        deadline_ns = env_boot_ns(ingest->env) + WRITE_DEADLINE_MS_DEFAULT * NS_PER_MS;
    struct busy_key key = {.incarnation = CATALOGUE_NAMES,
                           .id = change->name,
                           .len = strlen(change->name),
                           .mode = BUSY_ALONE};
    struct busy_claim claim = {0};
    bool counted = false;
    enum err_code rc = sequencer_check(&ingest->sequencer, &generation, NULL, err);

    if (rc == ERR_OK)
        rc = ingest_admit(ingest, &counted, err);
    if (rc == ERR_OK)
        rc = busy_take(ingest->busy, &claim, &key, 1, deadline_ns, err);
    if (rc == ERR_OK)
        rc = settle_held(&ingest->catalogue, change, deadline_ns, err);
    busy_release(&claim);
    ingest_leave(ingest, &counted);
    return rc;
}

void settle_thread(void *argument)
{
    struct ingest *ingest = argument;
    struct catalogue *catalogue = &ingest->catalogue;
    struct collection change;
    uint64_t not_before_ns = 0;

    while (next_left(catalogue, not_before_ns, &change)) {
        struct err err = {0};
        enum err_code rc = settle_one(ingest, &change, &err);

        if (rc == ERR_OK)
            log_info(&CONTEXT, "a change that failed half-way has ended",
                     LOG_TEXT("collection", change.name));
        take_off(catalogue, &change, rc == ERR_OK);
        not_before_ns = rc == ERR_OK ? 0 : env_boot_ns(ingest->env) + RETRY_NS;
    }
}

void settle_stop(struct catalogue *catalogue)
{
    pthread_mutex_lock(&catalogue->lock);
    catalogue->left.stopping = true;
    env_cond_broadcast(&catalogue->left.come);
    pthread_mutex_unlock(&catalogue->lock);
}
