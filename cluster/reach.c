/* Asking the own replicator about other regions: what a read over all of them waits for
 * (services/replicator/reach.c), and what a write with a quorum does (held.c).
 *
 * A replicator that has just been started again has another URL: while none can be reached the one
 * that the view then has is asked, until the deadline. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/internal.h"
#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/limits.h"
#include "common/http/json_doc.h"
#include "common/http/route.h"

#define REPLY_MAX KIB(4)
#define PAUSE_NS  (20 * NS_PER_MS)

/* Calls to the replicator, one for each region, or one alone. */
struct question {
    struct http_call *calls; /* count of them, and of bodies */
    struct buffer *bodies;
    size_t count;
    uint64_t deadline_ns;
};

uint32_t cluster_region_count(struct cluster *cluster)
{
    struct view *view = view_get(cluster);
    uint32_t count = (uint32_t)view->other_count + 1;

    view_put(view);
    return count;
}

static bool replicator_url(struct cluster *cluster, char out[URL_BYTES])
{
    struct view *view = view_get(cluster);
    bool found = false;

    for (size_t i = 0; i < view->node_count && !found; i++) {
        found = strcmp(view->nodes[i].service, "replicator") == 0;
        if (found)
            memcpy(out, view->nodes[i].url, URL_BYTES);
    }
    view_put(view);
    return found;
}

/* What the replicator may take, so that its answer still comes in time. */
static uint64_t wait_ms_of(const struct cluster *cluster, uint64_t deadline_ns)
{
    uint64_t now_ns = env_boot_ns(cluster->env);
    uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;

    return MIN_OF(MAX_OF(left_ns / 10 * 9 / NS_PER_MS, (uint64_t)1), (uint64_t)DEADLINE_MS_MAX);
}

/* It was away, or went away meanwhile: nothing is lost by asking all again. */
static bool is_passing(const struct question *question)
{
    for (size_t i = 0; i < question->count; i++) {
        const struct http_call *call = &question->calls[i];

        if (call->rc == ERR_UNAVAILABLE || call->rc == ERR_IO ||
            (call->rc == ERR_OK && call->status == 503))
            return true;
    }
    return false;
}

/* Send all calls, again while no replicator can be reached.  Errors: ERR_UNAVAILABLE, ERR_DEAD. */
static enum err_code ask_replicator(struct cluster *cluster, struct question *question,
                                    struct err *err)
{
    char url[URL_BYTES];

    for (;;) {
        uint64_t now_ns = env_boot_ns(cluster->env);
        bool is_known = replicator_url(cluster, url);

        for (size_t i = 0; i < question->count; i++) {
            http_call_free(&question->calls[i]);
            question->calls[i].base = url;
        }
        if (is_known)
            http_gather(cluster->client, question->calls, question->count, question->deadline_ns,
                        NULL);
        if (is_known && !is_passing(question))
            return ERR_OK;
        if (now_ns + PAUSE_NS >= question->deadline_ns)
            return err_set(err, ERR_UNAVAILABLE, "this region's replicator does not answer");
        if (env_sleep_until(cluster->env, now_ns + PAUSE_NS) != ERR_OK)
            return err_set(err, ERR_DEAD, "shutting down");
    }
}

static enum err_code question_init(struct question *question, size_t count, uint64_t deadline_ns,
                                   struct err *err)
{
    *question = (struct question){.count = count, .deadline_ns = deadline_ns};
    question->calls = calloc(count, sizeof(*question->calls));
    question->bodies = calloc(count, sizeof(*question->bodies));
    if (question->calls == NULL || question->bodies == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a question");
    return ERR_OK;
}

/* The body of the call is complete. */
static void question_aim(struct question *question, size_t index, const char *path)
{
    const struct buffer *body = &question->bodies[index];

    question->calls[index] = (struct http_call){.method = "POST",
                                                .path = path,
                                                .content_type = MEDIA_JSON,
                                                .body = body->data,
                                                .body_len = body->len,
                                                .reply_max = REPLY_MAX};
}

static void question_free(struct question *question)
{
    for (size_t i = 0; question->calls != NULL && i < question->count; i++)
        http_call_free(&question->calls[i]);
    for (size_t i = 0; question->bodies != NULL && i < question->count; i++)
        buffer_free(&question->bodies[i]);
    free(question->calls);
    free(question->bodies);
}

static enum err_code parse_reply(const struct http_call *call, json_t **document, struct err *err)
{
    enum err_code rc = http_call_expect(call, err);

