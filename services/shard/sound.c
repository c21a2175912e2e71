/* Damaged stores are found: see sound.h.
 *
 * Failure modes: what cannot be looked at fails the start, and the mark stays; a mark that cannot
 * be left is missed, and the next crash tries again. */
#include "services/shard/sound.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "backends/store/store_verify.h"
#include "common/base/checked.h"
#include "common/base/log.h"

#define MARK "suspect"

static const int crashes[] = {SIGSEGV, SIGBUS, SIGABRT};
static struct sigaction former[ARRAY_COUNT(crashes)];
static char mark_path[PATH_MAX]; /* of this process; what a signal handler needs is prepared */

static enum err_code name_in(char out[PATH_MAX], const char *data, const char *name,
                             struct err *err)
{
    int len = snprintf(out, PATH_MAX, "%s/%s", data, name);

    if (len < 0 || len >= PATH_MAX)
        return err_set(err, ERR_CONFIG, "--data is too long");
    return ERR_OK;
}

void sound_suspect(void)
{
    int fd = open(mark_path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);

    if (fd >= 0)
        (void)close(fd); /* nothing was written */
}

/* Whoever handled the signal before, a sanitizer or nobody, has it afterwards. */
static void on_crash(int number)
{
    sound_suspect();
    for (size_t i = 0; i < ARRAY_COUNT(crashes); i++)
        if (crashes[i] == number)
            (void)sigaction(number, &former[i], NULL);
    (void)raise(number);
}

enum err_code sound_watch(const char *data, struct err *err)
{
    struct sigaction action = {.sa_handler = on_crash};
    enum err_code code = name_in(mark_path, data, MARK, err);

    (void)sigemptyset(&action.sa_mask);
    for (size_t i = 0; code == ERR_OK && i < ARRAY_COUNT(crashes); i++)
        if (sigaction(crashes[i], &action, &former[i]) != 0)
            code = err_set_errno(err, errno, "sigaction");
    return code;
}

/* --- looking -----------------------------------------------------------------------------------
 */

static void keep_first(void *state, const struct scrub_finding *finding)
{
    struct err *why = state;

    if (why->code == ERR_OK)
        (void)err_set(why, ERR_CORRUPT, "store: %.300s", finding->text);
}

static bool go_on(void *state, uint64_t bytes)
{
    (void)state;
    (void)bytes;
    return true;
}

/* why: what was found; ERR_OK: nothing. */
static enum err_code look(const char *store, struct err *why, struct err *err)
{
    struct scrub scrub = {.find = keep_first, .go_on = go_on, .state = why};
    struct store_verified verified = {.lock_fd = -1};
    enum err_code code = store_verify(store, &scrub, &verified, err);

    store_verified_end(&verified);
    if (code == ERR_NOT_FOUND) {
        err_clear(err);
        return ERR_OK;
    }
    if (code == ERR_OK && !verified.is_sound && why->code == ERR_OK)
        (void)err_set(why, ERR_CORRUPT, "store: it is not sound");
    return code;
}

enum err_code sound_check(const char *data, struct err *why, struct err *err)
{
    char mark[PATH_MAX], store[PATH_MAX];
    enum err_code code = name_in(mark, data, MARK, err);

    if (code == ERR_OK)
        code = name_in(store, data, "store", err);
    if (code != ERR_OK || access(mark, F_OK) != 0)
        return code;
    code = look(store, why, err);
    if (code == ERR_OK && why->code == ERR_OK)
        log_warn(NULL, "after a crash the store was looked at: it is sound");
    return code;
}

enum err_code sound_clear(const char *data, struct err *err)
{
    char mark[PATH_MAX];
    enum err_code code = name_in(mark, data, MARK, err);

    if (code == ERR_OK && unlink(mark) != 0 && errno != ENOENT)
        code = err_set_errno(err, errno, "%.200s", mark);
    return code;
}
