/* Filters agree with an oracle that does everything the simple way: both texts as trees of
 * jansson's, recursion, no sets, no bytes.  The seed is printed; VICINAL_SEED repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>

#include "common/base/err.h"
#include "common/model/filter.h"

#define CASES 60000

static uint64_t state_of_chance;

static uint64_t chance(uint64_t below)
{
    state_of_chance ^= state_of_chance << 13;
    state_of_chance ^= state_of_chance >> 7;
    state_of_chance ^= state_of_chance << 17;
    return (state_of_chance >> 11) % below;
}

/* --- the oracle ------------------------------------------------------------------------------ */

struct date {
    const char *text;
    double seconds;
};

static const struct date dates[] = {{"2024-01-01", 1704067200},
                                    {"2024-01-01T00:00:00Z", 1704067200},
                                    {"2024-01-01T02:00:00+02:00", 1704067200},
                                    {"2024-01-02", 1704153600},
                                    {"2024-01-01T12:30:00.5Z", 1704112200.5}};

static bool oracle_date(const json_t *value, double *seconds)
{
    for (size_t i = 0; json_is_string(value) && i < ARRAY_COUNT(dates); i++) {
        if (strcmp(json_string_value(value), dates[i].text) == 0) {
            *seconds = dates[i].seconds;
            return true;
        }
    }
    return false;
}

static bool oracle_equal(const json_t *a, const json_t *b)
{
    if (json_is_integer(a) && json_is_integer(b))
        return json_integer_value(a) == json_integer_value(b);
    if (json_is_number(a) && json_is_number(b))
        return json_number_value(a) == json_number_value(b);
    if (json_is_string(a) && json_is_string(b))
        return strcmp(json_string_value(a), json_string_value(b)) == 0;
    return json_typeof(a) == json_typeof(b) && (json_is_boolean(a) || json_is_null(a));
}

static bool oracle_in(const json_t *value, const json_t *list)
{
    size_t i;
    json_t *element;

    json_array_foreach(list, i, element)
    {
        if (oracle_equal(value, element))
            return true;
    }
    return false;
}

static bool oracle_like(const char *text, const char *pattern, bool folds)
{
    if (*pattern == '\0')
        return *text == '\0';
    if (*pattern == '%')
        return oracle_like(text, pattern + 1, folds) ||
               (*text != '\0' && oracle_like(text + 1, pattern, folds));
    if (*text == '\0')
        return false;
    if (*pattern == '\\')
        pattern++;
    else if (*pattern == '_')
        return oracle_like(text + 1, pattern + 1, folds);
    if (*text != *pattern && !(folds && (*text | 32) == (*pattern | 32) && (*text | 32) >= 'a'))
        return false;
    return oracle_like(text + 1, pattern + 1, folds);
}

/* Is each word (of letters a, b, A) of wanted a word of text? */
static bool oracle_words(const char *text, const char *wanted, bool folds)
{
    char words[64], copy[64];
    char *save = NULL;

    (void)snprintf(words, sizeof(words), "%s", wanted);
    for (char *word = strtok_r(words, " ,%_.-:+", &save); word != NULL;
         word = strtok_r(NULL, " ,%_.-:+", &save)) {
        char *inner = NULL;
        bool found = false;

        (void)snprintf(copy, sizeof(copy), "%s", text);
        for (char *other = strtok_r(copy, " ,%_.-:+", &inner); other != NULL;
             other = strtok_r(NULL, " ,%_.-:+", &inner))
            found |= folds ? strcasecmp(word, other) == 0 : strcmp(word, other) == 0;
        if (!found)
            return false;
    }
    return true;
}

static bool oracle_order(const char *op, const json_t *value, const json_t *operand)
{
    double a, b;

    if (json_is_number(operand) && json_is_number(value)) {
        a = json_number_value(value);
        b = json_number_value(operand);
    } else if (!oracle_date(value, &a) || !oracle_date(operand, &b)) {
        return false;
    }
    if (strcmp(op, "$gt") == 0)
        return a > b;
    if (strcmp(op, "$gte") == 0)
        return a >= b;
    return strcmp(op, "$lt") == 0 ? a < b : a <= b;
}

static bool oracle_scalar(const char *op, const json_t *value, const json_t *operand)
{
    if (strcmp(op, "$eq") == 0)
        return !json_is_null(value) && oracle_equal(value, operand);
    if (strcmp(op, "$in") == 0)
        return !json_is_null(value) && oracle_in(value, operand);
    if (strchr("gl", op[1]) != NULL && strstr(op, "like") == NULL)
        return oracle_order(op, value, operand);
    if (!json_is_string(value))
        return false;
    if (strstr(op, "like") != NULL)
        return oracle_like(json_string_value(value), json_string_value(operand), op[1] == 'i');
    return oracle_words(json_string_value(value), json_string_value(operand), op[1] == 'i');
}

