/* Rows of an upload into objects: see import_objects.h. */
#include "services/ingest/import_objects.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/model/record.h"

void import_rows_free(struct import_rows *rows)
{
    buffer_free(&rows->own);
    free(rows->placed);
    *rows = (struct import_rows){0};
}

void import_rows_reset(struct import_rows *rows)
{
    buffer_reset(&rows->own);
    rows->count = 0;
    rows->bytes = 0;
}

bool import_rows_are_full(const struct import_rows *rows)
{
    return rows->count == IMPORT_OBJECT_ROWS || rows->bytes >= IMPORT_OBJECT_BYTES;
}

/* In the order of bytes. */
static uint64_t first_bytes(const char *id, size_t len)
{
    uint8_t bytes[8] = {0};

    memcpy(bytes, id, MIN_OF(len, sizeof(bytes)));
    return __builtin_bswap64(load_u64(bytes));
}

static enum err_code place(struct import_rows *rows, struct placed_row placed, const char *id,
                           struct err *err)
{
    assert(!import_rows_are_full(rows));
    if (rows->count == rows->size) {
        size_t size = rows->size == 0 ? 1024 : rows->size * 2;
        void *grown = array_resize(rows->placed, size, sizeof(*rows->placed));

        if (grown == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory for %zu rows", size);
        rows->placed = grown;
        rows->size = size;
    }
    placed.first = first_bytes(id, placed.id_len);
    placed.partition = record_partition(id, placed.id_len, rows->partitions);
    placed.order = (uint32_t)rows->count;
    rows->placed[rows->count++] = placed;
    rows->bytes += placed.len;
    return ERR_OK;
}

enum err_code import_rows_add(struct import_rows *rows, const struct bulk_row *row, struct err *err)
{
    size_t at = rows->own.len;
    struct placed_row placed = {.at = at, .id_len = (uint32_t)row->id_len};
    enum err_code rc;

    assert(rows->borrowed == NULL);
    bulk_row_encode(&rows->own, row, rows->dimension);
    rc = buffer_check(&rows->own, err);
    if (rc != ERR_OK)
        return rc;
    placed.len = (uint32_t)(rows->own.len - at);
    placed.id_at = BULK_ROW_HEADER_BYTES +
                   (row->vector == NULL ? 0 : rows->dimension * (uint32_t)sizeof(float));
    return place(rows, placed, row->id, err);
}

enum err_code import_rows_borrow(struct import_rows *rows, size_t at, size_t len,
                                 const struct bulk_row *row, struct err *err)
{
    struct placed_row placed = {.at = at,
                                .len = (uint32_t)len,
                                .id_at = (uint32_t)((const uint8_t *)row->id - rows->borrowed - at),
                                .id_len = (uint32_t)row->id_len};

    assert(rows->borrowed != NULL);
    return place(rows, placed, row->id, err);
}

static const uint8_t *row_bytes(const struct import_rows *rows, const struct placed_row *row)
{
    return (rows->borrowed != NULL ? rows->borrowed : rows->own.data) + row->at;
}

static int id_compare(const struct import_rows *rows, const struct placed_row *a,
                      const struct placed_row *b)
{
    int order;

    if (a->first != b->first)
        return a->first < b->first ? -1 : 1;
    order = memcmp(row_bytes(rows, a) + a->id_at, row_bytes(rows, b) + b->id_at,
                   MIN_OF(a->id_len, b->id_len));
    if (order != 0)
        return order;
    return (a->id_len > b->id_len) - (a->id_len < b->id_len);
}

static int row_compare(const void *left, const void *right, void *context)
{
    const struct placed_row *a = left, *b = right;
    int order;

    if (a->partition != b->partition)
        return a->partition < b->partition ? -1 : 1;
    order = id_compare(context, a, b);
    return order != 0 ? order : (a->order > b->order) - (a->order < b->order);
}

/* In the order of the object, the last of each id. */
static void sort_rows(struct import_rows *rows)
{
    size_t kept = 0;

    qsort_r(rows->placed, rows->count, sizeof(*rows->placed), row_compare, rows);
    for (size_t i = 0; i < rows->count; i++) {
        const struct placed_row *row = &rows->placed[i], *next = row + 1;

        if (i + 1 < rows->count && next->partition == row->partition &&
            id_compare(rows, row, next) == 0)
            continue;
        rows->placed[kept++] = *row;
    }
    rows->count = kept;
}

static uint32_t count_sections(const struct import_rows *rows, struct bulk_section *sections)
{
    uint32_t count = 0;

    for (size_t i = 0; i < rows->count; i++) {
        const struct placed_row *row = &rows->placed[i];

        if (count == 0 || sections[count - 1].partition != row->partition)
            sections[count++] = (struct bulk_section){.partition = row->partition};
        sections[count - 1].rows++;
        sections[count - 1].bytes += row->len;
    }
    return count;
}

enum err_code import_rows_build(struct import_rows *rows, struct buffer *object,
                                struct bulk_section *sections, uint32_t *count, struct err *err)
{
    size_t head, at;

    assert(rows->count > 0);
    sort_rows(rows);
    *count = count_sections(rows, sections);
    head = bulk_head_bytes(*count);
    buffer_reset(object);
    if (!buffer_reserve(object, head + rows->bytes))
        return buffer_check(object, err);
    /* The rows first, behind the place of the head, which has their hashes. */
    object->len = head;
    for (size_t i = 0; i < rows->count; i++)
        buffer_append(object, row_bytes(rows, &rows->placed[i]), rows->placed[i].len);
    at = head;
    for (uint32_t i = 0; i < *count; i++) {
        sections[i].at = at;
        sections[i].hash = hash_xxh128(object->data + at, sections[i].bytes);
        at += sections[i].bytes;
    }
    assert(at == object->len);
    object->len = 0;
    bulk_head_encode(object, sections, *count);
    assert(object->len == head);
    object->len = at;
    return buffer_check(object, err);
}
