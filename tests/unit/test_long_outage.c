/* The log is away for an hour, and for longer than a day: what that costs is bounded, tries go on,
 * and everything acknowledged is in the log in the end, or parked where it cannot be compared.  The
 * ingest's clocks run SPEED times as fast as ours, and can be put forward. */
#include "tests/unit/fast_env.h"

#define REPLAY_ENV (&fast.env)
#include "tests/unit/replay_rig.h"

#include <dirent.h>
#include <malloc.h>
#include <sys/stat.h>

#include "common/base/checked.h"
#include "tests/unit/faulty_store.h"

#define IDS     100u
#define HOUR_NS (3600 * NS_PER_S)
#define SPEED   600u /* an hour in six seconds */

/* --- the spool's store, whose transactions are counted -------------------------------------------
 */

static struct store_ops counting_ops;
static atomic_uint
    looks; /* read transactions: one for a round of the replay that comes to nothing */

static enum err_code begin_counted(struct store_txn **out, struct store *store, bool write,
                                   struct err *err)
{
    atomic_fetch_add(&looks, !write);
    return faulty_begin(out, store, write, err);
}

static enum err_code open_counted(void *context, struct store **out, struct err *err)
{
    struct store_options options = {.url = world.spool, .env = env_real()};
    struct faulty *front = calloc(1, sizeof(*front));
    enum err_code code;

    (void)context;
    assert_non_null(front);
    counting_ops = faulty_ops;
    counting_ops.begin = begin_counted;
    front->base.ops = &counting_ops;
    front->base.env = env_real();
    code = store_open(&front->inner, &options, err);
    if (code == ERR_OK)
        *out = &front->base;
    else
        free(front);
    return code;
}

/* --- what it costs -------------------------------------------------------------------------------
 */

struct cost {
    size_t heap, files, threads, disk;
    unsigned appends, looks;
    uint64_t at_ns;
};

static size_t entries_of(const char *path)
{
    DIR *dir = opendir(path);
    size_t count = 0;

    assert_non_null(dir);
    while (readdir(dir) != NULL)
        count++;
    (void)closedir(dir);
    return count;
}

/* Bytes in use, while nobody just works on something. */
static size_t heap_at_rest(void)
{
    size_t least = SIZE_MAX;

    for (unsigned i = 0; i < 50; i++) {
        least = MIN_OF(least, mallinfo2().uordblks);
        assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), ERR_OK);
    }
    return least;
}

static struct cost cost_now(void)
{
    struct cost cost = {.heap = heap_at_rest(),
                        .files = entries_of("/proc/self/fd"),
                        .threads = entries_of("/proc/self/task"),
                        .appends = wal_faulty_appends(life.log),
                        .looks = atomic_load(&looks),
                        .at_ns = env_boot_ns(REPLAY_ENV)};
    char path[160];
    struct stat stat_of;

    (void)snprintf(path, sizeof(path), "%s/spool/data.mdb", world.dir);
    assert_int_equal(stat(path, &stat_of), 0);
    cost.disk = (size_t)stat_of.st_blocks * 512;
    return cost;
}

/* Every id again and again, twice at least and until that time.  Returns the last value. */
static unsigned write_until(uint64_t until_ns, unsigned value)
{
    while (env_boot_ns(REPLAY_ENV) < until_ns || value < 2 * IDS) {
        char id[16], text[16];

        value++;
        (void)snprintf(id, sizeof(id), "id%u", value % IDS);
        (void)snprintf(text, sizeof(text), "%u", value);
        expect_spooled(upsert(id, text));
    }
    return value;
}

/* --- promises ------------------------------------------------------------------------------------
 */

