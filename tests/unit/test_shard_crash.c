/* A shard's folder after a crash at any moment, of the process or of the machine: store and
 * segments agree with one another and with the log (services/shard/verify.h finds nothing), and
 * read on from there it becomes what it would have become.
 * pace: long */
#include "tests/unit/crash_trace.h"
#include "tests/unit/verify_rig.h"

#define AT_ONCE 200u /* records of a commit */
#define SEALS   2u   /* segments that are written, on the way and at the end */

static struct rig rig;
static char image_folder_path[160];
static struct apply_counts all[RIG_PARTITIONS]; /* when everything was applied */

/* --- a shard in small ------------------------------------------------------------------------ */

struct node {
    struct store *store;
    struct apply apply;
    struct engine *engine; /* NULL: none */
    struct wal_reader *reader;
};

static enum err_code make_durable(void *state, struct err *err)
{
    struct node *node = state;

    return store_sync(node->store, err);
}

static void open_engine(struct node *node, const char *shard)
{
    char root[300], folder[SEGMENTS_PATH_BYTES];
    struct segments_place place = {
        .root = root, .life = node->apply.life, .incarnation = rig.collection.incarnation};
    struct engine_options options = segments_engine_options(&rig.collection);
    struct err err = {0};

    snprintf(root, sizeof(root), "%s/segments", shard);
    must(segments_make(root, node->apply.life, &err), &err);
    must(segments_folder(folder, &place, &err), &err);
    must(engine_open(&node->engine, folder, &options, NULL, &err), &err);
    assert_string_equal(engine_notice(node->engine), "");
}

static void node_open(struct node *node, const char *shard)
{
    char url[300];
    struct store_options options = {.url = url, .env = env_real()};
    struct apply_origin origin = {.region = wal_region(rig.log)};
    uint32_t partitions[RIG_PARTITIONS] = {0, 1};
    uint64_t positions[RIG_PARTITIONS];
    struct err err = {0};
    enum err_code code;

    memset(node, 0, sizeof(*node));
    if (mkdir(shard, 0755) != 0)
        assert_int_equal(errno, EEXIST);
    snprintf(url, sizeof(url), "lmdb:%s/store", shard);
    must(store_open(&node->store, &options, &err), &err);
    partition_set_fill(&origin.served, RIG_PARTITIONS);
    code = apply_load(&node->apply, node->store, &err);
    if (code == ERR_NOT_FOUND)
        code = apply_create(&node->apply, node->store, &origin, &err);
    must(code, &err);
    must(apply_take_life(&node->apply, &err), &err);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        positions[p] = node->apply.partitions[p].position;
    must(wal_reader_open(&node->reader, rig.log, partitions, positions, RIG_PARTITIONS, &err),
         &err);
}

static void node_close(struct node *node)
{
    if (node->engine != NULL)
        engine_close(node->engine);
    wal_reader_close(node->reader);
    apply_free(&node->apply);
    store_close(node->store);
}

/* Vectors enter the engine before their commit, and leave it after. */
static void tell_engine(struct node *node, const struct apply_effects *effects, bool is_committed)
{
    struct err err = {0};

    for (size_t i = 0; i < effects->count && node->engine != NULL; i++) {
        const struct apply_effect *effect = &effects->items[i];

        if (effect->kind == EFFECT_INSERTED && !is_committed)
            must(engine_insert(node->engine, effect->ordinal, effect->vector, &err), &err);
        else if (effect->kind == EFFECT_REMOVED && is_committed)
            engine_delete(node->engine, effect->ordinal);
    }
}

