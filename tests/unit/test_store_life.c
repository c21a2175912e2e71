/* A store's life: drawn once, there again whenever the store is opened, another one when the store
 * is cleared; a failure on the way leaves none, or the one that the next call takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "services/shard/apply.h"
#include "tests/unit/faulty_store.h"

static void create(struct apply *apply, struct store *store)
{
    struct apply_origin origin = {.region = 7};
    struct err err = {0};

    partition_set_add(&origin.served, 0);
    must(apply_create(apply, store, &origin, &err), &err);
}

static void a_life_is_kept_until_the_store_is_cleared(void **state)
{
    struct store_options options = {.url = "memory:", .env = env_real()};
    struct apply apply = {0};
    struct store *store;
    struct err err = {0};
    uint64_t life;

    (void)state;
    must(store_open(&store, &options, &err), &err);
    create(&apply, store);
    assert_true(apply.life == 0);
    must(apply_take_life(&apply, &err), &err);
    life = apply.life;
    assert_true(life != 0);
    store_memory_crash(store, UINT32_MAX); /* it is on the disk */
    apply_free(&apply);
    must(apply_load(&apply, store, &err), &err);
    assert_true(apply.life == life);
    must(apply_take_life(&apply, &err), &err);
    assert_true(apply.life == life);
    create(&apply, store);
    assert_true(apply.life == 0);
    must(apply_take_life(&apply, &err), &err);
    assert_true(apply.life != 0);
    assert_true(apply.life != life);
    apply_free(&apply);
    store_close(store);
}

static void a_failure_leaves_none_or_the_one_that_stays(void **state)
{
    unsigned call = 1;
    bool has_failed = true;

    (void)state;
    for (; has_failed; call++) {
        struct faulty *faulty = faulty_new(false);
        struct apply apply = {0};
        struct err err = {0};
        uint64_t life;

        faulty->syncs = true;
        create(&apply, &faulty->base);
        faulty_fail_at(faulty, call);
        has_failed = apply_take_life(&apply, &err) != ERR_OK;
        faulty_fail_at(faulty, 0);
        assert_true((apply.life == 0) == has_failed);
        must(apply_load(&apply, &faulty->base, &err), &err);
        must(apply_take_life(&apply, &err), &err);
        life = apply.life;
        assert_true(life != 0);
        must(apply_load(&apply, &faulty->base, &err), &err);
        assert_true(apply.life == life);
        apply_free(&apply);
        store_close(&faulty->base);
    }
    assert_true(call > 4); /* begin, put, commit, sync */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_life_is_kept_until_the_store_is_cleared),
        cmocka_unit_test(a_failure_leaves_none_or_the_one_that_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
