/* Before the store is opened: see begin.h. */
#include "services/shard/begin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/store/store.h"
#include "backends/wal/wal.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/http/client.h"
#include "services/shard/apply.h"
#include "services/shard/seed.h"
#include "services/shard/segments.h"
#include "services/shard/sound.h"

#define AGAIN_NAME "begin-again"

/* Where the log begins. */
struct beginning {
    uint32_t region; /* 0: not known */
    bool is_trimmed;
    uint64_t firsts[PARTITIONS_MAX];
};

struct paths {
    char store[SEGMENTS_PATH_BYTES], aside[SEGMENTS_PATH_BYTES], again[SEGMENTS_PATH_BYTES];
    char file[SEGMENTS_PATH_BYTES], url[SEGMENTS_PATH_BYTES];
};

static enum err_code set_paths(struct paths *paths, const char *data, struct err *err)
{
    if (strlen(data) > SEGMENTS_PATH_BYTES - 128)
        return err_set(err, ERR_CONFIG, "--data is too long");
    (void)snprintf(paths->store, SEGMENTS_PATH_BYTES, "%s/store", data);
    (void)snprintf(paths->aside, SEGMENTS_PATH_BYTES, "%s/store.aside", data);
    (void)snprintf(paths->again, SEGMENTS_PATH_BYTES, "%s/" AGAIN_NAME, data);
    (void)snprintf(paths->file, SEGMENTS_PATH_BYTES, "%s/store/" STORE_COPY_NAME, data);
    (void)snprintf(paths->url, SEGMENTS_PATH_BYTES, "lmdb:%s/store", data);
    return ERR_OK;
}

enum err_code begin_again(const char *data, struct err *err)
{
    char path[SEGMENTS_PATH_BYTES];
    int fd;

    if (snprintf(path, sizeof(path), "%s/" AGAIN_NAME, data) >= (int)sizeof(path))
        return err_set(err, ERR_CONFIG, "--data is too long");
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0)
        return err_set_errno(err, errno, "begin: %.200s", path);
    (void)close(fd); /* its name is all */
    return segments_sync(data, err);
}

/* --- the log -----------------------------------------------------------------------------------
 */

static void look_at_log(const struct begin *begin, struct beginning *out)
{
    struct wal_options options = {.url = begin->wal_url, .env = begin->env};
    struct wal *wal = NULL;
    struct err why = {0};
    enum err_code code = wal_open(&wal, &options, &why);

    *out = (struct beginning){0};
    for (uint32_t p = 0; code == ERR_OK && p < wal_partitions(wal); p++) {
        code = wal_first(wal, p, &out->firsts[p], &why);
        out->is_trimmed = out->is_trimmed || out->firsts[p] > 0;
    }
    if (code == ERR_OK)
        out->region = wal_region(wal);
    else if (code != ERR_NOT_FOUND)
        log_err(LOG_WARN, NULL, "the log's beginning is not known", &why);
    if (code != ERR_OK)
        *out = (struct beginning){0};
    wal_close(wal);
}

/* --- the store ---------------------------------------------------------------------------------
 */

/* *is_good: the log goes on from it. */
static enum err_code look_at_store(const struct begin *begin, const struct paths *paths,
                                   const struct beginning *beginning, bool *is_good,
                                   struct err *why, struct err *err)
{
    struct store_options options = {.url = paths->url, .env = begin->env};
    struct store *store = NULL;
    struct apply *apply = array_alloc(1, sizeof(*apply));
    enum err_code code = ERR_OK;

