/* An LMDB file that holds anything: store_verify tells what is wrong, or LMDB can read every row of
 * it. Never a crash, never an assertion of LMDB's.
 *
 * The first byte of the input chooses: raw bytes as the file, or a sound store, with branches, rows
 * of several pages and free pages, that the input then changes at places it names, or cuts. */
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/store/store_verify.h"
#include "common/base/bytes.h"
#include "tests/lib/scratch.h"

#define PAGE      4096u
#define ROWS      400u
#define INPUT_MAX 65536u

static char folder[160], file[200], url[200];
static uint8_t *sound;
static size_t sound_len;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Syncs are not what is tried here. */
int fdatasync(int fd)
{
    (void)fd;
    return 0;
}

static void must(enum err_code code)
{
    if (code != ERR_OK)
        abort();
}

/* Rows are put, some of them replaced and removed again, so that pages become free. */
static void fill(struct store *store, unsigned round)
{
    static const uint8_t text[9000];
    struct store_txn *txn;
    struct err err;

    must(store_begin(&txn, store, true, &err));
    for (unsigned i = round; i < ROWS; i += round + 1) {
        char name[32];
        struct store_value key = {name, (size_t)snprintf(name, sizeof(name), "row %u", i)};
        struct store_value value = {text, i % 97 == 3 ? sizeof(text) : 20 + i % 60};

        if (round == 2 && i % 3 == 0)
            must(store_delete(txn, (enum store_table)(i % STORE_TABLES), key, &err));
        else
            must(store_put(txn, (enum store_table)(i % STORE_TABLES), key, value, &err));
    }
    must(store_commit(txn, &err));
}

static void forget(void)
{
    (void)scratch_remove(folder);
}

static void begin(void)
{
    struct store_options options = {.url = url, .env = env_real()};
    struct store *store;
    struct stat info;
    struct err err;
    int fd;

    if (!scratch_make(folder, sizeof(folder), "store-fuzz") || atexit(forget) != 0)
        abort();
    snprintf(file, sizeof(file), "%s/data.mdb", folder);
    snprintf(url, sizeof(url), "lmdb:%s", folder);
    must(store_open(&store, &options, &err));
    for (unsigned round = 0; round < 4; round++)
        fill(store, round);
    store_close(store);
    fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0)
        abort();
    sound_len = (size_t)info.st_size;
    sound = malloc(sound_len);
    if (sound == NULL || read(fd, sound, sound_len) != (ssize_t)sound_len)
        abort();
    close(fd);
}

static void put_file(const void *bytes, size_t len)
{
    int fd = open(file, O_WRONLY | O_TRUNC | O_CLOEXEC);

    if (fd < 0 || write(fd, bytes, len) != (ssize_t)len)
        abort();
    close(fd);
}

/* Each change is 6 bytes of input.  Most are among the first bytes of a page, or the last. */
static void change(struct bytes_reader *input, uint8_t *bytes)
{
    while (input->len - input->at >= 6) {
        uint32_t page = read_u16(input) % (uint32_t)(sound_len / PAGE);
        uint16_t at = read_u16(input);
        uint8_t value = read_u8(input);
        uint8_t how = read_u8(input);
        uint8_t *byte = bytes + (size_t)page * PAGE;

        byte += (how & 3) == 0 ? at % PAGE : (how & 3) == 3 ? PAGE - 1 - at % 128 : at % 160;
        *byte = (how & 4) == 0 ? value : *byte ^ (uint8_t)(1u << value % 8);
        if (how >= 250) /* a whole page in the place of another */
            memcpy(bytes + (size_t)page * PAGE, sound + at % (sound_len / PAGE) * PAGE, PAGE);
    }
}

static void find(void *state, const struct scrub_finding *finding)
{
    (void)state;
    assert(finding->file[0] != '\0' && finding->text[0] != '\0');
}

static bool go_on(void *state, uint64_t bytes)
{
    (void)state;
    (void)bytes;
    return true;
}

static void walk(struct store_txn *txn, enum store_table table)
{
    struct store_cursor *cursor;
    struct store_value key, value;
    struct err err;
    bool more = true;
    uint8_t sum = 0;

    if (store_cursor_open(&cursor, txn, table, (struct store_value){.data = ""}, &err) != ERR_OK)
        abort();
    while (store_cursor_next(cursor, &key, &value, &more, &err) == ERR_OK && more) {
        struct store_value again;

        for (size_t i = 0; i < value.len; i++)
            sum ^= ((const uint8_t *)value.data)[i];
        if (store_get(txn, table, key, &again, &err) != ERR_OK || again.data != value.data)
            abort();
    }
    assert(sum <= UINT8_MAX);
    store_cursor_close(cursor);
}

/* What is found sound can be read, whole. */
static void use(void)
{
    struct store_options options = {.url = url, .env = env_real(), .read_only = true};
    struct store *store;
    struct store_txn *txn;
    struct err err;

    if (store_open(&store, &options, &err) != ERR_OK)
        return;
    if (store_begin(&txn, store, false, &err) == ERR_OK)
        for (int table = 0; table < STORE_TABLES; table++)
            walk(txn, (enum store_table)table);
    store_abort(txn);
    store_close(store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes_reader input = {.data = data, .len = size};
    struct scrub scrub = {.find = find, .go_on = go_on};
    struct store_verified found;
    struct err err = {0};
    enum err_code code;

    if (size < 4 || size > INPUT_MAX)
        return 0;
    if (sound == NULL)
        begin();
    uint8_t kind = read_u8(&input);
    if (kind < 16) {
        put_file(data + 1, size - 1);
    } else {
        uint8_t *bytes = malloc(sound_len);

        assert(bytes != NULL);
        memcpy(bytes, sound, sound_len);
        change(&input, bytes);
        put_file(bytes, sound_len - (kind % 32 == 7 ? size * 37 % sound_len : 0));
        free(bytes);
    }
    code = store_verify(folder, &scrub, &found, &err);
    assert(code == ERR_OK || code == ERR_NOT_FOUND || code == ERR_CONFIG);
    assert(found.is_sound == (scrub.findings == 0));
    if (code == ERR_OK && found.is_sound)
        use();
    store_verified_end(&found);
    return 0;
}
