/* PUT and DELETE /v1/collections/{c}.  Changes of one name are made one at a time: who changes it
 * has its name alone in the busy-id table. */
#include <stdlib.h>
#include <string.h>

#include "common/base/json_writer.h"
#include "services/ingest/ingest.h"

struct change {
    struct ingest *ingest;
    struct request *req;
    uint64_t deadline_ns;
    struct busy_claim name;
    struct busy_claim gate; /* of the collection's records: a drop waits for writes under way */
    bool counted;           /* ingest_admit */
    bool known;
    struct catalogue_entry entry;
};

/* The name alone, and nothing of it pending. */
static enum err_code change_begin(struct change *change, struct request *req)
{
    struct ingest *ingest = req->state;
    struct busy_key key = {.incarnation = CATALOGUE_NAMES,
                           .id = req->params[0],
                           .len = req->param_lens[0],
                           .mode = BUSY_ALONE};
    struct err *err = &req->err;
    uint64_t generation;
    enum err_code rc;

    *change = (struct change){.ingest = ingest, .req = req};
    change->deadline_ns = req->received_ns + WRITE_DEADLINE_MS_DEFAULT * NS_PER_MS;
    req->collection = req->params[0];
    rc = collection_check_name(req->params[0], req->param_lens[0], err);
    if (rc == ERR_OK)
        rc = sequencer_check(&ingest->sequencer, &generation, NULL, err);
    if (rc == ERR_OK)
        rc = ingest_admit(ingest, &change->counted, err);
    if (rc == ERR_OK)
        rc = busy_take(ingest->busy, &change->name, &key, 1, change->deadline_ns, err);
    if (rc != ERR_OK)
        return rc;
    change->known =
        catalogue_find(&ingest->catalogue, TENANT_DEFAULT, req->params[0], &change->entry);
    if (change->known && change->entry.state == COLLECTION_PENDING) {
        rc = catalogue_change(&ingest->catalogue, &change->entry.collection, change->deadline_ns,
                              err);
        if (rc == ERR_OK)
            change->known =
                catalogue_find(&ingest->catalogue, TENANT_DEFAULT, req->params[0], &change->entry);
    }
    return rc;
}

static void change_end(struct change *change)
{
    busy_release(&change->gate);
    busy_release(&change->name);
    ingest_leave(change->ingest, &change->counted);
}

static enum err_code change_commit(struct change *change, const struct collection *collection)
{
    struct ingest *ingest = change->ingest;
    enum err_code rc = ingest_check_spool(ingest, &change->req->err);

    if (rc == ERR_OK)
        rc = catalogue_change(&ingest->catalogue, collection, change->deadline_ns,
                              &change->req->err);

    if (rc == ERR_OK && ingest->metrics.changes != NULL)
        metric_add(ingest->metrics.changes, 1);
    return rc;
}

static enum err_code create(struct change *change, struct collection *wanted)
{
    const struct collection *there = &change->entry.collection;

    if (change->known && change->entry.state == COLLECTION_ACTIVE) {
        wanted->generation = there->generation;
        if (!collection_is_as_wanted(there, wanted))
            return err_set(&change->req->err, ERR_COLLECTION_EXISTS,
                           "collection '%s' exists with another definition", there->name);
        *wanted = *there;
        return ERR_OK;
    }
    collection_fill(wanted);
    wanted->generation = change->known ? there->generation + 1 : 0;
    wanted->created = wanted->schema = sequencer_change_stamp(&change->ingest->sequencer);
    collection_identify(wanted);
    change->req->reply.status = 201;
    return change_commit(change, wanted);
}

/* The log's ends: the change stands in every partition, so a read with this token knows it. */
static enum err_code write_ends(struct ingest *ingest, struct json_writer *w, struct err *err)
{
    uint32_t partitions;
    struct line_view *views = sequencer_views(&ingest->sequencer, &partitions);
    struct token token = {0};
    struct buffer text = {0};
    enum err_code rc = ERR_OK;

    if (views == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the token");
    for (uint32_t i = 0; i < partitions && rc == ERR_OK; i++)
        rc = token_raise(&token, ingest->sequencer.region, i, views[i].end, err);
    if (rc == ERR_OK) {
        token_to_text(&token, &text);
        rc = buffer_check(&text, err);
    }
    if (rc == ERR_OK) {
        json_key(w, "read_token");
        json_put_string(w, (const char *)text.data, text.len);
    }
    buffer_free(&text);
    token_free(&token);
    free(views);
    return rc;
}

/* An embedder that stands for no server of ours would be found out at the first text only. */
static enum err_code check_embedder(const struct ingest *ingest, struct collection *wanted,
                                    struct err *err)
{
    const struct embedder *embedder;

    if (wanted->embedder[0] == '\0')
        return ERR_OK;
    embedder = embedders_find(ingest->embedders, wanted->embedder);
    if (embedder == NULL)
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/embedder",
                          "there is no embedder '%s' (configured: %.160s)", wanted->embedder,
                          embedders_names(ingest->embedders));
    if (wanted->dimension == 0)
        wanted->dimension = embedder_dimension(embedder);
    if (wanted->dimension != embedder_dimension(embedder))
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/vector/dimension",
                          "the embedder '%s' makes vectors of dimension %u", wanted->embedder,
                          embedder_dimension(embedder));
    return ERR_OK;
}

enum err_code handle_put_collection(struct request *req)
{
    struct collection wanted = {0};
    struct change change;
    struct json_writer w;
    enum err_code rc = write_expect_json(req);

    if (rc == ERR_OK)
        rc = collection_from_request(&wanted, req->body, req->body_len, &req->err);
    if (rc == ERR_OK)
        rc = check_embedder(req->state, &wanted, &req->err);
    if (rc != ERR_OK)
        return rc;
    rc = change_begin(&change, req);
    if (rc == ERR_OK) {
        memcpy(wanted.tenant, TENANT_DEFAULT, sizeof(TENANT_DEFAULT));
        memcpy(wanted.name, req->params[0], req->param_lens[0] + 1);
        rc = create(&change, &wanted);
    }
    change_end(&change);
    if (rc != ERR_OK)
        return rc;
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    collection_write(&wanted, &w);
    rc = write_ends(change.ingest, &w, &req->err);
    json_end_object(&w);
    return rc;
}

static enum err_code drop(struct change *change)
{
    struct collection dropped = change->entry.collection;
    struct busy_key gate = {.incarnation = dropped.incarnation, .mode = BUSY_ALONE};
    enum err_code rc = busy_take(change->ingest->busy, &change->gate, &gate, 1, change->deadline_ns,
                                 &change->req->err);

    if (rc != ERR_OK)
        return rc;
    dropped.dropped = true;
    dropped.schema = sequencer_change_stamp(&change->ingest->sequencer);
    return change_commit(change, &dropped);
}

enum err_code handle_delete_collection(struct request *req)
{
    struct change change;
    enum err_code rc = change_begin(&change, req);

    if (rc == ERR_OK && (!change.known || change.entry.state == COLLECTION_DROPPED))
        rc = err_set(&req->err, ERR_COLLECTION_NOT_FOUND, "there is no collection '%s'",
                     req->params[0]);
    if (rc == ERR_OK)
        rc = drop(&change);
    change_end(&change);
    if (rc == ERR_OK)
        req->reply.status = 204;
    return rc;
}
