/* Gathering over libcurl: several calls at once, driven by the thread that waits for them.
 *
 * Happy path: each call is put on an easy handle, the multi handle is driven until all have ended,
 * the bundle goes back.  A call that breaks on a reused connection before anything of the reply
 * came is sent once more on a fresh one; libcurl does the same where it notices by itself.  A call
 * that may be sent once only hands its body out once: libcurl would have to ask for it again,
 * cannot, and gives up.  A call that is held back sits in its place until its time has come.  At
 * the deadline what still runs is cut off, its connection closed, and ends with ERR_TIMEOUT; what
 * has been dropped is cut off in silence. */
#include <assert.h>

#include "common/base/checked.h"
#include "common/http/client_internal.h"

#define POLL_MS_MAX 60000

struct gather {
    struct env *env;
    struct bundle *bundle;
    const struct http_watcher *watcher;
    uint64_t deadline_ns;
};

/* True: it is to be sent again. */
static bool tell_ended(const struct gather *gather, struct http_call *call)
{
    const struct http_watcher *watcher = gather->watcher;

    return watcher->ended != NULL && watcher->ended(watcher->context, call);
}

/* Start; a call that cannot start ends at once, and may be aimed again. */
static void start_or_end(const struct gather *gather, struct transfer *transfer)
{
    while (!transfer_start(gather->bundle, transfer))
        if (!tell_ended(gather, transfer->call) || env_boot_ns(gather->env) >= gather->deadline_ns)
            return;
}

static void take_ended(const struct gather *gather)
{
    struct bundle *bundle = gather->bundle;
    CURLMsg *message;
    int left;

    while ((message = curl_multi_info_read(bundle->multi, &left)) != NULL) {
        struct transfer *transfer = NULL;
        CURLcode code = message->data.result;

        assert(message->msg == CURLMSG_DONE);
        (void)curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&transfer);
        assert(transfer != NULL);
        if (transfer->call->is_dropped)
            continue; /* it ended just when it was not needed any more */
        transfer_conclude(transfer, code);
        if (transfer_is_stale(transfer, code)) {
            transfer_stop(bundle, transfer);
            transfer->is_retry = true;
            start_or_end(gather, transfer);
            continue;
        }
        transfer_stop(bundle, transfer);
        if (!tell_ended(gather, transfer->call))
            continue;
        transfer->is_retry = false;
        start_or_end(gather, transfer);
    }
}

static void release(struct bundle *bundle, struct transfer *transfer)
{
    assert(transfer->is_held);
    transfer->is_held = false;
    bundle->held--;
}

/* Break off what a watcher has dropped. */
static void stop_dropped(struct bundle *bundle)
{
    for (size_t i = 0; i < bundle->transfer_count; i++) {
        struct transfer *transfer = &bundle->transfers[i];

        if ((!transfer->is_running && !transfer->is_held) || !transfer->call->is_dropped)
            continue;
        if (transfer->is_running)
            transfer_stop(bundle, transfer);
        else
            release(bundle, transfer);
        call_forget_answer(transfer->call);
    }
}

/* Send what has been held back for long enough; the time when the next one is due. */
static uint64_t start_due(const struct gather *gather, uint64_t now_ns)
{
    struct bundle *bundle = gather->bundle;
    const struct http_watcher *watcher = gather->watcher;
    uint64_t next_ns = NEVER_NS;

    for (size_t i = 0; bundle->held > 0 && i < bundle->transfer_count; i++) {
        struct transfer *transfer = &bundle->transfers[i];
        struct http_call *call = transfer->call;

        if (!transfer->is_held)
            continue;
        if (call->after_ns > now_ns) {
            next_ns = MIN_OF(next_ns, call->after_ns);
            continue;
        }
        release(bundle, transfer);
        if (watcher->due == NULL || watcher->due(watcher->context, call))
            start_or_end(gather, transfer);
        else
            call->is_dropped = true;
    }
    return next_ns;
}

static void end_call_in_time(const struct gather *gather, struct http_call *call)
{
    call_forget_answer(call);
    call->rc =
        err_set(&call->err, ERR_TIMEOUT, "%s %s: no answer in time", call->method, call->base);
    (void)tell_ended(gather, call);
}

/* At the deadline. */
static void end_all(const struct gather *gather)
{
    struct bundle *bundle = gather->bundle;

    for (size_t i = 0; i < bundle->transfer_count; i++) {
        struct transfer *transfer = &bundle->transfers[i];

        if (transfer->is_held)
            release(bundle, transfer);
        if (!transfer->is_running)
            continue;
        transfer_stop(bundle, transfer);
        end_call_in_time(gather, transfer->call);
        stop_dropped(bundle);
    }
}

static void drive(const struct gather *gather)
{
    struct bundle *bundle = gather->bundle;
    uint64_t now, next, ms;
    size_t before;
    int running;

    while (bundle->running + bundle->held > 0) {
        (void)curl_multi_perform(bundle->multi, &running);
        take_ended(gather);
        stop_dropped(bundle);
        now = env_boot_ns(gather->env);
        if (now >= gather->deadline_ns)
            break;
        before = bundle->running;
        next = MIN_OF(start_due(gather, now), gather->deadline_ns);
        /* A transfer that has just been started is driven before anyone waits. */
        if (bundle->running + bundle->held > 0 && bundle->running == before &&
            (size_t)running == bundle->running) {
            ms = (next - now) / NS_PER_MS + 1;
            (void)curl_multi_poll(bundle->multi, NULL, 0, (int)MIN_OF(ms, (uint64_t)POLL_MS_MAX),
                                  NULL);
        }
    }
    end_all(gather);
}

static void begin(const struct gather *gather, struct transfer *transfer, struct http_call *call)
{
    transfer->call = call;
    transfer->is_retry = false;
    if (call->after_ns > 0 && !call->is_dropped) {
        transfer->is_held = true;
        gather->bundle->held++;
    } else if (!call->is_dropped) {
        start_or_end(gather, transfer);
    }
}

void client_gather(struct http_client *base, struct http_call *calls, size_t count,
                   uint64_t deadline_ns, const struct http_watcher *watcher)
{
    struct curl_client *client = (struct curl_client *)base;
    struct gather gather = {.env = client->env, .watcher = watcher, .deadline_ns = deadline_ns};
    bool late = env_boot_ns(client->env) >= deadline_ns;

    if (!late)
        gather.bundle = bundle_take(client, count);
    for (size_t i = 0; i < count; i++) {
        call_forget_answer(&calls[i]);
        if (late && calls[i].after_ns == 0)
            end_call_in_time(&gather, &calls[i]);
        else if (gather.bundle == NULL && calls[i].after_ns == 0)
            calls[i].rc = err_set(&calls[i].err, ERR_NO_MEMORY, "no memory for a request");
    }
    if (gather.bundle == NULL)
        return;
    for (size_t i = 0; i < count; i++)
        begin(&gather, &gather.bundle->transfers[i], &calls[i]);
    drive(&gather);
    bundle_put(client, gather.bundle);
}
