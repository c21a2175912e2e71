/* Whether LMDB can walk through a store's file without leaving it: see store_verify.h.
 *
 * The file, as LMDB 0.9 writes it on machines of 64 bits, little-endian, in pages of one size:
 *
 *   page     0 number u64 | 8 pad u16 | 10 flags u16 | 12 lower u16 | 14 upper u16 (of a run of
 *            overflow pages: 12 their number u32) | 16 place of each node u16, up to lower; the
 *            nodes fill the page from upper on, without gaps
 *   node     0 size or child, low u16 | 2 the same, high u16 | 4 flags u16 (of a branch: bits 32
 *            to 47 of the child) | 6 size of the key u16 | 8 key, then the data, or the number of
 *            the overflow page where they stand
 *   meta     pages 0 and 1, the newer one counts: 16 magic u32 | 20 version u32 | 24 address |
 *            32 size of the map | 40 tree of the free pages | 88 tree of the tables | 136 last
 *            page u64 | 144 transaction u64
 *   tree     0 pad u32 (first tree: size of a page) | 4 flags u16 | 6 depth u16 | 8 branch pages |
 *            16 leaves | 24 overflow pages | 32 entries | 40 root
 *
 * Each tree is walked in the order of its keys with a page for each level in memory.  A page is
 * reached once; keys ascend, also against the branches above; numbers agree with what is counted.
 * The first thing that is wrong in a tree is told, and the next tree is looked at. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/store/store_lmdb.h"
#include "backends/store/store_verify.h"
#include "common/base/bytes.h"
#include "common/base/checked.h"

#define PAGE_HEADER  16u
#define NODE_HEADER  8u
#define PAGE_MIN     512u
#define PAGE_MAX     32768u
#define META_MAGIC   0xBEEFC0DEu
#define META_VERSION 1u
#define META_BYTES   152u
#define TREE_BYTES   48u
#define DEPTH_MAX    32u
#define TREE_NONE    UINT64_MAX /* root of an empty tree */
#define FREE_FLAGS   0x08u      /* keys are integers */

enum page_flag { PAGE_BRANCH = 1, PAGE_LEAF = 2, PAGE_OVERFLOW = 4, PAGE_META = 8 };
enum node_flag { NODE_BIG = 1, NODE_TREE = 2 };

struct tree {
    const char *name;
    uint16_t flags, depth;
    uint64_t branches, leaves, overflows, entries, root;
};

struct level {
    uint8_t *page;
    uint64_t number;
    uint32_t count, next; /* nodes, and the one to go on with */
};

struct look {
    const char *file;
    int fd;
    size_t page_bytes;
    uint64_t pages; /* by the newer meta page; free ones may lie behind the file's end */
    uint8_t *used;  /* a bit a page */
    struct scrub *scrub;
    struct store_verified *out;
    struct tree tables[STORE_TABLES];
    uint8_t *memory; /* the pages of the levels, and one more */
    struct level levels[DEPTH_MAX];
    uint8_t *spare;
};

/* A walk through one tree. */
struct walk {
    const struct tree *tree;
    struct tree counted;
    uint32_t depth;       /* levels in use */
    uint64_t unused_left; /* free pages that the entry in hand has yet to name */
    bool has_key, has_bound;
    size_t key_len, bound_len;
    uint8_t key[STORE_KEY_BYTES_MAX];   /* of the entry before */
    uint8_t bound[STORE_KEY_BYTES_MAX]; /* no key may be below it from here on */
};

struct node {
    const uint8_t *key;
    size_t key_len;
    uint16_t flags;
    uint64_t child;      /* of a branch */
    size_t len;          /* of a leaf's data */
    const uint8_t *data; /* or the number of their overflow page */
};

/* Tells it; always ERR_CORRUPT. */
static enum err_code bad(struct look *look, const char *tree, uint64_t page, const char *format,
                         ...) PRINTF_LIKE(4, 5);
