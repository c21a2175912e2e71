/* One service as a child process: started, listened to, waited for. */
#ifndef VICINAL_CLI_CHILD_H
#define VICINAL_CLI_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/base/err.h"

#define CHILD_ARGS_MAX 40

struct child {
    char name[48];              /* "shard 0.1", for people */
    char *program;              /* path; owned */
    char *args[CHILD_ARGS_MAX]; /* without --listen and --parent-pid; owned */
    size_t arg_count;
    char host[64];      /* listened on */
    uint16_t port;      /* asked for, then the one it got; 0: a free one */
    bool is_port_fixed; /* the user named it: never exchanged for a free one */
    bool is_listening;  /* in this life it has said so */
    bool has_listened;  /* in some life */
    pid_t pid;          /* 0: does not run */
    int out;            /* its stdout; -1: none */
    char line[128];     /* of stdout, so far */
    size_t line_len;
    uint64_t started_ns; /* boot time; this life's start */
    uint64_t restart_ns; /* to be started then; meaningful while pid is 0 */
    unsigned failures;   /* short lives in a row */
};

/* "127.0.0.1:8080" into host and port.  Errors: ERR_CONFIG. */
MUST_CHECK enum err_code child_listen_on(struct child *child, const char *listen, struct err *err);

/* Add arguments; the list ends with NULL.  Texts are copied.  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code child_add_args(struct child *child, const char *const *args,
                                        struct err *err);

/* Start it: its stdout comes to child->out (non-blocking), stdin is empty, stderr is ours; signals
 * are unblocked, and the kernel tells it when we die.  Call on the main thread only.
 * Errors: ERR_CONFIG (no such program), ERR_IO. */
MUST_CHECK enum err_code child_start(struct child *child, uint64_t now_ns, struct err *err);

/* Take what it has written; "listening on PORT" sets port and is_listening. */
void child_read(struct child *child);

/* It has ended. */
void child_ended(struct child *child);

void child_free(struct child *child); /* its memory; zeroed is fine */

#endif
