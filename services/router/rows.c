/* Rows as the shards gave them, into answers: members, lists for merging, ETags. */
#include "services/router/router.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/base/limits.h"

void row_write(const struct wire_row *row, struct json_writer *w)
{
    char version[STAMP_TEXT_BYTES];

    stamp_to_text(version, row->stamp);
    json_key(w, "id");
    json_put_string(w, row->id, row->id_len);
    json_key(w, "version");
    json_text(w, version);
    wire_row_write(row, w);
}

enum err_code rows_lists(const struct cluster_answer *answer, struct arena *arena,
                         struct hit_list **lists, size_t *rows, struct err *err)
{
    *rows = 0;
    *lists = arena_alloc(arena, answer->count == 0 ? 1 : answer->count, sizeof(**lists));
    if (*lists == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the rows");
    if (answer->count > SHARDS_MAX)
        return err_set(err, ERR_SHARDS_UNAVAILABLE, "the partitions moved too often meanwhile");
    for (size_t i = 0; i < answer->count; i++) {
        const struct wire_answer *part = &answer->parts[i].answer;

        (*lists)[i] = (struct hit_list){.rows = part->rows, .count = part->row_count};
        *rows += part->row_count;
    }
    return ERR_OK;
}

void etag_of(char out[ETAG_BYTES], struct stamp stamp)
{
    char text[STAMP_TEXT_BYTES];

    stamp_to_text(text, stamp);
    (void)snprintf(out, ETAG_BYTES, "\"%s\"", text);
}

bool etag_listed(const char *header, const char *etag)
{
    size_t len = strlen(etag);

    if (header == NULL)
        return false;
    for (const char *at = header; *at != '\0'; at += strcspn(at, ",")) {
        at += strspn(at, " \t,");
        if (*at == '*')
            return true;
        if (strncmp(at, "W/", 2) == 0)
            at += 2;
        if (strncmp(at, etag, len) == 0)
            return true;
    }
    return false;
}
