/* See verify.h.  Which files count is decided as when an engine is opened (keeper.c,
 * cold_folder.c): the parts that follow one another from ordinal 0 on, up to the segment's floor.
 * Files that do not count are looked at too: an engine would remove them, damaged or not. */
#include "engine/verify.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/calibrate_file.h"
#include "engine/cold.h"
#include "engine/graph.h"
#include "engine/internal.h"
#include "engine/keeper.h"
#include "engine/memory.h"
#include "engine/segment.h"

enum {
    PARTS_MAX = 256,
    SLICE_BLOCKS = 16, /* a megabyte */
    TOLD_MAX = 3,      /* vectors that are missing */
};

struct look {
    const char *dir;
    struct engine_options options;
    const struct kernels *kernels;
    const struct engine_bitmap *living;
    struct scrub *scrub;
    struct engine_verified *out;
    struct segment *segment; /* NULL: none, or of no use */
    struct cold *parts[PARTS_MAX];
    struct cold_span spans[PARTS_MAX];
    uint32_t part_count;
    const struct cold *chain[COLD_PARTS_MAX]; /* those that count: out->parts of them */
    uint32_t floor;                           /* … end here */
    uint64_t *there;                          /* a bit for each ordinal below `covered` */
    char path[PATH_MAX];
};

/* True: it is damage, and was told. */
static bool tell(struct look *look, enum err_code code, const struct err *why)
{
    if (code != ERR_CORRUPT && code != ERR_CONFIG && code != ERR_IO)
        return false;
    scrub_find(look->scrub, look->path, SCRUB_NO_BYTE, "%s", why->message);
    return true;
}

static enum err_code name_file(struct look *look, const char *name, struct err *err)
{
    int len = snprintf(look->path, sizeof(look->path), "%s/%s", look->dir, name);

    if (len < 0 || (size_t)len >= sizeof(look->path))
        return err_set(err, ERR_INVALID_ARGUMENT, "the folder's path is too long");
    return ERR_OK;
}

/* --- the segment ----------------------------------------------------------------------------- */

static enum err_code scrub_segment(struct look *look, struct err *err)
{
    uint64_t blocks = segment_blocks(look->segment);
    enum err_code code = ERR_OK;

    for (uint64_t at = 0; code == ERR_OK && at < blocks; at += SLICE_BLOCKS) {
        struct err why = {0};

        code = segment_verify(look->segment, at, SLICE_BLOCKS, &why);
        if (code != ERR_OK && tell(look, code, &why))
            code = ERR_OK;
        else if (code != ERR_OK)
            *err = why;
        if (code == ERR_OK)
            code = scrub_go_on(look->scrub, MIN_OF(blocks - at, SLICE_BLOCKS) << 16, err);
    }
    return code;
}

static enum err_code look_at_segment(struct look *look, struct err *err)
{
    struct segment_how how = {.expected = &look->options};
    struct err why = {0};
    enum err_code code = name_file(look, KEEPER_SEGMENT, err);

    if (code != ERR_OK)
        return code;
    code = segment_open(&look->segment, look->path, &how, &why);
    if (code == ERR_NOT_FOUND || (code != ERR_OK && tell(look, code, &why)))
        return ERR_OK;
    if (code != ERR_OK) {
        *err = why;
        return code;
    }
    look->out->bytes += segment_bytes(look->segment);
    return scrub_segment(look, err);
}

/* --- the calibration ------------------------------------------------------------------------- */

/* Whether it is as it was written; of which graph it is, is found out when an engine is opened, and
 * costs a measuring at the most. */
static enum err_code look_at_calibration(struct look *look, struct err *err)
{
    uint8_t bytes[CALIBRATE_FILE_BYTES + 1];
    ssize_t len;
    enum err_code code = name_file(look, KEEPER_CALIBRATION, err);
    int fd = code == ERR_OK ? open(look->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;

    if (code != ERR_OK || (fd < 0 && errno == ENOENT))
        return code;
    if (fd < 0)
        return err_set_errno(err, errno, "%.200s", look->path);
    len = pread(fd, bytes, sizeof(bytes), 0);
    if (len < 0)
        code = err_set_errno(err, errno, "%.200s", look->path);
    else if (len != CALIBRATE_FILE_BYTES)
        scrub_find(look->scrub, look->path, SCRUB_NO_BYTE, "it has another size than %d bytes",
                   CALIBRATE_FILE_BYTES);
    else if (hash_crc32c(0, bytes, CALIBRATE_CHECKSUM_AT) !=
             load_u32(bytes + CALIBRATE_CHECKSUM_AT))
        scrub_find(look->scrub, look->path, 0, "its checksum is wrong");
    (void)close(fd); /* it was read only */
    return code;
}

/* --- cold parts ------------------------------------------------------------------------------ */

static bool hooks_ask(void *state)
{
    struct look *look = state;

    return look->scrub->go_on(look->scrub->state, SLICE_BLOCKS << 16);
}

static enum err_code look_at_part(struct look *look, const char *name, uint32_t number,
                                  struct err *err)
{
    struct engine_hooks hooks = {.go_on = hooks_ask, .state = look};
    struct cold *cold = NULL;
    struct err why = {0};
    enum err_code code = name_file(look, name, err);

