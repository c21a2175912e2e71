/* The hashing embedder: the same vectors for ever, close texts close together, and no text that
 * breaks it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backends/embedder/embedder.h"
#include "backends/embedder/embedder_words.h"
#include "common/base/hash.h"
#include "common/base/limits.h"

#define DIM 384

static struct embedder *open_embedder(const char *url)
{
    struct embedder *embedder;
    struct err err = {0};

    if (embedder_open(&embedder, url, env_real(), &err) != ERR_OK)
        fail_msg("%s", err.message);
    return embedder;
}

static void embed(struct embedder *embedder, const char *text, float *out)
{
    struct embedder_text one = {text, strlen(text)};
    struct err err = {0};

    if (embedder_embed(embedder, &one, 1, NEVER_NS, out, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

static double similarity(struct embedder *embedder, const char *left, const char *right)
{
    float a[DIM], b[DIM];
    double sum = 0;

    assert_int_equal(embedder_dimension(embedder), DIM);
    embed(embedder, left, a);
    embed(embedder, right, b);
    for (size_t i = 0; i < DIM; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

struct words {
    char text[1024];
    size_t len;
};

static bool collect(void *context, const struct word *word)
{
    struct words *words = context;

    assert_true(sizeof(words->text) - words->len > word->len + 3);
    if (words->len > 0)
        words->text[words->len++] = ' ';
    if (word->is_compound)
        words->text[words->len++] = '=';
    memcpy(words->text + words->len, word->data, word->len);
    words->len += word->len;
    words->text[words->len] = '\0';
    return true;
}

static void words_are_what_people_and_programs_mean(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", ""},
        {" \t\n-- !? ", ""},
        {"Hello, World!", "hello world"},
        {"don't can\xe2\x80\x99t 'quoted' rock'", "dont cant quoted rock"},
        {"hnsw_prepare_insert(x)", "hnsw prepare insert =hnswprepareinsert x"},
        {"fooBar HTTPServer URLs iPhone", "foo bar =foobar http server =httpserver urls "
                                          "i phone =iphone"},
        {"utf8 SHA256 3rd 4GB", "utf8 sha256 3rd 4 gb =4gb"},
        {"__init__ _x", "init x"},
        {"\xc3\x84RGER Stra\xc3\x9f"
         "e caf\xc3\xa9",
         "\xc3\xa4rger stra\xc3\x9f"
         "e caf\xc3\xa9"},
        {"\xce\xa3\xce\x9f\xce\xa6\xce\x9f\xce\xa3 \xcf\x83\xce\xbf\xcf\x86\xce\xbf\xcf\x82",
         "\xcf\x83\xce\xbf\xcf\x86\xce\xbf\xcf\x83 \xcf\x83\xce\xbf\xcf\x86\xce\xbf\xcf\x83"},
        {"\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82", /* Privet */
         "\xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82"},
        {"\xe6\x9d\xb1\xe4\xba\xac", "\xe6\x9d\xb1 \xe4\xba\xac"}, /* Tokyo */
        {"\xef\xbc\xa1\xef\xbd\x82\xef\xbc\x91", "ab1"},           /* full width */
        {"a\xff\xfe"
         "b\xc3",
         "a b"}, /* no UTF-8 */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct words words = {.text = ""};

        assert_true(words_each(cases[i].text, strlen(cases[i].text), collect, &words));
        assert_string_equal(words.text, cases[i].words);
    }
}

static void common_words_are_found(void **state)
{
    static const char *const common[] = {"a", "the", "your", "dont", "should", "so", "with"};
    static const char *const others[] = {"vector", "th", "them_", "aa", "zebra", "sho", ""};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(common); i++)
        assert_true(word_is_common((const uint8_t *)common[i], strlen(common[i])));
    for (size_t i = 0; i < ARRAY_COUNT(others); i++)
        assert_false(word_is_common((const uint8_t *)others[i], strlen(others[i])));
}

/* Stored vectors depend on these: they may never change. */
static void vectors_are_the_same_for_ever(void **state)
{
    static const struct {
        const char *url, *text;
        uint64_t hash; /* of the floats' bytes */
    } golden[] = {
        {"hash:384", "The quick brown fox jumps over the lazy dog", 0xa1a03f76ae5d8291},
        {"hash:384", "hnsw_prepare_insert camelCaseName, vector vector vector", 0x27096dd2b0ffa779},
        {"hash:384", "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 \xe6\x9d\xb1\xe4\xba\xac",
         0x5946e235f2885427},
        {"hash:1", "one", 0xfa8676a94087f05a},
        {"hash:8192", "vector retrieval over shards and replicas", 0x333e9c7148185dbc},
        {"hash:16", "", 0x33412028593684f6},
    };
    static float vector[DIMENSION_MAX];

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(golden); i++) {
        struct embedder *embedder = open_embedder(golden[i].url);
        size_t bytes = embedder_dimension(embedder) * sizeof(float);
        uint64_t hash;

        embed(embedder, golden[i].text, vector);
        hash = hash_xxh64(vector, bytes, 0);
        if (hash != golden[i].hash)
            fail_msg("vector %zu is 0x%016llx", i, (unsigned long long)hash);
        embedder_close(embedder);
    }
}

