/* .npy files: what is read, and what is refused and why. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/npy.h"

struct file {
    unsigned char bytes[1024];
    size_t size;
};

/* Version 1 or 2 with this header and so many bytes of data: 0, 1, 2 ... */
static struct file make(unsigned version, const char *header, size_t data)
{
    struct file file = {.bytes = {0x93, 'N', 'U', 'M', 'P', 'Y'}};
    size_t len = strlen(header);

    file.bytes[6] = (unsigned char)version;
    file.bytes[8] = (unsigned char)(len & 0xff);
    file.bytes[9] = (unsigned char)(len >> 8);
    file.size = version == 1 ? 10 : 12;
    memcpy(file.bytes + file.size, header, len);
    file.size += len;
    for (size_t i = 0; i < data; i++)
        file.bytes[file.size++] = (unsigned char)i;
    return file;
}

static enum err_code parse(const struct file *file, struct npy *npy)
{
    struct err err;
    unsigned char *exact = malloc(file->size == 0 ? 1 : file->size);

    assert_non_null(exact);
    memcpy(exact, file->bytes, file->size);
    enum err_code code = npy_parse(exact, file->size, npy, &err);
    free(exact); /* only the code and the numbers are looked at */
    return code;
}

#define GOOD "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n"

static void good_headers_are_read(void **state)
{
    static const struct {
        unsigned version;
        const char *header;
        size_t data;
        enum npy_type type;
    } cases[] = {
        {1, GOOD, 24, NPY_FLOAT32},
        {2, GOOD, 24, NPY_FLOAT32},
        {3, GOOD, 24, NPY_FLOAT32},
        {1, "{'shape':(2,3),'descr':'<f2','fortran_order':False}", 12, NPY_FLOAT16},
        {1, "{'descr': '<i4', 'shape': (2, 3,), 'fortran_order': False, }", 24, NPY_INT32},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct npy npy;
        struct file file = make(cases[i].version, cases[i].header, cases[i].data);

        assert_int_equal(parse(&file, &npy), ERR_OK);
        assert_int_equal(npy.type, cases[i].type);
        assert_int_equal(npy.rows, 2);
        assert_int_equal(npy.cols, 3);
    }
}

static void bad_files_are_refused(void **state)
{
    static const struct {
        const char *header;
        size_t data;
    } cases[] = {
        {"", 24},
        {"{}", 24},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } x", 24},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), ", 24},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }", 48},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", 24},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 24},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", 24},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }", 24},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0), }", 0},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-2, 3), }", 24},
        {"{'descr': '<f4', 'descr': '<f4', 'shape': (2, 3), }", 24},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'more': 1, }", 24},
        {"{'descr': '<f4' 'fortran_order': False, 'shape': (2, 3), }", 24},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 3), }", 24},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }", 0},
        {GOOD, 23},
        {GOOD, 25},
    };
    struct npy npy;

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct file file = make(1, cases[i].header, cases[i].data);
        assert_int_equal(parse(&file, &npy), ERR_INVALID_ARGUMENT);
        assert_null(npy.data);
    }
    struct file file = make(4, GOOD, 24);
    assert_int_equal(parse(&file, &npy), ERR_INVALID_ARGUMENT);
}

static void every_cut_is_refused(void **state)
{
    struct file file = make(1, GOOD, 24);
    struct npy npy;

    (void)state;
    for (size_t size = file.size; size-- > 0;) {
        file.size = size;
        assert_int_equal(parse(&file, &npy), ERR_INVALID_ARGUMENT);
    }
}

static void rows_are_converted(void **state)
{
    static const struct {
        uint16_t bits;
        float value;
    } halves[] = {{0x3c00, 1.0f},     {0xc000, -2.0f},          {0x0001, 0x1p-24f},
                  {0x8000, -0.0f},    {0x7bff, 65504.0f},       {0x03ff, 1023 * 0x1p-24f},
                  {0x0400, 0x1p-14f}, {0x3555, 0.333251953125f}};
    unsigned char bytes[8] = {0, 0x3c, 0, 0xc0, 1, 0, 0xff, 0x7b};
    struct npy npy = {.type = NPY_FLOAT16, .rows = 2, .cols = 2, .data = bytes};
    float row[2];
    int32_t numbers[2];

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(halves); i++) {
        assert_true(npy_half(halves[i].bits) == halves[i].value);
        assert_int_equal(signbit(npy_half(halves[i].bits)) != 0, signbit(halves[i].value) != 0);
    }
    assert_true(isinf(npy_half(0x7c00)) && isnan(npy_half(0x7e00)));
    npy_row_f32(&npy, 0, row);
    assert_true(row[0] == 1.0f && row[1] == -2.0f);
    npy_row_f32(&npy, 1, row);
    assert_true(row[0] == 0x1p-24f && row[1] == 65504.0f);
    npy = (struct npy){.type = NPY_INT32, .rows = 1, .cols = 2, .data = bytes};
    npy_row_i32(&npy, 0, numbers);
    assert_int_equal(numbers[0], (int32_t)0xc0003c00u);
    npy_row_f32(&npy, 0, row);
    assert_true(row[1] == (float)numbers[1]);
}

static void files_are_mapped_and_closed(void **state)
{
    char path[] = "npy-test-XXXXXX";
    struct file file = make(1, GOOD, 24);
    struct npy npy;
    struct err err;
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(npy_open(path, &npy, &err), ERR_INVALID_ARGUMENT); /* empty */
    assert_int_equal(write(fd, file.bytes, file.size), (long)file.size);
    assert_int_equal(npy_open(path, &npy, &err), ERR_OK);
    assert_int_equal(npy.data[5], 5);
    npy_close(&npy);
    npy_close(&npy);
    (void)close(fd);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(npy_open(path, &npy, &err), ERR_IO);
    assert_int_equal(npy_open("/", &npy, &err), ERR_INVALID_ARGUMENT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_headers_are_read),       cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(every_cut_is_refused),        cmocka_unit_test(rows_are_converted),
        cmocka_unit_test(files_are_mapped_and_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
