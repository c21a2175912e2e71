/* The log in files, opened as after a reboot, over segments that hold anything: it opens, or
 * refuses; with repair it opens; what it then holds can be read.  Never a crash.
 *
 * The first byte of the input chooses: raw bytes as segment 1, or a sound log that the input
 * describes and then changes, so that most of the input gets past the checksums. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/wal/wal.h"
#include "backends/wal/wal_file_format.h"
#include "backends/wal/wal_verify.h"
#include "common/base/bytes.h"
#include "common/base/log.h"
#include "tests/lib/scratch.h"

#define SEGMENTS      3u
#define SEGMENT_BYTES 4096u
#define PARTITIONS    3u
#define INPUT_MAX     4096u

static char folder[160];
static uint8_t segment_bytes[SEGMENTS][2 * SEGMENT_BYTES];
static size_t segment_len[SEGMENTS];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Syncs are not what is tried here. */
int fdatasync(int fd)
{
    (void)fd;
    return 0;
}

int fsync(int fd)
{
    (void)fd;
    return 0;
}

static void remove_folder(void)
{
    if (scratch_remove(folder) != 0)
        abort();
}

static void make_folder(void)
{
    log_start("fuzz_wal_file", LOG_OFF);
    if (!scratch_make(folder, sizeof(folder), "wal-fuzz") || atexit(remove_folder) != 0)
        abort();
}

/* Frames as the input says: mostly such as belong there, some of them a little wrong. */
static void build_segment(struct bytes_reader *input, unsigned index, uint64_t *next,
                          uint64_t previous_end)
{
    struct wal_segment_header header = {
        .region = 7,
        .partitions = PARTITIONS,
        .segment = index + 1,
        .epoch = 1 + index + read_u8(input) / 250,
        .previous_end = previous_end,
        .oldest = 1,
    };
    uint32_t seed = wal_frame_seed(header.region, header.segment);
    uint8_t *out = segment_bytes[index];
    size_t at = wal_segment_header_size(PARTITIONS);
    unsigned frames = read_u8(input) % 20;

    memcpy(header.start, next, PARTITIONS * sizeof(next[0]));
    memset(out, 0, sizeof(segment_bytes[index]));
    wal_segment_header_encode(&header, out);
    for (unsigned i = 0; i < frames; i++) {
        uint8_t kind = read_u8(input);
        struct wal_frame frame = {
            .partition = kind % PARTITIONS + (kind > 252 ? PARTITIONS : 0),
            .epoch = header.epoch - (kind == 252),
            .len = 1u + read_u8(input),
            .batch = kind < 128 ? (uint32_t)at : read_u16(input),
            .data = input->data,
        };

        if (frame.len > input->len)
            frame.len = input->len;
        if (at + wal_frame_size(frame.len) > sizeof(segment_bytes[index]))
            break;
        frame.offset = next[kind % PARTITIONS]++ + (kind == 251);
        wal_frame_encode(&frame, seed, out + at);
        at += wal_frame_size(frame.len);
    }
    segment_len[index] = at;
}

/* A log of the input's own making, then changed at places that it names. */
static void build_log(struct bytes_reader *input)
{
    uint64_t next[PARTITIONS] = {0};
    uint64_t end = 0;

    for (unsigned i = 0; i < SEGMENTS; i++) {
        build_segment(input, i, next, end);
        end = segment_len[i];
        segment_len[i] += read_u8(input) % 64;
    }
    while (!input->failed && input->at < input->len) {
        unsigned index = read_u8(input) % SEGMENTS;
        size_t at = read_u16(input) % segment_len[index];

        segment_bytes[index][at] ^= read_u8(input);
    }
}

static void write_files(unsigned count)
{
    for (unsigned i = 0; i < 2 * SEGMENTS + 2; i++) {
        char path[220];
        int fd;

        snprintf(path, sizeof(path), "%s/%016x.wal", folder, i + 1);
        (void)unlink(path);
        if (i >= count)
            continue;
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0644);
        if (fd < 0 || write(fd, segment_bytes[i], segment_len[i]) != (ssize_t)segment_len[i])
            abort();
        close(fd);
    }
}

static void read_log(struct wal *wal)
{
    uint32_t partition = 0;
    uint64_t position = 0;
    struct wal_reader *reader;
    struct wal_item items[4];
    size_t count = 1;

    if (wal_reader_open(&reader, wal, &partition, &position, 1, NULL) != ERR_OK)
        return;
    while (count > 0 && wal_reader_next(reader, items, 4, &count, 0, NULL) == ERR_OK) {
        for (size_t i = 0; i < count; i++)
            assert(items[i].partition == 0 && items[i].len >= 1);
    }
    wal_reader_close(reader);
}

static void find(void *state, const struct scrub_finding *finding)
{
    (void)state;
    assert(finding->text[0] != '\0');
}

static bool go_on(void *state, uint64_t bytes)
{
    (void)state;
    (void)bytes;
    return true;
}

/* Looks at it; true when nothing is wrong. */
static bool is_sound(void)
{
    static struct wal_verified found;
    struct scrub scrub = {.find = find, .go_on = go_on};
    struct wal_verify_request request = {.folder = folder, .scrub = &scrub};
    struct err err = {0};
    enum err_code code = wal_verify(&request, &found, &err);

    assert(code == ERR_OK || code == ERR_CONFIG || code == ERR_NOT_FOUND);
    return code == ERR_OK && scrub.findings == 0;
}

/* Open, read, append; true when it opened. */
static bool use_log(bool repair)
{
    char url[200];
    struct wal_options options = {
        .url = url,
        .env = env_real(),
        .writer = true,
        .repair = repair,
        .segment_bytes = SEGMENT_BYTES,
    };
    struct wal_entry entry = {.partition = 0, .data = "x", .len = 1};
    struct wal *wal;
    struct err err = {0};
    uint64_t offset;

    snprintf(url, sizeof(url), "file:%s", folder);
    if (wal_open(&wal, &options, &err) != ERR_OK) {
        assert(err.code == ERR_CORRUPT || err.code == ERR_CONFIG || err.code == ERR_NOT_FOUND);
        return false;
    }
    read_log(wal);
    if (wal_append(wal, &entry, 1, NEVER_NS, &offset, &err) != ERR_OK)
        abort();
    read_log(wal);
    wal_close(wal);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes_reader input = {.data = data, .len = size};
    char control[200];
    bool is_raw;

    if (size < 2 || size > INPUT_MAX)
        return 0;
    if (folder[0] == '\0')
        make_folder();
    is_raw = read_u8(&input) < 32;
    if (is_raw) {
        memcpy(segment_bytes[0], data + 1, size - 1);
        segment_len[0] = size - 1;
    } else {
        build_log(&input);
    }
    snprintf(control, sizeof(control), "%s/control", folder);
    for (unsigned round = 0; round < 2; round++) {
        bool was_sound;

        (void)unlink(control);
        write_files(is_raw ? 1 : SEGMENTS);
        was_sound = is_sound();
        /* What verification calls sound opens. */
        if (!use_log(round == 1))
            assert(!was_sound);
    }
    /* What a repair left is sound. */
    if (use_log(false)) {
        assert(is_sound());
        assert(use_log(false));
    }
    return 0;
}
