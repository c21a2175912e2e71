/* The cold form: vectors that are stable live in inverted files (ivf.h) beside the graph.
 *
 * A cold part holds all vectors of a stretch of ordinals that lived when it was made: codes,
 * centroids and ordinals in memory, the vectors in its file, which is immutable and mapped.  Who
 * dies later is marked in memory.  The parts of an engine follow one another without a gap from
 * ordinal 0 on, and the graph holds what comes behind: a vector is in one place.
 *
 * The parts hang on the graph (graph->cold): who follows engine->graph sees a graph and the parts
 * that belong to it.  A list of parts does not change; a new one takes its place.
 * Threads: searches hold a scratch as for the graph; everybody else who looks at the parts, or
 * deletes, holds the engine's write_lock or is the caller of engine_maintain(), who alone changes
 * the list.
 *
 *   cold.c          parts and lists of them in memory
 *   cold_search.c   a search goes on in the parts
 *   cold_file.c     the file: layout, header
 *   cold_write.c    making it
 *   cold_open.c     a file becomes a part; the scrub
 *   cold_folder.c   which files of a folder are the engine's
 *   migrate.c       from the graph to a part; merging parts */
#ifndef VICINAL_ENGINE_COLD_H
#define VICINAL_ENGINE_COLD_H

#include "engine/ivf_internal.h"

enum { COLD_PARTS_MAX = 16 };

struct cold {
    struct ivf *ivf;
    uint32_t number;   /* of its file */
    uint32_t from, to; /* ordinals that it stands for: from .. to - 1; all others are elsewhere */
    _Atomic uint64_t *dead; /* bit i % 64 of word i / 64: row i */
    _Atomic bool has_dead;  /* some row is */
    _Atomic uint64_t live;  /* rows that are not */
    unsigned char *mapping; /* of the file */
    uint64_t mapping_bytes;
};

struct colds {
    uint32_t count;
    struct cold *parts[COLD_PARTS_MAX]; /* ascending */
};

/* Write an index to `path` (new_file.h), with the vectors of its rows, as the part of these
 * ordinals.  hooks: go_on is asked before each part of a megabyte, make_durable before the file
 * gets its name; may be NULL.  What could not be opened is not written. Errors: ERR_CORRUPT (the
 * index), ERR_INSUFFICIENT_STORAGE, ERR_IO, ERR_NO_MEMORY, ERR_DEAD (go_on), those of make_durable.
 */
struct cold_source {
    const struct ivf *ivf; /* with ordinals */
    uint32_t from, to;
};
MUST_CHECK enum err_code cold_write(const char *path, const struct cold_source *source,
                                    const struct engine_hooks *hooks, struct err *err);

/* All live.  Everything that a search follows is checked; the vectors are not looked at.
 * Errors: ERR_NOT_FOUND, ERR_CORRUPT (damaged or cut, with what and where), ERR_CONFIG (a newer
 * format; not the dimension or metric of the options), ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code cold_open(struct cold **out, const char *path,
                                   const struct engine_options *expected,
                                   const struct kernels *kernels, struct err *err);
void cold_close(struct cold *cold); /* NULL is fine */

/* The scrub: check every block of a part's file against its checksum, those of the vectors too.
 * hooks: go_on is asked before each megabyte; may be NULL.
 * Errors: those of cold_open(), and ERR_DEAD (go_on). */
MUST_CHECK enum err_code cold_verify(const char *path, const struct engine_hooks *hooks,
                                     struct err *err);

uint64_t cold_bytes(const struct cold *cold); /* of memory, beside the page cache */

/* True: it lived.  Unknown and dead ordinals are ignored. */
bool cold_delete(struct cold *cold, uint32_t ordinal);

static inline bool cold_is_dead(const struct cold *cold, uint32_t row)
{
    return (atomic_load_explicit(&cold->dead[row / 64], memory_order_relaxed) >> row % 64 & 1) != 0;
}

static inline uint64_t cold_live(const struct cold *cold)
{
    return atomic_load_explicit(&cold->live, memory_order_relaxed);
}

/* --- lists: all may be asked of NULL, which has no parts ------------------------------------- */

/* The same parts but `drop` from the place `at` on, and `part` in their place.  NULL: no memory. */
MUST_CHECK struct colds *colds_changed(const struct colds *colds, uint32_t at, uint32_t drop,
                                       struct cold *part);

/* The list and all its parts. */
void colds_close(struct colds *colds);

/* Ordinals below this are the parts'. */
uint32_t colds_floor(const struct colds *colds);
uint64_t colds_rows(const struct colds *colds); /* dead or alive */
uint64_t colds_live(const struct colds *colds);
uint64_t colds_bytes(const struct colds *colds);
bool colds_delete(struct colds *colds, uint32_t ordinal);

/* Exactly those live that `living` names. */
void colds_keep(struct colds *colds, const struct engine_bitmap *living);

MUST_CHECK enum err_code colds_validate(const struct colds *colds, struct err *err);
uint64_t colds_digest(const struct colds *colds, uint64_t digest);

/* --- searching ------------------------------------------------------------------------------- */

struct search;

/* Go on in the parts after the graph: search->best holds what was found there.  hits: room for k.
 * Errors: those of engine_search(). */
MUST_CHECK enum err_code cold_search(struct search *search, struct engine_hit *hits,
                                     struct err *err);

/* --- the folder ------------------------------------------------------------------------------ */

/* Name of a part's file; false: the path is too long. */
MUST_CHECK bool cold_path(char *out, size_t size, const char *dir, uint32_t number);

/* Is this the name of a part's file, or of one that is not finished? */
bool cold_name_parse(const char *name, uint32_t *number, bool *is_finished);

/* The ordinals that a part stands for, [from, to), and the number of its file. */
struct cold_span {
    uint32_t from, to, number;
};

/* Which of them follow one another from ordinal 0 on, and end at the floor or before; their places.
 * What makes a choice right is said in cold_folder.c. */
uint32_t cold_chain(const struct cold_span *spans, uint32_t count, uint32_t floor,
                    uint32_t chain[COLD_PARTS_MAX]);

struct cold_folder {
    const char *dir;
    uint32_t floor; /* the parts end here, or before; UINT32_MAX: wherever they end */
    const struct engine_options *expected;
    const struct kernels *kernels;
    struct err *notice; /* why a file was set aside, if one was */
};

/* Open the parts that follow one another from ordinal 0 on.  A file that is damaged or of other
 * options is renamed to cold.seg.damaged.  *out: NULL if there are none.
 * Errors: ERR_NO_MEMORY, ERR_IO (the folder), ERR_CONFIG (too many files). */
MUST_CHECK enum err_code colds_open(struct colds **out, const struct cold_folder *folder,
                                    struct err *err);

/* Remove all cold files but those of these parts, finished or not; *next: a number above all that
 * were there.  What cannot be removed is removed the next time. */
void colds_tidy(const struct colds *colds, const char *dir, uint32_t *next);

#endif
