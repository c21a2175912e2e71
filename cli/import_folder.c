/* A source of an import: the text files below a folder, cut into passages.
 *
 * The id is "PATH#LINE" (a second passage from one line: "PATH#LINE.2"), the metadata says file,
 * line, line_end, and title where the passage stands under a Markdown heading.  Files that are not
 * UTF-8 or hold a NUL byte are skipped and counted. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/folder.h"
#include "cli/import.h"
#include "cli/passages.h"
#include "common/base/hash.h"
#include "common/base/json_writer.h"
#include "common/base/text.h"

#define ID_PATH_BYTES_MAX 470u /* room for "#LINE.N" stays */

struct texts {
    struct folder folder;
    struct buffer content;
    uint64_t binary, unreadable, passages;
};

/* The whole file; false: it cannot be read, or has grown out of bounds. */
static bool load(const char *path, struct buffer *out)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t got = -1;

    buffer_reset(out);
    if (fd < 0)
        return false;
    while (out->len <= FOLDER_FILE_MAX && buffer_reserve(out, KIB(64))) {
        got = read(fd, out->data + out->len, KIB(64));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        out->len += (size_t)got;
    }
    (void)close(fd);
    return got == 0;
}

static bool is_text(const struct buffer *content)
{
    return memchr(content->data, '\0', content->len) == NULL &&
           text_is_utf8(content->data, content->len);
}

static void write_id(struct buffer *id, const char *path, uint32_t line, uint32_t nth)
{
    size_t len = strlen(path);
    struct hash128 hash;

    buffer_reset(id);
    if (len <= ID_PATH_BYTES_MAX) {
        buffer_append(id, path, len);
    } else {
        hash = hash_xxh128(path, len);
        buffer_append_format(id, "%016" PRIx64 "%016" PRIx64, hash.high, hash.low);
    }
    buffer_append_format(id, "#%u", line);
    if (nth > 1)
        buffer_append_format(id, ".%u", nth);
}

static void write_passage(struct buffer *out, const char *path, const struct passage *passage,
                          const struct buffer *id)
{
    struct json_writer w;

    json_writer_init(&w, out);
    json_begin_object(&w);
    json_key(&w, "id");
    json_put_string(&w, (const char *)id->data, id->len);
    json_key(&w, "text");
    json_put_string(&w, passage->text, passage->len);
    json_key(&w, "metadata");
    json_begin_object(&w);
    json_key(&w, "file");
    json_text(&w, path);
    json_key(&w, "line");
    json_u64(&w, passage->line);
    json_key(&w, "line_end");
    json_u64(&w, passage->line_end);
    if (passage->title != NULL) {
        json_key(&w, "title");
        json_put_string(&w, passage->title, passage->title_len);
    }
    json_end_object(&w);
    json_end_object(&w);
}

/* False: the import has failed. */
static bool import_file(struct texts *texts, struct import_sink *sink, const char *path)
{
    const char *name = text_is_utf8(path, strlen(path)) ? path : NULL;
    struct passages passages;
    struct passage passage;
    struct buffer id = {0}, *out = NULL;
    uint32_t line = 0, nth = 0;
    bool goes_on = true;

    if (name == NULL) {
        texts->unreadable++;
        return true;
    }
    passages_init(&passages, (const char *)texts->content.data, texts->content.len,
                  passage_kind_of(path));
    while (goes_on && passages_next(&passages, &passage)) {
        nth = passage.line == line ? nth + 1 : 1;
        line = passage.line;
        write_id(&id, name, line, nth);
        out = import_sink_begin(sink);
        goes_on = out != NULL && !id.failed;
        if (!goes_on)
            break;
        write_passage(out, name, &passage, &id);
        import_sink_end(sink, ++texts->passages);
    }
    buffer_free(&id);
    return goes_on;
}

static enum err_code run_folder(struct import_source *source, struct import_sink *sink,
                                struct err *err)
{
    struct texts *texts = source->state;
    const struct folder *folder = &texts->folder;
    uint64_t bytes = 0;
    bool goes_on = true;

    (void)err; /* what goes wrong with a file is counted, not fatal */
    for (size_t i = 0; i < folder->count && goes_on; i++) {
        const struct folder_file *file = &folder->files[i];
        char path[PATH_MAX];
        int len = snprintf(path, sizeof(path), "%s/%s", folder->root, file->path);

        bytes += file->size;
        import_sink_progress(sink, bytes);
        if (len < 0 || (size_t)len >= sizeof(path) || !load(path, &texts->content))
            texts->unreadable++;
        else if (!is_text(&texts->content))
            texts->binary++;
        else
            goes_on = import_file(texts, sink, file->path);
    }
    (void)snprintf(source->note, sizeof(source->note),
                   "%zu files; skipped %" PRIu64 " that are not text, %" PRIu64
                   " above 4 MiB, %" PRIu64 " that cannot be read",
                   folder->count, texts->binary, folder->too_large, texts->unreadable);
    return ERR_OK;
}

static void close_folder(struct import_source *source)
{
    struct texts *texts = source->state;

    if (texts == NULL)
        return;
    folder_free(&texts->folder);
    buffer_free(&texts->content);
    free(texts);
    source->state = NULL;
}

static enum err_code describe(struct import_source *source, const struct folder *folder,
                              struct err *err)
{
    struct buffer all = {0};
    struct hash128 hash;
    enum err_code rc;

    for (size_t i = 0; i < folder->count; i++) {
        buffer_append_text(&all, folder->files[i].path);
        buffer_append_format(&all, "\n%" PRIu64 " %" PRId64 "\n", folder->files[i].size,
                             folder->files[i].mtime_ns);
    }
    rc = buffer_check(&all, err);
    if (rc == ERR_OK) {
        hash = hash_xxh128(all.data == NULL ? (const uint8_t *)"" : all.data, all.len);
        (void)snprintf(source->fingerprint, sizeof(source->fingerprint),
                       "folder %016" PRIx64 "%016" PRIx64, hash.high, hash.low);
    }
    buffer_free(&all);
    return rc;
}

enum err_code import_folder_open(struct import_source *source, struct err *err)
{
    struct texts *texts = calloc(1, sizeof(*texts));
    enum err_code rc;

    if (texts == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    source->state = texts;
    source->run = run_folder;
    source->close = close_folder;
    rc = folder_read(&texts->folder, source->import->path, err);
    if (rc == ERR_OK && texts->folder.count == 0)
        rc = err_set(err, ERR_CONFIG, "there is no file to import below %s", source->import->path);
    if (rc != ERR_OK)
        return rc;
    source->units_total = texts->folder.bytes;
    source->unit = "bytes";
    return describe(source, &texts->folder, err);
}
