/* See calibrate.h.
 *
 * Queries are made of stored vectors.  A stored vector itself is far too easy, even when it may not
 * be found: the graph was built around it, and its own links lead to the answer.  So the walk does
 * not meet it (search->held), as if it had never been inserted.  And real queries lie farther from
 * the data than the data from one another: a query is put as far from its vector as the k-th
 * neighbour is, in the direction from one random vector to another, which is a direction that the
 * data vary in.  (Measured on 2,000 real queries to 100,000 passages: the curves of recall agree
 * within a point for k = 1, 10 and 100.  Found and at its place: 0.99 where real queries have 0.87;
 * not met, but at its place: 0.94.  White noise of that length is too easy, mixtures with random
 * vectors have too many hopeless ones.)
 *
 * Truth is what a walk of far greater effort finds.  What counts is the recall less its standard
 * error, so that few queries promise little.  The dead count as if they lived.
 * Failure: the table is thrown away. */
#include "engine/calibrate.h"

#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/memory.h"
#include "engine/random.h"
#include "engine/search.h"

enum {
    LINKED_LEAST = 5000,
    GROWTH = 2,
    K_MOST = 100,
    QUERIES_MOST = 1000,
    TRIES = 32, /* to find a node without twins, on the ground only */
    SEARCHES_PER_CHECK = 32,
    GUESSED_PLACES = 19, /* ef - k for recall 0; see calibrated_ef() */
};

#define ENOUGH  0.998 /* recall from which on greater efforts are not measured */
#define GUESSED 0.999f

static const struct {
    uint32_t k;
    uint32_t queries; /* the greater k, the less the recall of one query varies */
    float truth;      /* effort that is taken to find all */
} classes[CALIBRATED_KS] = {{1, QUERIES_MOST, 160}, {10, QUERIES_MOST, 160}, {K_MOST, 250, 92}};

/* Efforts that are measured. */
static const float steps[CALIBRATED_STEPS] = {0,  4,  8,  12, 16, 20, 24,  29,
                                              35, 42, 50, 60, 72, 86, 104, 125};

struct calibrating {
    struct engine *engine;
    const struct engine_hooks *hooks;
    struct search search; /* as every one begins */
    struct calibration *result;
    float *queries;                /* QUERIES_MOST vectors */
    uint32_t held[QUERIES_MOST];   /* slots + 1 that they must not meet */
    float worst[QUERIES_MOST];     /* distance of the k-th true neighbour */
    uint32_t wanted[QUERIES_MOST]; /* so many neighbours there are, up to k */
    struct engine_hit hits[K_MOST];
    uint64_t random;
    uint32_t searches;
};

bool calibrate_is_due(const struct graph *graph)
{
    uint32_t linked = atomic_load_explicit(&graph->linked, memory_order_relaxed);
    uint64_t calibrated = atomic_load_explicit(&graph->calibrated, memory_order_relaxed);

    return graph->options.kind != ENGINE_FLAT && linked >= LINKED_LEAST &&
           linked >= GROWTH * calibrated;
}

uint64_t calibrate_bytes(const struct graph *graph)
{
    const struct calibration *calibration =
        atomic_load_explicit(&graph->calibration, memory_order_relaxed);

    return calibration == NULL ? 0 : sizeof(*calibration);
}

/* --- what is known ---------------------------------------------------------------------------- */

static uint32_t ef_of(float effort, uint32_t k)
{
    return k + (uint32_t)ceilf(effort * sqrtf((float)k));
}

/* Between two steps the recall is taken as linear, which is cautious: it bends the other way. */
static float effort_of(const struct calibration *calibration, size_t which, float recall)
{
    const float *known = calibration->of[which].recall;
    uint32_t count = calibration->of[which].count;

    if (recall <= known[0])
        return steps[0];
    for (uint32_t i = 1; i < count; i++)
        if (recall <= known[i])
            return steps[i - 1] +
                   (steps[i] - steps[i - 1]) * (recall - known[i - 1]) / (known[i] - known[i - 1]);
    return steps[count - 1];
}

