/* A part of an import, from rows to the log: see imports.h for the order of things. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/blob/blob.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/ingest/imports.h"

#define APPEND_NS (10 * NS_PER_S) /* for a turn, however long reading the part took */

/* Ids of imports are keys of an incarnation that no collection has. */
static const uint8_t IMPORT_KEYS[INCARNATION_BYTES] = "import\0keys\0\0\0\0";

/* --- manifests ------------------------------------------------------------------------------- */

/* Of the sections at hand, which are the object's of this index. */
static enum err_code add_manifests(struct import_work *work, const struct import_job *job,
                                   size_t object, uint32_t count, struct err *err)
{
    const char *name = job->objects[object].name;
    size_t wanted = work->manifest_count + count;

    if (wanted > work->manifest_size) {
        size_t size = MAX_OF(wanted, work->manifest_size * 2);
        void *grown = array_resize(work->manifests, size, sizeof(*work->manifests));

        if (grown == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory for manifests");
        work->manifests = grown;
        work->manifest_size = size;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct import_manifest *manifest = &work->manifests[work->manifest_count++];

        *manifest = (struct import_manifest){.partition = work->sections[i].partition,
                                             .object = object,
                                             .manifest = {.section = work->sections[i]}};
        memcpy(manifest->manifest.name, name, strlen(name) + 1);
    }
    return ERR_OK;
}

/* What an object says of itself, when somebody else has put it. */
static enum err_code read_manifests(struct import_work *work, size_t index, struct err *err)
{
    const struct import_object *object = &work->job->objects[index];
    struct blob *blob = work->write->ingest->setup.blob;
    struct blob_range range = {.name = object->name, .len = bulk_head_bytes(0)};
    struct buffer *head = &work->object;
    uint32_t count = 0;
    enum err_code rc = blob_check_name(object->name, err);

    buffer_reset(head);
    if (rc == ERR_OK)
        rc = blob_get(blob, &range, head, err);
    if (rc == ERR_OK)
        rc = bulk_head_count(&count, head->data, head->len, err);
    if (rc == ERR_OK && count > work->rows.partitions)
        rc = err_set(err, ERR_CORRUPT, "object %s is of more partitions", object->name);
    buffer_reset(head);
    range.len = bulk_head_bytes(count);
    if (rc == ERR_OK)
        rc = blob_get(blob, &range, head, err);
    if (rc == ERR_OK)
        rc = bulk_head_decode(work->sections, count, head->data, head->len, err);
    if (rc == ERR_OK && work->sections[count - 1].partition >= work->rows.partitions)
        rc = err_set(err, ERR_CORRUPT, "object %s is of more partitions", object->name);
    return rc == ERR_OK ? add_manifests(work, work->job, index, count, err) : rc;
}

/* At most: of all vectors of the part those of one section. */
static uint64_t vectors_of(const struct import_work *work, const struct bulk_section *section)
{
    return MIN_OF(work->vectors, (uint64_t)section->rows);
}

/* Have the shards room for the part so far, and for so many sections more? */
static enum err_code check_headroom(struct import_work *work, uint32_t count)
{
    struct ingest *ingest = work->write->ingest;
    struct err *err = &work->write->req->err;
    struct headroom_want *wants = array_alloc(work->manifest_count + count, sizeof(*wants));
    struct headroom_ask ask = {
        .cluster = ingest->setup.cluster, .collection = &work->write->collection, .wants = wants};
    enum err_code rc;

    if (wants == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for an import");
    for (size_t i = 0; i < work->manifest_count; i++)
        wants[ask.count++] = (struct headroom_want){
            .partition = work->manifests[i].partition,
            .vectors = vectors_of(work, &work->manifests[i].manifest.section)};
    for (uint32_t i = 0; i < count; i++)
        wants[ask.count++] =
            (struct headroom_want){.partition = work->sections[i].partition,
                                   .vectors = vectors_of(work, &work->sections[i])};
    rc = headroom_check(&ingest->headroom, &ask, err);
    free(wants);
    return rc;
}

static enum err_code add_records(struct import_work *work)
{
    struct write *write = work->write;
    struct buffer payload = {0};
    enum err_code rc = ERR_OK;

    for (size_t i = 0; i < work->manifest_count && rc == ERR_OK; i++) {
        const struct import_manifest *manifest = &work->manifests[i];
        struct record record = {.op = RECORD_BULK_MANIFEST,
                                .stamp = work->job->objects[manifest->object].stamp};

        buffer_reset(&payload);
        bulk_manifest_encode(&manifest->manifest, &payload);
        rc = buffer_check(&payload, &write->req->err);
        record.payload = payload.data;
        record.payload_len = payload.len;
        if (rc == ERR_OK)
            rc = write_add(write, manifest->partition, &record);
        if (rc == ERR_OK)
            write->batch->items[write->batch->count - 1].vectors =
                vectors_of(work, &manifest->manifest.section);
    }
    buffer_free(&payload);
    return rc;
}

/* --- the row --------------------------------------------------------------------------------- */

/* The token of everything, with what has just been committed. */
static enum err_code keep_token(struct import_work *work)
{
    struct import_job *job = work->job;
    struct err *err = &work->write->req->err;
    struct token token = {0};
    struct buffer text = {0};
    enum err_code rc = ERR_OK;

    if (job->token != NULL)
        rc = token_from_text(&token, job->token, strlen(job->token), err);
    if (rc == ERR_OK)
        rc = token_merge(&token, &work->write->token, err);
    if (rc == ERR_OK) {
        token_to_text(&token, &text);
        buffer_append_byte(&text, 0);
        rc = buffer_check(&text, err);
    }
    token_free(&token);
    if (rc != ERR_OK) {
        buffer_free(&text);
        return rc;
    }
    free(job->token);
    job->token = (char *)text.data;
    return ERR_OK;
}

static enum err_code save(struct import_work *work)
{
    struct ingest *ingest = work->write->ingest;

    return import_job_save(work->job, ingest->setup.meta, env_wall_us(ingest->env),
                           &work->write->req->err);
}

/* Nobody else writes to the collection from now on. */
static enum err_code take_gate(struct import_work *work)
{
    struct write *write = work->write;

    if (work->manifest_count == 0)
        return ERR_OK;
    write->deadline_ns = env_boot_ns(write->ingest->env) + APPEND_NS;
    return write_take(write, NULL, 0, BUSY_ALONE);
}

/* Append what is pending, for the first time or again; then it is done.  The gate is taken. */
static enum err_code append_pending(struct import_work *work)
{
    struct write *write = work->write;
    struct import_job *job = work->job;
    enum err_code rc = ERR_OK;

    assert(job->is_pending);
    if (work->manifest_count > 0) {
        write->headroom = HEADROOM_GIVEN;
        rc = add_records(work);
        if (rc == ERR_OK)
            rc = write_commit_whole(write);
        busy_release(&write->claim);
        if (rc == ERR_OK)
            rc = keep_token(work);
    }
    if (rc != ERR_OK)
        return rc;
    work->manifest_count = 0;
    job->done = job->next;
    job->is_pending = false;
    job->object_count = 0;
    return save(work);
}

static enum err_code finish_pending(struct import_work *work)
{
    struct import_job *job = work->job;
    enum err_code rc = ERR_OK;

    for (size_t i = 0; i < job->object_count && rc == ERR_OK; i++)
        rc = read_manifests(work, i, &work->write->req->err);
    if (rc == ERR_OK)
        rc = take_gate(work);
    return rc == ERR_OK ? append_pending(work) : rc;
}

/* --- memory ---------------------------------------------------------------------------------- */

enum err_code import_spare_new(struct import_spare **out, struct err *err)
{
    *out = calloc(1, sizeof(**out));
    if (*out == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for imports");
    pthread_mutex_init(&(*out)->lock, NULL);
    return ERR_OK;
}

void import_spare_free(struct import_spare *spare)
{
    if (spare == NULL)
        return;
    for (size_t i = 0; i < spare->count; i++) {
        import_rows_free(&spare->rows[i]);
        buffer_free(&spare->objects[i]);
    }
    pthread_mutex_destroy(&spare->lock);
    free(spare);
}

static void take_spare(struct import_work *work)
{
    struct import_spare *spare = work->write->ingest->spare;

    pthread_mutex_lock(&spare->lock);
    if (spare->count > 0) {
        work->rows = spare->rows[--spare->count];
        work->object = spare->objects[spare->count];
    }
    pthread_mutex_unlock(&spare->lock);
}

/* Kept as long as more is to come. */
static void give_back(struct import_work *work)
{
    struct import_spare *spare = work->write->ingest->spare;

    if (work->job == NULL || work->job->state != IMPORT_RUNNING)
        return;
    import_rows_reset(&work->rows);
    work->rows.borrowed = NULL;
    pthread_mutex_lock(&spare->lock);
    if (spare->count < IMPORT_SPARES_MAX) {
        spare->rows[spare->count] = work->rows;
        spare->objects[spare->count++] = work->object;
        work->rows = (struct import_rows){0};
        work->object = (struct buffer){0};
    }
    pthread_mutex_unlock(&spare->lock);
}

enum err_code import_open(struct import_work *work, struct write *write)
{
    const struct sequencer *sequencer = &write->ingest->sequencer;

    *work = (struct import_work){.write = write};
    work->sections = array_alloc(sequencer->partitions, sizeof(*work->sections));
    if (work->sections == NULL)
        return err_set(&write->req->err, ERR_NO_MEMORY, "no memory for an import");
    take_spare(work);
    work->rows.partitions = sequencer->partitions;
    work->rows.dimension = write->collection.dimension;
    return ERR_OK;
}

static enum err_code load(struct import_work *work, struct import_job **out)
{
    struct write *write = work->write;
    struct request *req = write->req;
    enum err_code rc =
        import_job_load(out, write->ingest->setup.meta, req->params[1], req->params[0], &req->err);

    if (rc != ERR_OK ||
        memcmp((*out)->incarnation, write->collection.incarnation, INCARNATION_BYTES) == 0)
        return rc;
    return err_set(&req->err, ERR_COLLECTION_NOT_FOUND,
                   "collection '%s' was dropped and created again since", req->params[0]);
}

enum err_code import_begin(struct import_work *work)
{
    struct write *write = work->write;
    struct request *req = write->req;
    struct busy_key key = {.incarnation = IMPORT_KEYS,
                           .id = req->params[1],
                           .len = req->param_lens[1],
                           .mode = BUSY_ALONE};
    struct import_manifest *ahead = work->manifests;
    size_t count = work->manifest_count, size = work->manifest_size;
    uint64_t vectors = work->vectors;
    enum err_code rc;

    write->deadline_ns = env_boot_ns(write->ingest->env) + APPEND_NS;
    rc = busy_take(write->ingest->busy, &work->claim, &key, 1, write->deadline_ns, &req->err);
    if (rc == ERR_OK)
        rc = load(work, &work->job);
    if (rc != ERR_OK || !work->job->is_pending)
        return rc;
    /* What is pending has manifests of its own. */
    work->manifests = NULL;
    work->manifest_count = work->manifest_size = 0;
    work->vectors = UINT64_MAX; /* not known: as many as rows */
    rc = finish_pending(work);
    free(work->manifests);
    work->manifests = ahead;
    work->manifest_count = count;
    work->manifest_size = size;
    work->vectors = vectors;
    return rc;
}

void import_leave(struct import_work *work)
{
    busy_release(&work->claim);
    import_job_free(work->job);
    work->job = NULL;
}

/* What a part that was not taken has put.  Nobody else knows these names, and from the moment on
 * that the row was to say them, whatever came of that, they stay: a change of the row that failed
 * may have been made, and others may have gone on from there. */
static void remove_unnamed(struct import_work *work)
{
    struct err err = {0};
    enum err_code rc = ERR_OK;

    if (work->is_offered)
        return;
    for (size_t i = 0; i < work->put_count && rc == ERR_OK; i++)
        rc = blob_remove(work->write->ingest->setup.blob, work->ahead->objects[i].name, &err);
    if (rc != ERR_OK && rc != ERR_DEAD)
        log_err(LOG_WARN, NULL, "objects that nobody names stay in the blob store", &err);
}

void import_end(struct import_work *work)
{
    if (work->write != NULL)
        give_back(work); /* before the next part's turn comes */
    busy_release(&work->claim);
    remove_unnamed(work);
    import_rows_free(&work->rows);
    buffer_free(&work->object);
    free(work->sections);
    free(work->manifests);
    import_job_free(work->ahead);
    import_job_free(work->job);
}

/* --- a part ---------------------------------------------------------------------------------- */

/* The rows at hand become an object, which is durable at the return. */
static enum err_code put_object(struct import_work *work)
{
    struct ingest *ingest = work->write->ingest;
    struct import_job *job = work->ahead;
    struct import_object *object = &job->objects[job->object_count];
    struct err *err = &work->write->req->err;
    char name[sizeof(object->name)];
    char hash[HASH128_TEXT_BYTES];
    uint32_t count = 0;
    enum err_code rc;

    if (work->rows.count == 0)
        return ERR_OK;
    assert(job->object_count < IMPORT_OBJECTS_MAX);
    rc = import_rows_build(&work->rows, &work->object, work->sections, &count, err);
    if (rc == ERR_OK)
        rc = check_headroom(work, count);
    if (rc != ERR_OK)
        return rc;
    /* What it holds is part of its name (the head has the hashes of all): nobody who was overtaken
     * can replace it by something else.  So is who has put it: another request that brings the same
     * part has objects of its own, and removing these takes nothing from it. */
    hash128_to_text(hash, hash_xxh128(work->object.data, bulk_head_bytes(count)));
    (void)snprintf(name, sizeof(name), "imports/%s/%llu.%zu-%s-%016llx", job->id,
                   (unsigned long long)job->done.offset, job->object_count, hash,
                   (unsigned long long)work->putter);
    memcpy(object->name, name, sizeof(name));
    work->put_count = job->object_count + 1; /* also when it fails: it may be there */
    rc = blob_put(ingest->setup.blob, object->name, work->object.data, work->object.len, err);
    if (rc != ERR_OK)
        return rc;
    rc = add_manifests(work, job, job->object_count, count, err);
    job->object_count++;
    import_rows_reset(&work->rows);
    return rc;
}

static enum err_code add_row(struct import_work *work, struct import_part *part,
                             const struct bulk_row *row)
{
    struct err *err = &work->write->req->err;
    enum err_code rc;

    if (work->rows.borrowed != NULL)
        rc = import_rows_borrow(&work->rows, part->row_at, part->at - part->row_at, row, err);
    else
        rc = import_rows_add(&work->rows, row, err);
    if (rc != ERR_OK)
        return rc;
    work->ahead->next.rows++;
    work->vectors += row->vector != NULL;
    return import_rows_are_full(&work->rows) ? put_object(work) : ERR_OK;
}

/* Rows into objects, until the part ends or has made as many as a row of the store may name. */
static enum err_code read_part(struct import_work *work, struct import_part *part)
{
    struct err *err = &work->write->req->err, why;
    enum err_code rc = ERR_OK;

    work->rows.borrowed = part->job->format == IMPORT_BINARY ? part->body : NULL;
    while (rc == ERR_OK && work->ahead->object_count < IMPORT_OBJECTS_MAX) {
        struct bulk_row row;

        why = (struct err){0};
        switch (import_part_next(part, &row, &why)) {
        case IMPORT_READ_ROW:
            rc = add_row(work, part, &row);
            continue;
        case IMPORT_READ_REFUSED:
            import_job_refuse(work->ahead, part->row, part->job->done.offset + part->row_at, &why);
            continue;
        case IMPORT_READ_FAILED:
            *err = why;
            return why.code;
        case IMPORT_READ_END:
            break;
        }
        rc = import_part_check_end(part, err);
        break;
    }
    return rc == ERR_OK ? put_object(work) : rc;
}

/* Which row a part begins with; rows of other formats are numbered when their turn comes.  False:
 * no row begins there, or it cannot be told yet. */
static bool first_row(const struct import_job *job, uint32_t dimension, uint64_t offset,
                      uint64_t *row)
{
    uint64_t bytes = dimension * (job->npy_is_f16 ? 2 : sizeof(float));

    *row = 0;
    if (job->format != IMPORT_NPY || offset == 0)
        return true;
    if (job->npy_data_at == 0 || offset < job->npy_data_at ||
        (offset - job->npy_data_at) % bytes != 0)
        return false;
    *row = (offset - job->npy_data_at) / bytes;
    return true;
}

enum err_code import_read_ahead(struct import_work *work, struct import_part *part, uint64_t offset)
{
    uint64_t began_ns = env_boot_ns(work->write->ingest->env);
    struct import_job *ahead = NULL;
    enum err_code rc = load(work, &ahead);

    work->ahead = ahead;
    if (rc != ERR_OK)
        return rc;
    /* Whose turn is over, or cannot come as things stand: the turn tells. */
    work->is_read = ahead->state == IMPORT_RUNNING && offset >= ahead->done.offset &&
                    first_row(ahead, work->rows.dimension, offset, &part->next_row);
    if (!work->is_read)
        return ERR_OK;
    env_random(work->write->ingest->env, &work->putter, sizeof(work->putter));
    ahead->done = (struct import_progress){.offset = offset};
    ahead->next = (struct import_progress){0};
    ahead->error_count = ahead->object_count = 0;
    part->job = ahead;
    rc = read_part(work, part);
    ahead->busy_us = (env_boot_ns(work->write->ingest->env) - began_ns) / NS_PER_US;
    return rc;
}

enum err_code import_take_part(struct import_work *work, const struct import_part *part)
{
    struct import_job *job = work->job;
    struct ingest *ingest = work->write->ingest;
    uint64_t before = job->done.rows;
    enum err_code rc;

    assert(!job->is_pending && job->state == IMPORT_RUNNING && work->is_read);
    import_job_merge(job, work->ahead,
                     job->format == IMPORT_NPY ? 0 : job->done.rows + job->done.refused);
    job->next.offset += part->at;
    if (job->next.refused > job->errors_max)
        job->state = IMPORT_FAILED;
    else if (part->is_final && part->at == part->len)
        job->state = IMPORT_SUCCEEDED;
    job->is_pending = true;
    job->busy_us += work->ahead->busy_us;
    /* Behind every write that was decided before, ahead of every one that is not yet. */
    rc = take_gate(work);
    for (size_t i = 0; i < job->object_count && rc == ERR_OK; i++)
        job->objects[i].stamp = sequencer_change_stamp(&ingest->sequencer);
    work->is_offered = rc == ERR_OK;
    if (rc == ERR_OK)
        rc = save(work);
    if (rc == ERR_OK)
        rc = append_pending(work);
    if (rc == ERR_OK && ingest->metrics.imported != NULL)
        metric_add(ingest->metrics.imported, job->done.rows - before);
    return rc;
}
