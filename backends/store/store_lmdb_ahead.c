/* Reading ahead of a cursor: see store_lmdb.h.
 *
 * The map is told to read no more than the page that is asked for (MDB_NORDAHEAD), which suits
 * requests.  A scan of pages that are not in memory would wait for each of them then; those of rows
 * that were written together lie together.  So the kernel is asked for the pages behind the row
 * that was given last: few at first, and twice as many each time, as long as the scan keeps to
 * them.  It is advice: a refusal costs the speed, not the scan. */
#include <stdint.h>
#include <sys/mman.h>

#include "backends/store/store_lmdb.h"
#include "common/base/checked.h"
#include "common/base/limits.h"

#define WINDOW_LEAST KIB(64)
#define WINDOW_MOST  MIB(4)
#define ALIGNMENT    KIB(64) /* a multiple of every page's size */

static void ask(uintptr_t from, size_t len)
{
    (void)madvise((void *)from, len, MADV_WILLNEED);
}

void lmdb_read_ahead(struct lmdb_ahead *ahead, const void *row)
{
    uintptr_t at = (uintptr_t)row & ~(uintptr_t)(ALIGNMENT - 1);

    if (at < ahead->from || at >= ahead->to) {
        ahead->window = WINDOW_LEAST;
        ahead->from = at;
        ahead->to = at + 2 * WINDOW_LEAST;
        ask(at, 2 * WINDOW_LEAST);
    } else if (ahead->to - at <= ahead->window) {
        ahead->window = MIN_OF(2 * ahead->window, WINDOW_MOST);
        ask(ahead->to, ahead->window);
        ahead->to += ahead->window;
    }
}
