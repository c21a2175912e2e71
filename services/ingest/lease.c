/* The lease: a row in the metadata store that keeps holders from fighting.  Nothing that is right
 * or wrong depends on it; epochs in the log decide.
 *
 *   {"holder":hex,"url":…,"region":n,"renewals":n,"epochs":[…],"hints":[…]}
 *
 * Where the log has a lock of its own, that is the lease, and the row only tells others the
 * holder's URL and epochs.  Elsewhere a holder renews the row each second, and a standby takes it
 * when it has not changed for 3 s of the standby's own boot time, in which the store was there.
 * The store away: the holder goes on. */
#include <assert.h>
#include <string.h>

#include "common/base/log.h"
#include "common/base/text.h"
#include "common/http/json_doc.h"
#include "services/ingest/sequencer.h"

#define LEASE_KEY "lease"
#define RENEW_NS  NS_PER_S

static const struct log_context CONTEXT = {.operation = "lease"};

struct lease_row {
    char holder[2 * HOLDER_BYTES + 1];
    bool is_ours, same_url;
};

/* Epochs and hints are taken in as far as they are of this log. */
static void lease_numbers(struct sequencer *s, json_t *row, uint64_t *hints)
{
    json_t *epochs = json_object_get(row, "epochs"), *list = json_object_get(row, "hints");

    if ((uint64_t)json_integer_value(json_object_get(row, "region")) != s->region)
        return;
    for (uint32_t i = 0; i < s->partitions; i++) {
        json_int_t epoch = json_integer_value(json_array_get(epochs, i));
        json_int_t hint = json_integer_value(json_array_get(list, i));

        if (epoch > 0 && (uint64_t)epoch > s->lines[i].tried)
            s->lines[i].tried = (uint64_t)epoch;
        hints[i] = hint > 0 ? (uint64_t)hint : 0;
    }
}

static void lease_identity(struct sequencer *s, json_t *row, struct lease_row *out)
{
    const char *holder = json_string_value(json_object_get(row, "holder"));
    const char *url = json_string_value(json_object_get(row, "url"));

    text_hex_encode(out->holder, s->nonce, sizeof(s->nonce));
    out->is_ours = holder != NULL && strcmp(holder, out->holder) == 0;
    out->same_url = url != NULL && s->setup.url != NULL && strcmp(url, s->setup.url) == 0;
}

/* May the row be taken now?  On a log with a lock always. */
static bool lease_is_free(struct sequencer *s, const struct lease_row *row, uint64_t version)
{
    uint64_t now = env_boot_ns(s->env);

    if (s->setup.log_locks || row->is_ours)
        return true;
    if (s->lease_seen_ns == 0 || s->lease_version != version) {
        s->lease_version = version;
        s->lease_seen_ns = now;
        return false;
    }
    return now - s->lease_seen_ns >= LEASE_TIMEOUT_NS;
}

enum err_code lease_look(struct sequencer *s, uint64_t *version, uint64_t *hints, struct err *err)
{
    struct meta_row row = {0};
    struct lease_row lease;
    json_t *document = NULL;
    enum err_code rc = meta_get(s->setup.meta, LEASE_KEY, &row, err);

    *version = META_ABSENT;
    if (rc == ERR_NOT_FOUND) {
        err_clear(err);
        return ERR_OK;
    }
    /* Its holder could not renew it either: the time without a renewal begins anew. */
    if (rc != ERR_OK) {
        s->lease_seen_ns = 0;
        return rc;
    }
    *version = row.version;
    if (json_doc_parse(&document, row.value, row.value_len, NULL) == ERR_OK) {
        lease_identity(s, document, &lease);
        if (lease_is_free(s, &lease, row.version))
            lease_numbers(s, document, hints);
        else
            rc = err_set(err, ERR_CONFLICT, "another ingest has the lease");
        json_decref(document);
    }
    meta_row_free(&row);
    return rc;
}

