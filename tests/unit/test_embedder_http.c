/* The embedder over HTTP, against a server and a clock of the test's own: what is sent, what is
 * believed, what is tried again and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "backends/cache/cache.h"
#include "backends/embedder/embedder_http.h"
#include "backends/embedder/embedders.h"
#include "common/base/limits.h"

#define DIM      4
#define SERVER   "http://embed.test:80"
#define LIST     "small=" SERVER ";dimension=4;model=tiny-1"
#define DEADLINE (10 * NS_PER_S)

/* What a request gets.  A status above 0 is answered with `body`, if there is one. */
struct step {
    int status;
    const char *body;
    enum err_code rc; /* instead of an answer */
    uint32_t retry_after_s;
    uint64_t takes_ns;
};

static struct fake {
    struct http_client client; /* first */
    struct env env;
    struct env_ops env_ops;
    uint64_t now_ns, slept_ns;
    unsigned sleeps;
    const struct step *steps; /* one per request; behind the last all goes well */
    size_t step_count;
    size_t requests, texts, waves, wave_max, batch_max, bytes_max;
    char auth[64], base[64], path[64], model[64];
} fake;

static uint64_t fake_boot_ns(struct env *env)
{
    (void)env;
    return fake.now_ns;
}

static enum err_code fake_sleep_until(struct env *env, uint64_t boot_ns)
{
    (void)env;
    assert_true(boot_ns > fake.now_ns);
    fake.slept_ns += boot_ns - fake.now_ns;
    fake.now_ns = boot_ns;
    fake.sleeps++;
    return ERR_OK;
}

static void keep(char out[64], const char *text)
{
    (void)snprintf(out, 64, "%s", text == NULL ? "-" : text);
}

/* The last text first; a vector tells of its text: (length, first byte, 1, 0). */
static void answer_well(struct http_call *call)
{
    json_t *root = json_loadb(call->body, call->body_len, 0, NULL);
    json_t *input = json_object_get(root, "input");
    size_t count = json_array_size(input), bytes = 0;

    assert_non_null(root);
    assert_in_range(count, 1, EMBEDDER_BATCH_TEXTS_MAX);
    keep(fake.model, json_string_value(json_object_get(root, "model")));
    buffer_append_text(&call->reply, "{\"object\":\"list\",\"data\":[");
    for (size_t i = count; i-- > 0;) {
        json_t *text = json_array_get(input, i);
        size_t len = json_string_length(text);

        buffer_append_format(
            &call->reply,
            "%s{\"object\":\"embedding\",\"embedding\":[%zu,%d, 1.0,-0e0],\"index\":%zu}",
            i + 1 == count ? "" : ",", len, json_string_value(text)[0], i);
        bytes += len;
    }
    buffer_append_text(&call->reply, "],\"usage\":{\"total_tokens\":7}}");
    json_decref(root);
    fake.texts += count;
    fake.batch_max = count > fake.batch_max ? count : fake.batch_max;
    fake.bytes_max = bytes > fake.bytes_max ? bytes : fake.bytes_max;
    call->status = 200;
}

static void fake_gather(struct http_client *client, struct http_call *calls, size_t count,
                        uint64_t deadline_ns, const struct http_watcher *watcher)
{
    uint64_t took = NS_PER_MS;

    (void)client;
    (void)watcher;
    fake.waves++;
    fake.wave_max = count > fake.wave_max ? count : fake.wave_max;
    for (size_t i = 0; i < count; i++) {
        struct http_call *call = &calls[i];
        const struct step *step =
            fake.requests < fake.step_count ? &fake.steps[fake.requests] : NULL;

        fake.requests++;
        keep(fake.auth, call->authorization);
        keep(fake.base, call->base);
        keep(fake.path, call->path);
        assert_string_equal(call->method, "POST");
        if (step == NULL || (step->status == 0 && step->rc == ERR_OK && step->takes_ns == 0)) {
            answer_well(call);
        } else if (step->takes_ns >= deadline_ns - fake.now_ns) {
            call->rc = err_set(&call->err, ERR_TIMEOUT, "no answer in time");
            took = deadline_ns - fake.now_ns;
        } else if (step->rc != ERR_OK) {
            call->rc = err_set(&call->err, step->rc, "refused");
        } else {
            call->status = step->status;
            call->retry_after_s = step->retry_after_s;
            if (step->body != NULL)
                buffer_append_text(&call->reply, step->body);
        }
        assert_true(call->reply.len <= call->reply_max);
    }
    fake.now_ns += took;
}

