/* Handing out copies: see copy.h.
 *
 * Happy path: somebody asks for a copy; the thread empties the folder, makes the copy, and waits;
 * files are read out in chunks; when nothing of it has been asked for UNUSED_NS it is removed.
 *
 * Failure modes: a copy that cannot be made is told to whoever asks, and forgotten as one that
 * nobody uses; what a crash leaves in the folder goes at the next start.  The folder is the
 * thread's; who reads a chunk of a copy that is being removed finds no file, and begins again. */
#include "services/shard/copy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "services/shard/ask.h"
#include "services/shard/copy_make.h"
#include "services/shard/segments.h"

#define UNUSED_NS (30 * NS_PER_S)

enum copy_state { COPY_NONE, COPY_WANTED, COPY_MAKING, COPY_READY, COPY_FAILED };

struct copier {
    struct shard *shard;
    struct env *env;
    const char *folder;
    struct env_thread *thread;
    atomic_bool is_stopping;
    struct copy_making making; /* the thread's, but for made_bytes; its files once READY */
    struct copy_pace pace;

    pthread_mutex_t lock;
    struct env_cond changed;
    /* below: guarded by lock */
    enum copy_state state;
    uint64_t id;      /* of the copy: random */
    uint64_t used_ns; /* somebody asked for it */
    char detail[ERR_MESSAGE_BYTES];
};

static const char *const state_names[] = {
    [COPY_NONE] = "none",   [COPY_WANTED] = "making", [COPY_MAKING] = "making",
    [COPY_READY] = "ready", [COPY_FAILED] = "failed",
};

/* --- the thread --------------------------------------------------------------------------------
 */

static void forget_files(struct copier *copier)
{
    free(copier->making.files);
    copier->making.files = NULL;
    copier->making.count = copier->making.size = 0;
}

/* Whatever lies in the folder goes. */
static enum err_code empty_folder(struct copier *copier, struct err *err)
{
    enum err_code code = segments_remove(copier->folder, err);

    if (code == ERR_OK && mkdir(copier->folder, 0777) != 0)
        code = err_set_errno(err, errno, "copy: mkdir %.200s", copier->folder);
    return code;
}

static void make(struct copier *copier)
{
    struct err err = {0};
    enum err_code code = empty_folder(copier, &err);

    atomic_store(&copier->making.made_bytes, 0);
    if (code == ERR_OK)
        code = copy_make(&copier->making, &err);
    if (code != ERR_OK && code != ERR_DEAD)
        log_err(LOG_WARN, NULL, "a copy for another replica could not be made", &err);
    pthread_mutex_lock(&copier->lock);
    copier->state = code == ERR_OK ? COPY_READY : COPY_FAILED;
    copier->used_ns = env_boot_ns(copier->env);
    (void)snprintf(copier->detail, sizeof(copier->detail), "%s", code == ERR_OK ? "" : err.message);
    pthread_mutex_unlock(&copier->lock);
}

static void remove_copy(struct copier *copier)
{
    struct err err = {0};

    forget_files(copier);
    if (segments_remove(copier->folder, &err) != ERR_OK)
        log_err(LOG_WARN, NULL, "a copy could not be removed", &err);
}

static void run(void *argument)
{
    struct copier *copier = argument;
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&copier->lock);
    while (!atomic_load(&copier->is_stopping) && code != ERR_DEAD) {
        uint64_t until = copier->state == COPY_NONE ? NEVER_NS : copier->used_ns + UNUSED_NS;

        if (copier->state == COPY_WANTED) {
            copier->state = COPY_MAKING;
            pthread_mutex_unlock(&copier->lock);
            make(copier);
            pthread_mutex_lock(&copier->lock);
        } else if (copier->state != COPY_NONE && env_boot_ns(copier->env) >= until) {
            copier->state = COPY_NONE;
            pthread_mutex_unlock(&copier->lock);
            remove_copy(copier);
            pthread_mutex_lock(&copier->lock);
        } else {
            code = env_cond_wait(&copier->changed, &copier->lock, until);
        }
    }
    copier->state = COPY_NONE;
    pthread_mutex_unlock(&copier->lock);
    remove_copy(copier);
}

