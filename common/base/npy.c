/* Reading .npy files.
 *
 * Happy path: map the file, read magic, version and header length, parse the header, a Python
 * dictionary of exactly three keys, by a small scanner, and compare the size it implies with the
 * file's.  Failure: anything else than what npy.h names is refused with the reason; every length
 * is bounded by the bytes that are there, and the size is computed with overflow checks.
 * A file that is cut short while it is mapped ends the process by SIGBUS: do not do that. */
#include "common/base/npy.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"

#define HEADER_BYTES_MAX ((size_t)65536)
#define COLS_MAX         ((uint64_t)1 << 24)

struct scanner {
    const unsigned char *at;
    const unsigned char *end;
};

static void skip_blanks(struct scanner *scanner)
{
    while (scanner->at < scanner->end &&
           (*scanner->at == ' ' || *scanner->at == '\n' || *scanner->at == '\t'))
        scanner->at++;
}

static bool take(struct scanner *scanner, const char *token)
{
    size_t len = strlen(token);

    skip_blanks(scanner);
    if ((size_t)(scanner->end - scanner->at) < len || memcmp(scanner->at, token, len) != 0)
        return false;
    scanner->at += len;
    return true;
}

static bool take_number(struct scanner *scanner, uint64_t *number)
{
    uint64_t value = 0;

    skip_blanks(scanner);
    const unsigned char *begin = scanner->at;
    while (scanner->at < scanner->end && *scanner->at >= '0' && *scanner->at <= '9') {
        if (!checked_mul(value, 10u, &value) ||
            !checked_add(value, (uint64_t)(*scanner->at - '0'), &value))
            return false;
        scanner->at++;
    }
    *number = value;
    return scanner->at > begin;
}

static bool take_type(struct scanner *scanner, enum npy_type *type)
{
    static const struct {
        const char *word;
        enum npy_type type;
    } types[] = {{"'<f2'", NPY_FLOAT16}, {"'<f4'", NPY_FLOAT32}, {"'<i4'", NPY_INT32}};

    for (size_t i = 0; i < ARRAY_COUNT(types); i++) {
        if (take(scanner, types[i].word)) {
            *type = types[i].type;
            return true;
        }
    }
    return false;
}

static bool take_shape(struct scanner *scanner, uint64_t *rows, uint64_t *cols)
{
    if (!take(scanner, "(") || !take_number(scanner, rows) || !take(scanner, ",") ||
        !take_number(scanner, cols))
        return false;
    (void)take(scanner, ",");
    return take(scanner, ")");
}

/* {'descr': '<f2', 'fortran_order': False, 'shape': (3, 4), } with the keys in any order. */
static enum err_code parse_header(struct scanner scanner, struct npy *npy, struct err *err)
{
    unsigned keys = 0;
    uint64_t cols = 0;

    if (!take(&scanner, "{"))
        return err_set(err, ERR_INVALID_ARGUMENT, "npy: the header is no dictionary");
    while (!take(&scanner, "}")) {
        unsigned key = 0;

        if (take(&scanner, "'descr'")) {
            key = 1;
            if (!take(&scanner, ":") || !take_type(&scanner, &npy->type))
                return err_set(err, ERR_INVALID_ARGUMENT, "npy: the type is none of <f2, <f4, <i4");
        } else if (take(&scanner, "'fortran_order'")) {
            key = 2;
            if (!take(&scanner, ":") || !take(&scanner, "False"))
                return err_set(err, ERR_INVALID_ARGUMENT, "npy: the order is not C order");
        } else if (take(&scanner, "'shape'")) {
            key = 4;
            if (!take(&scanner, ":") || !take_shape(&scanner, &npy->rows, &cols))
                return err_set(err, ERR_INVALID_ARGUMENT, "npy: not two dimensions");
        }
        if (key == 0 || (keys & key) != 0)
            return err_set(err, ERR_INVALID_ARGUMENT, "npy: the header has an unexpected key");
        keys |= key;
        if (!take(&scanner, ",") && (scanner.at >= scanner.end || *scanner.at != '}'))
            return err_set(err, ERR_INVALID_ARGUMENT, "npy: the header is malformed");
    }
    skip_blanks(&scanner);
    if (keys != 7 || scanner.at != scanner.end)
        return err_set(err, ERR_INVALID_ARGUMENT, "npy: the header is malformed");
    if (cols < 1 || cols > COLS_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "npy: the number of columns is not allowed");
    npy->cols = (uint32_t)cols;
    return ERR_OK;
}

static size_t type_bytes(enum npy_type type)
{
    return type == NPY_FLOAT16 ? 2 : 4;
}

static enum err_code parse_head(const unsigned char *bytes, size_t size, struct npy *npy,
                                struct err *err)
{
    static const unsigned char magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    size_t prefix = 10;
    size_t header;

