/* The file log's own parts, for the wal_file*.c files only.
 *
 *   wal_file.c          open, close, the table of operations
 *   wal_file_write.c    append, rotation, recovery after a failure
 *   wal_file_read.c     readers
 *   wal_file_recover.c  what a writer does before it may write: find the end, cut there
 *   wal_file_loss.c     what is lost by cutting at damage
 *   wal_file_segment.c  segment files: names, listing, making, walking through frames
 *   wal_file_trim.c     forgetting what stands at the beginning
 *   wal_file_verify.c   looking at everything, changing nothing
 *   wal_file_control.c  the control page, through which the writer tells what is committed
 *   wal_file_format.c   bytes
 *
 * A folder holds `lock` (flock of the writer), `control`, the segments `%016x.wal`, and `trim` once
 * something was forgotten.
 */
#ifndef VICINAL_BACKENDS_WAL_FILE_INTERNAL_H
#define VICINAL_BACKENDS_WAL_FILE_INTERNAL_H

#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "backends/wal/wal.h"
#include "backends/wal/wal_file_format.h"

#define WAL_SEGMENT_BYTES_DEFAULT MIB(64)
#define WAL_SEGMENT_BYTES_MAX     MIB(1024)
#define WAL_WINDOW_BYTES          MIB(1) /* of reading and writing; holds any frame */
#define WAL_SEGMENT_NAME_BYTES    32
#define WAL_CONTROL_NAME          "control"
#define WAL_LOCK_NAME             "lock"
#define WAL_TRIM_NAME             "trim"

/* --- the control page ------------------------------------------------------------------------ */

/* Shared memory between processes of one machine, in a file so that it outlives them.  Only the
 * writer changes it.  All numbers a reader follows are single words, so that none can be read
 * half-written; each says on its own something that was true once, and positions only grow, except
 * by repair, which raises the generation first. */
struct wal_control {
    uint8_t magic[8];
    uint32_t version;
    uint32_t region;
    uint32_t partitions;
    uint32_t crc; /* CRC32C of what stands above */
    uint8_t reserved[40];
    _Atomic uint64_t boot;           /* hash of the boot id for which the rest holds; 0: nothing */
    _Atomic uint64_t generation;     /* file epoch; changes with every take-over */
    _Atomic uint64_t position;       /* committed: segment << 32 | byte */
    _Atomic uint64_t position_check; /* ~position: tells a damaged page */
    _Atomic uint64_t used_bytes;
    _Atomic uint32_t wake; /* futex word: changes with every publication */
    uint32_t reserved_word;
    uint64_t reserved_words[2];
    _Atomic uint64_t end[PARTITIONS_MAX];  /* committed end of each partition */
    _Atomic uint64_t hint[PARTITIONS_MAX]; /* with hint_check = ~hint; else there is none */
    _Atomic uint64_t hint_check[PARTITIONS_MAX];
};

/* A place in the physical log. */
struct wal_place {
    uint64_t segment;
    uint64_t byte;
};

/* The identity of this boot of the machine; 0 when it cannot tell. */
uint64_t wal_boot_word(void);

/* Map the folder's control file.  *out is NULL, with ERR_OK, when there is none or it is damaged.
 * Errors: ERR_IO, ERR_CONFIG (newer format). */
MUST_CHECK enum err_code wal_control_map(struct wal_control **out, struct stat *identity,
                                         int dir_fd, bool writer, struct err *err);

/* Put a new control file in place of what is there, and map it.  Errors: ERR_IO, … */
MUST_CHECK enum err_code wal_control_create(struct wal_control **out, struct stat *identity,
                                            int dir_fd, const struct wal *like, struct err *err);
void wal_control_unmap(struct wal_control *control);

/* The committed place, newest. */
struct wal_place wal_control_place(const struct wal_control *control);

/* Whether the place and its check agree. */
bool wal_control_place_is_sound(const struct wal_control *control);

/* --- segment files --------------------------------------------------------------------------- */

struct wal_segment_list {
    uint64_t *numbers; /* rising */
    size_t count;
    size_t size;
};

void wal_segment_name(char out[WAL_SEGMENT_NAME_BYTES], uint64_t number);

/* All segment files of a folder.  Errors: ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code wal_segment_list(struct wal_segment_list *out, int dir_fd,
                                          struct err *err);
void wal_segment_list_free(struct wal_segment_list *list);

/* Open a segment read-only and decode its header.  Errors: ERR_NOT_FOUND (no such file),
 * ERR_CORRUPT, ERR_CONFIG, ERR_IO. */
