/* Fresh reads of a shard whose log gives no ends: nobody is held up beyond his own deadline. */
#include "tests/unit/shard_rig.h"

#include <stdatomic.h>

static enum err_code wait_for(struct rig *rig, struct wire_question *question, struct err *err)
{
    struct reply_of reply;
    enum err_code code;

    rig_ask(rig, &reply, question);
    code = reply.code;
    if (err != NULL)
        *err = reply.req.err;
    reply_free(&reply);
    return code;
}

/* A log over files that can be made to give no ends before the deadline of who asks. */
struct mute_wal {
    struct wal base;
    struct wal *inner;
};

static _Atomic bool is_mute;
static _Atomic uint64_t asked_until_ns;

static struct wal_ops mute_ops = {.scheme = "mute"};

static struct wal *behind(struct wal *wal)
{
    return ((struct mute_wal *)wal)->inner;
}

static enum err_code mute_open(struct wal **out, const struct wal_options *options, struct err *err)
{
    struct mute_wal *mute = calloc(1, sizeof(*mute));
    struct wal_options inner = *options;
    enum err_code code;

    assert_non_null(mute);
    inner.url = strchr(options->url, ':') + 1;
    code = wal_open(&mute->inner, &inner, err);
    if (code != ERR_OK) {
        free(mute);
        return code;
    }
    mute->base = *mute->inner;
    mute->base.ops = &mute_ops;
    *out = &mute->base;
    return ERR_OK;
}

static void mute_close(struct wal *wal)
{
    wal_close(behind(wal));
    free(wal);
}

static enum err_code mute_ends(struct wal *wal, const uint32_t *partitions, size_t count,
                               uint64_t deadline_ns, uint64_t *ends, struct err *err)
{
    if (!is_mute)
        return wal_ends(behind(wal), partitions, count, deadline_ns, ends, err);
    asked_until_ns = deadline_ns;
    must(env_sleep_until(env_real(), deadline_ns), NULL);
    return err_set(err, ERR_TIMEOUT, "no ends in time");
}

static enum err_code mute_first(struct wal *wal, uint32_t partition, uint64_t *first,
                                struct err *err)
{
    return wal_first(behind(wal), partition, first, err);
}

static enum err_code mute_reader_open(struct wal_reader **out, struct wal *wal,
                                      const uint32_t *partitions, const uint64_t *positions,
                                      size_t count, struct err *err)
{
    enum err_code code = wal_reader_open(out, behind(wal), partitions, positions, count, err);

    if (*out != NULL)
        (*out)->ops = &mute_ops;
    return code;
}

static void a_log_that_gives_no_ends_holds_up_no_one_beyond_his_deadline(void **state)
{
    static char url[160];
    struct rig *rig = rig_new();
    struct shard_setup setup = {.env = env_real(),
                                .meta = rig->meta,
                                .store = rig->store,
                                .wal_url = url,
                                .metrics = rig->metrics,
                                .waiters_max = 4,
                                .link_threads = 1,
                                .poll_ms = 3600 * 1000};
    struct wire_question question = rig_question(NULL, WIRE_WAIT);
    struct reply_of reply;
    struct err err = {0};
    bool asked_in_time = false;

    (void)state;
    mute_ops.open = mute_open;
    mute_ops.close = mute_close;
    mute_ops.ends = mute_ends;
    mute_ops.first = mute_first;
    mute_ops.reader_open = mute_reader_open;
    mute_ops.reader_next = wal_file_ops.reader_next;
    mute_ops.reader_close = wal_file_ops.reader_close;
    wal_register(&mute_ops);
    rig_open_log(rig, "wal");
    rig_put_map(rig, 1);
    snprintf(url, sizeof(url), "mute:%s", rig->wal_url);
    must(shard_open(&rig->shard, &setup, &err), &err);
    rig_await_ready(rig);
    question.fresh = true;
    assert_int_equal(wait_for(rig, &question, NULL), ERR_OK); /* the poller's own round is over */
    is_mute = true;
    question.wait_ms = 30;
    /* The poller's first round, which lasts a second, may come only now: then it is the next
     * question that asks for itself. */
    for (int i = 0; i < 100 && !asked_in_time; i++) {
        asked_until_ns = 0;
        rig_ask(rig, &reply, &question);
        assert_int_equal(reply.code, ERR_BEHIND);
        asked_in_time =
            asked_until_ns != 0 && asked_until_ns <= reply.req.received_ns + 30 * NS_PER_MS;
        reply_free(&reply);
    }
    assert_true(asked_in_time);
    is_mute = false;
    question.wait_ms = RIG_WAIT_MS;
    assert_int_equal(wait_for(rig, &question, NULL), ERR_OK);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_that_gives_no_ends_holds_up_no_one_beyond_his_deadline),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
