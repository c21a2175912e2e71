/* A segment file that holds anything: it opens or is refused with a reason; what opened can be
 * searched, looked through and scrubbed.  Never a crash, never a read past its end.
 *
 * The first byte of the input chooses: raw bytes as the file, or a sound segment that the input
 * then changes at places it names, mostly with checksums made good again, so that most of the input
 * gets past them. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/segment_data.h"

#define SOUND     6u
#define INPUT_MAX 65536u

static unsigned char *files[SOUND];
static size_t sizes[SOUND];
static struct section_layout layouts[SOUND];
static int fd = -1;
static char path[64];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Syncs are not what is tried here. */
int fdatasync(int file)
{
    (void)file;
    return 0;
}

static void make_sound(unsigned which, const struct segment_recipe *recipe)
{
    char name[200];
    const char *tmp = getenv("TMPDIR");
    struct engine *engine = segment_engine(recipe);
    struct segment_parts parts = segment_parts_of(graph_of(engine));
    struct err err;

    snprintf(name, sizeof(name), "%.100s/segment-fuzz-%ld-%u", tmp == NULL ? P_tmpdir : tmp,
             (long)getpid(), which);
    if (segment_write(name, &parts, NULL, &err) != ERR_OK)
        abort();
    files[which] = segment_file_read(name, &sizes[which]);
    if (unlink(name) != 0 ||
        segment_header_decode(&parts, &layouts[which], files[which], &err) != ERR_OK)
        abort();
    engine_close(engine);
}

static void begin(void)
{
    static const struct segment_recipe recipes[SOUND] = {
        {.count = 64, .dim = 4, .metric = ENGINE_L2, .m = 4, .twin_every = 4, .dead_every = 9},
        {.count = 128, .dim = 20, .metric = ENGINE_COSINE, .m = 5},
        {.count = 2, .dim = 1, .metric = ENGINE_IP, .m = 4},
        {.count = 1, .dim = 3, .metric = ENGINE_L2, .m = 64},
        {.count = 64, .dim = 9, .metric = ENGINE_IP, .m = 4, .bits = 8, .twin_every = 6},
        {.count = 64, .dim = 5, .metric = ENGINE_COSINE, .m = 4, .bits = 1},
    };

    for (unsigned i = 0; i < SOUND; i++)
        make_sound(i, &recipes[i]);
    fd = memfd_create("segment", MFD_CLOEXEC);
    if (fd < 0)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
}

/* Changes a section's bytes, or the header's numbers; each is 5 bytes of input. */
static void change(struct bytes_reader *input, unsigned which, unsigned char *bytes)
{
    while (input->len - input->at >= 5) {
        uint8_t section = read_u8(input) % (SEGMENT_SECTIONS + 1);
        uint32_t at = read_u16(input);
        uint8_t value = read_u8(input);
        bool is_set = read_u8(input) % 2 == 0;
        uint64_t from = 0;
        uint64_t length = 128;

        if (section < SEGMENT_SECTIONS) {
            from = layouts[which].places[section].offset;
            length = layouts[which].places[section].length;
        }
        if (length == 0)
            continue;
        unsigned char *byte = bytes + from + at % length;
        *byte = is_set ? value : *byte ^ value;
    }
}

static void put_file(const void *bytes, size_t size)
{
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes, size, 0) != (ssize_t)size)
        abort();
}

static void use(struct segment *segment)
{
    const struct segment_parts *parts = segment_parts(segment);
    struct engine *engine = segment_attach(parts);
    float *vector = data_floats(1, parts->options.dim);
    struct engine_query query = {.vector = vector, .k = 5, .ef = 20, .bound = INFINITY};
    struct engine_hit hits[5];
    struct err err;
    size_t count;

    vector[0] = 1.0f;
    if (engine_search(engine, &query, hits, &count, NULL, &err) != ERR_OK)
        abort();
    assert(count <= 5 && count <= parts->live);
    /* It may have been led astray by lists in the wrong order, but by nothing that hurts. */
    (void)!engine_validate(engine, NULL);
    (void)engine_digest(engine);
    (void)!segment_verify(segment, 0, UINT64_MAX, NULL);
    free(vector);
    engine_close(engine);
}

static void try_open(uint32_t copied)
{
    struct segment_how how = {.copied = copied};
    struct segment *segment;
    struct err err = {0};

    if (segment_open(&segment, path, &how, &err) != ERR_OK) {
        assert(err.code == ERR_CORRUPT || err.code == ERR_CONFIG);
        assert(err.message[0] != '\0' && segment == NULL);
        return;
    }
    use(segment);
    segment_close(segment);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes_reader input = {.data = data, .len = size};

    if (size < 4 || size > INPUT_MAX)
        return 0;
    if (fd < 0)
        begin();
    uint8_t kind = read_u8(&input);
    uint8_t copied = read_u8(&input);
    if (kind < 16) {
        put_file(data + 2, size - 2);
    } else {
        unsigned which = kind % SOUND;
        unsigned char *bytes = malloc(sizes[which]);
        uint16_t cut = read_u16(&input);

        assert(bytes != NULL);
        memcpy(bytes, files[which], sizes[which]);
        change(&input, which, bytes);
        if (kind < 240)
            sections_seal(bytes, &segment_form, &layouts[which]);
        put_file(bytes, sizes[which] - (kind % 32 < SOUND ? cut % sizes[which] : 0));
        free(bytes);
    }
    try_open(copied);
    return 0;
}
