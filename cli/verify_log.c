/* A log is read once: every record is held against the rules of its own, then given to the shards
 * that were made from it.  See verify.h. */
#include <stdlib.h>

#include "cli/verify.h"
#include "common/base/checked.h"

struct pass {
    struct verify_thing *thing;
    struct record_verifier *rules;
    struct verify_shard *shards;
    size_t shard_count;
    bool is_whole; /* every record could be used */
};

static enum err_code take(void *state, const struct wal_verified *log, const struct wal_item *item,
                          const struct scrub_finding *place, struct err *err)
{
    struct pass *pass = state;
    struct record_verified verified;
    struct err why = {0};
    enum err_code rc;

    pass->rules->region = log->region;
    pass->rules->partitions = log->partitions;
    rc = record_verify(pass->rules, item->partition, item->offset, item->data, item->len, &verified,
                       &why);
    if (rc == ERR_NO_MEMORY) {
        *err = why;
        return rc;
    }
    if (rc != ERR_OK) {
        scrub_find(&pass->thing->scrub, place->file, place->byte, "partition %u, offset %llu: %s",
                   item->partition, (unsigned long long)item->offset, why.message);
        pass->is_whole = false;
        return ERR_OK;
    }
    rc = verify_note_named(pass->thing->verify, &verified.record, err);
    for (size_t i = 0; rc == ERR_OK && i < pass->shard_count; i++)
        if (pass->shards[i].look != NULL)
            rc = shard_verify_record(pass->shards[i].look, item, &verified, place, err);
    return rc;
}

static void count(struct verify_thing *thing, const struct wal_verified *log,
                  const struct record_verifier *rules)
{
    uint64_t trimmed = 0; /* records */

    verify_count(thing, "segments", log->segments);
    verify_count(thing, "partitions", log->partitions);
    for (uint32_t p = 0; p < log->partitions; p++)
        trimmed += log->first[p];
    if (trimmed > 0)
        verify_count(thing, "trimmed", trimmed);
    verify_count(thing, "records", rules->counted);
    verify_count(thing, "void", rules->voided);
    verify_count(thing, "bytes", log->bytes);
}

enum err_code verify_log(struct verify *verify, const char *folder, const char *name,
                         struct verify_shard *shards, size_t shard_count, struct err *err)
{
    struct pass pass = {.shards = shards, .shard_count = shard_count, .is_whole = true};
    struct wal_verify_request request = {.each = take, .state = &pass};
    struct wal_verified *log = array_alloc(1, sizeof(*log));
    struct err why = {0};
    enum err_code rc = verify_thing_begin(&pass.thing, verify, "log", folder, name, err);

    pass.rules = array_alloc(1, sizeof(*pass.rules));
    if (rc == ERR_OK && (log == NULL || pass.rules == NULL)) {
        rc = err_set(err, ERR_NO_MEMORY, "no memory to look at a log");
        verify_thing_note(pass.thing, rc, err);
    } else if (rc == ERR_OK) {
        request.folder = pass.thing->path;
        request.scrub = &pass.thing->scrub;
        verify_thing_note(pass.thing, wal_verify(&request, log, &why), &why);
        count(pass.thing, log, pass.rules);
        for (size_t i = 0; i < shard_count && pass.thing->state == VERIFY_OK; i++)
            if (shards[i].look != NULL)
                verify_thing_note(
                    shards[i].thing,
                    shard_verify_log(shards[i].look, log, log->is_whole && pass.is_whole, &why),
                    &why);
    }
    if (pass.rules != NULL)
        buffer_free(&pass.rules->unpacked);
    free(pass.rules);
    if (pass.thing == NULL || pass.thing->state != VERIFY_OK) {
        free(log);
        log = NULL;
    }
    verify_note_log(verify, log, log != NULL && log->is_whole && pass.is_whole);
    if (pass.thing != NULL)
        verify_thing_end(pass.thing);
    return rc;
}