    *document = NULL;
    return rc == ERR_OK ? json_doc_parse(document, call->reply.data, call->reply.len, err) : rc;
}

/* --- reads over all regions --------------------------------------------------------------------
 */

/* One region's answer to a call that was sent at asked_ns. */
static void take_reached(struct cluster_reached *out, const char *name,
                         const struct http_call *call, uint64_t asked_ns)
{
    json_t *document = NULL;
    const char *detail = "";
    bool is_reached = false;
    uint64_t lag_us = NEVER_NS, known_ns = asked_ns;
    struct err err = {0};
    enum err_code rc = parse_reply(call, &document, &err);

    if (rc == ERR_OK)
        rc = json_doc_bool(document, "reached", &is_reached, &err);
    if (rc == ERR_OK)
        rc = json_doc_text(document, "detail", &detail, &err);
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "lag_us", 0, UINT64_MAX >> 12, &lag_us, &err);
    if (rc != ERR_OK)
        is_reached = false;
    if (!is_reached)
        known_ns = rc == ERR_OK && lag_us < asked_ns / NS_PER_US ? asked_ns - lag_us * NS_PER_US
                                                                 : NEVER_NS;
    if (!is_reached && out->is_met)
        (void)snprintf(out->detail, sizeof(out->detail), "region %s has not been reached: %.200s",
                       name, rc == ERR_OK ? detail : err.message);
    out->is_met = out->is_met && is_reached;
    /* NEVER_NS is the worst here, not the latest. */
    if (known_ns == NEVER_NS || out->known_ns == NEVER_NS)
        out->known_ns = NEVER_NS;
    else
        out->known_ns = MIN_OF(out->known_ns, known_ns);
    json_decref(document);
}

static enum err_code ask_to_reach(struct cluster *cluster, const struct view *view,
                                  struct question *question, struct err *err)
{
    uint64_t wait_ms = wait_ms_of(cluster, question->deadline_ns);

    for (size_t i = 0; i < question->count; i++) {
        buffer_append_format(&question->bodies[i], "{\"region\":\"%s\",\"wait_ms\":%llu}",
                             view->others[i], (unsigned long long)wait_ms);
        if (buffer_check(&question->bodies[i], err) != ERR_OK)
            return err->code;
        question_aim(question, i, "/internal/v1/reach");
    }
    return ask_replicator(cluster, question, err);
}

void cluster_reach(struct cluster *cluster, uint64_t deadline_ns, struct cluster_reached *out)
{
    struct view *view = view_get(cluster);
    uint64_t asked_ns = env_boot_ns(cluster->env);
    struct question question = {0};
    struct err err = {0};
    enum err_code rc = ERR_OK;

    *out = (struct cluster_reached){.is_met = true, .known_ns = asked_ns};
    if (view->other_count > 0)
        rc = question_init(&question, view->other_count, deadline_ns, &err);
    if (rc == ERR_OK && view->other_count > 0)
        rc = ask_to_reach(cluster, view, &question, &err);
    if (rc != ERR_OK) {
        *out = (struct cluster_reached){.known_ns = NEVER_NS};
        (void)snprintf(out->detail, sizeof(out->detail), "region %s has not been reached: %.200s",
                       view->others[0], err.message);
    } else {
        for (size_t i = 0; i < question.count; i++)
            take_reached(out, view->others[i], &question.calls[i], asked_ns);
    }
    question_free(&question);
    view_put(view);
}

/* --- writes with a quorum ----------------------------------------------------------------------
 */

enum err_code cluster_await_held(struct cluster *cluster, const struct token *token,
                                 uint32_t regions, uint64_t deadline_ns, struct err *err)
{
    struct question question;
    struct buffer text = {0};
    json_t *document = NULL;
    uint64_t held = 0;
    enum err_code rc = question_init(&question, 1, deadline_ns, err);

    token_to_text(token, &text);
    if (rc == ERR_OK)
        rc = buffer_check(&text, err);
    if (rc == ERR_OK) {
        buffer_append_format(&question.bodies[0],
                             "{\"read_token\":\"%.*s\",\"regions\":%u,\"wait_ms\":%llu}",
                             (int)text.len, (const char *)text.data, regions,
                             (unsigned long long)wait_ms_of(cluster, deadline_ns));
        question_aim(&question, 0, "/internal/v1/held");
        rc = buffer_check(&question.bodies[0], err);
    }
    if (rc == ERR_OK)
        rc = ask_replicator(cluster, &question, err);
    if (rc == ERR_OK)
        rc = parse_reply(&question.calls[0], &document, err);
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "held", 0, REGIONS_MAX, &held, err);
    if (rc != ERR_OK)
        rc = err_set(err, ERR_QUORUM_UNMET, "which other regions have it is not known: %.200s",
                     err->message);
    else if (held < regions)
        rc = err_set(err, ERR_QUORUM_UNMET, "%llu of %u regions had it at the deadline",
                     (unsigned long long)held + 1, regions + 1);
    json_decref(document);
    question_free(&question);
    buffer_free(&text);
    return rc;
}
