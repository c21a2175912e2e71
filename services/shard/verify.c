/* A shard's folder is looked at: see verify.h.
 *
 * The store's pages come first, for LMDB believes them; a store whose pages are not sound is not
 * opened, and nothing more can be said of it.  Then the state is loaded as a shard would load it,
 * then each row is held against the others. */
#include "services/shard/verify.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/checked.h"
#include "services/shard/verify_internal.h"

/* What is known of a collection while its rows are looked at. */
static enum err_code make_collection(struct shard_verify *verify, uint32_t number, struct err *err)
{
    struct verify_collection *found = &verify->collections[number];
    uint32_t slots = verify->apply.partition_count;

    found->word_count = (size_t)verify->apply.collections[number]->next_ordinal / 64 + 1;
    found->living = array_alloc(found->word_count, sizeof(*found->living));
    found->compared = array_alloc(found->word_count, sizeof(*found->compared));
    found->counts = array_alloc(slots, sizeof(*found->counts));
    found->parts = array_alloc(slots, sizeof(*found->parts));
    if (found->living == NULL || found->compared == NULL || found->counts == NULL ||
        found->parts == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look at a collection");
    return ERR_OK;
}

static enum err_code prepare(struct shard_verify *verify, struct err *err)
{
    struct apply *apply = &verify->apply;
    enum err_code code = ERR_OK;

    verify->partitions = array_alloc(apply->partition_count, sizeof(*verify->partitions));
    verify->collections = array_alloc(apply->collection_count, sizeof(*verify->collections));
    if (verify->partitions == NULL || verify->collections == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look at a shard");
    for (uint32_t i = 0; code == ERR_OK && i < apply->collection_count; i++) {
        code = make_collection(verify, i, err);
        verify->result.collections += apply_is_active(apply, apply->collections[i]);
    }
    verify->result.partitions = apply->partition_count;
    return code;
}

/* What no row is needed for. */
static void check_state(struct shard_verify *verify)
{
    const struct apply *apply = &verify->apply;

    for (uint32_t slot = 0; slot < apply->partition_count; slot++) {
        const struct apply_partition *partition = &apply->partitions[slot];

        if (partition->epoch.epoch != 0 && partition->epoch.epoch_offset >= partition->position)
            verify_find(verify, "partition %u: its epoch's record is behind its position",
                        partition->partition);
        for (uint32_t i = 0; i < apply->collection_count; i++) {
            const struct apply_part *part = &apply->collections[i]->parts[slot];

            if (part->changed > partition->position)
                verify_find(verify,
                            "partition %u: collection %s changed behind the partition's position",
                            partition->partition, apply->collections[i]->definition.name);
        }
    }
}

static enum err_code open_store(struct shard_verify *verify, const char *folder, struct err *err)
{
    char url[PATH_MAX + 8];
    struct store_options options = {.url = url, .env = verify->setup.env, .read_only = true};
    struct err why = {0};
    enum err_code code;

    (void)snprintf(url, sizeof(url), "lmdb:%s", folder);
    code = store_open(&verify->store, &options, &why);
    if (code == ERR_OK)
        code = store_begin(&verify->txn, verify->store, false, &why);
    if (code == ERR_OK)
        code = apply_load(&verify->apply, verify->store, &why);
    if (code == ERR_OK) {
        verify->result.is_readable = true;
        return ERR_OK;
    }
    if (code == ERR_CORRUPT) {
        verify_find(verify, "%s", why.message);
        return ERR_OK;
    }
    if (code == ERR_NOT_FOUND) {
        verify->result.is_empty = true;
        return ERR_OK;
    }
    *err = why;
    return code;
}

static enum err_code look(struct shard_verify *verify, struct err *err)
{
    char folder[PATH_MAX];
    enum err_code code;

    if (snprintf(folder, sizeof(folder), "%s/store", verify->setup.data) >=
            (int)sizeof(folder) - 16 ||
        snprintf(verify->store_file, sizeof(verify->store_file), "%.4000s/data.mdb", folder) < 0)
        return err_set(err, ERR_CONFIG, "the path %.200s is too long", verify->setup.data);
    code = store_verify(folder, verify->setup.scrub, &verify->store_state, err);
    verify->result.store_bytes = verify->store_state.bytes;
    verify->result.store_pages = verify->store_state.pages;
    if (code != ERR_OK || !verify->store_state.is_sound)
        return code;
    code = open_store(verify, folder, err);
    if (code != ERR_OK || !verify->result.is_readable)
        return code;
    code = prepare(verify, err);
    if (code != ERR_OK)
        return code;
    check_state(verify);
    code = verify_rows(verify, err);
    return code == ERR_OK ? verify_segments(verify, err) : code;
}

enum err_code shard_verify_open(struct shard_verify **out, const struct shard_verify_setup *setup,
                                struct err *err)
{
    struct shard_verify *verify = array_alloc(1, sizeof(*verify));
    enum err_code code;

    *out = NULL;
    if (verify == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look at a shard");
    verify->setup = *setup;
    verify->store_state.lock_fd = -1;
    code = look(verify, err);
    if (code != ERR_OK) {
        shard_verify_close(verify);
        return code;
    }
    *out = verify;
    return ERR_OK;
}

const struct shard_verified *shard_verify_result(const struct shard_verify *verify)
{
    return &verify->result;
}

void shard_verify_close(struct shard_verify *verify)
{
    if (verify == NULL)
        return;
    for (uint32_t i = 0; verify->collections != NULL && i < verify->apply.collection_count; i++) {
        free(verify->collections[i].living);
        free(verify->collections[i].compared);
        free(verify->collections[i].counts);
        free(verify->collections[i].parts);
    }
    free(verify->collections);
    free(verify->partitions);
    apply_free(&verify->apply);
    buffer_free(&verify->bulk);
    store_abort(verify->txn);
    store_close(verify->store);
    store_verified_end(&verify->store_state);
    free(verify);
}