enum err_code copier_open(struct copier **out, const struct copier_options *options,
                          struct err *err)
{
    struct shard *shard = options->shard;
    struct copier *copier = calloc(1, sizeof(*copier));
    enum err_code code;

    *out = NULL;
    if (copier == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for copies");
    copier->shard = shard;
    copier->env = shard->env;
    copier->folder = options->folder;
    copier->pace = (struct copy_pace){.env = shard->env, .rate = options->rate};
    pthread_mutex_init(&copier->pace.lock, NULL);
    pthread_mutex_init(&copier->lock, NULL);
    env_cond_init(copier->env, &copier->changed);
    copier->making = (struct copy_making){.store = shard->setup.store,
                                          .segments = shard->setup.segments,
                                          .folder = copier->folder,
                                          .pace = &copier->pace,
                                          .is_stopping = &copier->is_stopping};
    code = segments_remove(copier->folder, err);
    if (code == ERR_OK)
        code = env_thread_start(copier->env, &copier->thread, "copy", run, copier, err);
    if (code != ERR_OK)
        copier_close(copier);
    else
        *out = copier;
    return code;
}

void copier_stop(struct copier *copier)
{
    if (copier == NULL)
        return;
    pthread_mutex_lock(&copier->lock);
    atomic_store(&copier->is_stopping, true);
    env_cond_broadcast(&copier->changed);
    pthread_mutex_unlock(&copier->lock);
}

void copier_close(struct copier *copier)
{
    if (copier == NULL)
        return;
    env_thread_join(copier->thread);
    forget_files(copier);
    env_cond_free(&copier->changed);
    pthread_mutex_destroy(&copier->lock);
    pthread_mutex_destroy(&copier->pace.lock);
    free(copier);
}

/* --- the handlers ------------------------------------------------------------------------------
 */

static enum err_code find_copier(struct request *req, struct copier **out)
{
    struct shard *shard = req->state;

    *out = shard->copier;
    return *out != NULL ? ERR_OK
                        : err_set(&req->err, ERR_UNAVAILABLE, "no copies are handed out here");
}

/* Caller holds the lock. */
static void write_files_locked(const struct copier *copier, struct json_writer *w)
{
    json_key(w, "files");
    json_begin_array(w);
    for (size_t i = 0; copier->state == COPY_READY && i < copier->making.count; i++) {
        const struct copy_file *file = &copier->making.files[i];

        json_begin_object(w);
        json_key(w, "name");
        json_text(w, file->name);
        json_key(w, "bytes");
        json_u64(w, file->bytes);
        json_key(w, "digest");
        digest_write(w, file->digest);
        json_end_object(w);
    }
    json_end_array(w);
}

static enum err_code write_status(struct copier *copier, struct request *req)
{
    struct json_writer w;
    char id[17];

    json_writer_init(&w, &req->reply.body);
    pthread_mutex_lock(&copier->lock);
    (void)snprintf(id, sizeof(id), "%016llx", (unsigned long long)copier->id);
    json_begin_object(&w);
    json_key(&w, "id");
    json_text(&w, id);
    json_key(&w, "state");
    json_text(&w, state_names[copier->state]);
    json_key(&w, "detail");
    json_text(&w, copier->detail);
    json_key(&w, "made_bytes");
    json_u64(&w, atomic_load(&copier->making.made_bytes));
    write_files_locked(copier, &w);
    json_end_object(&w);
    copier->used_ns = env_boot_ns(copier->env);
    pthread_mutex_unlock(&copier->lock);
    return buffer_check(&req->reply.body, &req->err);
}

enum err_code copy_start_handle(struct request *req)
{
    struct copier *copier;
    uint64_t id;
    enum err_code code = find_copier(req, &copier);