    if (size < 12 || memcmp(bytes, magic, sizeof(magic)) != 0)
        return err_set(err, ERR_INVALID_ARGUMENT, "npy: not an .npy file");
    if (bytes[6] < 1 || bytes[6] > 3)
        return err_set(err, ERR_INVALID_ARGUMENT, "npy: version %u is not known", bytes[6]);
    header = bytes[8] | (size_t)bytes[9] << 8;
    if (bytes[6] > 1) {
        prefix = 12;
        header |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    }
    if (header > HEADER_BYTES_MAX || header > size - prefix)
        return err_set(err, ERR_INVALID_ARGUMENT, "npy: the header is cut or too long");
    if (parse_header((struct scanner){bytes + prefix, bytes + prefix + header}, npy, err) != ERR_OK)
        return err->code;
    npy->data = bytes + prefix + header;
    return ERR_OK;
}

static bool data_bytes(const struct npy *npy, uint64_t *out)
{
    return checked_mul(npy->rows, (uint64_t)npy->cols, out) &&
           checked_mul(*out, type_bytes(npy->type), out);
}

static enum err_code parse(const unsigned char *bytes, size_t size, struct npy *npy,
                           struct err *err)
{
    enum err_code code = parse_head(bytes, size, npy, err);
    uint64_t wanted;

    if (code == ERR_OK &&
        (!data_bytes(npy, &wanted) || wanted != size - (size_t)(npy->data - bytes)))
        return err_set(err, ERR_INVALID_ARGUMENT,
                       "npy: the file's size is not what its header says");
    return code;
}

enum err_code npy_parse_head(const unsigned char *bytes, size_t size, struct npy *npy,
                             struct err *err)
{
    struct err local;
    uint64_t wanted;
    enum err_code code;

    *npy = (struct npy){0};
    code = parse_head(bytes, size, npy, err != NULL ? err : &local);
    if (code == ERR_OK && !data_bytes(npy, &wanted))
        code = err_set(err, ERR_INVALID_ARGUMENT, "npy: more rows than there can be");
    if (code != ERR_OK)
        *npy = (struct npy){0};
    return code;
}

enum err_code npy_parse(const unsigned char *bytes, size_t size, struct npy *npy, struct err *err)
{
    struct err local;

    *npy = (struct npy){0};
    enum err_code code = parse(bytes, size, npy, err != NULL ? err : &local);
    if (code != ERR_OK)
        *npy = (struct npy){0};
    return code;
}

static enum err_code map_file(const char *path, void **map, size_t *bytes, struct err *err)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return err_set_errno(err, errno, "%s", path);
    if (fstat(fd, &status) != 0) {
        int errnum = errno;
        (void)close(fd);
        return err_set_errno(err, errnum, "%s", path);
    }
    if (!S_ISREG(status.st_mode) || status.st_size <= 0) {
        (void)close(fd);
        return err_set(err, ERR_INVALID_ARGUMENT, "%s: not an .npy file", path);
    }
    void *mapped = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int errnum = errno;
    (void)close(fd);
    if (mapped == MAP_FAILED)
        return err_set_errno(err, errnum, "%s", path);
    *map = mapped;
    *bytes = (size_t)status.st_size;
    return ERR_OK;
}

enum err_code npy_open(const char *path, struct npy *npy, struct err *err)
{
    void *map = NULL;
    size_t bytes = 0;

    *npy = (struct npy){0};
    enum err_code code = map_file(path, &map, &bytes, err);
    if (code != ERR_OK)
        return code;
    code = npy_parse(map, bytes, npy, err);
    if (code != ERR_OK) {
        (void)munmap(map, bytes);
        if (err != NULL)
            (void)err_wrap(err, "%s", path);
        return code;
    }
    npy->map = map;
    npy->map_bytes = bytes;
    return ERR_OK;
}

void npy_close(struct npy *npy)
{
    if (npy->map != NULL)
        (void)munmap(npy->map, npy->map_bytes);
    *npy = (struct npy){0};
}

static uint32_t load_u32(const unsigned char *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

float npy_half(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    uint32_t exponent = bits >> 10 & 0x1f;
    uint32_t fraction = bits & 0x3ff;
    uint32_t word;
    float value;

    if (exponent == 0) {
        value = (float)fraction * 0x1p-24f; /* zero or subnormal, exact as a float */
        return sign != 0 ? -value : value;
    }
    if (exponent == 31)
        word = sign | UINT32_C(0x7f800000) | fraction << 13;
    else
        word = sign | (exponent + 112) << 23 | fraction << 13;
    memcpy(&value, &word, sizeof(value));
    return value;
}

void npy_row_f32(const struct npy *npy, uint64_t row, float *out)
{
    const unsigned char *at = npy->data + row * npy->cols * type_bytes(npy->type);

    assert(row < npy->rows);
    for (uint32_t i = 0; i < npy->cols; i++) {
        if (npy->type == NPY_FLOAT16) {
            out[i] = npy_half((uint16_t)(at[2 * i] | at[2 * i + 1] << 8));
            continue;
        }
        uint32_t word = load_u32(at + 4 * (size_t)i);
        if (npy->type == NPY_FLOAT32)
            memcpy(&out[i], &word, sizeof(word));
        else
            out[i] = (float)(int32_t)word;
    }
}

void npy_row_i32(const struct npy *npy, uint64_t row, int32_t *out)
{
    assert(npy->type == NPY_INT32 && row < npy->rows);
    const unsigned char *at = npy->data + row * npy->cols * 4;

    for (uint32_t i = 0; i < npy->cols; i++)
        out[i] = (int32_t)load_u32(at + 4 * (size_t)i);
}
