/* Collections: what a client may ask for, what the log keeps, and which two are one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "common/model/collection.h"

static struct collection docs(void)
{
    static const char body[] = "{\"vector\":{\"dimension\":384}}";
    struct collection collection = {0};
    struct err err = {0};

    assert_int_equal(collection_from_request(&collection, body, strlen(body), &err), ERR_OK);
    memcpy(collection.tenant, "default", 8);
    memcpy(collection.name, "docs", 5);
    collection.created = (struct stamp){100, 9};
    collection.schema = (struct stamp){200, 9};
    collection_fill(&collection);
    collection_identify(&collection);
    return collection;
}

static void check_incarnation(const struct collection *collection, const char *hex)
{
    char got[2 * INCARNATION_BYTES + 1];

    text_hex_encode(got, collection->incarnation, INCARNATION_BYTES);
    assert_string_equal(got, hex);
}

static void incarnations_are_frozen(void **state)
{
    struct collection collection = docs();

    (void)state;
    check_incarnation(&collection, "6ed2a3542a401037c4cc2e008f8de79f");
    collection.generation = 1;
    collection_identify(&collection);
    check_incarnation(&collection, "747238a490a92f96da5da8078a9a4833");
}

static void what_is_stored_does_not_change_an_incarnation(void **state)
{
    struct collection a = docs();
    struct collection b = docs();

    (void)state;
    b.created.clock = 7;
    b.m = 32;
    collection_identify(&b);
    assert_memory_equal(a.incarnation, b.incarnation, INCARNATION_BYTES);
    /* Parts are told apart: "ab" + "c" is not "a" + "bc". */
    memcpy(a.tenant, "ab", 3);
    memcpy(a.name, "c", 2);
    memcpy(b.tenant, "a", 2);
    memcpy(b.name, "bc", 3);
    collection_identify(&a);
    collection_identify(&b);
    assert_memory_not_equal(a.incarnation, b.incarnation, INCARNATION_BYTES);
}

static void requests_have_defaults(void **state)
{
    static const char full[] =
        "{\"vector\":{\"dimension\":384,\"metric\":\"l2\"},\"index\":{\"kind\":\"flat\",\"m\":4,"
        "\"ef_construction\":2000,\"code_bits\":1},\"embedder\":\"hash\",\"placement\":\"hash\"}";
    struct collection collection = docs();
    struct err err = {0};

    (void)state;
    assert_int_equal(collection.dimension, 384);
    assert_int_equal(collection.metric, METRIC_COSINE);
    assert_int_equal(collection.index, INDEX_HNSW);
    assert_int_equal(collection.m, HNSW_M_DEFAULT);
    assert_int_equal(collection.ef_construction, HNSW_EF_CONSTRUCTION_DEFAULT);
    assert_int_equal(collection.code_bits, 0);
    assert_string_equal(collection.embedder, "");
    assert_int_equal(collection_from_request(&collection, full, strlen(full), &err), ERR_OK);
    assert_int_equal(collection.metric, METRIC_L2);
    assert_int_equal(collection.index, INDEX_FLAT);
    assert_int_equal(collection.m, 4);
    assert_int_equal(collection.ef_construction, 2000);
    assert_int_equal(collection.code_bits, 1);
    assert_string_equal(collection.embedder, "hash:384");
    assert_int_equal(collection_from_request(&collection, "{\"embedder\":\"hash\"}", 19, &err),
                     ERR_OK);
    assert_int_equal(collection.dimension, 384);
    /* A configured one knows its dimension: whoever knows the configuration fills it in. */
    assert_int_equal(collection_from_request(&collection, "{\"embedder\":\"bge-m3\"}", 21, &err),
                     ERR_OK);
    assert_string_equal(collection.embedder, "bge-m3");
    assert_int_equal(collection.dimension, 0);
}

struct bad_row {
    const char *body, *pointer;
    enum err_code code;
};

