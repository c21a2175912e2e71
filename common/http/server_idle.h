/* Who holds the workers: for server.c only.
 *
 * A keep-alive connection holds a worker while nothing happens on it.  When every worker is held,
 * others wait in the queue unseen; then connections that have been idle for a while are closed, and
 * busy ones after their turn, so that nobody waits for long. */
#ifndef VICINAL_HTTP_SERVER_IDLE_H
#define VICINAL_HTTP_SERVER_IDLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/env.h"
#include "common/base/err.h"

/* One for each worker; written by it, read by the watch. */
struct idle_slot {
    _Atomic uint16_t remote_port;   /* of its connection; 0: none, not known */
    _Atomic uint64_t idle_since_ns; /* 0: a request runs */
    uint64_t opened_ns;             /* of its connection; the worker's own */
    bool is_fresh;                  /* no request has been served on it; the worker's own */
};

struct idle_watch {
    struct env *env;
    uint16_t local_port;
    struct idle_slot *slots;
    uint32_t count;
    uint64_t idle_ns;         /* idle for less is busy */
    _Atomic uint32_t claimed; /* slots given to workers */
    _Atomic uint32_t held;    /* slots with a connection */
    pthread_rwlock_t closing; /* read: a connection is closed; write: sockets are shut */
    struct env_thread *thread;
    pthread_mutex_t lock;
    struct env_cond wake;
    bool is_stopping; /* guarded by lock */
};

/* Errors: ERR_NO_MEMORY.  The thread starts with idle_watch_start. */
MUST_CHECK enum err_code idle_watch_init(struct idle_watch *watch, struct env *env,
                                         uint32_t workers, uint64_t idle_ns, struct err *err);
MUST_CHECK enum err_code idle_watch_start(struct idle_watch *watch, uint16_t local_port,
                                          struct err *err);
void idle_watch_stop(struct idle_watch *watch); /* the thread; started or not */
void idle_watch_free(struct idle_watch *watch);

/* A slot for a worker thread, for as long as the watch lives. */
struct idle_slot *idle_watch_claim(struct idle_watch *watch);

/* Civetweb tells the remote port with the first request only; until then a connection is not the
 * watch's: it has read_timeout to send something. */
void idle_connected(struct idle_watch *watch, struct idle_slot *slot);
void idle_disconnected(struct idle_watch *watch, struct idle_slot *slot);
void idle_busy(struct idle_slot *slot, uint16_t remote_port);
void idle_again(struct idle_watch *watch, struct idle_slot *slot);

/* Every worker is held and this connection has had its turn: close it after the reply. */
bool idle_turn_is_over(const struct idle_watch *watch, const struct idle_slot *slot);

/* Around the closing of a connection's socket, by the thread that closes it: its number does not
 * become another socket's while sockets_shut has it in hand. */
void idle_closing(struct idle_watch *watch);
void idle_closed(struct idle_watch *watch);

/* Shut the reading side of the server's sockets with, unless it is 0, this remote port: threads
 * that wait to read wake up and see the end. */
void sockets_shut(struct idle_watch *watch, uint16_t remote_port);

#endif