/* With the epochs that a take-over would take, or (views) with those in force. */
static void lease_write(struct sequencer *s, const struct line_view *views, struct buffer *out)
{
    char holder[2 * HOLDER_BYTES + 1];
    json_t *row = json_object(), *epochs = json_array(), *hints = json_array();
    uint64_t renewals;

    pthread_mutex_lock(&s->lock); /* the appender takes while the lease's thread may still renew */
    renewals = ++s->lease_counter;
    pthread_mutex_unlock(&s->lock);
    text_hex_encode(holder, s->nonce, sizeof(s->nonce));
    (void)json_object_set_new(row, "holder", json_string(holder));
    (void)json_object_set_new(row, "url", json_string(s->setup.url == NULL ? "" : s->setup.url));
    (void)json_object_set_new(row, "region", json_integer((json_int_t)s->region));
    (void)json_object_set_new(row, "renewals", json_integer((json_int_t)renewals));
    for (uint32_t i = 0; i < s->partitions; i++) {
        uint64_t epoch = views == NULL ? next_epoch(&s->lines[i]) : views[i].epoch;

        (void)json_array_append_new(epochs, json_integer((json_int_t)epoch));
        (void)json_array_append_new(hints, json_integer((json_int_t)wal_hint(s->wal, i)));
    }
    (void)json_object_set_new(row, "epochs", epochs);
    (void)json_object_set_new(row, "hints", hints);
    json_doc_dump(row, out);
    json_decref(row);
}

enum err_code lease_take(struct sequencer *s, uint64_t version, struct err *err)
{
    struct buffer value = {0};
    uint64_t written;
    enum err_code rc;

    lease_write(s, NULL, &value);
    rc = buffer_check(&value, err);
    if (rc == ERR_OK)
        rc = meta_put(s->setup.meta,
                      &(struct meta_put){.key = LEASE_KEY,
                                         .value = value.data,
                                         .value_len = value.len,
                                         .expected = s->setup.log_locks ? META_ANY : version},
                      &written, err);
    buffer_free(&value);
    if (rc == ERR_OK)
        s->lease_version = written;
    return rc;
}

/* The row, if it is not ours in every word, or if it has to be renewed, is written again. */
static void lease_renew(struct sequencer *s)
{
    struct meta_row row = {0};
    struct lease_row lease = {0};
    struct buffer value = {0};
    struct err err = {0};
    struct line_view *views;
    uint32_t partitions;
    json_t *document = NULL;
    enum err_code rc = meta_get(s->setup.meta, LEASE_KEY, &row, &err);
    uint64_t version = rc == ERR_OK ? row.version : META_ABSENT;

    if (rc != ERR_OK && rc != ERR_NOT_FOUND)
        return; /* the store is away: the holder goes on */
    if (rc == ERR_OK && json_doc_parse(&document, row.value, row.value_len, NULL) == ERR_OK) {
        lease_identity(s, document, &lease);
        json_decref(document);
    }
    meta_row_free(&row);
    if (rc == ERR_OK && !s->setup.log_locks && !lease.is_ours) {
        log_warn(&CONTEXT, "another ingest has taken the lease");
        pthread_mutex_lock(&s->lock);
        s->step_down = s->state == SEQUENCER_HOLDER;
        env_cond_signal(&s->work);
        pthread_mutex_unlock(&s->lock);
        return;
    }
    if (s->setup.log_locks && lease.is_ours && lease.same_url)
        return;
    views = sequencer_views(s, &partitions);
    if (views == NULL)
        return;
    lease_write(s, views, &value);
    free(views);
    if (!value.failed &&
        meta_put(
            s->setup.meta,
            &(struct meta_put){
                .key = LEASE_KEY, .value = value.data, .value_len = value.len, .expected = version},
            NULL, &err) != ERR_OK &&
        err.code != ERR_DEAD)
        log_err(LOG_DEBUG, &CONTEXT, "could not renew the lease", &err);
    buffer_free(&value);
}

void lease_thread(void *sequencer)
{
    struct sequencer *s = sequencer;
    enum err_code rc = ERR_OK;

    while (rc != ERR_DEAD) {
        uint64_t until = env_boot_ns(s->env) + RENEW_NS;
        bool holds, stopping;

        pthread_mutex_lock(&s->lock);
        rc = ERR_OK;
        while (!s->stopping && rc == ERR_OK)
            rc = env_cond_wait(&s->renewal, &s->lock, until);
        stopping = s->stopping;
        holds = s->state == SEQUENCER_HOLDER;
        pthread_mutex_unlock(&s->lock);
        if (stopping || rc == ERR_DEAD)
            return;
        if (holds)
            lease_renew(s);
    }
}
