/* Which way a search goes, and what each costs.
 *
 * Costs are in nanoseconds of the machine on which they were measured; only their proportions
 * matter, and they depend on nothing but index, query and filter, so the choice does not either. */
#ifndef VICINAL_ENGINE_PLAN_H
#define VICINAL_ENGINE_PLAN_H

#include "engine/search.h"

/* The effort that a query asks for, in this graph. */
uint32_t plan_effort(const struct engine_query *query, const struct graph *graph);

/* The effort, as a walk wants it: how much farther than the k-th nearest a node may lie and still
 * be expanded.  INFINITY: distances say nothing about that, the ef nearest are expanded. */
float plan_slack(const struct search *search);

/* Does a scan go by codes first? */
bool plan_by_codes(const struct search *search);

/* Scan or walk?  By the share of all vectors that may be returned, before anything is known of the
 * query. */
enum plan plan_choose(const struct search *search);

/* So few may be refused that a walk need not know which. */
bool plan_is_plain(const struct search *search);

/* The same by the share of admitted nodes where the query lies. */
enum plan plan_settle(const struct search *search, const struct walk_share *near);

/* What the scan of all that may be returned costs: the budget of a walk. */
uint64_t plan_scan_cost(const struct search *search);

/* What a walk has cost so far. */
uint64_t plan_spent(const struct walk *walk, const struct walk_filter *filter);

/* Keys that a plain walk keeps, and one that knows what is admitted. */
uint32_t plan_beam(const struct search *search);
uint32_t plan_beam_through(const struct search *search);

/* The most admitted nodes that the latter expands. */
uint32_t plan_expanded(const struct search *search);

#endif