    if (code != ERR_OK)
        return code;
    if (!shard_ready(copier->shard, &req->reply.body)) {
        buffer_reset(&req->reply.body);
        return err_set(&req->err, ERR_UNAVAILABLE, "the shard is starting");
    }
    env_random(copier->env, &id, sizeof(id));
    pthread_mutex_lock(&copier->lock);
    if (copier->state == COPY_NONE || copier->state == COPY_FAILED) {
        copier->state = COPY_WANTED;
        copier->id = id;
        copier->detail[0] = '\0';
        env_cond_broadcast(&copier->changed);
    }
    pthread_mutex_unlock(&copier->lock);
    return write_status(copier, req);
}

enum err_code copy_status_handle(struct request *req)
{
    struct copier *copier;
    enum err_code code = find_copier(req, &copier);

    return code == ERR_OK ? write_status(copier, req) : code;
}

/* A number of the query. */
static enum err_code read_number(struct request *req, const char *name, uint64_t *out)
{
    const char *text = request_query(req, name, NULL);

    if (text == NULL || !text_to_u64(text, strlen(text), out))
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, name, "must be a number");
    return ERR_OK;
}

/* The file of a copy that is still the one meant. */
static enum err_code find_file(struct copier *copier, struct request *req, struct copy_file *out)
{
    const char *wanted = request_query(req, "id", NULL);
    enum err_code code;
    uint64_t number;
    char id[17];

    if ((code = read_number(req, "file", &number)) != ERR_OK)
        return code;
    pthread_mutex_lock(&copier->lock);
    (void)snprintf(id, sizeof(id), "%016llx", (unsigned long long)copier->id);
    if (copier->state != COPY_READY || wanted == NULL || strcmp(wanted, id) != 0 ||
        number >= copier->making.count) {
        code = err_set(&req->err, ERR_NOT_FOUND, "there is no such file of a copy");
    } else {
        *out = copier->making.files[number];
        copier->used_ns = env_boot_ns(copier->env);
    }
    pthread_mutex_unlock(&copier->lock);
    return code;
}

static enum err_code read_chunk(const struct copier *copier, const struct copy_file *file,
                                uint64_t offset, struct request *req)
{
    size_t len = MIN_OF(COPY_CHUNK_BYTES, file->bytes - offset);
    struct buffer *body = &req->reply.body;
    char path[SEGMENTS_PATH_BYTES];
    ssize_t got = -1;
    int fd;

    if (snprintf(path, sizeof(path), "%s/%s", copier->folder, file->name) >= (int)sizeof(path))
        return err_set(&req->err, ERR_CONFIG, "the path of a copy is too long");
    if (!buffer_reserve(body, len))
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for a chunk");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        got = pread(fd, body->data, len, (off_t)offset);
    if (fd < 0 || got < 0 || (size_t)got < len) {
        (void)err_set_errno(&req->err, got >= 0 ? EIO : errno, "copy: %.200s", path);
    } else {
        body->len = len;
        req->reply.content_type = "application/octet-stream";
    }
    if (fd >= 0)
        (void)close(fd); /* nothing was written through it */
    return body->len == len ? ERR_OK : req->err.code;
}

enum err_code copy_chunk_handle(struct request *req)
{
    struct copier *copier;
    struct copy_file file;
    uint64_t offset = 0;
    enum err_code code = find_copier(req, &copier);

    if (code == ERR_OK)
        code = find_file(copier, req, &file);
    if (code == ERR_OK)
        code = read_number(req, "offset", &offset);
    if (code == ERR_OK && offset >= file.bytes)
        code = err_set_at(&req->err, ERR_INVALID_ARGUMENT, "offset", "the file ends before");
    if (code == ERR_OK)
        code = copy_pace(&copier->pace, COPY_CHUNK_BYTES, &req->err);
    return code == ERR_OK ? read_chunk(copier, &file, offset, req) : code;
}