uint32_t calibrated_ef(const struct calibration *calibration, float recall, uint32_t k)
{
    size_t which = 0;

    /* Not below what k = 1, 10 and 100 needed in the hardest of the sets that were looked at. */
    if (calibration == NULL)
        return k + (uint32_t)((float)GUESSED_PLACES / sqrtf(1 - fminf(recall, GUESSED)));
    while (which + 1 < CALIBRATED_KS && classes[which + 1].k <= k)
        which++;
    float effort = effort_of(calibration, which, recall);
    if (which + 1 < CALIBRATED_KS) {
        float share = log2f((float)k / (float)classes[which].k) /
                      log2f((float)classes[which + 1].k / (float)classes[which].k);

        effort += share * (effort_of(calibration, which + 1, recall) - effort);
    }
    return ef_of(effort, k);
}

/* --- finding out ------------------------------------------------------------------------------ */

static uint32_t draw(struct calibrating *c)
{
    return (uint32_t)((random_next(&c->random) >> 32) * c->search.linked >> 32);
}

static enum err_code ask(struct calibrating *c, const float *vector, uint32_t held, uint32_t k,
                         uint32_t ef, size_t *count, struct err *err)
{
    struct engine_query query = {.vector = vector, .k = k, .bound = INFINITY};
    struct search search = c->search;

    if (c->searches++ % SEARCHES_PER_CHECK == 0 && !hooks_go_on(c->hooks))
        return err_set(err, ERR_DEAD, "stopped after %u searches", c->searches - 1);
    search.query = &query;
    search.held = held;
    search.ef = ef;
    return search_answer(&search, c->hits, count, err);
}

/* Can a walk be kept from meeting it?  Not if others lead on to it from above, or its twins, whose
 * distances are its own, would be found. */
static bool can_be_held(const struct graph *graph, uint32_t slot, uint64_t entry)
{
    const struct slot *row = slot_of(graph, slot);

    return slot != entry_slot(entry) && level_of(graph, row->ordinal) == 0 &&
           (slot_state(graph, slot) & SLOT_TWIN) == 0 &&
           atomic_load_explicit(&row->twin, memory_order_acquire) == 0;
}

/* Move the vector by `distance` from one random vector towards another. */
static void displace(struct calibrating *c, float distance, float *vector)
{
    const struct graph *graph = c->search.graph;
    size_t dim = graph->options.dim;
    const float *from = vector_of(graph, draw(c));
    const float *to = vector_of(graph, draw(c));
    float length = sqrtf(graph->kernels->l2(from, to, dim));

    for (size_t i = 0; length > 0 && i < dim; i++)
        vector[i] += distance / length * (to[i] - from[i]);
}

static enum err_code make_query(struct calibrating *c, size_t which, uint32_t i, struct err *err)
{
    const struct graph *graph = c->search.graph;
    size_t dim = graph->options.dim, count;
    float *query = c->queries + i * dim;
    uint32_t slot = draw(c), k = classes[which].k, far;
    float distance = 0;

    for (uint32_t t = 0; t < TRIES && !can_be_held(graph, slot, c->search.entry); t++)
        slot = draw(c);
    c->held[i] = can_be_held(graph, slot, c->search.entry) ? slot + 1 : 0;
    memcpy(query, vector_of(graph, slot), dim * sizeof(*query));
    enum err_code code = ask(c, query, c->held[i], k, calibrated_ef(NULL, 0.95f, k), &count, err);
    if (code != ERR_OK)
        return code;
    if (count > 0 && slot_find(graph, c->hits[count - 1].ordinal, c->search.linked, &far))
        distance = sqrtf(graph->kernels->l2(query, vector_of(graph, far), dim));
    displace(c, distance, query);
    code = ask(c, query, c->held[i], k, ef_of(classes[which].truth, k), &count, err);
    c->wanted[i] = (uint32_t)count;
    c->worst[i] = count > 0 ? c->hits[count - 1].distance : 0;
    return code;
}

