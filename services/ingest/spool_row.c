/* The form of a row of the spool: see spool.h. */
#include "services/ingest/spool.h"

#include <string.h>

#define ROW_FORM 1

static void append_name(struct buffer *out, const char *name)
{
    buffer_append_byte(out, (uint8_t)strlen(name));
    buffer_append_text(out, name);
}

void spool_row_encode(const struct spool_row *row, struct buffer *out)
{
    buffer_append_byte(out, ROW_FORM);
    buffer_append_u64(out, row->wall_us);
    buffer_append_u64(out, row->stamp.clock);
    buffer_append_u32(out, row->stamp.region);
    buffer_append(out, row->life, SPOOL_LIFE_BYTES);
    buffer_append_u64(out, row->term);
    append_name(out, row->tenant);
    append_name(out, row->collection);
    buffer_append(out, row->record, row->record_len);
}

/* size: of the place, NUL included. */
static void read_name(struct bytes_reader *r, char *out, size_t size)
{
    uint8_t len = read_u8(r);
    const uint8_t *bytes = read_bytes(r, len);

    if (bytes == NULL || len >= size || memchr(bytes, '\0', len) != NULL) {
        r->failed = true;
        return;
    }
    memcpy(out, bytes, len);
    out[len] = '\0';
}

enum err_code spool_row_decode(struct spool_row *row, const void *data, size_t len, struct err *err)
{
    struct bytes_reader r = {.data = data, .len = len};
    uint8_t form = read_u8(&r);
    const uint8_t *life;
    struct record record;

    row->wall_us = read_u64(&r);
    row->stamp.clock = read_u64(&r);
    row->stamp.region = read_u32(&r);
    life = read_bytes(&r, SPOOL_LIFE_BYTES);
    row->term = read_u64(&r);
    read_name(&r, row->tenant, sizeof(row->tenant));
    read_name(&r, row->collection, sizeof(row->collection));
    if (form != ROW_FORM || r.failed || life == NULL || row->stamp.clock > INT64_MAX)
        return err_set(err, ERR_CORRUPT, "a row of the spool is damaged");
    memcpy(row->life, life, SPOOL_LIFE_BYTES);
    row->record = r.data + r.at;
    row->record_len = r.len - r.at;
    if (record_peek(&record, row->record, row->record_len, NULL) != ERR_OK || record.id_len == 0 ||
        (record.op != RECORD_UPSERT && record.op != RECORD_DELETE))
        return err_set(err, ERR_CORRUPT, "a row of the spool is no record");
    memcpy(row->incarnation, record.incarnation, INCARNATION_BYTES);
    row->id = record.id;
    row->id_len = record.id_len;
    return ERR_OK;
}