static void an_hour_costs_what_five_minutes_cost(void **state)
{
    struct cost early, late;
    unsigned value;
    double seconds;

    (void)state;
    log_goes_away();
    value = write_until(env_boot_ns(REPLAY_ENV) + HOUR_NS / 12, 0);
    early = cost_now();
    value = write_until(early.at_ns + HOUR_NS, value);
    late = cost_now();
    seconds = (double)(late.at_ns - early.at_ns) / 1e9;
    printf(
        "%u writes; in %.0f s %u tries to append, %u rounds of the replay; heap %zu and %zu, files "
        "%zu and %zu, threads %zu and %zu, disk %zu and %zu\n",
        value, seconds, late.appends - early.appends, late.looks - early.looks, early.heap,
        late.heap, early.files, late.files, early.threads, late.threads, early.disk, late.disk);
    assert_in_range(spool_number("records"), IDS, IDS + 1); /* the one that found out */
    assert_true(late.heap <= early.heap + KIB(256));
    assert_int_equal(late.files, early.files);
    assert_true(late.threads <= early.threads);
    assert_true(late.disk <= early.disk + MIB(1));
    /* It goes on trying, and not all the time. */
    assert_true(late.appends > early.appends);
    assert_true(late.appends - early.appends <= seconds * 10 + 1);
    assert_true(late.looks > early.looks);
    assert_true(late.looks - early.looks <= seconds / 2 + 10);
    log_comes_back();
    AWAIT(spool_is_empty());
    for (unsigned i = 0; i < IDS; i++) {
        unsigned newest = value - (value % IDS + IDS - i) % IDS;
        char id[16], text[16];

        (void)snprintf(id, sizeof(id), "id%u", i);
        (void)snprintf(text, sizeof(text), "%u", newest);
        expect_newest(id, text);
        assert_int_equal(history_of(id, NULL).count, 1);
    }
    assert_int_equal(spool_number("parked_records"), 0);
    AWAIT(upsert_status("id0", "after") == 200); /* a sync may take seconds of that time */
}

/* Nobody else has held the log: there is nothing to compare with. */
static void what_its_holder_kept_for_more_than_a_day_is_appended(void **state)
{
    (void)state;
    log_goes_away();
    expect_spooled(upsert("a", "first"));
    expect_spooled(upsert("b", "first"));
    fast_skip(HOUR_NS * 25);
    expect_spooled(upsert("b", "second"));
    fast_skip(HOUR_NS * 25);
    log_comes_back();
    AWAIT(spool_is_empty());
    expect_newest("a", "first");
    expect_newest("b", "second");
    assert_int_equal(spool_number("parked_records"), 0);
}

/* Tombstones may be gone that would say that it was deleted: it is kept, shown, and not appended.
 */
static void what_waited_for_more_than_a_day_is_parked_by_the_next_life(void **state)
{
    (void)state;
    log_goes_away();
    expect_spooled(upsert("old", "1"));
    expect_spooled(upsert("older", "1"));
    end();
    fast_skip(HOUR_NS * 25);
    begin();
    AWAIT(spool_number("parked_records") >= 2 && spool_is_empty());
    assert_int_equal(history_of("old", NULL).count, 0);
    AWAIT(upsert_status("old", "anew") == 200);
    end();
    fast_skip(HOUR_NS * 25);
    begin();
    assert_true(spool_number("parked_records") >= 2);
    assert_string_equal(history_of("old", NULL).newest, "anew");
    assert_int_equal(history_of("older", NULL).count, 0);
}

static void what_waited_for_less_than_a_day_is_still_compared(void **state)
{
    unsigned before;

    (void)state;
    log_goes_away();
    expect_spooled(upsert("a", "1"));
    end();
    fast_skip(HOUR_NS * 23);
    begin();
    before = atomic_load(&looks);
    AWAIT(atomic_load(&looks) > before + 3); /* rounds: there is no shard to compare with */
    assert_int_equal(spool_number("parked_records"), 0);
    assert_true(spool_number("records") >= 1);
    assert_int_equal(history_of("a", NULL).count, 0);
}

static int set_up_fast(void **state)
{
    fast_begin(SPEED);
    if (set_up(state) != 0)
        return -1;
    end();
    world.open_spool = open_counted;
    begin();
    return 0;
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up_fast, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(an_hour_costs_what_five_minutes_cost),
        PROMISE(what_its_holder_kept_for_more_than_a_day_is_appended),
        PROMISE(what_waited_for_more_than_a_day_is_parked_by_the_next_life),
        PROMISE(what_waited_for_less_than_a_day_is_still_compared),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
