/* The life of a store: which of all the stores that ever stood in its place this one is.
 *
 * It is drawn when something is first to lie beside the store, and goes when the store is cleared:
 * what lies there and names another life speaks of ordinals that mean nothing here.  The row is
 * read with the rest of the state (apply_state.c).
 *
 * Failure: a life that was committed and could not be synced stays in the store; the next call
 * syncs it, or, when a power cut took it, draws another. */
#include "common/base/bytes.h"
#include "services/shard/apply.h"

static enum err_code draw(struct apply *apply, uint64_t *out, struct err *err)
{
    struct store_txn *txn = NULL;
    uint8_t row[sizeof(*out)];
    uint64_t life = 0;
    enum err_code code = store_begin(&txn, apply->store, true, err);

    if (code != ERR_OK)
        return code;
    while (life == 0)
        env_random(apply->store->env, &life, sizeof(life));
    store_u64(row, life);
    code = store_put(txn, STORE_META, (struct store_value){.data = "l", .len = 1},
                     (struct store_value){.data = row, .len = sizeof(row)}, err);
    if (code != ERR_OK) {
        store_abort(txn);
        return code;
    }
    code = store_commit(txn, err);
    if (code == ERR_OK)
        *out = life;
    return code;
}

enum err_code apply_take_life(struct apply *apply, struct err *err)
{
    uint64_t life = apply->life;
    enum err_code code = ERR_OK;

    if (life == 0)
        code = draw(apply, &life, err);
    if (code == ERR_OK)
        code = store_sync(apply->store, err);
    if (code != ERR_OK)
        return err_wrap(err, "life of the store");
    apply->life = life;
    return ERR_OK;
}
