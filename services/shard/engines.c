/* The engine of a collection: opened, and made to hold what the store holds.
 *
 * With a segment from before the restart:
 *   1. engine_open loads it, unless it is damaged;
 *   2. it must be of this store's history: it reaches no further than the store has given ordinals,
 *      and once the ids of the store have said which ordinals live, all of those below its end are
 *      in it.  Otherwise it is removed, loudly, and the engine begins empty;
 *   3. only the vectors behind its end are read from the store.
 * Step 2 reads no vector: ids with their ordinals are a table of their own, which is small.
 * What is cold lies in files of its own beside the segment, and is a part of it in all this: it was
 * whole when it became cold, and who lives in it is said by step 2 alone.
 *
 * Why that is enough.  A segment takes its place only after all that the engine was told has been
 * committed and synced (maintain.c).  So a store that a crash has cut short has given every ordinal
 * of the segment, and each to the vector that the segment has; what was deleted and came back with
 * an older copy of the store is missed in step 2, and a store that has gone another way since such
 * a copy was put in its place has met step 2 before it went there.
 *
 * Failure modes: folders that cannot be made or removed fail the start, which is tried again; what
 * a sweep cannot remove is said and left, for nobody opens it. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/shard/helpers.h"
#include "services/shard/rows.h"
#include "services/shard/segments.h"
#include "services/shard/shard.h"

/* A segment, or a folder of segments, is not what it should be. */
static void tell(const struct shard *shard, const struct collection *definition, const char *what,
                 const struct err *why)
{
    struct log_context context = {.collection = definition == NULL ? NULL : definition->name};
    char name[16];

    (void)snprintf(name, sizeof(name), "%u", shard->setup.shard);
    context.shard_id = name;
    log_err(LOG_WARN, &context, what, why);
}

static void count_set_aside(const struct shard *shard)
{
    if (shard->metrics.set_aside != NULL)
        metric_add(shard->metrics.set_aside, 1);
}

/* --- folders -----------------------------------------------------------------------------------
 */

static bool is_known(void *state, const uint8_t incarnation[INCARNATION_BYTES])
{
    struct shard *shard = state;
    const struct apply_collection *collection = apply_find(&shard->apply, incarnation);

    return collection != NULL && apply_is_active(&shard->apply, collection);
}

static void sweep(struct shard *shard)
{
    struct segments_sweep sweep = {.root = shard->setup.segments,
                                   .life = shard->apply.life,
                                   .is_known = is_known,
                                   .state = shard};
    struct err err = {0};
    enum err_code code = segments_sweep(&sweep, &err);
    char name[16];

    if (code != ERR_OK)
        tell(shard, NULL, "segments of no collection could not be removed", &err);
    (void)snprintf(name, sizeof(name), "%u", shard->setup.shard);
    if (sweep.removed > 0)
        log_info(&(struct log_context){.shard_id = name}, "segments of no collection were removed",
                 LOG_U64("folders", sweep.removed));
}

enum err_code engines_prepare(struct shard *shard, struct err *err)
{
    enum err_code code;

    if (shard->setup.segments == NULL)
        return ERR_OK;
    code = apply_take_life(&shard->apply, err);
    if (code == ERR_OK)
        code = segments_make(shard->setup.segments, shard->apply.life, err);
    if (code != ERR_OK || shard->swept_life == shard->apply.life)
        return code;
    sweep(shard);
    shard->swept_life = shard->apply.life;
    return ERR_OK;
}

/* --- opening -----------------------------------------------------------------------------------
 */

static enum err_code open_engine(struct shard *shard, struct shard_collection *entry,
                                 const char *folder, struct err *err)
{
    const struct collection *definition = &entry->definition;
    struct engine_options options = segments_engine_options(definition);
    struct engine_executor executor = helpers_executor(shard->helpers);
    enum err_code code;

    options.cold_above = shard->setup.cold_above;
    options.memory_budget = shard->setup.memory_bytes;
    options.kernel = shard->setup.simd;
    code = engine_open(&entry->engine, folder, &options, &executor, err);
    if (code == ERR_OK && engine_notice(entry->engine)[0] != '\0') {
        struct err why = {0};

        (void)err_set(&why, ERR_CORRUPT, "%s", engine_notice(entry->engine));
        tell(shard, definition, "a segment was set aside", &why);
        count_set_aside(shard);
    }
    return code;
}

/* Which ordinals below `covered` have a vector that lives: bits of words, which are zeroed. */
static enum err_code read_living(const struct shard *shard, const struct shard_collection *entry,
                                 struct store_txn *stored, struct engine_bitmap *living,
                                 struct err *err)
{
    uint32_t covered = engine_covered(entry->engine);
    uint64_t *words = (uint64_t *)(uintptr_t)living->words;
    struct id_key from = id_key_of(entry->number, 0, NULL, 0);
    struct store_cursor *cursor = NULL;
    enum err_code code = store_cursor_open(&cursor, stored, STORE_IDS, id_key_value(&from), err);

