/* What the one and the many records of an upsert share; in records.c. */
#ifndef VICINAL_INGEST_UPSERT_RECORD_H
#define VICINAL_INGEST_UPSERT_RECORD_H

#include "services/ingest/ingest.h"
#include "services/ingest/upsert_parse.h"

/* Vectors for those that have a text and none, where the collection has an embedder. */
MUST_CHECK enum err_code upsert_embed(struct write *write, struct upsert_record *records,
                                      size_t count);

/* Into the write's batch. */
MUST_CHECK enum err_code upsert_add(struct write *write, const struct upsert_record *from);

#endif
