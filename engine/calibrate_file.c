/* See calibrate_file.h.  Failure: a file that is not as it was written, or of another graph, is an
 * error, and so is any call to the system that fails; the owner measures again then. */
#include "engine/calibrate_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/memory.h"
#include "engine/new_file.h"
#include "engine/sections.h"

enum { SIZE_AT = 12 };

static_assert(CALIBRATE_FILE_BYTES == 240, "the size of version 1");

/* Each number stirs what comes behind it. */
static uint64_t name_of(const struct graph *graph, uint32_t named)
{
    const struct engine_options *options = &graph->options;
    size_t stride = codes_stride(options->dim, options->bits);
    const uint32_t words[] = {options->dim,
                              options->metric,
                              options->m,
                              options->ef_construction,
                              options->bits,
                              (uint32_t)options->seed,
                              (uint32_t)(options->seed >> 32),
                              named};
    uint64_t name = hash_xxh64(words, sizeof(words), 0);

    name = hash_xxh64(graph->frame.centre, options->dim * sizeof(float), name);
    for (uint32_t slot = 0; slot < named; slot++) {
        uint32_t ordinal = slot_of(graph, slot)->ordinal;

        name = hash_xxh64(&ordinal, sizeof(ordinal), name);
        name = hash_xxh64(code_of(graph, slot), stride, name);
    }
    return name;
}

static void encode(const struct graph *graph, uint32_t named, uint8_t out[CALIBRATE_FILE_BYTES])
{
    const struct calibration *calibration =
        atomic_load_explicit(&graph->calibration, memory_order_acquire);

    memset(out, 0, CALIBRATE_FILE_BYTES);
    memcpy(out, CALIBRATE_MAGIC, 8);
    store_u32(out + CALIBRATE_VERSION_AT, CALIBRATE_VERSION);
    store_u32(out + SIZE_AT, CALIBRATE_FILE_BYTES);
    store_u32(out + CALIBRATE_NAMED_AT, named);
    store_u32(out + CALIBRATE_LINKED_AT, calibration->linked);
    store_u64(out + CALIBRATE_NAME_AT, name_of(graph, named));
    for (size_t k = 0; k < CALIBRATED_KS; k++) {
        uint8_t *table = out + CALIBRATE_TABLES_AT + k * CALIBRATE_TABLE_BYTES;
        uint32_t count = calibration->of[k].count;

        store_u32(table, count);
        memcpy(table + 4, calibration->of[k].recall, count * sizeof(float));
    }
    store_u32(out + CALIBRATE_CHECKSUM_AT, hash_crc32c(0, out, CALIBRATE_CHECKSUM_AT));
}

enum err_code calibrate_write(const char *path, const struct graph *graph, uint32_t named,
                              struct err *err)
{
    uint8_t bytes[CALIBRATE_FILE_BYTES];
    struct new_file file;

    encode(graph, named, bytes);
    enum err_code code = new_file_open(&file, path, sizeof(bytes), err);
    if (code == ERR_OK)
        code = new_file_write(&file, bytes, sizeof(bytes), 0, err);
    if (code == ERR_OK)
        code = new_file_sync(&file, err);
    if (code == ERR_OK)
        code = new_file_rename(&file, err);
    new_file_close(&file);
    return code == ERR_OK ? ERR_OK : err_wrap(err, "calibration %.100s", file_name_of(path));
}

/* --- reading ---------------------------------------------------------------------------------- */

static enum err_code check_form(const uint8_t *bytes, struct err *err)
{
    uint32_t version = load_u32(bytes + CALIBRATE_VERSION_AT);