static void bad_requests_are_refused_by_their_place(void **state)
{
    static const struct bad_row rows[] = {
        {"", "", ERR_INVALID_JSON},
        {"{", "", ERR_INVALID_JSON},
        {"{\"vector\":{\"dimension\":4}} x", "", ERR_INVALID_JSON},
        {"[]", "", ERR_INVALID_ARGUMENT},
        {"{}", "/vector/dimension", ERR_INVALID_ARGUMENT},
        {"{\"vector\":7}", "/vector", ERR_INVALID_ARGUMENT},
        {"{\"vector\":{\"dimension\":0}}", "/vector/dimension", ERR_INVALID_ARGUMENT},
        {"{\"vector\":{\"dimension\":8193}}", "/vector/dimension", ERR_INVALID_ARGUMENT},
        {"{\"vector\":{\"dimension\":1.5}}", "/vector/dimension", ERR_INVALID_ARGUMENT},
        {"{\"vector\":{\"dimension\":\"4\"}}", "/vector/dimension", ERR_INVALID_ARGUMENT},
        {"{\"vector\":{\"metric\":\"hamming\"}}", "/vector/metric", ERR_INVALID_ARGUMENT},
        {"{\"vector\":{\"dim\":4}}", "/vector/dim", ERR_UNKNOWN_FIELD},
        {"{\"index\":{\"m\":3}}", "/index/m", ERR_INVALID_ARGUMENT},
        {"{\"index\":{\"m\":65}}", "/index/m", ERR_INVALID_ARGUMENT},
        {"{\"index\":{\"ef_construction\":7}}", "/index/ef_construction", ERR_INVALID_ARGUMENT},
        {"{\"index\":{\"code_bits\":0}}", "/index/code_bits", ERR_INVALID_ARGUMENT},
        {"{\"index\":{\"code_bits\":3}}", "/index/code_bits", ERR_INVALID_ARGUMENT},
        {"{\"index\":{\"code_bits\":16}}", "/index/code_bits", ERR_INVALID_ARGUMENT},
        {"{\"index\":{\"kind\":\"ivf\"}}", "/index/kind", ERR_INVALID_ARGUMENT},
        {"{\"a/b~\":1}", "/a~1b~0", ERR_UNKNOWN_FIELD},
        {"{\"embedder\":\"BERT\"}", "/embedder", ERR_INVALID_ARGUMENT},
        {"{\"embedder\":\"-bert\"}", "/embedder", ERR_INVALID_ARGUMENT},
        {"{\"embedder\":\"hash:385\"}", "/embedder", ERR_INVALID_ARGUMENT},
        {"{\"embedder\":\"\"}", "/embedder", ERR_INVALID_ARGUMENT},
        {"{\"embedder\":\"none\"}", "/vector/dimension", ERR_INVALID_ARGUMENT},
        {"{\"embedder\":\"https://x/v1\"}", "/embedder", ERR_NOT_SUPPORTED},
        {"{\"embedder\":{\"url\":\"x\"}}", "/embedder", ERR_NOT_SUPPORTED},
        {"{\"embedder\":\"hash\",\"vector\":{\"dimension\":4}}", "/vector/dimension",
         ERR_INVALID_ARGUMENT},
        {"{\"placement\":\"centroid\"}", "/placement", ERR_NOT_SUPPORTED},
        {"{\"placement\":\"near\"}", "/placement", ERR_INVALID_ARGUMENT},
        {"{\"sparse\":{}}", "/sparse", ERR_NOT_SUPPORTED},
        {"{\"text_fields\":[]}", "/text_fields", ERR_NOT_SUPPORTED},
        {"{\"indexed_fields\":{}}", "/indexed_fields", ERR_NOT_SUPPORTED},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(rows); i++) {
        struct collection collection = {.m = 77};
        struct err err = {0};
        enum err_code rc =
            collection_from_request(&collection, rows[i].body, strlen(rows[i].body), &err);

        if (rc != rows[i].code || strcmp(err.pointer, rows[i].pointer) != 0)
            print_message("%s: %d %s %s\n", rows[i].body, (int)rc, err.pointer, err.message);
        assert_int_equal(rc, rows[i].code);
        assert_string_equal(err.pointer, rows[i].pointer);
        assert_int_equal(collection.m, 77);
    }
}

static void names_are_checked(void **state)
{
    static const char *const bad[] = {"", "_a", ".a", "-a", "a/b", "a b", "\xc3\xa9", "a\n"};
    char name[COLLECTION_NAME_BYTES_MAX + 2];

    (void)state;
    memset(name, 'a', sizeof(name));
    assert_int_equal(collection_check_name("a", 1, NULL), ERR_OK);
    assert_int_equal(collection_check_name("0A_.-z", 6, NULL), ERR_OK);
    assert_int_equal(collection_check_name(name, COLLECTION_NAME_BYTES_MAX, NULL), ERR_OK);
    assert_int_equal(collection_check_name(name, COLLECTION_NAME_BYTES_MAX + 1, NULL),
                     ERR_INVALID_ARGUMENT);
    assert_int_equal(collection_check_name("a\0b", 3, NULL), ERR_INVALID_ARGUMENT);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_int_equal(collection_check_name(bad[i], strlen(bad[i]), NULL), ERR_INVALID_ARGUMENT);
}