static void fake_close(struct http_client *client)
{
    (void)client;
}

static const struct http_client_ops fake_ops = {.gather = fake_gather, .close = fake_close};

static struct embedders *open_list(const char *list, const char *cache, const struct step *steps,
                                   size_t step_count)
{
    struct embedders *embedders = NULL;
    struct err err = {0};

    fake = (struct fake){.client.ops = &fake_ops,
                         .env_ops = *env_real()->ops,
                         .now_ns = NS_PER_S,
                         .steps = steps,
                         .step_count = step_count};
    fake.env_ops.boot_ns = fake_boot_ns;
    fake.env_ops.sleep_until = fake_sleep_until;
    fake.env.ops = &fake.env_ops;
    if (embedders_open(
            &embedders,
            &(struct embedders_setup){
                .list = list, .cache_url = cache, .env = &fake.env, .client = &fake.client},
            &err) != ERR_OK)
        fail_msg("%s", err.message);
    return embedders;
}

static struct embedder *the_one(struct embedders *embedders)
{
    struct embedder *embedder = embedders_find(embedders, "small");

    assert_non_null(embedder);
    assert_int_equal(embedder_dimension(embedder), DIM);
    return embedder;
}

static void assert_vector_of(const float *vector, size_t len, char first)
{
    double norm = sqrt((double)len * (double)len + (double)first * first + 1);

    assert_true(fabs(vector[0] - (double)len / norm) < 1e-6);
    assert_true(fabs(vector[1] - first / norm) < 1e-6);
    assert_true(fabs(vector[2] - 1 / norm) < 1e-6);
    assert_true(vector[3] == 0);
}

static void vectors_go_to_the_texts_that_they_are_of(void **state)
{
    struct embedder_text texts[] = {
        {"b", 1}, {"aa", 2}, {"\"c\\\n\xc3\xa9", 6}, {"", 0}, {" \t\n", 3}};
    struct embedders *embedders = open_list(LIST, NULL, NULL, 0);
    float out[5 * DIM];
    struct err err = {0};

    (void)state;
    assert_int_equal(embedder_embed(the_one(embedders), texts, 5, DEADLINE, out, &err), ERR_OK);
    assert_vector_of(out, 1, 'b');
    assert_vector_of(out + DIM, 2, 'a');
    assert_vector_of(out + 2 * DIM, 6, '"');
    for (size_t i = 3; i < 5; i++) /* nobody is asked about nothing */
        assert_memory_equal(out + i * DIM, ((float[DIM]){1, 0, 0, 0}), sizeof(float[DIM]));
    assert_int_equal(fake.texts, 3);
    assert_int_equal(fake.requests, 1);
    assert_string_equal(fake.base, SERVER);
    assert_string_equal(fake.path, "/v1/embeddings");
    assert_string_equal(fake.model, "tiny-1");
    assert_string_equal(fake.auth, "-");
    assert_int_equal(embedder_embed(the_one(embedders), texts, 0, DEADLINE, out, &err), ERR_OK);
    assert_int_equal(embedder_embed(the_one(embedders), texts + 3, 2, 0, out, &err), ERR_OK);
    assert_int_equal(fake.requests, 1);
    embedders_close(embedders);
}

