/* The control page: see wal_file_internal.h.
 *
 * The writer makes the file under another name and renames it, so that a reader finds a whole page
 * or none.  A page that does not hold for this boot of the machine tells readers nothing (after a
 * crash of the machine, what it calls committed is still a lower bound: it was published after
 * the sync).
 */
#include "backends/wal/wal_file_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/hash.h"

#define CONTROL_NEW_NAME "control.new"
#define CONTROL_VERSION  1u

static const uint8_t control_magic[8] = {'V', 'i', 'c', 'W', 'a', 'l', 'C', '\n'};

static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "shared between processes");
static_assert(ATOMIC_INT_LOCK_FREE == 2, "shared between processes");
static_assert(offsetof(struct wal_control, boot) == 64, "format");
static_assert(offsetof(struct wal_control, wake) == 104, "format");
static_assert(offsetof(struct wal_control, end) == 128, "format");
static_assert(sizeof(struct wal_control) == 128 + 24 * PARTITIONS_MAX, "format");

uint64_t wal_boot_word(void)
{
    char text[64];
    ssize_t len;
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return 0;
    len = read(fd, text, sizeof(text));
    close(fd);
    if (len <= 0)
        return 0;
    return hash_xxh64(text, (size_t)len, 0) | 1;
}

static uint32_t control_crc(const struct wal_control *control)
{
    return hash_crc32c(0, control, offsetof(struct wal_control, crc));
}

static bool control_is_sound(const struct wal_control *control)
{
    return memcmp(control->magic, control_magic, sizeof(control_magic)) == 0 &&
           control_crc(control) == control->crc && control->region != 0 &&
           control->partitions >= 1 && control->partitions <= PARTITIONS_MAX;
}

static enum err_code control_map_fd(struct wal_control **out, int fd, bool writer, struct err *err)
{
    int protection = writer ? PROT_READ | PROT_WRITE : PROT_READ;
    void *map = mmap(NULL, sizeof(struct wal_control), protection, MAP_SHARED, fd, 0);

    if (map == MAP_FAILED)
        return err_set_errno(err, errno, "control page");
    *out = map;
    return ERR_OK;
}

enum err_code wal_control_map(struct wal_control **out, struct stat *identity, int dir_fd,
                              bool writer, struct err *err)
{
    int fd =
        openat(dir_fd, WAL_CONTROL_NAME, (writer ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW);
    struct wal_control *control = NULL;
    enum err_code code = ERR_OK;

    *out = NULL;
    if (fd < 0 && errno == ENOENT)
        return ERR_OK;
    if (fd < 0)
        return err_set_errno(err, errno, "control page");
    if (fstat(fd, identity) != 0) {
        code = err_set_errno(err, errno, "control page");
        goto out;
    }
    /* A page beyond the end of the file must never be touched. */
    if (!S_ISREG(identity->st_mode) || identity->st_size < (off_t)sizeof(*control))
        goto out;
    code = control_map_fd(&control, fd, writer, err);
    if (code != ERR_OK)
        goto out;
    if (!control_is_sound(control)) {
        wal_control_unmap(control);
    } else if (control->version != CONTROL_VERSION) {
        code = err_set(err, ERR_CONFIG, "the control page has format %u, this program knows %u",
                       control->version, CONTROL_VERSION);
        wal_control_unmap(control);
    } else {
        *out = control;
    }
out:
    close(fd);
    return code;
}

enum err_code wal_control_create(struct wal_control **out, struct stat *identity, int dir_fd,
                                 const struct wal *like, struct err *err)
{
    static const struct wal_control empty;
    struct wal_control *control = NULL;
    enum err_code code;
    int fd =
        openat(dir_fd, CONTROL_NEW_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

    *out = NULL;
    if (fd < 0)
        return err_set_errno(err, errno, "control page");
    code = wal_pwrite_all(fd, &empty, sizeof(empty), 0, 0, err);
    if (code == ERR_OK)
        code = control_map_fd(&control, fd, true, err);
    if (code != ERR_OK)
        goto out;
    memcpy(control->magic, control_magic, sizeof(control_magic));
    control->version = CONTROL_VERSION;
    control->region = like->region;
    control->partitions = like->partitions;
    control->crc = control_crc(control);
    if (fstat(fd, identity) != 0 || fdatasync(fd) != 0 ||
        renameat(dir_fd, CONTROL_NEW_NAME, dir_fd, WAL_CONTROL_NAME) != 0 || fsync(dir_fd) != 0) {
        code = wal_errno(err, errno, "control page", 0);
        wal_control_unmap(control);
        goto out;
    }
    *out = control;
out:
    close(fd);
    return code;
}

void wal_control_unmap(struct wal_control *control)
{
    int code = control == NULL ? 0 : munmap(control, sizeof(*control));

    assert(code == 0);
}

struct wal_place wal_control_place(const struct wal_control *control)
{
    /* Acquire: what was done before the place was published, is seen. */
    uint64_t position = atomic_load_explicit(&control->position, memory_order_acquire);

    return (struct wal_place){.segment = position >> 32, .byte = position & UINT32_MAX};
}

bool wal_control_place_is_sound(const struct wal_control *control)
{
    /* Only the next writer asks, with the lock held: nobody changes the page meanwhile. */
    return atomic_load_explicit(&control->position, memory_order_relaxed) ==
           ~atomic_load_explicit(&control->position_check, memory_order_relaxed);
}
