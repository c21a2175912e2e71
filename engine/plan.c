/* See plan.h.
 *
 * Measured on 100,000 x 384 real passages and 500,000 x 128 and 50,000 x 1536 generated vectors.  A
 * distance of a walk costs more than a row of a scan, which is fetched ahead; both cost the lines
 * of a code, and a scan of few among many meets each row in a page of its own.  With a share p of
 * the nodes admitted where the query lies, a walk through all nodes computes about 0.6 (1 + 1/p)
 * times the distances of an unfiltered one; so the scan wins when p falls below a few percent, or
 * sooner in small sets. */
#include "engine/plan.h"

#include <math.h>

#include "common/base/checked.h"
#include "engine/calibrate.h"

enum {
    EF_FLOOR = 84,      /* default beam: recall@10 0.97 on 100,000 real passages ... */
    EF_BEYOND = 16,     /* ... and 5/4 k plus this for larger k: recall@100 0.97 */
    COST_PER_BEAM = 10, /* distances that a plain walk computes for each place in the beam */
    MOVES_PER_DISTANCE = 128,
    BEAM_LEAST = 8,
    BEAM_PART = 16,
    THROUGH_LEAST = 4096, /* beam of a walk through all: the hole of the filter must fit */
    THROUGH_MOST = 16384,
    LINE_BYTES = 64,
    MEASURED_MAX = 64,  /* so few that may be returned are measured at once ... */
    MEASURED_PER_K = 4, /* ... and so few of which nearly all would have to be */
    PLAIN_REFUSED = 5,  /* at most one in so many may be refused in a plain walk */
    TRUSTED = 16,       /* nodes near the query that weigh as much as the share of all */
};

/* Nanoseconds. */
enum {
    SCAN_FIXED = 8000,
    SCAN_ROW = 4,
    SCAN_ROW_APART = 14, /* more, when rows are far apart */
    DISTANCE = 27,       /* of a walk, with its part of the hop, the links and the beam */
    DISTANCE_LINE = 8,
    MOVES_PER_UNIT = 3,   /* keys moved in a sorted beam */
    PLACES_PER_UNIT = 48, /* of a beam, by the part of them that an insertion moves */
};

#define SCAN_LINE       3.0
#define SCAN_LINE_APART 4.5

/* Distances of an unfiltered walk: for k = 10, ef = 84 some 900. */
#define WALK_FIXED     330.0
#define WALK_PER_PLACE 3.3 /* of the beam of a hard query */
#define WALK_PER_K     9.0

#define MISSED_BY_SIZE 0.4f

#define SLACK_LEAST      0.03f
#define SLACK_PER_PLACE  0.004f
#define SLACK_OF_THROUGH 1.3f /* fewer nodes lie within the same slack when some are refused */

/* What the graph must find so that as much is found of all, when a part of them is cold.  The lists
 * that are looked at follow from the effort as if all were in one graph (cold_search.c), and in a
 * larger graph a fixed effort misses more: a third more when it doubles. */
static float recall_of_graph(const struct graph *graph, float recall)
{
    float linked = (float)atomic_load_explicit(&graph->linked, memory_order_relaxed);
    float cold = (float)atomic_load_explicit(&graph->cold_rows, memory_order_relaxed);

    if (cold == 0)
        return recall;
    return 1 - (1 - recall) * powf((linked + 1) / (linked + 1 + cold), MISSED_BY_SIZE);
}

uint32_t plan_effort(const struct engine_query *query, const struct graph *graph)
{
    uint64_t ef = query->ef;

    if (query->recall > 0) {
        /* Acquiring: who sees the table sees what is in it. */
        uint64_t least =
            calibrated_ef(atomic_load_explicit(&graph->calibration, memory_order_acquire),
                          recall_of_graph(graph, query->recall), query->k);

        ef = MAX_OF(ef, least);
    }
    if (ef == 0)
        ef = MAX_OF((uint64_t)EF_FLOOR, query->k + (uint64_t)query->k / 4 + EF_BEYOND);
    return (uint32_t)MIN_OF(MAX_OF(ef, (uint64_t)query->k), PLANE_ROWS_MAX);
}

bool plan_is_plain(const struct search *search)
{
    return search->query->filter == NULL &&
           search->count - search->candidates <= search->count / PLAIN_REFUSED;
}

float plan_slack(const struct search *search)
{
    const struct graph *graph = search->graph;
    float k = (float)search->query->k;

    if (graph->options.metric == ENGINE_IP && graph->length == 0.0f)
        return INFINITY; /* the way to the best leads through worse ones */
    float slack = SLACK_LEAST + SLACK_PER_PLACE * ((float)search->ef - k) / sqrtf(k);
    return plan_is_plain(search) ? slack : slack * SLACK_OF_THROUGH;
}

static double lines_of(const struct graph *graph)
{
    return (double)codes_stride(graph->options.dim, graph->options.bits) / LINE_BYTES;
}

