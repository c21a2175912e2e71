/* A store that may be damaged is looked at before a replica uses it.
 *
 * LMDB has no checksums of its pages and believes what it maps, so damage shows as an error at best
 * and as a crash at worst.  Both leave a mark in the replica's folder, DATA/suspect: an error by
 * sound_suspect, a crash (SIGSEGV, SIGBUS, SIGABRT) by a signal handler.  Where there is a mark the
 * next process looks at every page of the store (backends/store/store_verify.h), which takes
 * seconds for some gigabytes, and sets aside what is damaged (begin.h).  kill -9 and power cuts
 * leave none: they do not damage a store. */
#ifndef VICINAL_SHARD_SOUND_H
#define VICINAL_SHARD_SOUND_H

#include "common/base/err.h"

/* From now on a crash of this process leaves a mark in that folder.  Once in a process, before its
 * other threads.  Errors: ERR_CONFIG (the path is too long), ERR_IO. */
MUST_CHECK enum err_code sound_watch(const char *data, struct err *err);

/* Leave the mark: the store was found damaged while it was in use.  Any thread. */
void sound_suspect(void);

/* If there is a mark: look.  why: what was found; ERR_OK: nothing.
 * Errors: ERR_CONFLICT (another process has the store), ERR_CONFIG, ERR_IO, ERR_NO_MEMORY. */
MUST_CHECK enum err_code sound_check(const char *data, struct err *why, struct err *err);

/* Remove the mark, if there is one.  Errors: ERR_CONFIG, ERR_IO. */
MUST_CHECK enum err_code sound_clear(const char *data, struct err *err);

#endif
