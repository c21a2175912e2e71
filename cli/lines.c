/* Lines of a file, plain or compressed: see lines.h. */
#include "cli/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#define IN_BYTES  (256u << 10)
#define OUT_BYTES (512u << 10)

enum err_code lines_open(struct lines *lines, const char *path, struct err *err)
{
    struct stat info;

    *lines = (struct lines){.fd = open(path, O_RDONLY | O_CLOEXEC), .path = path};
    if (lines->fd < 0)
        return err_set(err, ERR_CONFIG, "%s: %s", path, strerror(errno));
    if (fstat(lines->fd, &info) == 0 && info.st_size > 0)
        lines->file_bytes = (uint64_t)info.st_size;
    lines->in = malloc(IN_BYTES);
    if (lines->in == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %s", path);
    return ERR_OK;
}

void lines_close(struct lines *lines)
{
    if (lines->path != NULL && lines->fd >= 0)
        (void)close(lines->fd);
    free(lines->in);
    (void)ZSTD_freeDStream(lines->zstd);
    buffer_free(&lines->text);
    *lines = (struct lines){.fd = -1};
}

/* More of the file into `in`; in_len 0: there is no more. */
static enum err_code refill(struct lines *lines, struct err *err)
{
    size_t have = 0;
    ssize_t got;

    lines->in_at = lines->in_len = 0;
    do {
        got = read(lines->fd, lines->in + have, IN_BYTES - have);
        if (got < 0 && errno != EINTR)
            return err_set_errno(err, errno, "%s", lines->path);
        if (got > 0)
            have += (size_t)got;
    } while ((got < 0 || (got > 0 && have < 4)));
    lines->in_len = have;
    lines->read_bytes += have;
    if (!lines->is_started && have >= 4 && memcmp(lines->in, "\x28\xb5\x2f\xfd", 4) == 0) {
        lines->zstd = ZSTD_createDStream();
        if (lines->zstd == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory for %s", lines->path);
    }
    lines->is_started = true;
    return ERR_OK;
}

static enum err_code decompress(struct lines *lines, struct err *err)
{
    ZSTD_inBuffer in = {lines->in, lines->in_len, lines->in_at};
    ZSTD_outBuffer out;
    size_t left;

    if (!buffer_reserve(&lines->text, OUT_BYTES))
        return err_set(err, ERR_NO_MEMORY, "no memory for %s", lines->path);
    out = (ZSTD_outBuffer){lines->text.data + lines->text.len, OUT_BYTES, 0};
    left = ZSTD_decompressStream(lines->zstd, &out, &in);
    if (ZSTD_isError(left))
        return err_set(err, ERR_CORRUPT, "%s: %s", lines->path, ZSTD_getErrorName(left));
    lines->in_at = in.pos;
    lines->text.len += out.pos;
    lines->is_mid_frame = left != 0;
    lines->is_pending = out.pos == out.size;
    return ERR_OK;
}

/* More text behind what there is. */
static enum err_code grow(struct lines *lines, struct err *err)
{
    enum err_code rc = ERR_OK;
    size_t before = lines->text.len;

    if (lines->at > 0) {
        memmove(lines->text.data, lines->text.data + lines->at, lines->text.len - lines->at);
        lines->text.len -= lines->at;
        before = lines->text.len;
        lines->searched -= lines->at;
        lines->at = 0;
    }
    while (rc == ERR_OK && lines->text.len == before && !lines->is_over) {
        if (lines->in_at == lines->in_len && !lines->is_pending)
            rc = refill(lines, err);
        if (rc != ERR_OK)
            return rc;
        lines->is_over = lines->in_len == 0 && !lines->is_pending;
        if (lines->is_over && lines->is_mid_frame)
            rc = err_set(err, ERR_CORRUPT, "%s: ends in the middle", lines->path);
        if (lines->zstd != NULL && !lines->is_over) {
            rc = decompress(lines, err);
        } else if (!lines->is_over) {
            buffer_append(&lines->text, lines->in, lines->in_len);
            lines->in_at = lines->in_len;
            rc = buffer_check(&lines->text, err);
        }
    }
    return rc;
}

enum err_code lines_next(struct lines *lines, const char **data, size_t *len, bool *more,
                         struct err *err)
{
    const uint8_t *newline = NULL;
    enum err_code rc;
    size_t end;

    for (;;) {
        if (lines->searched < lines->text.len)
            newline =
                memchr(lines->text.data + lines->searched, '\n', lines->text.len - lines->searched);
        lines->searched = lines->text.len;
        if (newline != NULL || lines->is_over)
            break;
        if (lines->text.len - lines->at > LINE_BYTES_MAX)
            return err_set(err, ERR_PAYLOAD_TOO_LARGE, "%s: line %llu is longer than %u bytes",
                           lines->path, (unsigned long long)lines->number + 1, LINE_BYTES_MAX);
        rc = grow(lines, err);
        if (rc != ERR_OK)
            return rc;
    }
    end = newline == NULL ? lines->text.len : (size_t)(newline - lines->text.data);
    *more = newline != NULL || end > lines->at;
    *data = *more ? (const char *)lines->text.data + lines->at : "";
    *len = end - lines->at;
    if (*len > 0 && (*data)[*len - 1] == '\r')
        (*len)--;
    lines->at = newline == NULL ? end : end + 1;
    lines->searched = lines->at;
    lines->number += *more;
    return ERR_OK;
}
