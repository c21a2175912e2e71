/* A cold part's file that holds anything: it opens or is refused with a reason; what opened can be
 * searched.  Never a crash, never a read past its end.
 *
 * The first byte of the input chooses: raw bytes as the file, or a sound part that the input then
 * changes at places it names, mostly with checksums made good again, so that most of the input gets
 * past them. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/lib/cold_data.h"

#define SOUND     5u
#define INPUT_MAX 65536u

static const struct cold_recipe recipes[SOUND] = {
    {.count = 100, .dim = 4, .metric = ENGINE_L2, .kind = IVF_RABITQ},
    {.count = 70, .dim = 20, .metric = ENGINE_COSINE, .kind = IVF_PQ},
    {.count = 130, .dim = 70, .metric = ENGINE_IP, .kind = IVF_RABITQ},
    {.count = 40, .dim = 1, .metric = ENGINE_IP, .kind = IVF_FLAT},
    {.count = 0, .dim = 3, .metric = ENGINE_COSINE, .kind = IVF_RABITQ},
};

static unsigned char *files[SOUND];
static size_t sizes[SOUND];
static struct section_layout layouts[SOUND];
static const struct kernels *kernels;
static int fd = -1;
static char path[64];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Syncs are not what is tried here. */
int fdatasync(int file)
{
    (void)file;
    return 0;
}

static void make_sound(unsigned which)
{
    char name[200];
    const char *tmp = getenv("TMPDIR");
    struct cold_numbers numbers;
    struct err err;

    snprintf(name, sizeof(name), "%.100s/cold-fuzz-%ld-%u", tmp == NULL ? P_tmpdir : tmp,
             (long)getpid(), which);
    cold_data_write(name, &recipes[which]);
    files[which] = segment_file_read(name, &sizes[which]);
    if (unlink(name) != 0 ||
        cold_header_decode(&numbers, &layouts[which], files[which], &err) != ERR_OK)
        abort();
}

static void begin(void)
{
    struct err err;

    for (unsigned i = 0; i < SOUND; i++)
        make_sound(i);
    fd = memfd_create("cold", MFD_CLOEXEC);
    if (fd < 0 || kernels_choose(NULL, &kernels, &err) != ERR_OK)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
}

/* Changes a section's bytes, or the header's numbers; each is 5 bytes of input. */
static void change(struct bytes_reader *input, unsigned which, unsigned char *bytes)
{
    while (input->len - input->at >= 5) {
        uint8_t section = read_u8(input) % (COLD_SECTIONS + 1);
        uint32_t at = read_u16(input);
        uint8_t value = read_u8(input);
        bool is_set = read_u8(input) % 2 == 0;
        uint64_t from = 0;
        uint64_t length = 128;

        if (section < COLD_SECTIONS) {
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

static void use(struct cold *cold, const struct engine_options *options)
{
    static const uint64_t words[] = {UINT64_C(0x5555555555555555), UINT64_MAX, 0, 1, UINT64_MAX};
    struct engine_bitmap filter = {.words = words, .word_count = 5, .cardinality = 161};
    float *vector = data_floats(1, options->dim);
    struct ivf_query query = {.vector = vector, .k = 5, .bound = INFINITY};
    struct engine_hit hits[5];
    struct err err;
    size_t count;

    vector[0] = 1.0f;
    for (unsigned way = 0; way < 8; way++) {
        query.filter = (way & 1) != 0 ? &filter : NULL;
        query.exact = (way & 2) != 0;
        query.dead = (way & 4) != 0 ? cold->dead : NULL;
        if (ivf_search(cold->ivf, &query, hits, &count, NULL, &err) != ERR_OK)
            abort();
        assert(count <= 5);
        if (count > 0)
            (void)cold_delete(cold, hits[0].ordinal);
    }
    free(vector);
}

static void try_open(unsigned which)
{
    struct engine_options options = {.dim = recipes[which].dim, .metric = recipes[which].metric};
    struct cold *cold;
    struct err err = {0};

    if (cold_open(&cold, path, &options, kernels, &err) != ERR_OK) {
        assert(err.code == ERR_CORRUPT || err.code == ERR_CONFIG);
        assert(err.message[0] != '\0' && cold == NULL);
        return;
    }
    use(cold, &options);
    cold_close(cold);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes_reader input = {.data = data, .len = size};

    if (size < 4 || size > INPUT_MAX)
        return 0;
    if (fd < 0)
        begin();
    uint8_t kind = read_u8(&input);
    unsigned which = read_u8(&input) % SOUND;
    if (kind < 16) {
        put_file(data + 2, size - 2);
    } else {
        unsigned char *bytes = malloc(sizes[which]);
        uint16_t cut = read_u16(&input);

        assert(bytes != NULL);
        memcpy(bytes, files[which], sizes[which]);
        change(&input, which, bytes);
        if (kind < 240)
            sections_seal(bytes, &cold_form, &layouts[which]);
        put_file(bytes, sizes[which] - (kind % 32 == 7 ? cut % sizes[which] : 0));
        free(bytes);
    }
    try_open(which);
    return 0;
}
