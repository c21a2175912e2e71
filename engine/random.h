/* Numbers that look random and are the same everywhere.
 * Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (SplitMix64). */
#ifndef VICINAL_ENGINE_RANDOM_H
#define VICINAL_ENGINE_RANDOM_H

#include <stdint.h>

#define RANDOM_STEP UINT64_C(0x9e3779b97f4a7c15)

/* A hash of z. */
static inline uint64_t random_mix(uint64_t z)
{
    z += RANDOM_STEP;
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* The next number of a sequence; *state, at first a seed, moves on. */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t number = random_mix(*state);

    *state += RANDOM_STEP;
    return number;
}

#endif