static void what_the_log_keeps_comes_back(void **state)
{
    static const char wanted[] =
        "{\"change\":\"drop\",\"tenant\":\"default\",\"name\":\"docs\",\"generation\":3,"
        "\"dimension\":384,\"metric\":\"cosine\",\"placement\":\"hash\",\"index\":{\"kind\":"
        "\"hnsw\",\"m\":16,\"ef_construction\":150},\"embedder\":\"\",\"created\":\"100-9\","
        "\"schema\":\"200-9\"}";
    static const char newer[] =
        "{\"x\":[{}],\"change\":\"alter\",\"tenant\":\"t\",\"name\":\"n\",\"generation\":0,"
        "\"dimension\":1,\"metric\":\"ip\",\"placement\":\"hash\",\"index\":{\"y\":1,\"kind\":"
        "\"flat\",\"m\":4,\"ef_construction\":8},\"embedder\":\"hash:384\",\"created\":\"1-1\","
        "\"schema\":\"2-1\"}";
    struct collection collection = docs();
    struct collection read;
    enum collection_change change = COLLECTION_CREATE;
    struct buffer out = {0};
    struct err err = {0};

    (void)state;
    collection.generation = 3;
    collection.dropped = true;
    collection_identify(&collection);
    collection_encode(&collection, COLLECTION_DROP, &out);
    assert_int_equal(out.len, strlen(wanted));
    assert_memory_equal(out.data, wanted, out.len);
    assert_int_equal(collection_decode(&read, &change, out.data, out.len, &err), ERR_OK);
    assert_int_equal(change, COLLECTION_DROP);
    assert_memory_equal(&read, &collection, sizeof(read));
    for (size_t i = 0; i < out.len; i++)
        assert_int_equal(collection_decode(&read, &change, out.data, i, &err), ERR_CORRUPT);
    assert_int_equal(collection_decode(&read, &change, newer, strlen(newer), &err), ERR_OK);
    assert_int_equal(change, COLLECTION_ALTER);
    assert_int_equal(read.metric, METRIC_IP);
    assert_int_equal(read.code_bits, 0);
    assert_false(read.dropped);
    out.len = 0;
    collection.code_bits = 2;
    collection_encode(&collection, COLLECTION_ALTER, &out);
    assert_int_equal(collection_decode(&read, &change, out.data, out.len, &err), ERR_OK);
    assert_int_equal(read.code_bits, 2);
    buffer_free(&out);
}

static void damaged_definitions_are_refused(void **state)
{
    struct collection collection = docs();
    struct buffer out = {0};

    (void)state;
    collection_encode(&collection, COLLECTION_CREATE, &out);
    for (size_t i = 0; i < out.len; i++) {
        static const char others[] = "\"{}[]:,0x\\ ";
        uint8_t kept = out.data[i];

        for (size_t j = 0; j < strlen(others); j++) {
            enum collection_change change;
            struct collection read;
            struct err err = {0};

            out.data[i] = (uint8_t)others[j];
            if (collection_decode(&read, &change, out.data, out.len, &err) != ERR_OK)
                assert_int_equal(err.code, ERR_CORRUPT);
        }
        out.data[i] = kept;
    }
    buffer_free(&out);
}

static void definitions_are_compared_whole(void **state)
{
    struct collection a = docs();
    struct collection b = docs();

    (void)state;
    b.created.clock++;
    b.schema.clock++;
    b.generation++;
    assert_true(collection_is_as_wanted(&a, &b));
    b.code_bits++;
    assert_false(collection_is_as_wanted(&a, &b));
    b = a;
    b.m++;
    assert_false(collection_is_as_wanted(&a, &b));
    b.m--;
    b.metric = METRIC_IP;
    assert_false(collection_is_as_wanted(&a, &b));
}

static void what_a_request_leaves_open_is_as_wanted(void **state)
{
    static const char open[] = "{\"vector\":{\"dimension\":384}}";
    struct collection there = docs(), wanted;
    struct err err = {0};

    (void)state;
    there.m = 32;
    there.ef_construction = 77;
    there.code_bits = 8;
    assert_int_equal(collection_from_request(&wanted, open, strlen(open), &err), ERR_OK);
    memcpy(wanted.tenant, there.tenant, sizeof(wanted.tenant));
    memcpy(wanted.name, there.name, sizeof(wanted.name));
    assert_true(collection_is_as_wanted(&there, &wanted));
    wanted.ef_construction = 78;
    assert_false(collection_is_as_wanted(&there, &wanted));
}

static void clients_see_the_definition(void **state)
{
    static const char wanted[] =
        "{\"name\":\"docs\",\"vector\":{\"dimension\":384,\"metric\":\"cosine\"},\"index\":"
        "{\"kind\":\"hnsw\",\"m\":16,\"ef_construction\":150},\"embedder\":\"none\","
        "\"placement\":\"hash\",\"version\":\"200-9\"}";
    struct collection collection = docs();
    struct json_writer w;
    struct buffer out = {0};

    (void)state;
    json_writer_init(&w, &out);
    json_begin_object(&w);
    collection_write(&collection, &w);
    json_end_object(&w);
    assert_int_equal(out.len, strlen(wanted));
    assert_memory_equal(out.data, wanted, out.len);
    buffer_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(incarnations_are_frozen),
        cmocka_unit_test(what_is_stored_does_not_change_an_incarnation),
        cmocka_unit_test(requests_have_defaults),
        cmocka_unit_test(bad_requests_are_refused_by_their_place),
        cmocka_unit_test(names_are_checked),
        cmocka_unit_test(what_the_log_keeps_comes_back),
        cmocka_unit_test(damaged_definitions_are_refused),
        cmocka_unit_test(definitions_are_compared_whole),
        cmocka_unit_test(what_a_request_leaves_open_is_as_wanted),
        cmocka_unit_test(clients_see_the_definition),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
