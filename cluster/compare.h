/* Do the replicas of a shard hold the same?  They must, at equal positions; this is looked at all
 * the time, by each router.
 *
 *   - Digests that two replicas reported for one position of a partition are compared each second.
 *   - Every partition is scrubbed in turn: a replica makes its digest anew from the ids in its
 * store. A store that was altered behind its back keeps the old sum, but not the old ids.
 *
 * A partition that differs raises the gauge replica_divergent_partitions of its shard and is told
 * in the log, with the collections and the ranges of ids that differ, once until it agrees again.
 * Which replica is right nobody can tell here: the log can, by building one anew. */
#ifndef VICINAL_CLUSTER_COMPARE_H
#define VICINAL_CLUSTER_COMPARE_H

#include "cluster/internal.h"

enum verdict { VERDICT_UNKNOWN, VERDICT_EQUAL, VERDICT_DIFFERENT };

/* Two replicas' reports about a partition: UNKNOWN when they have no position in common.  *position
 * is the newest one that was compared, that differs if any does. */
enum verdict compare_reports(const struct report *one, const struct report *other,
                             uint32_t partition, uint64_t *position);

/* Two answers to GET /internal/v1/digest, or one and NULL (then what it found is compared with what
 * it keeps).  Where they differ, for people, into out: "collection docs, ids with hashes 3, a". */
void compare_name_ranges(const json_t *one, const json_t *other, char *out, size_t size);

#endif
