/* Who holds the workers: see server_idle.h.
 *
 * Happy path: some worker is free and the watch only looks.  When all are held, each look closes
 * the connections that have been idle the longest, an eighth of them at most; a request that has
 * just come on such a connection meets a closed peer, as it can with any keep-alive time. */
#include "common/http/server_idle.h"

#include <arpa/inet.h>
#include <assert.h>
#include <dirent.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/checked.h"
#include "common/base/text.h"

#define LOOK_NS (200 * NS_PER_MS)
#define TURN_NS NS_PER_S

enum err_code idle_watch_init(struct idle_watch *watch, struct env *env, uint32_t workers,
                              uint64_t idle_ns, struct err *err)
{
    *watch = (struct idle_watch){.env = env, .count = workers, .idle_ns = idle_ns};
    watch->slots = array_alloc(workers, sizeof(*watch->slots));
    if (watch->slots == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the HTTP server");
    pthread_mutex_init(&watch->lock, NULL);
    pthread_rwlock_init(&watch->closing, NULL);
    env_cond_init(env, &watch->wake);
    return ERR_OK;
}

static bool is_full(const struct idle_watch *watch)
{
    return atomic_load(&watch->held) >= watch->count;
}

/* The slot that has been idle the longest, since before a time; NULL: none. */
static struct idle_slot *longest_idle(struct idle_watch *watch, uint64_t before_ns)
{
    struct idle_slot *oldest = NULL;

    for (uint32_t i = 0; i < watch->count; i++) {
        uint64_t since_ns = atomic_load(&watch->slots[i].idle_since_ns);

        if (since_ns != 0 && since_ns < before_ns &&
            atomic_load(&watch->slots[i].remote_port) != 0) {
            oldest = &watch->slots[i];
            before_ns = since_ns;
        }
    }
    return oldest;
}

static void make_room(struct idle_watch *watch)
{
    uint64_t before_ns = env_boot_ns(watch->env) - watch->idle_ns;

    for (uint32_t i = 0; i < watch->count / 8 + 1; i++) {
        struct idle_slot *slot = longest_idle(watch, before_ns);
        uint16_t port = slot == NULL ? 0 : atomic_load(&slot->remote_port);

        if (port == 0)
            return;
        /* Not chosen twice; its worker closes the connection and gives the slot back. */
        atomic_store(&slot->idle_since_ns, 0);
        sockets_shut(watch, port);
    }
}

static void look(void *argument)
{
    struct idle_watch *watch = argument;

    pthread_mutex_lock(&watch->lock);
    while (!watch->is_stopping) {
        enum err_code rc =
            env_cond_wait(&watch->wake, &watch->lock, env_boot_ns(watch->env) + LOOK_NS);

        if (rc == ERR_DEAD)
            break;
        if (rc != ERR_TIMEOUT || !is_full(watch))
            continue;
        pthread_mutex_unlock(&watch->lock);
        make_room(watch);
        pthread_mutex_lock(&watch->lock);
    }
    pthread_mutex_unlock(&watch->lock);
}

enum err_code idle_watch_start(struct idle_watch *watch, uint16_t local_port, struct err *err)
{
    watch->local_port = local_port;
    return env_thread_start(watch->env, &watch->thread, "http-idle", look, watch, err);
}

void idle_watch_stop(struct idle_watch *watch)
{
    pthread_mutex_lock(&watch->lock);
    watch->is_stopping = true;
    env_cond_broadcast(&watch->wake);
    pthread_mutex_unlock(&watch->lock);
    env_thread_join(watch->thread);
    watch->thread = NULL;
}

void idle_watch_free(struct idle_watch *watch)
{
    if (watch->slots == NULL)
        return;
    env_cond_free(&watch->wake);
    pthread_rwlock_destroy(&watch->closing);
    pthread_mutex_destroy(&watch->lock);
    free(watch->slots);
    *watch = (struct idle_watch){0};
}

struct idle_slot *idle_watch_claim(struct idle_watch *watch)
{
    uint32_t index = atomic_fetch_add(&watch->claimed, 1);

    assert(index < watch->count);
    return &watch->slots[index];
}

void idle_connected(struct idle_watch *watch, struct idle_slot *slot)
{
    slot->opened_ns = env_boot_ns(watch->env);
    slot->is_fresh = true;
    atomic_store(&slot->idle_since_ns, slot->opened_ns);
    atomic_fetch_add(&watch->held, 1);
}

void idle_disconnected(struct idle_watch *watch, struct idle_slot *slot)
{
    atomic_store(&slot->remote_port, 0);
    atomic_fetch_sub(&watch->held, 1);
}

void idle_busy(struct idle_slot *slot, uint16_t remote_port)
{
    atomic_store_explicit(&slot->remote_port, remote_port, memory_order_relaxed);
    slot->is_fresh = false;
    atomic_store_explicit(&slot->idle_since_ns, 0, memory_order_relaxed);
}

void idle_again(struct idle_watch *watch, struct idle_slot *slot)
{
    /* A hint for the watch: no other data hangs on it. */
    atomic_store_explicit(&slot->idle_since_ns, env_boot_ns(watch->env), memory_order_relaxed);
}

bool idle_turn_is_over(const struct idle_watch *watch, const struct idle_slot *slot)
{
    return is_full(watch) && env_boot_ns(watch->env) - slot->opened_ns > TURN_NS;
}

static bool has_port(const struct sockaddr_in *address, uint16_t port)
{
    return address->sin_family == AF_INET && ntohs(address->sin_port) == port;
}

void idle_closing(struct idle_watch *watch)
{
    pthread_rwlock_rdlock(&watch->closing);
}

void idle_closed(struct idle_watch *watch)
{
    pthread_rwlock_unlock(&watch->closing);
}

/* Civetweb does not give its sockets out, so they are known by their ports.  None of them is closed
 * meanwhile: what is shut is what was looked at. */
void sockets_shut(struct idle_watch *watch, uint16_t remote_port)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;

    pthread_rwlock_wrlock(&watch->closing);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        struct sockaddr_in local = {0}, remote = {0};
        socklen_t local_len = sizeof(local), remote_len = sizeof(remote);
        uint64_t fd;

        if (!text_to_u64(entry->d_name, strlen(entry->d_name), &fd) ||
            getsockname((int)fd, (struct sockaddr *)&local, &local_len) != 0 ||
            !has_port(&local, watch->local_port))
            continue;
        if (remote_port != 0 &&
            (getpeername((int)fd, (struct sockaddr *)&remote, &remote_len) != 0 ||
             !has_port(&remote, remote_port)))
            continue;
        (void)shutdown((int)fd, SHUT_RD);
    }
    pthread_rwlock_unlock(&watch->closing);
    if (dir != NULL)
        (void)closedir(dir);
}