static double distance_cost(const struct graph *graph)
{
    return DISTANCE + DISTANCE_LINE * lines_of(graph);
}

/* Share of the vectors that may be returned. */
static double share_of(const struct search *search)
{
    return (double)search->candidates / (double)MAX_OF(search->count, UINT32_C(1));
}

uint64_t plan_scan_cost(const struct search *search)
{
    double apart = 1 - share_of(search);
    double row = SCAN_ROW + SCAN_ROW_APART * apart +
                 (SCAN_LINE + SCAN_LINE_APART * apart) * lines_of(search->graph);

    return SCAN_FIXED + (uint64_t)((double)search->candidates * row);
}

uint64_t plan_spent(const struct walk *walk, const struct walk_filter *filter)
{
    return (uint64_t)((double)walk->distances * distance_cost(walk->graph)) +
           filter->moves / MOVES_PER_UNIT;
}

/* Places of the beam, were nobody refused.  With a slack a hard query may fill many: little more
 * than a usual one at low effort, where a long tail would cost more than it finds, and several
 * times as many at high effort. */
static uint64_t places_of(const struct search *search)
{
    uint64_t k = search->query->k;
    double ef = (double)search->ef;
    double wide = ef * ef / (BEAM_PART * sqrt((double)k));

    if (plan_slack(search) == INFINITY)
        return search->ef;
    return MAX_OF(k + k / 2 + BEAM_LEAST, (uint64_t)fmin(wide, (double)search->count));
}

static double distances_of(const struct search *search)
{
    if (plan_slack(search) == INFINITY)
        return 2 * WALK_FIXED + COST_PER_BEAM * (double)search->ef;
    return WALK_FIXED + WALK_PER_PLACE * (double)places_of(search) +
           WALK_PER_K * (double)search->query->k;
}

/* Of a walk where a share p of the nodes is admitted. */
static double through_cost(const struct search *search, double p)
{
    double distances = distances_of(search) * (0.6 + 0.6 / p);
    double moves = (double)places_of(search) / p / PLACES_PER_UNIT;

    return distances * (distance_cost(search->graph) + moves);
}

bool plan_by_codes(const struct search *search)
{
    if (search->query->exact || search->linked == 0 || plan_is_plain(search))
        return false;
    return search->candidates >
           MAX_OF((uint64_t)MEASURED_MAX, (uint64_t)MEASURED_PER_K * search->query->k);
}

/* What a plain walk with this beam costs, in distances: those it computes, and the keys it moves
 * when it inserts into its sorted beam, which only count for wide ones. */
static uint64_t plain_cost(uint64_t beam)
{
    return COST_PER_BEAM * beam + beam / MOVES_PER_DISTANCE * beam;
}

/* Beam that is expected to hold so many vectors that may be returned. */
static uint64_t widened(const struct search *search, uint64_t beam)
{
    beam = beam * search->count / MAX_OF(search->candidates, UINT64_C(1)) + 1;
    return MIN_OF(beam, (uint64_t)UINT32_MAX);
}

enum plan plan_choose(const struct search *search)
{
    const struct graph *graph = search->graph;
    bool is_scan;

    if (graph->options.kind == ENGINE_FLAT || search->query->exact || search->entry == 0 ||
        search->linked == 0 || search->live <= graph->options.flat_below ||
        search->candidates <= search->query->k)
        return PLAN_SCAN;
    if (search->held != 0)
        return PLAN_WALK; /* a scan would meet it */
    if (search->engine->forced != PLAN_CHOOSE)
        return search->engine->forced;
    if (plan_is_plain(search)) /* flat_below has said what is small; but a beam may be wide */
        is_scan = plain_cost(widened(search, search->ef)) >= search->candidates;
    else
        is_scan = (double)plan_scan_cost(search) <= through_cost(search, 1);
    return is_scan ? PLAN_SCAN : PLAN_WALK;
}

enum plan plan_settle(const struct search *search, const struct walk_share *near)
{
    double share = share_of(search);
    double p = (near->admitted + TRUSTED * share) / (near->tested + TRUSTED);

    return (double)plan_scan_cost(search) <= through_cost(search, p) ? PLAN_SCAN : PLAN_WALK;
}

uint32_t plan_beam(const struct search *search)
{
    return (uint32_t)MIN_OF(widened(search, places_of(search)), (uint64_t)search->count);
}

uint32_t plan_expanded(const struct search *search)
{
    if (plan_slack(search) == INFINITY)
        return UINT32_MAX;
    return (uint32_t)places_of(search);
}

uint32_t plan_beam_through(const struct search *search)
{
    uint64_t places = places_of(search);
    uint64_t wide = MIN_OF(widened(search, places), (uint64_t)THROUGH_MOST);
    uint64_t beam = MAX_OF(MAX_OF(places, wide), (uint64_t)THROUGH_LEAST);

    return (uint32_t)MIN_OF(beam, (uint64_t)search->linked);
}
