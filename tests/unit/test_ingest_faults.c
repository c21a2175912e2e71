/* Whatever call fails on the way to the disk, and whatever allocation, in a whole ingest: its
 * sequencer, its log, its spool and all its threads.  Each write is answered, in time and with a
 * code that is documented; what was acknowledged is in the log, or waits in the spool and then is;
 * and the same ingest goes on when nothing fails any more.  Its clocks run faster than ours, so
 * that its patience is ours.
 *
 * link-flags: -Wl,--wrap=malloc -Wl,--wrap=calloc -Wl,--wrap=realloc -Wl,--wrap=strdup */
#include "tests/unit/fast_env.h"

#define REPLAY_ENV (&fast.env)
#include "tests/unit/replay_rig.h"

#include "tests/unit/failing_calls.h"

#define SPEED 20u
#define READY_NS                                                                                   \
    (300 * NS_PER_MS) /* of our time: what never becomes ready is written to as well               \
                       */
#define CALLS_MAX 20000u
#define IDS       4u
#define WRITES    14u
#define FAIL_MOST 12u /* of the tries in which later calls fail too */

/* Of each id: the values that it may have in the end; 0 a delete, or nothing. */
static struct {
    bool may[IDS][WRITES + 2];
} truth;

/* Is it open?  Faults go on. */
static bool try_begin(struct err *err)
{
    struct ingest_setup setup = {
        .meta = world.meta, .open_wal = open_bare_wal, .spool = world.spool};
    enum err_code rc = life_try_begin(&setup, err);

    if (rc == ERR_OK) {
        uint64_t end = env_boot_ns(env_real()) + READY_NS;

        while (!is_ready() && env_boot_ns(env_real()) < end)
            (void)(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS) == ERR_OK);
        return true;
    }
    assert_int_equal(err->code, rc);
    assert_true(err->message[0] != '\0');
    ingest_stop(&life.ingest);
    ingest_close(&life.ingest);
    return false;
}

static void expect_documented(int status)
{
    static const int DOCUMENTED[] = {200, 201, 202, 429, 503, 504, 507};

    for (size_t i = 0; i < ARRAY_COUNT(DOCUMENTED); i++)
        if (status == DOCUMENTED[i])
            return;
    fail_msg("%s %u%s: answered %d", kind_names[fault.kind], fault.at, fault.stays ? " and on" : "",
             status);
}

/* One write of these ids; value 0: a delete.  Returns how it was answered. */
static int write_ids(unsigned first, unsigned count, unsigned value)
{
    char body[512];
    int len = snprintf(body, sizeof(body), "{\"timeout_ms\":2000,\"%s\":[",
                       value == 0 ? "ids" : "records");
    int status;

    for (unsigned i = first; i < first + count; i++)
        len += snprintf(body + len, sizeof(body) - (size_t)len,
                        value == 0 ? "%s\"id%u\"" : "%s{\"id\":\"id%u\",\"text\":\"%u\"}",
                        i == first ? "" : ",", i % IDS, value);
    (void)snprintf(body + len, sizeof(body) - (size_t)len,
                   value == 0 ? "],\"count\":false}" : "]}");
    status = status_of("POST", value == 0 ? RECORDS "/delete" : RECORDS, body);
    expect_documented(status);
    for (unsigned i = first; i < first + count; i++) {
        if (status < 300)
            memset(truth.may[i % IDS], 0, sizeof(truth.may[0]));
        truth.may[i % IDS][value] = true;
    }
    return status;
}

static void live(void)
{
    struct err err = {0};
    bool is_open = false;

    for (unsigned i = 0; i < 3 && !is_open; i++)
        is_open = try_begin(&err);
    for (unsigned i = 0; is_open && i < WRITES; i++) {
        (void)write_ids(i, i % 3 == 0 ? 3 : 1, i % 5 == 4 ? 0 : i + 1);
        if (i == WRITES / 2)
            expect_documented(
                status_of("PUT", "/v1/collections/more", "{\"vector\":{\"dimension\":2}}"));
    }
}

static void check(void)
{
    for (unsigned i = 0; i < IDS; i++) {
        struct history history;
        char id[16];

        (void)snprintf(id, sizeof(id), "id%u", i);
        history = history_of(id, NULL);
        if (!truth.may[i][strtoul(history.newest, NULL, 10)])
            fail_msg("%s %u%s: %s ends as '%s'", kind_names[fault.kind], fault.at,
                     fault.stays ? " and on" : "", id, history.newest);
    }
    AWAIT(busy_count(life.ingest.busy) == 0);
}

static void try_one(unsigned at, bool stays)
{
    void *state = NULL;

    assert_int_equal(set_up(&state), 0);
    end();
    memset(&truth, 0, sizeof(truth));
    for (unsigned i = 0; i < IDS; i++)
        truth.may[i][0] = true;
    fault.at = at;
    fault.stays = stays;
    fault.most = FAIL_MOST;
    atomic_store(&fault.calls, 0);
    atomic_store(&fault.is_on, true);
    live();
    atomic_store(&fault.is_on, false);
    if (!life.is_open)
        begin();
    AWAIT(write_ids(0, 1, WRITES + 1) < 300); /* it goes on */
    AWAIT(is_ready() && spool_is_empty());
    check();
    end();
    begin();
    check();
    (void)tear_down(&state);
}

static void try_kind(enum kind kind)
{
    unsigned at = 1, step = 1;

    fault.kind = kind;
    do {
        try_one(at, false);
        try_one(at, true);
        at += step;
        step = at < 30 ? 1 : at / 5; /* far behind, they are like those before */
    } while (atomic_load(&fault.calls) >= fault.at && at < CALLS_MAX);
    print_message("%s: %u\n", kind_names[kind], atomic_load(&fault.calls));
    assert_true(at < CALLS_MAX);
}

static void any_write_may_fail(void **state)
{
    (void)state;
    try_kind(KIND_WRITE);
    try_kind(KIND_CUT);
    try_kind(KIND_GROW);
}

static void any_sync_may_fail(void **state)
{
    (void)state;
    try_kind(KIND_SYNC);
}

static void any_open_or_read_may_fail(void **state)
{
    (void)state;
    try_kind(KIND_OPEN);
    try_kind(KIND_READ);
    try_kind(KIND_MAP);
}

static void any_change_of_names_may_fail(void **state)
{
    (void)state;
    try_kind(KIND_RENAME);
    try_kind(KIND_REMOVE);
    try_kind(KIND_MKDIR);
}

static void any_allocation_may_fail(void **state)
{
    (void)state;
    try_kind(KIND_MEMORY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_write_may_fail),        cmocka_unit_test(any_sync_may_fail),
        cmocka_unit_test(any_open_or_read_may_fail), cmocka_unit_test(any_change_of_names_may_fail),
        cmocka_unit_test(any_allocation_may_fail),
    };

    fast_begin(SPEED);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