static void many_texts_travel_in_bounded_requests(void **state)
{
    enum { COUNT = 1000 };
    static char words[COUNT][8], large[EMBEDDER_BATCH_BYTES_MAX + 1];
    static struct embedder_text texts[COUNT];
    static float out[COUNT * DIM];
    struct embedders *embedders = open_list(LIST, "none:", NULL, 0);
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        (void)snprintf(words[i], sizeof(words[i]), "%c%zu", (char)('a' + i % 26), i);
        texts[i] = (struct embedder_text){words[i], strlen(words[i])};
    }
    assert_int_equal(embedder_embed(the_one(embedders), texts, COUNT, DEADLINE, out, &err), ERR_OK);
    for (size_t i = 0; i < COUNT; i++)
        assert_vector_of(out + i * DIM, texts[i].len, words[i][0]);
    assert_int_equal(fake.requests,
                     (COUNT + EMBEDDER_BATCH_TEXTS_MAX - 1) / EMBEDDER_BATCH_TEXTS_MAX);
    assert_int_equal(fake.wave_max, EMBEDDER_PARALLEL_MAX);
    assert_int_equal(fake.waves, 3);
    /* A text over the bound goes alone, and parts its neighbours. */
    memset(large, 'x', sizeof(large));
    texts[1] = (struct embedder_text){large, sizeof(large)};
    texts[3] = (struct embedder_text){large, sizeof(large) - 2};
    fake.requests = fake.bytes_max = 0;
    assert_int_equal(embedder_embed(the_one(embedders), texts, 5, DEADLINE, out, &err), ERR_OK);
    assert_int_equal(fake.requests, 5);
    assert_int_equal(fake.bytes_max, sizeof(large));
    embedders_close(embedders);
}

static void unchanged_text_is_embedded_once(void **state)
{
    struct embedder_text texts[] = {{"same", 4}, {"other!", 6}, {"same", 4}, {"same", 4}};
    struct embedders *embedders =
        open_list(LIST " big=" SERVER ";dimension=4;model=large-1", NULL, NULL, 0);
    float out[4 * DIM], again[4 * DIM];
    struct err err = {0};

    (void)state;
    assert_int_equal(embedder_embed(the_one(embedders), texts, 4, DEADLINE, out, &err), ERR_OK);
    assert_int_equal(fake.texts, 2);
    for (size_t i = 0; i < 4; i++)
        assert_vector_of(out + i * DIM, texts[i].len, texts[i].data[0]);
    assert_int_equal(embedder_embed(the_one(embedders), texts, 4, DEADLINE, again, &err), ERR_OK);
    assert_int_equal(fake.requests, 1);
    for (size_t i = 0; i < 4 * DIM; i++)
        assert_true(fabsf(out[i] - again[i]) < 1e-6f);
    /* Another model's vectors are others. */
    assert_int_equal(
        embedder_embed(embedders_find(embedders, "big"), texts, 4, DEADLINE, out, &err), ERR_OK);
    assert_int_equal(fake.requests, 2);
    assert_string_equal(fake.model, "large-1");
    embedders_close(embedders);
}

static enum err_code embed_one(const struct step *steps, size_t count, uint64_t within_ns,
                               struct err *err)
{
    struct embedders *embedders = open_list(LIST, NULL, steps, count);
    struct embedder_text text = {"word", 4};
    float out[DIM];
    enum err_code rc =
        embedder_embed(the_one(embedders), &text, 1, fake.now_ns + within_ns, out, err);

    if (rc == ERR_OK)
        assert_vector_of(out, 4, 'w');
    else
        assert_non_null(strstr(err->message, "embedder 'small'"));
    embedders_close(embedders);
    return rc;
}

static void what_may_pass_is_tried_again(void **state)
{
    static const struct step steps[] = {
        {.status = 429, .retry_after_s = 2},
        {.status = 500},
        {.rc = ERR_UNAVAILABLE},
        {.rc = ERR_IO},
        {.status = 503},
    };
    static const struct step hopeless[] = {{.status = 503}, {.status = 502}, {.status = 503},
                                           {.status = 504}, {.status = 408}, {.status = 500},
                                           {.status = 200}};
    struct err err = {0};

    (void)state;
    assert_int_equal(embed_one(steps, ARRAY_COUNT(steps), 60 * NS_PER_S, &err), ERR_OK);
    assert_int_equal(fake.requests, 6);
    assert_int_equal(fake.sleeps, 5);
    /* 2 s as told, then halves of 0.2, 0.4, 0.8, 1.6 s at least and the whole at most. */
    assert_in_range(fake.slept_ns, 2 * NS_PER_S + 1500 * NS_PER_MS,
                    2 * NS_PER_S + 3000 * NS_PER_MS);
    assert_int_equal(embed_one(hopeless, ARRAY_COUNT(hopeless), 60 * NS_PER_S, &err),
                     ERR_EMBEDDING_FAILED);
    assert_int_equal(fake.requests, EMBEDDER_ATTEMPTS_MAX);
    assert_non_null(strstr(err.message, "6 attempts"));
    assert_non_null(strstr(err.message, "status 500"));
}