MUST_CHECK enum err_code wal_segment_open(int *out_fd, struct wal_segment_header *header,
                                          int dir_fd, uint64_t number, struct err *err);

/* Make the file of that header, preallocated, with its name and header durable.  The descriptor
 * is for reading and writing.  Errors: ERR_IO, ERR_INSUFFICIENT_STORAGE. */
MUST_CHECK enum err_code wal_segment_create(int *out_fd, int dir_fd,
                                            const struct wal_segment_header *header,
                                            uint64_t segment_bytes, struct err *err);

/* Remove the segments behind `last`, newest first, and make that durable. */
MUST_CHECK enum err_code wal_segment_remove_after(int dir_fd, uint64_t last, struct err *err);

/* Remove those below `first`, oldest first, and make that durable. */
MUST_CHECK enum err_code wal_segment_remove_before(int dir_fd, uint64_t first, struct err *err);

/* As err_set_errno; a file that may not grow (EFBIG) is no room as well. */
enum err_code wal_errno(struct err *err, int errnum, const char *what, uint64_t segment);

MUST_CHECK enum err_code wal_pwrite_all(int fd, const void *data, size_t len, uint64_t at,
                                        uint64_t segment, struct err *err);

/* --- what is kept (wal_file_trim.c) ---------------------------------------------------------- */

struct wal_kept {
    uint32_t region;                /* 0: nothing was ever forgotten */
    uint32_t partitions;            /* likewise */
    uint64_t segment;               /* the first segment; files below it are to be removed */
    uint64_t first[PARTITIONS_MAX]; /* the first offset of each partition */
};

/* Errors: ERR_CORRUPT, ERR_CONFIG (a newer format), ERR_IO. */
MUST_CHECK enum err_code wal_kept_load(struct wal_kept *out, int dir_fd, struct err *err);

/* Is it gone because it was forgotten?  The code for a segment that is not there: ERR_NOT_FOUND or
 * ERR_CORRUPT, or why that cannot be told. */
MUST_CHECK enum err_code wal_kept_explain(int dir_fd, uint64_t segment, struct err *err);

/* After a repair: a log that ends before what was kept begins there.  Errors: ERR_IO. */
MUST_CHECK enum err_code wal_kept_lower(struct wal_kept *kept, int dir_fd, const uint64_t *ends,
                                        struct err *err);

/* A log that begins anew has forgotten nothing.  Errors: ERR_IO. */
MUST_CHECK enum err_code wal_kept_forget(int dir_fd, struct err *err);

MUST_CHECK enum err_code wal_file_trim(struct wal *wal, const uint64_t *positions, struct err *err);
MUST_CHECK enum err_code wal_file_first(struct wal *wal, uint32_t partition, uint64_t *first,
                                        struct err *err);

/* --- walking through frames ------------------------------------------------------------------ */

enum wal_step {
    WAL_STEP_FRAME,  /* one good frame */
    WAL_STEP_END,    /* at the limit */
    WAL_STEP_REFILL, /* the window must be filled first: frames handed out so far go */
    WAL_STEP_BAD,    /* what stands here is no frame that belongs here: why says why */
};

/* Goes through the frames of segments in order, and holds that offsets have no gaps. */
struct wal_cursor {
    int fd; /* borrowed */
    uint64_t segment;
    uint64_t epoch;
    uint32_t partitions;
    uint32_t seed;
    uint64_t at;     /* byte of the next frame */
    uint8_t *window; /* WAL_WINDOW_BYTES */
    uint64_t window_at;
    size_t window_len;
    bool window_is_last; /* the file ended with it */
    const char *why;
    uint64_t next[PARTITIONS_MAX]; /* offset that is due in each partition */
};

MUST_CHECK enum err_code wal_cursor_init(struct wal_cursor *cursor, struct err *err);
void wal_cursor_free(struct wal_cursor *cursor);

/* Start at the first frame of a segment.  The due offsets become the header's. */
void wal_cursor_enter(struct wal_cursor *cursor, int fd, const struct wal_segment_header *header);

/* limit: the byte that no frame may reach beyond. */
enum wal_step wal_cursor_next(struct wal_cursor *cursor, uint64_t limit, struct wal_frame *frame);
MUST_CHECK enum err_code wal_cursor_fill(struct wal_cursor *cursor, uint64_t limit,
                                         struct err *err);