    if (memcmp(bytes, CALIBRATE_MAGIC, 8) != 0)
        return err_set(err, ERR_CORRUPT, "this is no calibration");
    if (load_u32(bytes + CALIBRATE_CHECKSUM_AT) != hash_crc32c(0, bytes, CALIBRATE_CHECKSUM_AT))
        return err_set(err, ERR_CORRUPT, "the checksum is wrong");
    if (version > CALIBRATE_VERSION)
        return err_set(err, ERR_CONFIG, "format version %u is newer than %d, which is known here",
                       version, CALIBRATE_VERSION);
    if (version == 0 || load_u32(bytes + SIZE_AT) != CALIBRATE_FILE_BYTES)
        return err_set(err, ERR_CORRUPT, "another form than this version has");
    return ERR_OK;
}

/* NaN is refused as well. */
static bool is_table(const uint8_t *table, uint32_t *count, float recall[CALIBRATED_STEPS])
{
    float least = 0;

    *count = load_u32(table);
    memcpy(recall, table + 4, CALIBRATED_STEPS * sizeof(float));
    if (*count < 1 || *count > CALIBRATED_STEPS)
        return false;
    for (uint32_t i = 0; i < *count; i++) {
        if (!(recall[i] >= least && recall[i] <= 1))
            return false;
        least = recall[i];
    }
    for (uint32_t i = *count; i < CALIBRATED_STEPS; i++)
        if (load_u32(table + 4 + i * sizeof(float)) != 0)
            return false;
    return true;
}

static enum err_code decode(struct calibration *calibration, const uint8_t *bytes,
                            const struct graph *graph, struct err *err)
{
    uint32_t linked = atomic_load_explicit(&graph->linked, memory_order_acquire);
    uint32_t named = load_u32(bytes + CALIBRATE_NAMED_AT);
    enum err_code code = check_form(bytes, err);

    if (code != ERR_OK)
        return code;
    calibration->linked = load_u32(bytes + CALIBRATE_LINKED_AT);
    if (named < 1 || calibration->linked < named)
        return err_set(err, ERR_CORRUPT, "%u slots name a graph of %u", named, calibration->linked);
    for (size_t k = 0; k < CALIBRATED_KS; k++)
        if (!is_table(bytes + CALIBRATE_TABLES_AT + k * CALIBRATE_TABLE_BYTES,
                      &calibration->of[k].count, calibration->of[k].recall))
            return err_set(err, ERR_CORRUPT, "table %zu is none of recalls", k);
    if (named > linked || calibration->linked / 2 > linked ||
        load_u64(bytes + CALIBRATE_NAME_AT) != name_of(graph, named))
        return err_set(err, ERR_CONFLICT, "it is of another graph");
    return ERR_OK;
}

static enum err_code read_file(int fd, uint8_t out[CALIBRATE_FILE_BYTES], struct err *err)
{
    struct stat about;

    if (fstat(fd, &about) != 0)
        return err_set_errno(err, errno, "open");
    if (!S_ISREG(about.st_mode) || about.st_size != CALIBRATE_FILE_BYTES)
        return err_set(err, ERR_CORRUPT, "this is no file of %d bytes", CALIBRATE_FILE_BYTES);
    return file_read_at(fd, out, CALIBRATE_FILE_BYTES, 0, err);
}

static enum err_code read_path(const char *path, uint8_t out[CALIBRATE_FILE_BYTES], struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 && errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "there is no such file");
    if (fd < 0)
        return err_set_errno(err, errno, "open");
    enum err_code code = read_file(fd, out, err);
    (void)close(fd);
    return code;
}

enum err_code calibrate_read(struct calibration **out, const char *path, const struct graph *graph,
                             struct err *err)
{
    uint8_t bytes[CALIBRATE_FILE_BYTES];
    enum err_code code = read_path(path, bytes, err);
    struct calibration *found = NULL;

    *out = NULL;
    if (code == ERR_OK) {
        found = memory_alloc(1, sizeof(*found));
        code = found == NULL ? err_set(err, ERR_NO_MEMORY, "no memory")
                             : decode(found, bytes, graph, err);
    }
    if (code != ERR_OK) {
        memory_free(found);
        return err_wrap(err, "calibration %.100s", file_name_of(path));
    }
    *out = found;
    return ERR_OK;
}