static void nobody_waits_for_what_comes_too_late(void **state)
{
    static const struct step told[] = {{.status = 429, .retry_after_s = 60}};
    static const struct step slow[] = {{.takes_ns = 100 * NS_PER_S}, {.takes_ns = 100 * NS_PER_S}};
    struct err err = {0};

    (void)state;
    assert_int_equal(embed_one(told, 1, NS_PER_S, &err), ERR_EMBEDDING_FAILED);
    assert_int_equal(fake.sleeps, 0);
    assert_non_null(strstr(err.message, "status 429"));
    assert_int_equal(embed_one(slow, 2, NS_PER_S, &err), ERR_TIMEOUT);
    assert_int_equal(fake.requests, 1);
    assert_int_equal(fake.sleeps, 0);
    /* One attempt has its own limit, so that another can follow. */
    assert_int_equal(embed_one(slow, 1, 10 * NS_PER_S, &err), ERR_OK);
    assert_int_equal(fake.requests, 2);
    assert_int_equal(embed_one(NULL, 0, 0, &err), ERR_TIMEOUT);
    assert_int_equal(fake.requests, 0);
}

static void refusals_are_told_and_not_repeated(void **state)
{
    static const struct {
        struct step step;
        const char *told, *untold;
    } rows[] = {
        {{.status = 400, .body = "{\"error\":{\"type\":\"x\",\"message\":\"too many\\ntokens\"}}"},
         "status 400: too many tokens",
         "\n"},
        {{.status = 422, .body = "{\"error\":\"plain\"}"}, "status 422: plain", NULL},
        {{.status = 404, .body = "<html>no such page</html>"}, "status 404", "html"},
        {{.status = 401, .body = "{\"error\":{\"message\":\"bad key sk-1234\"}}"},
         "the key is not accepted",
         "sk-1234"},
        {{.status = 302, .body = ""}, "status 302", NULL},
        {{.status = 204}, "status 204", NULL},
        {{.rc = ERR_PAYLOAD_TOO_LARGE}, "refused", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct err err = {0};

        assert_int_equal(embed_one(&rows[i].step, 1, 10 * NS_PER_S, &err), ERR_EMBEDDING_FAILED);
        assert_int_equal(fake.requests, 1);
        if (strstr(err.message, rows[i].told) == NULL)
            fail_msg("%s", err.message);
        if (rows[i].untold != NULL)
            assert_null(strstr(err.message, rows[i].untold));
    }
}

#define ELEMENT(vector, index) "{\"embedding\":" vector ",\"index\":" index "}"
#define DATA(elements)         "{\"data\":[" elements "]}"

static void only_vectors_are_believed(void **state)
{
    static const char *const bad[] = {
        "",
        "<html></html>",
        "[]",
        "{}",
        "{\"data\":{}}",
        "{\"data\":null}",
        DATA(""),
        DATA("7"),
        DATA("{}"),
        DATA(ELEMENT("[1,2,3]", "0")),
        DATA(ELEMENT("[1,2,3,4,5]", "0")),
        DATA(ELEMENT("[]", "0")),
        DATA(ELEMENT("[1,2,3,NaN]", "0")),
        DATA(ELEMENT("[1,2,3,1e400]", "0")),
        DATA(ELEMENT("[1,2,3,\"4\"]", "0")),
        DATA(ELEMENT("[1,2,3,null]", "0")),
        DATA(ELEMENT("[0,0,0,0]", "0")),
        DATA(ELEMENT("\"AACAPw==\"", "0")),
        DATA(ELEMENT("[1,2,3,4]", "1")),
        DATA(ELEMENT("[1,2,3,4]", "-1")),
        DATA(ELEMENT("[1,2,3,4]", "0.5")),
        DATA(ELEMENT("[1,2,3,4]", "18446744073709551616")),
        DATA("{\"embedding\":[1,2,3,4]}"),
        DATA("{\"index\":0}"),
        DATA(ELEMENT("[1,2,3,4]", "0") "," ELEMENT("[1,2,3,4]", "0")),
        DATA(ELEMENT("[1,2,3,4]", "0") "," ELEMENT("[1,2,3,4]", "1")),
        DATA(ELEMENT("[1,2,3,4]", "0")) "x",
        DATA(ELEMENT("[1,2,3,4]", "0")) "{}",
        "{\"data\":[" ELEMENT("[1,2,3,4]", "0"),
    };
    static const struct step tiny = {.status = 200, .body = DATA(ELEMENT("[4e-45,0,0,0]", "0"))};
    static const struct step huge = {.status = 200,
                                     .body = DATA(ELEMENT("[3e38,3e38,-3e38,3e38]", "0"))};
    struct embedder_text text = {"word", 4};
    float out[DIM];
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct step step = {.status = 200, .body = bad[i]};
        enum err_code rc = embed_one(&step, 1, 10 * NS_PER_S, &err);

        if (rc != ERR_EMBEDDING_FAILED || fake.requests != 1)
            fail_msg("%s: %d %s", bad[i], (int)rc, err.message);
    }
    /* Far from unit norm is fine: the front asserts what comes of it. */
    for (int i = 0; i < 2; i++) {
        struct embedders *embedders = open_list(LIST, NULL, i == 0 ? &tiny : &huge, 1);

        assert_int_equal(embedder_embed(the_one(embedders), &text, 1, DEADLINE, out, &err), ERR_OK);
        assert_true(fabs(fabs((double)out[0]) - (i == 0 ? 1 : 0.5)) < 1e-6);
        embedders_close(embedders);
    }
}

