/* Which batches of an import have been acknowledged: see import_state.h. */
#include "cli/import_state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"

#define BATCHES_MAX    (1u << 26) /* 67 million batches */
#define LINE_TEXT_MAX  96
#define FILE_BYTES_MAX (1ll << 32)

/* Make every folder of path, which is absolute. */
static bool make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST) {
            *slash = '/';
            return false;
        }
        *slash = '/';
    }
    return mkdir(path, 0700) == 0 || errno == EEXIST;
}

/* False: there is no place for it. */
static bool default_path(char *out, size_t size, const char *name)
{
    const char *state = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    size_t len;
    int got;

    if (state != NULL && state[0] == '/')
        got = snprintf(out, size, "%s/vicinal", state);
    else if (home != NULL && home[0] == '/')
        got = snprintf(out, size, "%s/.local/state/vicinal", home);
    else
        return false;
    if (got < 0 || (size_t)got >= size || !make_folders(out))
        return false;
    len = (size_t)got;
    got = snprintf(out + len, size - len, "/%s", name);
    return got > 0 && (size_t)got < size - len;
}

static void mark(struct import_state *state, uint64_t batch)
{
    if (batch >= state->done_max) {
        uint64_t max = MAX_OF(batch + 1, state->done_max * 2);
        uint8_t *done = NULL;

        max = (max + 1023) / 1024 * 1024;
        if (batch < BATCHES_MAX)
            done = array_resize(state->done, max / 8, 1);
        if (done == NULL)
            return;
        memset(done + state->done_max / 8, 0, (max - state->done_max) / 8);
        state->done = done;
        state->done_max = max;
    }
    state->done[batch / 8] |= (uint8_t)(1u << (batch % 8));
}

/* Take over what the file says, if it is about this import.  False: it is not. */
static bool load(struct import_state *state, const char *head)
{
    char line[1024];
    unsigned long long batch, imported, refused;
    FILE *in = fdopen(dup(state->fd), "re");
    bool is_ours = false;

    if (in == NULL)
        return false;
    if (fgets(line, sizeof(line), in) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        is_ours = strcmp(line, head) == 0;
    }
    while (is_ours && fgets(line, sizeof(line), in) != NULL) {
        if (strchr(line, '\n') == NULL ||
            sscanf(line, "done %llu %llu %llu", &batch, &imported, &refused) != 3)
            continue; /* cut by a kill */
        if (!import_state_has(state, batch)) {
            mark(state, batch);
            state->batches++;
            state->imported += imported;
            state->refused += refused;
        }
    }
    (void)fclose(in);
    return is_ours;
}

enum err_code import_state_open(struct import_state *state, const struct import_state_setup *setup,
                                struct err *err)
{
    bool is_asked = setup->path != NULL;
    int len;

    *state = (struct import_state){.fd = -1};
    if (is_asked) {
        len = snprintf(state->path, sizeof(state->path), "%s", setup->path);
        if (len < 0 || (size_t)len >= sizeof(state->path))
            return err_set(err, ERR_CONFIG, "--state is too long");
    } else if (!default_path(state->path, sizeof(state->path), setup->name)) {
        return ERR_OK;
    }
    state->fd = open(state->path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (state->fd < 0 && !is_asked)
        return ERR_OK;
    if (state->fd < 0)
        return err_set(err, ERR_CONFIG, "--state %s: %s", state->path, strerror(errno));
    if (flock(state->fd, LOCK_EX | LOCK_NB) != 0) {
        (void)close(state->fd);
        state->fd = -1;
        return err_set(err, ERR_CONFIG, "this import is running already (%s is locked)",
                       state->path);
    }
    if (lseek(state->fd, 0, SEEK_END) > FILE_BYTES_MAX || lseek(state->fd, 0, SEEK_SET) != 0 ||
        !load(state, setup->head)) {
        if (ftruncate(state->fd, 0) != 0 || dprintf(state->fd, "%s\n", setup->head) < 0)
            return err_set(err, ERR_CONFIG, "%s: %s", state->path, strerror(errno));
    }
    return ERR_OK;
}

bool import_state_has(const struct import_state *state, uint64_t batch)
{
    return batch < state->done_max && (state->done[batch / 8] >> (batch % 8) & 1) != 0;
}

void import_state_add(struct import_state *state, uint64_t batch, uint64_t imported,
                      uint64_t refused)
{
    char line[LINE_TEXT_MAX];
    int len = snprintf(line, sizeof(line), "\ndone %llu %llu %llu\n", (unsigned long long)batch,
                       (unsigned long long)imported, (unsigned long long)refused);

    /* The newline in front parts it from a line that a kill or a full disk has cut. */
    if (state->fd >= 0 && len > 0)
        (void)!write(state->fd, line, (size_t)len);
}

void import_state_close(struct import_state *state, bool is_complete)
{
    if (state->fd >= 0 && is_complete)
        (void)unlink(state->path);
    if (state->fd >= 0)
        (void)close(state->fd);
    free(state->done);
    *state = (struct import_state){.fd = -1};
}
