/* Text into vectors by hashing: hash:DIM.
 *
 * Features of a text, each with a weight: its words (1), pairs of neighbouring words (1/4), and the
 * runs of 3 to 5 letters of each word with its ends marked (3/8), which find inflections and typing
 * errors.  Common words count little and pairs of them nothing.  A word or pair that occurs n times
 * counts 1 + ln n times.  A feature's hash chooses a coordinate and a sign; the sum is brought to
 * unit norm.  Long texts and short ones become comparable by the cosine.
 *
 * The same text gives the same vector for ever, on every machine: sums are integers, so no order
 * and no fused multiply matters, and the only rounding steps are one square root and one division
 * per coordinate, which IEEE 754 defines to the bit.  A change of anything here makes stored
 * vectors and new ones strangers: the tests hold golden values.
 */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/embedder/embedder.h"
#include "backends/embedder/embedder_words.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/text.h"

/* Weights, as integers. */
#define WEIGHT_WORD        1024
#define WEIGHT_COMMON      128
#define WEIGHT_PAIR        256
#define WEIGHT_PAIR_COMMON 64 /* one of the two is common */
#define WEIGHT_GRAM        384

#define GRAM_MIN     3
#define GRAM_MAX     5
#define GRAM_LETTERS 34 /* of a word with its marks; the rest of a longer word gives none */

enum { SEED_WORD = 1, SEED_PAIR = 2, SEED_GRAM = 3 };

#define UNITS_FIRST 1024 /* a power of two */

/* A word or a pair, and how often it occurred. */
struct unit {
    uint64_t hash;  /* 0: free */
    size_t text_at; /* of a word whose letter runs count */
    uint32_t count;
    uint16_t text_len; /* 0: no letter runs */
    uint16_t weight;
};

/* What one call needs, used for text after text. */
struct bag {
    struct unit *units; /* open addressing, at most half full */
    size_t unit_size;
    size_t unit_count;
    struct buffer texts;    /* of the words in units */
    uint64_t previous_hash; /* of the word before; 0: none */
    bool previous_is_common;
    int64_t *sums; /* a coordinate each */
};

struct hash_embedder {
    struct embedder base; /* first */
    struct env *env;
};

static struct hash_embedder *hash_of(struct embedder *embedder)
{
    assert(embedder->ops == &embedder_hash_ops);
    return (struct hash_embedder *)embedder;
}

static enum err_code hash_open(struct embedder **out, const char *url, struct env *env,
                               struct err *err)
{
    const char *number = url + strlen("hash:");
    struct hash_embedder *hash;
    uint64_t dimension;

    if (!text_to_u64(number, strlen(number), &dimension) || dimension < 1 ||
        dimension > DIMENSION_MAX)
        return err_set(err, ERR_CONFIG, "embedder URL \"%s\": want hash:DIM with DIM of 1 to %d",
                       url, DIMENSION_MAX);
    hash = calloc(1, sizeof(*hash));
    if (hash == NULL)
        return err_set(err, ERR_NO_MEMORY, "embedder: no memory");
    hash->base = (struct embedder){.ops = &embedder_hash_ops, .dimension = (uint32_t)dimension};
    hash->env = env;
    *out = &hash->base;
    return ERR_OK;
}

static void hash_close(struct embedder *embedder)
{
    free(hash_of(embedder));
}

/* --- counting words and pairs -------------------------------------------------------------- */

/* The unit of that hash or the free one where it belongs; there always is a free one. */
static struct unit *unit_find(struct unit *units, size_t unit_size, uint64_t hash)
{
    size_t at = (size_t)hash & (unit_size - 1);

    while (units[at].hash != 0 && units[at].hash != hash)
        at = (at + 1) & (unit_size - 1);
    return &units[at];
}