static void what_was_answered_is_kept_when_the_rest_fails(void **state)
{
    enum { COUNT = 2 * EMBEDDER_BATCH_TEXTS_MAX };
    static const struct step steps[] = {{.status = 400}, {.status = 0}};
    static char words[COUNT][8];
    static struct embedder_text texts[COUNT];
    static float out[COUNT * DIM];
    struct embedders *embedders = open_list(LIST, NULL, steps, ARRAY_COUNT(steps));
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < COUNT; i++) {
        (void)snprintf(words[i], sizeof(words[i]), "w%zu", i);
        texts[i] = (struct embedder_text){words[i], strlen(words[i])};
    }
    assert_int_equal(embedder_embed(the_one(embedders), texts, COUNT, DEADLINE, out, &err),
                     ERR_EMBEDDING_FAILED);
    assert_int_equal(fake.texts, EMBEDDER_BATCH_TEXTS_MAX);
    assert_int_equal(embedder_embed(the_one(embedders), texts, COUNT, DEADLINE, out, &err), ERR_OK);
    assert_int_equal(fake.texts, COUNT);
    for (size_t i = 0; i < COUNT; i++)
        assert_vector_of(out + i * DIM, texts[i].len, 'w');
    embedders_close(embedders);
}

static void keys_come_from_files(void **state)
{
    static const struct {
        const char *content;
        bool good;
    } rows[] = {{"sk-Abc_123\n", true}, {"sk-Abc_123", true}, {"", false},          {"\n\n", false},
                {"two words", false},   {"a\nb", false},      {"k\xc3\xa9y", false}};
    char path[] = "/tmp/vicinal-key-XXXXXX", list[160];
    int fd = mkstemp(path);
    struct embedder_text text = {"word", 4};
    float out[DIM];

    (void)state;
    assert_true(fd >= 0);
    (void)close(fd);
    (void)snprintf(list, sizeof(list), "small=https://embed.test/x/y?z=1;dimension=4;key_file=%s",
                   path);
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        FILE *file = fopen(path, "we");
        struct embedders *embedders = NULL;
        struct err err = {0};

        assert_non_null(file);
        assert_true(fputs(rows[i].content, file) >= 0 && fclose(file) == 0);
        if (rows[i].good) {
            embedders = open_list(list, NULL, NULL, 0);
            assert_int_equal(embedder_embed(the_one(embedders), &text, 1, DEADLINE, out, &err),
                             ERR_OK);
            assert_string_equal(fake.auth, "Bearer sk-Abc_123");
            assert_string_equal(fake.base, "https://embed.test");
            assert_string_equal(fake.path, "/x/y?z=1");
            assert_string_equal(fake.model, "small");
            embedders_close(embedders);
            continue;
        }
        assert_int_equal(
            embedders_open(
                &embedders,
                &(struct embedders_setup){.list = list, .env = env_real(), .client = &fake.client},
                &err),
            ERR_CONFIG);
        assert_null(strstr(err.message, "words"));
    }
    (void)unlink(path);
}