/* wal_file_recover.c: whether a good frame behind the bad one at the cursor belongs to an append
 * that began behind it, so that the bad one was committed.  Uses the cursor's window, and leaves
 * the cursor at the bad one; bounded for hostile bytes. */
MUST_CHECK enum err_code wal_cursor_find_proof(struct wal_cursor *cursor, uint64_t size,
                                               bool *is_proven, struct err *err);

/* --- what damage costs ------------------------------------------------------------------------ */

/* A cut of the log: which entries are behind it. */
struct wal_loss_question {
    int dir_fd;
    const struct wal_segment_list *list;
    const struct wal_control *control; /* NULL: none, or another log's */
    uint32_t region;                   /* 0: not known */
    uint32_t partitions;
    struct wal_place cut;
    struct wal_place end; /* nothing behind it was promised to anybody; segment 0: not known */
    const uint64_t *next; /* offset that is due in each partition at the cut */
};

struct wal_loss {
    uint32_t region; /* 0: nothing tells which log it was */
    uint32_t partitions;
    uint64_t entries;                                  /* of all partitions */
    uint64_t from[PARTITIONS_MAX], to[PARTITIONS_MAX]; /* [from, to) is lost */
};

/* wal_file_loss.c.  Errors: ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code
wal_file_find_loss(struct wal_loss *out, const struct wal_loss_question *question, struct err *err);

/* As many partitions with their offsets as there is room for, from *partition on, which is moved
 * behind them.  How long the text is. */
size_t wal_loss_text(const struct wal_loss *loss, uint32_t *partition, char *out, size_t size);

/* Tell all of it in the program's log. */
void wal_loss_tell(const struct wal_loss *loss);

/* --- the log --------------------------------------------------------------------------------- */

struct wal_file {
    struct wal wal; /* first */
    char *path;     /* of the folder */
    int dir_fd;
    int lock_fd; /* -1 for readers */
    bool writer;
    struct wal_control *control;
    dev_t control_dev; /* of the control file that is mapped */
    ino_t control_ino;
    uint64_t segment_bytes;
    atomic_uint_fast64_t kept_segment;  /* the first one; written by opening and by trimming */
    atomic_uint_fast64_t removed_bytes; /* of segments that went since the log was opened */

    /* The writer's; used by one call at a time. */
    bool failed;           /* no appends until recovered */
    int fd;                /* of the segment being written */
    uint64_t segment;      /* its number */
    uint64_t epoch;        /* of this take-over */
    uint64_t committed;    /* byte up to which the segment is durable */
    uint64_t end;          /* byte behind the last frame built; the chunk holds the last of it */
    uint64_t sealed_bytes; /* of the segments before */
    uint32_t seed;
    uint8_t *chunk; /* WAL_WINDOW_BYTES: frames that are not written yet */
    size_t chunk_len;
    uint64_t next[PARTITIONS_MAX]; /* offset of the next entry of each partition */
};

/* wal_file_recover.c: with the lock held, find the end of what is committed, cut there and fill
 * wal.region, wal.partitions, segment, committed, epoch (the highest ever used), next and
 * sealed_bytes.  *fresh: there is no log yet. */
MUST_CHECK enum err_code wal_file_find_end(struct wal_file *file, const struct wal_options *options,
                                           bool *fresh, struct err *err);

/* wal_file_write.c: start the segment behind the committed place in a new epoch and publish it. */
MUST_CHECK enum err_code wal_file_start_segment(struct wal_file *file, uint64_t epoch,
                                                struct err *err);
/* Tell readers what is committed.  Cannot fail. */
void wal_file_publish(struct wal_file *file);
MUST_CHECK enum err_code wal_file_append(struct wal *wal, const struct wal_entry *entries,
                                         size_t count, uint64_t deadline_ns, uint64_t *offsets,
                                         struct err *err);
MUST_CHECK enum err_code wal_file_recover(struct wal *wal, struct err *err);

/* Errors: ERR_CONFLICT when the folder, or its control page, is no longer the one that is used. */
MUST_CHECK enum err_code wal_file_check_current(const struct wal_file *file, struct err *err);

/* wal_file_read.c */
MUST_CHECK enum err_code wal_file_reader_open(struct wal_reader **out, struct wal *wal,
                                              const uint32_t *partitions, const uint64_t *positions,
                                              size_t count, struct err *err);
MUST_CHECK enum err_code wal_file_reader_next(struct wal_reader *reader, struct wal_item *items,
                                              size_t max, size_t *count, uint64_t deadline_ns,
                                              struct err *err);
void wal_file_reader_close(struct wal_reader *reader);

#endif