static bool bag_grow(struct bag *bag)
{
    size_t unit_size = bag->unit_size == 0 ? UNITS_FIRST : bag->unit_size * 2;
    struct unit *units = array_alloc(unit_size, sizeof(*units));

    if (units == NULL)
        return false;
    for (size_t i = 0; i < bag->unit_size; i++) {
        if (bag->units[i].hash != 0)
            *unit_find(units, unit_size, bag->units[i].hash) = bag->units[i];
    }
    free(bag->units);
    bag->units = units;
    bag->unit_size = unit_size;
    return true;
}

/* Count a unit; *unit is its place, and new when its count is 1.  False: no memory. */
static bool bag_count(struct bag *bag, uint64_t hash, uint16_t weight, struct unit **unit)
{
    /* 0 marks a free place. */
    uint64_t wanted = hash == 0 ? 1 : hash;

    if (bag->unit_count >= bag->unit_size / 2 && !bag_grow(bag))
        return false;
    *unit = unit_find(bag->units, bag->unit_size, wanted);
    if ((*unit)->hash == 0) {
        **unit = (struct unit){.hash = wanted, .weight = weight};
        bag->unit_count++;
    }
    if ((*unit)->count < UINT32_MAX)
        (*unit)->count++;
    return true;
}

static bool bag_count_pair(struct bag *bag, uint64_t hash, bool is_common)
{
    uint64_t pair[2] = {bag->previous_hash, hash};
    uint16_t weight = bag->previous_is_common || is_common ? WEIGHT_PAIR_COMMON : WEIGHT_PAIR;
    struct unit *unit;

    if (bag->previous_hash == 0 || (bag->previous_is_common && is_common))
        return true;
    return bag_count(bag, hash_xxh64(pair, sizeof(pair), SEED_PAIR), weight, &unit);
}

static bool bag_add_word(void *context, const struct word *word)
{
    struct bag *bag = context;
    uint64_t hash = hash_xxh64(word->data, word->len, SEED_WORD);
    bool is_common = word_is_common(word->data, word->len);
    struct unit *unit;

    if (!bag_count(bag, hash, is_common ? WEIGHT_COMMON : WEIGHT_WORD, &unit))
        return false;
    if (word->is_compound)
        return true; /* its parts have given the pairs and the letter runs */
    if (unit->text_len == 0 && !is_common) {
        unit->text_at = bag->texts.len;
        unit->text_len = (uint16_t)word->len;
        buffer_append(&bag->texts, word->data, word->len);
        if (bag->texts.failed)
            return false;
    }
    if (!bag_count_pair(bag, hash, is_common))
        return false;
    bag->previous_hash = hash;
    bag->previous_is_common = is_common;
    return true;
}

static void bag_reset(struct bag *bag)
{
    if (bag->units != NULL)
        memset(bag->units, 0, bag->unit_size * sizeof(*bag->units));
    bag->unit_count = 0;
    buffer_reset(&bag->texts);
    bag->previous_hash = 0;
    bag->previous_is_common = false;
}

/* --- summing up ---------------------------------------------------------------------------- */

/* 256 * (1 + ln count), with the logarithm made of straight pieces between powers of two. */
static int64_t repeat_factor(uint32_t count)
{
    unsigned exponent = 31 - (unsigned)__builtin_clz(count);
    int64_t power = (int64_t)1 << exponent;
    int64_t log2_256 = 256 * (int64_t)exponent + 256 * (count - power) / power;

    return 256 + 177 * log2_256 / 256; /* 177 / 256 is ln 2 */
}

static void add_feature(int64_t *sums, uint32_t dimension, uint64_t hash, int64_t weight)
{
    size_t at = (size_t)((hash >> 32) * dimension >> 32);

    assert(at < dimension);
    sums[at] += (hash & 1) != 0 ? weight : -weight;
}