static void lists_are_checked_whole(void **state)
{
    static const char *const bad[] = {
        "small",
        "small=",
        "=http://h;dimension=4",
        "Small=http://h;dimension=4",
        "none=http://h;dimension=4",
        "hash=http://h;dimension=4",
        "hash:384=http://h;dimension=4",
        "small=http://h",
        "small=http://h;dimension=0",
        "small=http://h;dimension=8193",
        "small=http://h;dimension=4x",
        "small=http://h;dimension",
        "small=http://h;dimension=",
        "small=http://h;dimension=4;colour=red",
        "small=http://h;dimension=4;timeout_ms=0",
        "small=http://h;dimension=4;",
        "small=h;dimension=4",
        "small=ftp://h;dimension=4",
        "small=file:///etc/passwd;dimension=4",
        "small=http:h;dimension=4",
        "small=http://;dimension=4",
        "small=http:///x;dimension=4",
        "small=http://user:word@h/x;dimension=4",
        "small=http://h/x#y;dimension=4",
        "small=http://h/\"x;dimension=4",
        "small=http://h;dimension=4;key_file=/nowhere/at/all",
        "small=http://h;dimension=4,small=http://i;dimension=4",
        "hash:385",
    };
    struct embedders *embedders;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct err err = {0};
        struct embedders_setup setup = {.list = bad[i], .env = env_real(), .client = &fake.client};

        embedders = (struct embedders *)&state;
        if (embedders_open(&embedders, &setup, &err) != ERR_CONFIG ||
            strncmp(err.message, "--embedders: ", 13) != 0)
            fail_msg("%s: %s", bad[i], err.message);
        assert_null(embedders);
    }
    embedders =
        open_list(" a=http://h/v1/embeddings;dimension=3,\n b=http://[::1]:8;dimension=8192 ,",
                  "none:", NULL, 0);
    assert_string_equal(embedders_names(embedders), "a, b");
    assert_int_equal(embedder_dimension(embedders_find(embedders, "b")), 8192);
    assert_int_equal(embedder_dimension(embedders_find(embedders, "hash:384")), 384);
    assert_null(embedders_find(embedders, "c"));
    assert_null(embedders_find(embedders, ""));
    embedders_close(embedders);
    embedders = open_list(NULL, NULL, NULL, 0);
    assert_string_equal(embedders_names(embedders), "none");
    assert_null(embedders_find(embedders, "http://h"));
    embedders_close(embedders);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_go_to_the_texts_that_they_are_of),
        cmocka_unit_test(many_texts_travel_in_bounded_requests),
        cmocka_unit_test(unchanged_text_is_embedded_once),
        cmocka_unit_test(what_may_pass_is_tried_again),
        cmocka_unit_test(nobody_waits_for_what_comes_too_late),
        cmocka_unit_test(refusals_are_told_and_not_repeated),
        cmocka_unit_test(only_vectors_are_believed),
        cmocka_unit_test(what_was_answered_is_kept_when_the_rest_fails),
        cmocka_unit_test(keys_come_from_files),
        cmocka_unit_test(lists_are_checked_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