static bool oracle_contains(const char *op, const json_t *value, const json_t *operand)
{
    size_t i;
    json_t *wanted;

    if (!json_is_array(value))
        return false;
    if (strcmp(op, "$contains") == 0)
        return oracle_in(operand, value);
    json_array_foreach(operand, i, wanted)
    {
        bool found = oracle_in(wanted, value);

        if (found != (strcmp(op, "$contains_all") == 0))
            return found;
    }
    return strcmp(op, "$contains_all") == 0;
}

static bool oracle_test(const char *op, json_t *value, const json_t *operand)
{
    size_t i;
    json_t *element;

    if (strcmp(op, "$exists") == 0)
        return !json_is_null(value);
    if (strcmp(op, "$is_empty") == 0)
        return !json_is_null(value) && !(json_is_array(value) && json_array_size(value) == 0);
    if (strncmp(op, "$contains", 9) == 0)
        return oracle_contains(op, value, operand);
    if (!json_is_array(value))
        return oracle_scalar(op, value, operand);
    json_array_foreach(value, i, element)
    {
        if (oracle_scalar(op, element, operand))
            return true;
    }
    return false;
}

/* All values that a path leads to, appended to out. */
static void oracle_values(json_t *value, const char *path, json_t *out)
{
    const char *dot = strchr(path, '.');
    char name[32];
    size_t i;
    json_t *element;

    if (json_is_array(value)) {
        json_array_foreach(value, i, element)
        {
            if (json_is_object(element))
                oracle_values(element, path, out);
        }
        return;
    }
    if (!json_is_object(value))
        return;
    (void)snprintf(name, sizeof(name), "%.*s",
                   (int)(dot == NULL ? strlen(path) : (size_t)(dot - path)), path);
    element = json_object_get(value, name);
    if (element == NULL)
        return;
    if (dot == NULL)
        json_array_append(out, element);
    else
        oracle_values(element, dot + 1, out);
}

static bool oracle_condition(json_t *metadata, const char *path, const char *op,
                             const json_t *operand)
{
    json_t *values = json_array();
    bool present = false;
    bool found = false;
    size_t i;
    json_t *value;

    oracle_values(metadata, path, values);
    json_array_foreach(values, i, value)
    {
        present |= !json_is_null(value);
        found |= oracle_test(op, value, operand);
    }
    json_decref(values);
    if (strcmp(op, "$exists") == 0)
        return found == json_is_true(operand);
    if (strcmp(op, "$is_empty") == 0)
        return found != json_is_true(operand);
    if (!present && strcmp(op, "$eq") == 0)
        return json_is_null(operand);
    if (!present && strcmp(op, "$in") == 0) {
        json_t *null = json_null();

        return oracle_in(null, operand);
    }
    return found;
}

static bool oracle_operator(json_t *metadata, const char *path, const char *op, json_t *operand)
{
    if (strcmp(op, "$ne") == 0)
        return !oracle_condition(metadata, path, "$eq", operand);
    if (strcmp(op, "$nin") == 0)
        return !oracle_condition(metadata, path, "$in", operand);
    return oracle_condition(metadata, path, op, operand);
}

static bool oracle_matches(json_t *filter, json_t *metadata)
{
    const char *key, *op;
    json_t *value, *operand;
    size_t i;

    json_object_foreach(filter, key, value)
    {
        bool holds = true;

        if (strcmp(key, "$not") == 0) {
            holds = !oracle_matches(value, metadata);
        } else if (key[0] == '$') {
            bool wants_all = strcmp(key, "$and") == 0;

            holds = wants_all;
            json_array_foreach(value, i, operand) holds =
                wants_all ? holds && oracle_matches(operand, metadata)
                          : holds || oracle_matches(operand, metadata);
            holds ^= strcmp(key, "$nor") == 0;
        } else if (json_is_object(value)) {
            json_object_foreach(value, op, operand) holds =
                holds && oracle_operator(metadata, key, op, operand);
        } else {
            holds = oracle_condition(metadata, key, "$eq", value);
        }
        if (!holds)
            return false;
    }
    return true;
}

/* --- what is compared ------------------------------------------------------------------------ */

static const char *const names[] = {"a", "b", "\xc3\xa9", "a\"b"};

static json_t *make_text(void)
{
    static const char letters[] = "aabbA ,%_.";
    char text[8] = "";
    size_t len = chance(6);

    if (chance(4) == 0)
        return json_string(dates[chance(ARRAY_COUNT(dates))].text);
    for (size_t i = 0; i < len; i++)
        text[i] = letters[chance(sizeof(letters) - 1)];
    return json_string(text);
}

static json_t *make_scalar(void)
{
    switch (chance(7)) {
    case 0:
        return json_null();
    case 1:
        return json_boolean(chance(2));
    case 2:
        return json_real((double)chance(6) / 2 - 1);
    case 3:
    case 4:
        return json_integer((json_int_t)chance(4) - 1);
    default:
        return make_text();
    }
}

static json_t *make_object(unsigned depth);

static json_t *make_value(unsigned depth)
{
    uint64_t kind = chance(6);
    json_t *array;

    if (depth == 0 || kind < 3)
        return make_scalar();
    if (kind == 3)
        return make_object(depth - 1);
    array = json_array();
    for (uint64_t i = chance(4); i > 0; i--)
        json_array_append_new(array, make_value(depth - 1));
    return array;
}