    while (code == ERR_OK) {
        struct store_value key, value;
        struct id_entry id;
        bool more;

        code = store_cursor_next(cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more || !id_key_is_in(key, entry->number))
            break;
        code = id_entry_decode(&id, value, err);
        if (code == ERR_OK && shard_is_stopping(shard))
            code = err_set(err, ERR_DEAD, "stopped while the engines were filled");
        if (code != ERR_OK || !id.is_live || !id.has_vector || id.ordinal >= covered)
            continue;
        words[id.ordinal / 64] |= UINT64_C(1) << id.ordinal % 64;
        living->cardinality++;
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    return code;
}

/* The segment that the engine has loaded, as the store knows better.
 * Errors: ERR_CONFLICT (it is of another history), ERR_CORRUPT, ERR_IO, ERR_NO_MEMORY, ERR_DEAD. */
static enum err_code take_over(const struct shard *shard, struct shard_collection *entry,
                               uint32_t next_ordinal, struct store_txn *stored, struct err *err)
{
    uint32_t covered = engine_covered(entry->engine);
    struct engine_bitmap living = {.word_count = ((size_t)covered + 63) / 64};
    uint64_t *words;
    enum err_code code;

    atomic_store(&entry->floor, covered);
    if (covered == 0)
        return ERR_OK;
    if (covered > next_ordinal)
        return err_set(err, ERR_CONFLICT,
                       "the segment reaches up to ordinal %u, the store has given those below %u",
                       covered - 1, next_ordinal);
    words = array_alloc(living.word_count, sizeof(*words));
    if (words == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a bit for each of %u vectors", covered);
    living.words = words;
    code = read_living(shard, entry, stored, &living, err);
    if (code == ERR_OK) {
        engine_keep(entry->engine, &living);
        if (engine_count(entry->engine) != living.cardinality)
            code = err_set(err, ERR_CONFLICT,
                           "the segment has %llu of the %llu vectors that the store has below %u",
                           (unsigned long long)engine_count(entry->engine),
                           (unsigned long long)living.cardinality, covered);
    }
    free(words);
    return code;
}

/* Open with the segment that is there, or, when that is of no use, without it. */
static enum err_code open_kept(struct shard *shard, struct shard_collection *entry,
                               const struct apply_collection *from, struct store_txn *stored,
                               struct err *err)
{
    char folder[SEGMENTS_PATH_BYTES];
    struct segments_place place = {.root = shard->setup.segments,
                                   .life = entry->life,
                                   .incarnation = entry->definition.incarnation};
    struct err why = {0};
    bool is_useless;
    enum err_code code = segments_folder(folder, &place, err);

    if (code == ERR_OK && stored == NULL)
        code = segments_remove(folder, err);
    if (code != ERR_OK)
        return code;
    if (stored == NULL)
        return open_engine(shard, entry, folder, err);
    code = open_engine(shard, entry, folder, &why);
    is_useless = code == ERR_IO;
    if (code == ERR_OK) {
        code = take_over(shard, entry, from->next_ordinal, stored, &why);
        is_useless = code == ERR_CONFLICT;
    }
    if (code == ERR_OK)
        return ERR_OK;
    engine_close(entry->engine);
    entry->engine = NULL;
    if (!is_useless) {
        *err = why;
        return code;
    }
    tell(shard, &entry->definition, "a segment is removed: its vectors are linked again", &why);
    count_set_aside(shard);
    atomic_store(&entry->floor, 0);
    code = segments_remove(folder, err);
    return code == ERR_OK ? open_engine(shard, entry, folder, err) : code;
}

enum err_code engines_open(struct shard *shard, struct shard_collection *entry,
                           const struct apply_collection *from, struct store_txn *stored,
                           struct err *err)
{
    enum err_code code;

    assert(entry->engine == NULL);
    entry->life = shard->setup.segments == NULL ? 0 : shard->apply.life;
    if (entry->life == 0)
        code = open_engine(shard, entry, NULL, err);
    else
        code = open_kept(shard, entry, from, stored, err);
    return code == ERR_OK ? ERR_OK : err_wrap(err, "collection %s", entry->definition.name);
}

/* --- filling -----------------------------------------------------------------------------------
 */

enum err_code engines_fill(struct shard *shard, struct shard_collection *entry,
                           struct store_txn *stored, struct err *err)
{
    struct ordinal_key from = ordinal_key_of(entry->number, (uint32_t)atomic_load(&entry->floor));
    size_t bytes = entry->definition.dimension * sizeof(float);
    struct store_cursor *cursor = NULL;
    enum err_code code =
        store_cursor_open(&cursor, stored, STORE_VECTORS, ordinal_key_value(&from), err);

    if (code == ERR_OK)
        store_cursor_read_ahead(cursor);
    while (code == ERR_OK) {
        struct store_value key, value;
        uint32_t ordinal;
        bool more;

        code = store_cursor_next(cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more || !ordinal_key_is_of(key, entry->number, &ordinal))
            break;
        if (value.len != bytes) {
            code = err_set(err, ERR_CORRUPT, "a vector of the store is damaged");
            break;
        }
        memcpy(shard->apply.vector, value.data, bytes);
        atomic_store(&entry->floor, ordinal + 1);
        code = engine_insert(entry->engine, ordinal, shard->apply.vector, err);
        if (code == ERR_OK && shard_is_stopping(shard))
            code = err_set(err, ERR_DEAD, "stopped while the engines were filled");
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    return code;
}
