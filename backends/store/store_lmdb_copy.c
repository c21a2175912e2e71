/* A copy of an LMDB environment, piece by piece.
 *
 * LMDB writes a compacted copy of one snapshot into a descriptor, as fast as that takes it.  Here
 * it is a pipe: a thread lets LMDB write, the caller reads and hands on at its own pace.  When the
 * caller has had enough it closes its end, LMDB's next write fails, and the thread ends. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/store/store_lmdb.h"
#include "common/base/limits.h"

#define PIECE_BYTES KIB(64)

struct writing {
    MDB_env *lmdb;
    int fd; /* the pipe's end that is written to */
    int result;
};

static void write_copy(void *argument)
{
    struct writing *writing = argument;

    writing->result = mdb_env_copyfd2(writing->lmdb, writing->fd, MDB_CP_COMPACT);
    (void)close(writing->fd);
}

/* Until the writer closes its end. */
static enum err_code hand_on(int fd, const struct lmdb_taker *taker, struct err *err)
{
    enum err_code code = ERR_OK;
    uint8_t *piece = malloc(PIECE_BYTES);

    if (piece == NULL)
        return err_set(err, ERR_NO_MEMORY, "store: no memory for a copy");
    while (code == ERR_OK) {
        ssize_t len = read(fd, piece, PIECE_BYTES);

        if (len == 0)
            break;
        if (len > 0)
            code = taker->take(taker->context, piece, (size_t)len, err);
        else if (errno != EINTR)
            code = err_set_errno(err, errno, "store: copy");
    }
    free(piece);
    return code;
}

enum err_code lmdb_copy_env(MDB_env *lmdb, struct env *env, const struct lmdb_taker *taker,
                            struct err *err)
{
    struct writing writing = {.lmdb = lmdb};
    struct env_thread *thread = NULL;
    enum err_code code;
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0)
        return err_set_errno(err, errno, "store: copy");
    writing.fd = ends[1];
    code = env_thread_start(env, &thread, "copy", write_copy, &writing, err);
    if (code != ERR_OK) {
        (void)close(ends[0]);
        (void)close(ends[1]);
        return code;
    }
    code = hand_on(ends[0], taker, err);
    (void)close(ends[0]);
    env_thread_join(thread);
    if (code == ERR_OK && writing.result != 0)
        code = lmdb_fail(writing.result, "copy", err);
    return code;
}