    if (code != ERR_OK)
        return code;
    if (look->part_count == PARTS_MAX)
        return err_set(err, ERR_CONFIG, "there are more than %d cold parts", PARTS_MAX);
    code = cold_open(&cold, look->path, &look->options, look->kernels, &why);
    if (code == ERR_OK) {
        cold->number = number;
        look->spans[look->part_count] =
            (struct cold_span){.from = cold->from, .to = cold->to, .number = number};
        look->parts[look->part_count++] = cold;
        look->out->bytes += cold->mapping_bytes;
        code = cold_verify(look->path, &hooks, &why);
    }
    if (code == ERR_OK || tell(look, code, &why))
        return ERR_OK;
    *err = why;
    return code;
}

static enum err_code look_at_parts(struct look *look, struct err *err)
{
    DIR *dir = opendir(look->dir);
    const struct dirent *entry;
    enum err_code code = ERR_OK;

    if (dir == NULL)
        return err_set_errno(err, errno, "folder %.200s", look->dir);
    while (code == ERR_OK && (entry = readdir(dir)) != NULL) {
        uint32_t number;
        bool is_finished;

        if (cold_name_parse(entry->d_name, &number, &is_finished) && is_finished)
            code = look_at_part(look, entry->d_name, number, err);
    }
    (void)closedir(dir);
    return code;
}

/* The segment cannot be used beside these parts, or is not what it says. */
static enum err_code drop_segment(struct look *look, const char *why, struct err *err)
{
    enum err_code code = name_file(look, KEEPER_SEGMENT, err);

    scrub_find(look->scrub, look->path, SCRUB_NO_BYTE, "%s", why);
    segment_close(look->segment);
    look->segment = NULL;
    return code;
}

/* Where the parts that count end, and how far all reaches. */
static enum err_code join(struct look *look, struct err *err)
{
    uint32_t floor = look->segment == NULL ? UINT32_MAX : segment_parts(look->segment)->floor;
    const struct segment_parts *parts;
    uint32_t chain[COLD_PARTS_MAX];
    char why[120];

    look->out->parts = cold_chain(look->spans, look->part_count, floor, chain);
    for (uint32_t i = 0; i < look->out->parts; i++) {
        look->chain[i] = look->parts[chain[i]];
        look->floor = look->chain[i]->to;
        look->out->vectors += look->chain[i]->ivf->rows.count;
    }
    look->out->covered = look->floor;
    if (look->segment == NULL)
        return ERR_OK;
    parts = segment_parts(look->segment);
    if (parts->floor != look->floor) {
        (void)snprintf(why, sizeof(why), "the cold vectors from ordinal %u to %u are not there",
                       look->floor, parts->floor);
        return drop_segment(look, why, err);
    }
    const struct slot *last = plane_row(&parts->slots, parts->count - 1);
    if (last->ordinal == UINT32_MAX)
        return drop_segment(look, "an ordinal is above all that there can be", err);
    look->out->vectors += parts->count;
    look->out->covered = last->ordinal + 1;
    return ERR_OK;
}

/* --- who is there ---------------------------------------------------------------------------- */

static void note(struct look *look, uint32_t ordinal)
{
    look->there[ordinal / 64] |= UINT64_C(1) << ordinal % 64;
}

static void note_all(struct look *look)
{
    for (uint32_t i = 0; i < look->out->parts; i++)
        for (uint32_t row = 0; row < look->chain[i]->ivf->rows.count; row++)
            note(look, ivf_ordinal(look->chain[i]->ivf, row));
    if (look->segment == NULL)
        return;
    const struct segment_parts *parts = segment_parts(look->segment);
    for (uint32_t i = 0; i < parts->count; i++)
        note(look, ((const struct slot *)plane_row(&parts->slots, i))->ordinal);
}

static enum err_code compare(struct look *look, struct err *err)
{
    const struct engine_bitmap *living = look->living;
    size_t words = ((size_t)look->out->covered + 63) / 64;
    uint64_t missing = 0;

    look->there = memory_alloc(words + 1, sizeof(*look->there));
    if (look->there == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a bit for each vector");
    note_all(look);
    for (uint32_t ordinal = 0; ordinal < look->out->covered; ordinal++) {
        if (!engine_bitmap_names(living, ordinal) ||
            (look->there[ordinal / 64] >> ordinal % 64 & 1) != 0)
            continue;
        if (missing++ < TOLD_MAX)
            scrub_find(look->scrub, look->dir, SCRUB_NO_BYTE,
                       "the vector of ordinal %u lives and is in no file", ordinal);
    }
    if (missing > TOLD_MAX)
        scrub_find(look->scrub, look->dir, SCRUB_NO_BYTE, "and so are %llu more",
                   (unsigned long long)(missing - TOLD_MAX));
    return ERR_OK;
}

static enum err_code look_at_all(struct look *look, struct err *err)
{
    enum err_code code = kernels_choose(look->options.kernel, &look->kernels, err);

    engine_fill_defaults(&look->options);
    if (code == ERR_OK)
        code = look_at_segment(look, err);
    if (code == ERR_OK)
        code = look_at_calibration(look, err);
    if (code == ERR_OK)
        code = look_at_parts(look, err);
    if (code == ERR_OK)
        code = join(look, err);
    return code == ERR_OK ? compare(look, err) : code;
}

enum err_code engine_verify(const char *dir, const struct engine_options *options,
                            const struct engine_bitmap *living, struct scrub *scrub,
                            struct engine_verified *out, struct err *err)
{
    struct look *look = memory_alloc(1, sizeof(*look));
    enum err_code code;

    *out = (struct engine_verified){0};
    if (look == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look at segments");
    look->dir = dir;
    look->options = *options;
    look->living = living;
    look->scrub = scrub;
    look->out = out;
    code = look_at_all(look, err);
    for (uint32_t i = 0; i < look->part_count; i++)
        cold_close(look->parts[i]);
    segment_close(look->segment);
    memory_free(look->there);
    memory_free(look);
    return code;
}
