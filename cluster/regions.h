/* Regions, as a region's own metadata store knows them.
 *
 *   region/NAME   {"self":bool,"wal_url":…,"router_url":…,"number":n}    one for each, its own too
 *   role          {"role":"active"|"primary"|"passive"}                  of the own region
 *
 * "number" is the region number of the log behind wal_url, 0 until a replicator has opened it.
 * An active region and the primary one take writes; a passive one takes those of other regions
 * only. */
#ifndef VICINAL_CLUSTER_REGIONS_H
#define VICINAL_CLUSTER_REGIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/meta/meta.h"
#include "common/base/err.h"

#define REGION_URL_BYTES 1024
#define REGIONS_MAX      32 /* below VERSION_ENTRIES_MAX: a log made anew takes a place too */

struct region_row {
    char name[REGION_NAME_BYTES];
    bool is_self;
    char wal_url[REGION_URL_BYTES];
    char router_url[REGION_URL_BYTES];
    uint32_t number;
};

enum region_role { REGION_ACTIVE, REGION_PRIMARY, REGION_PASSIVE };

/* [a-z0-9-], 1 to 32 of them. */
bool region_name_is_valid(const char *name);

/* All rows in order of names; those that cannot be read are left out and logged.  Free with free().
 * Errors: those of meta_list. */
MUST_CHECK enum err_code regions_read(struct meta *meta, struct region_row **rows, size_t *count,
                                      struct err *err);

/* Write a row, whatever was there; a number of 0 keeps the one that is there while the log's URL is
 * the same.  Errors: ERR_INVALID_ARGUMENT (name, too many regions), those of meta_put. */
MUST_CHECK enum err_code region_write(struct meta *meta, const struct region_row *row,
                                      struct err *err);
MUST_CHECK enum err_code region_remove(struct meta *meta, const char *name, struct err *err);

/* The own region's role; absent: active. */
MUST_CHECK enum err_code region_role_read(struct meta *meta, enum region_role *role,
                                          struct err *err);
MUST_CHECK enum err_code region_role_write(struct meta *meta, enum region_role role,
                                           struct err *err);
const char *region_role_text(enum region_role role);
bool region_role_from_text(const char *text, enum region_role *role);

/* A value of the row `role`, for those who follow all rows.  What cannot be read is active. */
enum region_role region_role_decode(const void *value, size_t len);

/* The URL of the ingest that holds the lease, out of its row.  Errors: ERR_READ_ONLY (nobody). */
MUST_CHECK enum err_code region_holder_url(struct meta *meta, char *out, size_t size,
                                           struct err *err);

/* Number of partitions and region number of the own log, out of the row `deployment`.
 * Errors: ERR_NOT_FOUND (ingest has not written it yet), ERR_CORRUPT. */
MUST_CHECK enum err_code region_deployment(struct meta *meta, uint32_t *partitions,
                                           uint32_t *number, struct err *err);

#endif
