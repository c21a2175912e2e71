/* The frame of the codes: a rotation that the options fix, and a centre that the data does.
 *
 * Embeddings of one model often lie in one direction, far from zero.  Codes relative to their mean
 * lose less, and a mean of a thousand vectors is as good as that of all.  It must be there before
 * the first vector is coded and never changes, so the graph waits for those vectors; collections so
 * small are searched without it. */
#include <float.h>
#include <math.h>

#include "common/base/checked.h"
#include "engine/graph.h"

enum { SAMPLE_MAX = 1000, LENGTHS_MIN = 32 };

#define EVEN_SHARE 0.01 /* of the square: lengths that differ by a tenth */

uint32_t frame_sample(const struct engine_options *options)
{
    return MAX_OF(MIN_OF(options->flat_below / 2, (uint32_t)SAMPLE_MAX), UINT32_C(1));
}

void frame_init(struct graph *graph)
{
    graph->frame.is_l2 = graph->options.metric == ENGINE_L2;
    graph->frame.base = graph->ruler.base;
    graph->frame.pair_weight = graph->options.metric == ENGINE_L2       ? 1.0f
                               : graph->options.metric == ENGINE_COSINE ? 0.5f
                                                                        : 0.0f;
    rotation_init(&graph->frame.rotation, graph->options.dim, graph->options.seed, graph->kernels);
}

/* Sums here and below are taken in order, in double precision: the same on every machine. */

/* What follows from the centre. */
static void set_pair_base(struct code_frame *frame)
{
    double square = 0;

    for (size_t i = 0; i < frame->rotation.dim; i++)
        square += (double)frame->centre[i] * (double)frame->centre[i];
    frame->pair_base = (float)fmax((double)frame->base - square, -(double)FLT_MAX / 4);
}

void frame_take(struct graph *graph, const float *centre, float length)
{
    memcpy(graph->frame.centre, centre, graph->options.dim * sizeof(float));
    set_pair_base(&graph->frame);
    graph->length = length;
}

static double length_of(const struct graph *graph, uint32_t slot)
{
    const float *vector = vector_of(graph, slot);
    double square = 0;

    for (size_t i = 0; i < graph->options.dim; i++)
        square += (double)vector[i] * (double)vector[i];
    return sqrt(square);
}

/* The mean length of the first vectors; 0 if they differ, or are too few to tell. */
static float fit_length(const struct graph *graph, uint32_t count)
{
    double sum = 0, square = 0;

    for (uint32_t slot = 0; slot < count; slot++) {
        double length = length_of(graph, slot);

        sum += length;
        square += length * length;
    }
    double mean = sum / count;
    double variance = square / count - mean * mean;

    return count >= LENGTHS_MIN && variance <= EVEN_SHARE * mean * mean && mean <= (double)FLT_MAX
               ? (float)mean
               : 0.0f;
}

void frame_fit(struct graph *graph)
{
    uint32_t count = frame_sample(&graph->options);

    for (size_t i = 0; i < graph->options.dim; i++) {
        double sum = 0;

        for (uint32_t slot = 0; slot < count; slot++)
            sum += (double)vector_of(graph, slot)[i];
        graph->frame.centre[i] = (float)(sum / count);
    }
    set_pair_base(&graph->frame);
    graph->length = fit_length(graph, count);
}