static json_t *make_object(unsigned depth)
{
    json_t *object = json_object();

    for (uint64_t i = chance(4); i > 0; i--)
        json_object_set_new(object, names[chance(ARRAY_COUNT(names))], make_value(depth));
    return object;
}

static json_t *make_list(void)
{
    json_t *list = json_array();

    for (uint64_t i = chance(5); i > 0; i--)
        json_array_append_new(list, make_scalar());
    return list;
}

static json_t *make_operand(const char *op)
{
    if (strcmp(op, "$exists") == 0 || strcmp(op, "$is_empty") == 0)
        return json_boolean(chance(2));
    if (strcmp(op, "$in") == 0 || strcmp(op, "$nin") == 0 || strncmp(op, "$contains_", 10) == 0)
        return make_list();
    if (strstr(op, "text") != NULL || strstr(op, "like") != NULL)
        return make_text();
    if (op[1] == 'g' || op[1] == 'l')
        return chance(2) == 0 ? json_integer((json_int_t)chance(4) - 1)
                              : json_string(dates[chance(ARRAY_COUNT(dates))].text);
    return make_scalar();
}

static json_t *make_condition(void)
{
    static const char *const ops[] = {"$eq",           "$ne",      "$gt",       "$gte",  "$lt",
                                      "$lte",          "$in",      "$nin",      "$text", "$itext",
                                      "$contains_any", "$exists",  "$is_empty", "$like", "$ilike",
                                      "$contains_all", "$contains"};
    json_t *object;

    if (chance(4) == 0)
        return make_scalar();
    object = json_object();
    for (uint64_t i = chance(2) + 1; i > 0; i--) {
        const char *op = ops[chance(ARRAY_COUNT(ops))];

        json_object_set_new(object, op, make_operand(op));
    }
    return object;
}

static json_t *make_filter(unsigned depth)
{
    static const char *const lists[] = {"$and", "$or", "$nor"};
    json_t *filter = json_object();
    json_t *list;

    for (uint64_t i = chance(3) + (chance(8) != 0); i > 0; i--) {
        char path[64];

        if (depth > 0 && chance(5) == 0) {
            json_object_set_new(filter, "$not", make_filter(depth - 1));
        } else if (depth > 0 && chance(3) == 0) {
            list = json_array();
            for (uint64_t j = chance(3) + 1; j > 0; j--)
                json_array_append_new(list, make_filter(depth - 1));
            json_object_set_new(filter, lists[chance(3)], list);
        } else {
            const char *first = names[chance(ARRAY_COUNT(names))];
            const char *second = names[chance(ARRAY_COUNT(names))];

            (void)snprintf(path, sizeof(path), chance(3) == 0 ? "%s.%s" : "%s", first, second);
            json_object_set_new(filter, path, make_condition());
        }
    }
    return filter;
}

static char *dump(json_t *value)
{
    static const size_t flags[] = {JSON_COMPACT, JSON_INDENT(1), JSON_ENSURE_ASCII, 0};

    return json_dumps(value, flags[chance(ARRAY_COUNT(flags))]);
}

static bool check_case(struct filter_scratch *scratch)
{
    json_t *filter_tree = make_filter(3);
    json_t *metadata_tree = make_object(3);
    bool wanted = oracle_matches(filter_tree, metadata_tree);
    char *filter_text = dump(filter_tree);
    char *metadata = dump(metadata_tree);
    const struct filter *filter = NULL;
    struct arena arena = {0};
    struct err err = {0};
    enum err_code rc = filter_parse(&filter, filter_text, strlen(filter_text), &arena, &err);
    bool got = filter_matches(filter, "x", 1, metadata, strlen(metadata), scratch);

    if (rc != ERR_OK || got != wanted)
        print_message("%s on %s: %s %s, %d\n", filter_text, metadata, err.pointer, err.message,
                      got);
    assert_int_equal(rc, ERR_OK);
    assert_int_equal(got, wanted);
    arena_free(&arena);
    free(filter_text);
    free(metadata);
    json_decref(filter_tree);
    json_decref(metadata_tree);
    return got;
}

static void generated_filters_agree_with_the_oracle(void **state)
{
    const char *given = getenv("VICINAL_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 10) : (uint64_t)time(NULL);
    struct filter_scratch scratch = {0};
    unsigned matched = 0;

    (void)state;
    print_message("VICINAL_SEED=%llu\n", (unsigned long long)seed);
    state_of_chance = seed * 0x9e3779b97f4a7c15ull + 1;
    for (unsigned i = 0; i < CASES; i++)
        matched += check_case(&scratch);
    assert_false(scratch.failed);
    filter_scratch_free(&scratch);
    /* Neither answer is rare: the test looks at both. */
    assert_true(matched > CASES / 10);
    assert_true(matched < CASES / 10 * 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generated_filters_agree_with_the_oracle),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