/* The runs of GRAM_MIN to GRAM_MAX letters of a word between its marks. */
static void add_grams(int64_t *sums, uint32_t dimension, const uint8_t *text, size_t len,
                      int64_t weight)
{
    uint8_t marked[WORD_BYTES_MAX + 2];
    size_t starts[GRAM_LETTERS + 1]; /* of each letter, and the end of the last */
    size_t letters = 0;

    assert(len <= WORD_BYTES_MAX);
    marked[0] = 2;
    memcpy(marked + 1, text, len);
    marked[len + 1] = 3;
    for (size_t i = 0; i < len + 2 && letters < GRAM_LETTERS; i++) {
        if ((marked[i] & 0xc0) != 0x80) /* not inside a UTF-8 sequence */
            starts[letters++] = i;
    }
    starts[letters] = starts[letters - 1] + 1;
    while (starts[letters] < len + 2 && (marked[starts[letters]] & 0xc0) == 0x80)
        starts[letters]++;
    for (size_t first = 0; first < letters; first++) {
        for (size_t n = GRAM_MIN; n <= GRAM_MAX && first + n <= letters; n++) {
            size_t gram_len = starts[first + n] - starts[first];

            add_feature(sums, dimension, hash_xxh64(marked + starts[first], gram_len, SEED_GRAM),
                        weight);
        }
    }
}

static void add_units(const struct bag *bag, uint32_t dimension)
{
    for (size_t i = 0; i < bag->unit_size; i++) {
        const struct unit *unit = &bag->units[i];
        int64_t factor;

        if (unit->hash == 0)
            continue;
        factor = repeat_factor(unit->count);
        add_feature(bag->sums, dimension, unit->hash, unit->weight * factor);
        if (unit->text_len > 0)
            add_grams(bag->sums, dimension, bag->texts.data + unit->text_at, unit->text_len,
                      WEIGHT_GRAM * factor);
    }
}

/* A text without a word, or whose features cancel out, becomes the first unit vector. */
static void normalise(const int64_t *sums, uint32_t dimension, float *out)
{
    unsigned __int128 squares = 0;
    double norm;

    for (uint32_t i = 0; i < dimension; i++)
        squares += (unsigned __int128)((__int128)sums[i] * sums[i]);
    norm = sqrt((double)squares);
    for (uint32_t i = 0; i < dimension; i++)
        out[i] = squares == 0 ? 0.0f : (float)((double)sums[i] / norm);
    if (squares == 0)
        out[0] = 1.0f;
}

static bool embed_text(struct bag *bag, uint32_t dimension, const struct embedder_text *text,
                       float *out)
{
    bag_reset(bag);
    memset(bag->sums, 0, dimension * sizeof(*bag->sums));
    if (!words_each(text->data, text->len, bag_add_word, bag))
        return false;
    add_units(bag, dimension);
    normalise(bag->sums, dimension, out);
    return true;
}

static enum err_code hash_embed(struct embedder *embedder, const struct embedder_text *texts,
                                size_t count, uint64_t deadline_ns, float *out, struct err *err)
{
    struct hash_embedder *hash = hash_of(embedder);
    uint32_t dimension = embedder->dimension;
    struct bag bag = {.sums = array_alloc(dimension, sizeof(int64_t))};
    enum err_code code = ERR_OK;

    if (bag.sums == NULL)
        code = err_set(err, ERR_NO_MEMORY, "embedder: no memory");
    for (size_t i = 0; code == ERR_OK && i < count; i++) {
        if (deadline_ns != NEVER_NS && env_boot_ns(hash->env) >= deadline_ns)
            code = err_set(err, ERR_TIMEOUT, "embedder: %zu of %zu texts in time", i, count);
        else if (!embed_text(&bag, dimension, &texts[i], out + i * dimension))
            code = err_set(err, ERR_NO_MEMORY, "embedder: no memory");
    }
    free(bag.units);
    free(bag.sums);
    buffer_free(&bag.texts);
    return code;
}

const struct embedder_ops embedder_hash_ops = {
    .scheme = "hash",
    .open = hash_open,
    .close = hash_close,
    .embed = hash_embed,
};