/* Recall of one effort; *cautious: less its standard error. */
static enum err_code measure(struct calibrating *c, size_t which, float effort, double *recall,
                             double *cautious, struct err *err)
{
    uint32_t k = classes[which].k, n = classes[which].queries;
    size_t dim = c->search.graph->options.dim;
    double sum = 0, square = 0;

    for (uint32_t i = 0; i < n; i++) {
        size_t count, right = 0;
        enum err_code code =
            ask(c, c->queries + i * dim, c->held[i], k, ef_of(effort, k), &count, err);

        if (code != ERR_OK)
            return code;
        for (size_t j = 0; j < count; j++)
            right += c->hits[j].distance <= c->worst[i];
        double share = c->wanted[i] == 0 ? 1 : fmin((double)right / c->wanted[i], 1);
        sum += share;
        square += share * share;
    }
    *recall = sum / n;
    *cautious = *recall - sqrt(fmax(square / n - *recall * *recall, 0) / n);
    return ERR_OK;
}

static enum err_code measure_class(struct calibrating *c, size_t which, struct err *err)
{
    float *known = c->result->of[which].recall;
    double recall = 0, cautious;
    uint32_t count = 0;

    for (uint32_t i = 0; i < classes[which].queries; i++) {
        enum err_code code = make_query(c, which, i, err);
        if (code != ERR_OK)
            return code;
    }
    for (; count < CALIBRATED_STEPS && recall < ENOUGH; count++) {
        enum err_code code = measure(c, which, steps[count], &recall, &cautious, err);
        if (code != ERR_OK)
            return code;
        known[count] = fmaxf((float)cautious, count > 0 ? known[count - 1] : 0);
    }
    c->result->of[which].count = count;
    return ERR_OK;
}

static bool begin(struct calibrating *c)
{
    struct graph *graph = graph_of(c->engine); /* only our caller changes it */
    struct search *search = &c->search;

    search->engine = c->engine;
    search->graph = graph;
    search->entry = atomic_load_explicit(&graph->entry, memory_order_acquire);
    search->linked = atomic_load_explicit(&graph->linked, memory_order_acquire);
    search->count = search->linked;
    search->live = search->candidates = search->linked;
    admit_init(&search->admit, graph, NULL, search->linked);
    search->admit.has_dead = false;
    c->random = graph->options.seed;
    c->queries = memory_alloc(QUERIES_MOST, graph->options.dim * sizeof(*c->queries));
    c->result = memory_alloc(1, sizeof(*c->result));
    search->scratch = scratch_get(&c->engine->scratches);
    if (c->result != NULL)
        c->result->linked = search->linked;
    return c->queries != NULL && c->result != NULL && search->scratch != NULL;
}

/* Searches that look from now on find the new one; the old one goes when the others have ended. */
static void publish(struct engine *engine, struct calibration *calibration)
{
    struct graph *graph = graph_of(engine);
    struct calibration *old =
        atomic_exchange_explicit(&graph->calibration, calibration, memory_order_acq_rel);

    atomic_store_explicit(&graph->calibrated, calibration->linked, memory_order_relaxed);
    if (old == NULL)
        return;
    scratch_grace(&engine->scratches);
    memory_free(old);
}

enum err_code calibrate(struct engine *engine, const struct engine_hooks *hooks, struct err *err)
{
    struct calibrating *c = memory_alloc(1, sizeof(*c));
    enum err_code code = ERR_OK;

    if (c == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to calibrate");
    c->engine = engine;
    c->hooks = hooks;
    if (!begin(c))
        code = err_set(err, ERR_NO_MEMORY, "no memory to calibrate");
    for (size_t which = 0; code == ERR_OK && which < CALIBRATED_KS; which++)
        code = measure_class(c, which, err);
    if (c->search.scratch != NULL)
        scratch_put(c->search.scratch);
    if (code == ERR_OK)
        publish(engine, c->result);
    else
        memory_free(c->result);
    memory_free(c->queries);
    memory_free(c);
    return code == ERR_OK ? ERR_OK : err_wrap(err, "calibration");
}