static enum err_code bad(struct look *look, const char *tree, uint64_t page, const char *format,
                         ...)
{
    char text[200];
    va_list args;

    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    scrub_find(look->scrub, look->file, page * look->page_bytes, "%s, page %llu: %s", tree,
               (unsigned long long)page, text);
    look->out->is_sound = false;
    return ERR_CORRUPT;
}

static enum err_code read_page(struct look *look, uint64_t number, uint8_t *out, struct err *err)
{
    size_t done = 0;

    while (done < look->page_bytes) {
        ssize_t got = pread(look->fd, out + done, look->page_bytes - done,
                            (off_t)(number * look->page_bytes + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set_errno(err, errno, "%.200s", look->file);
        if (got == 0)
            return bad(look, "the file", number, "it ends here");
        done += (size_t)got;
    }
    return scrub_go_on(look->scrub, look->page_bytes, err);
}

/* Note that so many pages from this one on are a tree's, or free. */
static enum err_code mark_pages(struct look *look, const struct tree *tree, uint64_t first,
                                uint64_t count)
{
    if (first < 2 || first >= look->pages || count > look->pages - first)
        return bad(look, tree->name, first, "there are only %llu pages",
                   (unsigned long long)look->pages);
    for (uint64_t page = first; page < first + count; page++) {
        if ((look->used[page / 8] >> page % 8 & 1) != 0)
            return bad(look, tree->name, page, "it is reached twice");
        look->used[page / 8] |= (uint8_t)(1u << page % 8);
    }
    return ERR_OK;
}

static enum err_code take_pages(struct look *look, const struct tree *tree, uint64_t first,
                                uint64_t count)
{
    look->out->pages += count;
    return mark_pages(look, tree, first, count);
}

/* --- nodes ----------------------------------------------------------------------------------- */

static struct node node_at(const struct level *level, uint32_t index, bool is_leaf)
{
    const uint8_t *at = level->page + load_u16(level->page + PAGE_HEADER + 2 * (size_t)index);
    uint32_t low = load_u16(at) | (uint32_t)load_u16(at + 2) << 16;
    struct node node = {.key = at + NODE_HEADER, .key_len = load_u16(at + 6)};

    if (is_leaf) {
        node.flags = load_u16(at + 4);
        node.len = low;
        node.data = node.key + node.key_len;
    } else {
        node.child = low | (uint64_t)load_u16(at + 4) << 32;
    }
    return node;
}

/* All nodes lie within the page, and fill it from upper on.  Returns what is wrong, or NULL. */
static const char *nodes_fault(const struct look *look, const struct level *level, bool is_leaf)
{
    size_t upper = load_u16(level->page + 14);
    size_t filled = 0;

    for (uint32_t i = 0; i < level->count; i++) {
        size_t at = load_u16(level->page + PAGE_HEADER + 2 * (size_t)i);
        struct node node;
        size_t size = NODE_HEADER;

        if (at % 2 != 0 || at < upper || at > look->page_bytes - NODE_HEADER)
            return "a node lies outside";
        node = node_at(level, i, is_leaf);
        size += node.key_len;
        if (is_leaf)
            size += (node.flags & NODE_BIG) != 0 ? sizeof(uint64_t) : node.len;
        if (node.key_len > STORE_KEY_BYTES_MAX || size > look->page_bytes - at)
            return "a node lies outside";
        if (is_leaf && node.key_len == 0)
            return "an entry has no key";
        filled += (size + 1) / 2 * 2;
    }
    return filled == look->page_bytes - upper ? NULL : "the nodes do not fill it";
}

static enum err_code enter(struct look *look, struct walk *walk, uint64_t number, struct err *err)
{
    const struct tree *tree = walk->tree;
    bool is_leaf = walk->depth + 1 == tree->depth;
    struct level *level = &look->levels[walk->depth];
    uint32_t lower, upper;
    const char *fault;
    enum err_code code = take_pages(look, tree, number, 1);

    if (code == ERR_OK)
        code = read_page(look, number, level->page, err);
    if (code != ERR_OK)
        return code;
    if (load_u64(level->page) != number)
        return bad(look, tree->name, number, "it says that it is another");
    if (load_u16(level->page + 10) != (is_leaf ? PAGE_LEAF : PAGE_BRANCH))
        return bad(look, tree->name, number, "it is no %s", is_leaf ? "leaf" : "branch");
    lower = load_u16(level->page + 12);
    upper = load_u16(level->page + 14);
    if (lower % 2 != 0 || lower <= PAGE_HEADER || lower > upper || upper > look->page_bytes)
        return bad(look, tree->name, number, "its bounds are wrong");
    level->number = number;
    level->count = (lower - PAGE_HEADER) / 2;
    level->next = 0;
    fault = nodes_fault(look, level, is_leaf);
    if (fault != NULL)
        return bad(look, tree->name, number, "%s", fault);
    *(is_leaf ? &walk->counted.leaves : &walk->counted.branches) += 1;
    walk->depth++;
    return ERR_OK;
}

/* --- keys ------------------------------------------------------------------------------------ */

static int key_compare(const struct walk *walk, const uint8_t *a, size_t a_len, const uint8_t *b,
                       size_t b_len)
{
    int order;

    if (walk->tree->flags == FREE_FLAGS) {
        uint64_t x = load_u64(a), y = load_u64(b);

        return (x > y) - (x < y);
    }
    order = memcmp(a, b, MIN_OF(a_len, b_len));
    return order != 0 ? order : (a_len > b_len) - (a_len < b_len);
}

/* The key of a branch behind its first: above all before it, and the bound from here on. */
static enum err_code take_bound(struct look *look, struct walk *walk, const struct level *level,
                                const struct node *node)
{
    if (walk->tree->flags == FREE_FLAGS && node->key_len != sizeof(uint64_t))
        return bad(look, walk->tree->name, level->number, "a key is no number");
    if (walk->has_key && key_compare(walk, node->key, node->key_len, walk->key, walk->key_len) <= 0)
        return bad(look, walk->tree->name, level->number, "its keys do not ascend");
    memcpy(walk->bound, node->key, node->key_len);
    walk->bound_len = node->key_len;
    walk->has_bound = true;
    return ERR_OK;
}

static enum err_code take_key(struct look *look, struct walk *walk, const struct level *level,
                              const struct node *node)
{
    if (walk->tree->flags == FREE_FLAGS && node->key_len != sizeof(uint64_t))
        return bad(look, walk->tree->name, level->number, "a key is no number");
    if (walk->has_key && key_compare(walk, node->key, node->key_len, walk->key, walk->key_len) <= 0)
        return bad(look, walk->tree->name, level->number, "its keys do not ascend");
    if (walk->has_bound &&
        key_compare(walk, node->key, node->key_len, walk->bound, walk->bound_len) < 0)
        return bad(look, walk->tree->name, level->number, "a key is below that of its branch");
    memcpy(walk->key, node->key, node->key_len);
    walk->key_len = node->key_len;
    walk->has_key = true;
    walk->has_bound = false;
    return ERR_OK;
}

/* --- entries --------------------------------------------------------------------------------- */

/* Numbers of free pages, in an entry of their tree: none is a tree's, or free twice. */
static enum err_code take_unused(struct look *look, struct walk *walk, const uint8_t *words,
                                 size_t len)
{
    enum err_code code = ERR_OK;

    for (size_t at = 0; code == ERR_OK && walk->unused_left > 0 && len - at >= 8; at += 8) {
        code = mark_pages(look, walk->tree, load_u64(words + at), 1);
        walk->unused_left--;
    }
    return code;
}

/* The first word of an entry of free pages says how many follow. */
static enum err_code begin_unused(struct look *look, struct walk *walk, uint64_t page,
                                  const uint8_t *words, size_t len, size_t whole)
{
    if (whole < 8 || load_u64(words) > whole / 8 - 1)
        return bad(look, walk->tree->name, page, "an entry names more pages than it has");
    walk->unused_left = load_u64(words);
    return take_unused(look, walk, words + 8, len - 8);
}

/* Overflow pages of an entry, all of them read. */
static enum err_code look_at_run(struct look *look, struct walk *walk, const struct node *node,
                                 struct err *err)
{
    bool is_unused = walk->tree->flags == FREE_FLAGS;
    uint64_t first = load_u64(node->data), pages;
    enum err_code code = take_pages(look, walk->tree, first, 1);

    if (code == ERR_OK)
        code = read_page(look, first, look->spare, err);
    if (code != ERR_OK)
        return code;
    pages = load_u32(look->spare + 12);
    if (load_u64(look->spare) != first || load_u16(look->spare + 10) != PAGE_OVERFLOW ||
        pages < (PAGE_HEADER + node->len + look->page_bytes - 1) / look->page_bytes)
        return bad(look, walk->tree->name, first, "it does not begin the data of its entry");
    if (is_unused)
        code = begin_unused(look, walk, first, look->spare + PAGE_HEADER,
                            look->page_bytes - PAGE_HEADER, node->len);
    if (code == ERR_OK && pages > 1)
        code = take_pages(look, walk->tree, first + 1, pages - 1);
    for (uint64_t i = 1; code == ERR_OK && i < pages; i++) {
        code = read_page(look, first + i, look->spare, err);
        if (code == ERR_OK && is_unused)
            code = take_unused(look, walk, look->spare, look->page_bytes);
    }
    walk->counted.overflows += pages;
    return code;
}

static void tree_decode(struct tree *out, const uint8_t *at)
{
    out->flags = load_u16(at + 4);
    out->depth = load_u16(at + 6);
    out->branches = load_u64(at + 8);
    out->leaves = load_u64(at + 16);
    out->overflows = load_u64(at + 24);
    out->entries = load_u64(at + 32);
    out->root = load_u64(at + 40);
}

/* An entry of the tree of tables: one of ours. */
static enum err_code take_table(struct look *look, const struct walk *walk,
                                const struct level *level, const struct node *node)
{
    for (size_t i = 0; i < STORE_TABLES; i++) {
        const char *name = store_lmdb_tables[i];

        if (node->flags != NODE_TREE || node->len != TREE_BYTES || node->key_len != strlen(name) ||
            memcmp(node->key, name, node->key_len) != 0)
            continue;
        tree_decode(&look->tables[i], node->data);
        look->tables[i].name = name;
        return ERR_OK;
    }
    return bad(look, walk->tree->name, level->number, "there is an unknown table");
}

static enum err_code take_entry(struct look *look, struct walk *walk, const struct level *level,
                                uint32_t index, struct err *err)
{
    struct node node = node_at(level, index, true);
    enum err_code code = take_key(look, walk, level, &node);

    walk->counted.entries++;
    if (code != ERR_OK)
        return code;
    if (strcmp(walk->tree->name, STORE_LMDB_MAIN) == 0)
        return take_table(look, walk, level, &node);
    if ((node.flags & ~NODE_BIG) != 0)
        return bad(look, walk->tree->name, level->number, "an entry is of an unknown kind");
    if (node.flags == NODE_BIG)
        return look_at_run(look, walk, &node, err);
    if (walk->tree->flags == FREE_FLAGS)
        return begin_unused(look, walk, level->number, node.data, node.len, node.len);
    return ERR_OK;
}

/* --- trees ----------------------------------------------------------------------------------- */

static enum err_code step(struct look *look, struct walk *walk, struct err *err)
{
    struct level *level = &look->levels[walk->depth - 1];
    uint32_t index = level->next++;
    struct node node;
    enum err_code code = ERR_OK;

    if (index == level->count) {
        walk->depth--;
        return ERR_OK;
    }
    if (walk->depth == walk->tree->depth)
        return take_entry(look, walk, level, index, err);
    node = node_at(level, index, false);
    if (index > 0)
        code = take_bound(look, walk, level, &node);
    return code == ERR_OK ? enter(look, walk, node.child, err) : code;
}

static enum err_code compare_counts(struct look *look, const struct walk *walk)
{
    const struct tree *tree = walk->tree, *counted = &walk->counted;

    if (tree->branches == counted->branches && tree->leaves == counted->leaves &&
        tree->overflows == counted->overflows && tree->entries == counted->entries)
        return ERR_OK;
    return bad(look, tree->name, tree->root == TREE_NONE ? 0 : tree->root,
               "it has %llu entries on %llu pages, and should have %llu on %llu",
               (unsigned long long)counted->entries,
               (unsigned long long)(counted->branches + counted->leaves + counted->overflows),
               (unsigned long long)tree->entries,
               (unsigned long long)(tree->branches + tree->leaves + tree->overflows));
}

/* ERR_CORRUPT: it was told. */
static enum err_code look_at_tree(struct look *look, const struct tree *tree, uint16_t flags,
                                  struct err *err)
{
    struct walk *walk = array_alloc(1, sizeof(*walk));
    enum err_code code = ERR_OK;

    if (walk == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to walk through a store");
    walk->tree = tree;
    if (tree->flags != flags || tree->depth > DEPTH_MAX ||
        (tree->depth == 0) != (tree->root == TREE_NONE))
        code = bad(look, tree->name, tree->root == TREE_NONE ? 0 : tree->root,
                   "the tree cannot be walked");
    if (code == ERR_OK && tree->depth > 0)
        code = enter(look, walk, tree->root, err);
    while (code == ERR_OK && walk->depth > 0)
        code = step(look, walk, err);
    if (code == ERR_OK)
        code = compare_counts(look, walk);
    free(walk);
    return code;
}

/* --- the file -------------------------------------------------------------------------------- */

/* Returns what is wrong with a meta page, or NULL. */
static const char *meta_fault(const uint8_t *page, uint64_t number)
{
    if (load_u64(page) != number || load_u16(page + 10) != PAGE_META ||
        load_u32(page + 16) != META_MAGIC)
        return "it is no head of a store";
    return NULL;
}

static enum err_code choose_page_size(struct look *look, uint64_t size, struct err *err)
{
    uint8_t head[PAGE_MIN];
    size_t bytes;

    look->page_bytes = PAGE_MIN;
    if (size < PAGE_MIN)
        return bad(look, "the file", 0, "it is cut off");
    enum err_code code = read_page(look, 0, head, err);
    if (code != ERR_OK)
        return code;
    bytes = load_u32(head + 40);
    if (meta_fault(head, 0) != NULL)
        return bad(look, "the head", 0, "%s", meta_fault(head, 0));
    if (load_u32(head + 20) != META_VERSION)
        return err_set(err, ERR_CONFIG, "%.200s has format %u of LMDB, this program knows %u",
                       look->file, load_u32(head + 20), META_VERSION);
    if (bytes < PAGE_MIN || bytes > PAGE_MAX || (bytes & (bytes - 1)) != 0)
        return bad(look, "the head", 0, "pages of %zu bytes", bytes);
    look->page_bytes = bytes;
    return ERR_OK;
}

/* Both heads; the newer one's trees.  size: of the file. */
static enum err_code look_at_heads(struct look *look, uint64_t size, struct tree *unused,
                                   struct tree *tables, struct err *err)
{
    uint64_t newest = 0;

    for (uint64_t i = 0; i < 2; i++) {
        enum err_code code = read_page(look, i, look->spare, err);
        const char *fault = code == ERR_OK ? meta_fault(look->spare, i) : NULL;

        if (code != ERR_OK)
            return code;
        if (fault != NULL || load_u32(look->spare + 20) != META_VERSION ||
            load_u32(look->spare + 40) != look->page_bytes)
            return bad(look, "the head", i, "%s", fault != NULL ? fault : "it is of another store");
        if (i > 0 && load_u64(look->spare + 144) <= newest)
            continue;
        newest = load_u64(look->spare + 144);
        tree_decode(unused, look->spare + 40);
        tree_decode(tables, look->spare + 40 + TREE_BYTES);
        look->pages = load_u64(look->spare + 136);
    }
    /* Pages made and given up in one transaction are never written: where they were the last ones,
     * the file ends before them.  They are free ones, so it names each of them, in eight bytes. */
    if (look->pages < 1 || look->pages >= size / look->page_bytes + size / 8)
        return bad(look, "the head", 0, "the last page is %llu, and the file has %llu",
                   (unsigned long long)look->pages, (unsigned long long)(size / look->page_bytes));
    look->pages++;
    look->used = array_alloc((size_t)look->pages / 8 + 1, 1);
    return look->used == NULL ? err_set(err, ERR_NO_MEMORY, "no memory for a bit a page") : ERR_OK;
}

static enum err_code look_at_all(struct look *look, struct err *err)
{
    struct tree unused = {0}, main = {0};
    struct stat info;
    enum err_code code;

    if (fstat(look->fd, &info) != 0)
        return err_set_errno(err, errno, "%.200s", look->file);
    look->out->bytes = (uint64_t)info.st_size;
    code = choose_page_size(look, look->out->bytes, err);
    if (code != ERR_OK)
        return code;
    look->memory = array_alloc(DEPTH_MAX + 1, look->page_bytes);
    if (look->memory == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look at a store");
    for (size_t i = 0; i < DEPTH_MAX; i++)
        look->levels[i].page = look->memory + i * look->page_bytes;
    look->spare = look->memory + DEPTH_MAX * look->page_bytes;
    code = look_at_heads(look, look->out->bytes, &unused, &main, err);
    if (code != ERR_OK)
        return code;
    unused.name = "free pages";
    main.name = STORE_LMDB_MAIN;
    if ((code = look_at_tree(look, &main, 0, err)) != ERR_OK && code != ERR_CORRUPT)
        return code;
    for (size_t i = 0; i < STORE_TABLES; i++) {
        if (look->tables[i].name == NULL)
            continue;
        code = look_at_tree(look, &look->tables[i], 0, err);
        if (code != ERR_OK && code != ERR_CORRUPT)
            return code;
        look->out->rows[i] = look->tables[i].entries;
    }
    /* When all that is in use is known. */
    if ((code = look_at_tree(look, &unused, FREE_FLAGS, err)) != ERR_OK && code != ERR_CORRUPT)
        return code;
    if (main.entries == 0 && look->out->is_sound)
        return err_set(err, ERR_NOT_FOUND, "%.200s has no tables yet", look->file);
    return ERR_OK;
}

enum err_code store_verify(const char *folder, struct scrub *scrub, struct store_verified *out,
                           struct err *err)
{
    char file[PATH_MAX];
    int len = snprintf(file, sizeof(file), "%s/data.mdb", folder);
    struct look *look = array_alloc(1, sizeof(*look));
    enum err_code code;

    *out = (struct store_verified){.is_sound = true, .lock_fd = -1};
    if (look == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look at a store");
    if (len < 0 || (size_t)len >= sizeof(file)) {
        free(look);
        return err_set(err, ERR_CONFIG, "the path %.200s is too long", folder);
    }
    look->file = file;
    look->scrub = scrub;
    look->out = out;
    look->fd = -1;
    code = scrub_lock(&out->lock_fd, folder, STORE_LMDB_LOCK, err);
    if (code == ERR_OK) {
        look->fd = open(file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        if (look->fd < 0)
            code = errno == ENOENT
                       ? err_set(err, ERR_NOT_FOUND, "there is no store in %.200s", folder)
                       : err_set_errno(err, errno, "%.200s", file);
    }
    if (code == ERR_OK)
        code = look_at_all(look, err);
    if (look->fd >= 0)
        (void)close(look->fd); /* nothing was written through it */
    free(look->used);
    free(look->memory);
    free(look);
    return code == ERR_CORRUPT ? ERR_OK : code; /* it was told */
}

void store_verified_end(struct store_verified *verified)
{
    if (verified->lock_fd >= 0)
        (void)close(verified->lock_fd); /* lets go of the lock */
    verified->lock_fd = -1;
}