/* One commit; false: the log has no more. */
static bool node_step(struct node *node)
{
    struct apply_effects effects = {0};
    struct wal_item items[AT_ONCE];
    struct store_txn *txn;
    size_t count;
    struct err err = {0};

    must(wal_reader_next(node->reader, items, AT_ONCE, &count, 0, &err), &err);
    if (count == 0)
        return false;
    must(store_begin(&txn, node->store, true, &err), &err);
    for (size_t i = 0; i < count; i++) {
        struct apply_input input = rig_input(&rig, &items[i]);
        size_t before = effects.count;
        struct apply_effects fresh;

        must(apply_record(&node->apply, txn, &input, &effects, &err), &err);
        fresh = (struct apply_effects){.items = effects.items + before,
                                       .count = effects.count - before};
        tell_engine(node, &fresh, false); /* a vector lives until the next record */
    }
    must(apply_flush(&node->apply, txn, &err), &err);
    must(store_commit(txn, &err), &err);
    apply_clean(&node->apply);
    tell_engine(node, &effects, true);
    apply_effects_free(&effects);
    return true;
}

static void node_seal(struct node *node)
{
    struct engine_hooks hooks = {.make_durable = make_durable, .state = node};
    struct err err = {0};
    uint64_t left = 1;

    while (left > 0)
        must(engine_step(node->engine, UINT32_MAX, &left, &err), &err);
    if (engine_linked(node->engine) > 0)
        must(keeper_seal(node->engine, &hooks, &err), &err);
}

static void record_life(const char *shard)
{
    struct node node;
    unsigned sealed = 0;

    node_open(&node, shard);
    open_engine(&node, shard);
    while (node_step(&node))
        if (engine_count(node.engine) > 1050 && sealed + 1 < SEALS) {
            node_seal(&node);
            sealed++;
        }
    node_seal(&node);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        all[p] = node.apply.partitions[p].counts;
    assert_true(engine_covered(node.engine) > 1000);
    node_close(&node);
}

/* --- checking -------------------------------------------------------------------------------- */

static void verify(const char *shard)
{
    struct err err = {0};
    enum err_code code;

    snprintf(rig.shard, sizeof(rig.shard), "%.150s", shard);
    code = rig_verify(&rig);
    if (code != ERR_OK && code != ERR_NOT_FOUND)
        must(code, &err);
    if (rig.findings > 0)
        fail_msg("moment %zu: %s", image.moment, rig.found);
}

static void check(bool is_reboot)
{
    struct node node;
    char shard[300];

    (void)is_reboot;
    snprintf(shard, sizeof(shard), "%s/shard", image.root);
    verify(shard);
    if (image.count % 16 != 1)
        return; /* the rest takes longer */
    node_open(&node, shard);
    open_engine(&node, shard);
    engine_close(node.engine);
    node.engine = NULL;
    while (node_step(&node))
        continue;
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        assert_memory_equal(&node.apply.partitions[p].counts, &all[p], sizeof(all[p]));
    node_close(&node);
    verify(shard);
}

static void store_and_segments_agree_after_a_crash_at_any_moment(void **state)
{
    char shard[160], wal[160];

    (void)state;
    snprintf(wal, sizeof(wal), "%s", rig.wal);
    trace_begin(rig.folder);
    snprintf(shard, sizeof(shard), "%s/shard", rig.folder);
    record_life(shard);
    trace_end();
    wal_close(rig.log); /* from here on it is only looked at */
    rig.log = NULL;
    {
        char url[200];
        struct wal_options options = {.url = url, .env = env_real()};
        struct err err = {0};

        snprintf(url, sizeof(url), "file:%s", wal);
        must(wal_open(&rig.log, &options, &err), &err);
    }
    trace_crash_everywhere(image_folder_path, 4, check);
    trace_free();
}

static int make(void **state)
{
    (void)state;
    assert_true(scratch_make(rig.folder, sizeof(rig.folder), "crash"));
    snprintf(image_folder_path, sizeof(image_folder_path), "%s-image", rig.folder);
    snprintf(rig.wal, sizeof(rig.wal), "%s/wal", rig.folder);
    rig_make_log(&rig);
    return 0;
}

static int forget(void **state)
{
    (void)state;
    wal_close(rig.log);
    (void)scratch_remove(image_folder_path);
    rig_free(&rig);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(store_and_segments_agree_after_a_crash_at_any_moment),
    };

    return cmocka_run_group_tests(tests, make, forget);
}