    *is_good = true;
    if (apply == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to begin");
    code = store_open(&store, &options, why);
    if (code == ERR_OK)
        code = apply_load(apply, store, why);
    if (code == ERR_OK && apply->region == beginning->region)
        *is_good = seed_reaches(apply, beginning->firsts, why) == ERR_OK;
    /* One of another log, one that is empty or damaged would be made anew from the log. */
    else if (code == ERR_OK)
        (void)err_set(why, ERR_CONFLICT, "the store is of log %u, the log is %u", apply->region,
                      beginning->region);
    if (code == ERR_NOT_FOUND || code == ERR_CORRUPT || why->code == ERR_CONFLICT) {
        *is_good = false;
        code = ERR_OK;
    } else if (code != ERR_OK) {
        *err = *why;
    }
    apply_free(apply);
    free(apply);
    store_close(store);
    return code;
}

static enum err_code set_aside(const struct begin *begin, const struct paths *paths,
                               const struct err *why, struct err *err)
{
    char name[16];
    enum err_code code = segments_remove(paths->aside, err);

    (void)snprintf(name, sizeof(name), "%u", begin->shard);
    if (code == ERR_OK && rename(paths->store, paths->aside) != 0 && errno != ENOENT)
        code = err_set_errno(err, errno, "begin: renaming %.200s", paths->store);
    if (code == ERR_OK)
        code = segments_sync(begin->data, err);
    if (code == ERR_OK)
        log_err(LOG_ERROR, &(struct log_context){.shard_id = name},
                "the store is set aside (store.aside); the state comes from another replica, a "
                "snapshot or the log",
                why);
    return code;
}

static enum err_code check_store(struct begin *begin, const struct paths *paths,
                                 const struct beginning *beginning, struct err *err)
{
    bool is_asked_for = access(paths->again, F_OK) == 0, is_good;
    struct err why = {0};
    enum err_code code = ERR_OK;

    if (begin->damage != NULL)
        why = *begin->damage;
    else
        code = sound_check(begin->data, &why, err);
    is_good = why.code == ERR_OK;
    if (code == ERR_OK && is_good && access(paths->file, F_OK) == 0 && beginning->is_trimmed) {
        if (is_asked_for) {
            is_good = false;
            (void)err_set(&why, ERR_CONFLICT, "the shard could not go on from it");
        } else {
            code = look_at_store(begin, paths, beginning, &is_good, &why, err);
        }
    }
    if (code == ERR_OK && !is_good) {
        begin->was_set_aside = true;
        code = set_aside(begin, paths, &why, err);
    }
    if (code == ERR_OK)
        code = sound_clear(begin->data, err);
    if (code == ERR_OK && is_asked_for && beginning->region != 0 && unlink(paths->again) != 0 &&
        errno != ENOENT)
        code = err_set_errno(err, errno, "begin: %.200s", paths->again);
    return code;
}

/* --- the whole ---------------------------------------------------------------------------------
 */

static enum err_code seed(struct begin *begin, const struct beginning *beginning, struct err *err)
{
    struct seed seed = {.env = begin->env,
                        .meta = begin->meta,
                        .client = begin->client,
                        .data = begin->data,
                        .shard = begin->shard,
                        .replica = begin->replica,
                        .blob = begin->blob,
                        .region = beginning->region,
                        .firsts = beginning->firsts,
                        .is_trimmed = beginning->is_trimmed,
                        .records_min = begin->records_min,
                        .is_stopping = begin->is_stopping};
    struct http_client *own = NULL;
    enum err_code code = ERR_OK;

    if (begin->client == NULL) {
        code = http_client_open(&own, &(struct http_client_options){.env = seed.env}, err);
        seed.client = own;
    }
    if (code == ERR_OK)
        code = seed_run(&seed, err);
    http_client_close(own);
    begin->bytes = seed.bytes;
    return code;
}

enum err_code begin_run(struct begin *begin, struct err *err)
{
    struct paths *paths = array_alloc(1, sizeof(*paths));
    struct beginning *beginning = array_alloc(1, sizeof(*beginning));
    enum err_code code;

    begin->bytes = 0;
    if (paths == NULL || beginning == NULL) {
        code = err_set(err, ERR_NO_MEMORY, "no memory to begin");
    } else {
        look_at_log(begin, beginning);
        code = set_paths(paths, begin->data, err);
    }
    if (code == ERR_OK)
        code = check_store(begin, paths, beginning, err);
    if (code == ERR_OK && (begin->seed || beginning->is_trimmed))
        code = seed(begin, beginning, err);
    free(paths);
    free(beginning);
    return code;
}