static void close_texts_rank_above_others(void **state)
{
    static const struct {
        const char *query, *close, *far;
    } cases[] = {
        {"how do replicas catch up", "A replica that has fallen behind will catch up by reading",
         "Bananas and oranges are sold at the market on Sundays"},
        {"searching vectors", "vector search with an index", "cooking pasta with tomato sauce"},
        {"hnsw insert", "static int hnswPrepareInsert(struct hnsw *index)",
         "static void log_flush(void)"},
        {"retrieval", "retreival", "banana"}, /* a typing error */
        {"what is the weather", "weather report for the coast", "what is the price of gold"},
        {"JavaScript", "a javascript library", "a python library"},
    };
    struct embedder *embedder = open_embedder("hash:384");

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        double close = similarity(embedder, cases[i].query, cases[i].close);
        double far = similarity(embedder, cases[i].query, cases[i].far);

        if (!(close > far + 0.05))
            fail_msg("\"%s\": %f for \"%s\", %f for \"%s\"", cases[i].query, close, cases[i].close,
                     far, cases[i].far);
    }
    assert_true(similarity(embedder, "Same WORDS", "same words") > 0.9999);
    embedder_close(embedder);
}

static void texts_without_words_have_one_fixed_vector(void **state)
{
    struct embedder *embedder = open_embedder("hash:384");
    struct embedder_text texts[3] = {{NULL, 0}, {" \n?!", 4}, {"\xff\xff\xff", 3}};
    static float out[3 * DIM];
    struct err err;

    (void)state;
    assert_int_equal(embedder_embed(embedder, texts, 3, NEVER_NS, out, &err), ERR_OK);
    assert_true(out[0] == 1.0f);
    for (size_t i = 1; i < DIM; i++)
        assert_true(out[i] == 0.0f);
    assert_memory_equal(out, out + DIM, DIM * sizeof(float));
    assert_memory_equal(out, out + 2 * (size_t)DIM, DIM * sizeof(float));
    assert_int_equal(embedder_embed(embedder, texts, 0, NEVER_NS, NULL, &err), ERR_OK);
    embedder_close(embedder);
}

static void each_text_of_a_call_stands_alone(void **state)
{
    struct embedder *embedder = open_embedder("hash:384");
    struct embedder_text texts[2] = {{"first words here", 16}, {"second text", 11}};
    static float both[2 * DIM], alone[DIM];
    struct err err;

    (void)state;
    assert_int_equal(embedder_embed(embedder, texts, 2, NEVER_NS, both, &err), ERR_OK);
    embed(embedder, "second text", alone);
    assert_memory_equal(both + DIM, alone, sizeof(alone));
    assert_int_equal(embedder_embed(embedder, texts, 2, 1, both, &err), ERR_TIMEOUT);
    embedder_close(embedder);
}

static void huge_texts_and_random_bytes_are_fine(void **state)
{
    struct embedder *embedder = open_embedder("hash:384");
    struct embedder_text text = {.len = MIB(1)};
    char *bytes = malloc(MIB(1));
    uint64_t random = 42;
    static float out[DIM];
    struct err err;

    (void)state;
    assert_non_null(bytes);
    text.data = bytes;
    memset(bytes, 'a', MIB(1)); /* one run without an end */
    assert_int_equal(embedder_embed(embedder, &text, 1, NEVER_NS, out, &err), ERR_OK);
    memset(bytes, '_', MIB(1));
    assert_int_equal(embedder_embed(embedder, &text, 1, NEVER_NS, out, &err), ERR_OK);
    for (size_t i = 0; i < MIB(1); i++) { /* many different words */
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (char)((random >> 33) % 5 == 0 ? ' ' : 'a' + (random >> 40) % 26);
    }
    assert_int_equal(embedder_embed(embedder, &text, 1, NEVER_NS, out, &err), ERR_OK);
    for (size_t i = 0; i < MIB(1); i++) {
        random = random * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (char)(random >> 56);
    }
    assert_int_equal(embedder_embed(embedder, &text, 1, NEVER_NS, out, &err), ERR_OK);
    free(bytes);
    embedder_close(embedder);
}

static void urls_are_checked_whole(void **state)
{
    static const char *const bad[] = {"",        "hash",      "hash:",     "hash:0",
                                      "hash:-1", "hash:8193", "hash:384x", "hash: 384",
                                      "has:384", "hashx:384", "HASH:384",  "hash:1e2"};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct embedder *embedder = (struct embedder *)&state;
        struct err err = {0};

        assert_int_equal(embedder_open(&embedder, bad[i], env_real(), &err), ERR_CONFIG);
        assert_null(embedder);
    }
    embedder_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_what_people_and_programs_mean),
        cmocka_unit_test(common_words_are_found),
        cmocka_unit_test(vectors_are_the_same_for_ever),
        cmocka_unit_test(close_texts_rank_above_others),
        cmocka_unit_test(texts_without_words_have_one_fixed_vector),
        cmocka_unit_test(each_text_of_a_call_stands_alone),
        cmocka_unit_test(huge_texts_and_random_bytes_are_fine),
        cmocka_unit_test(urls_are_checked_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
