/* Keeps children alive until it is told to end: one thread, one poll.
 *
 * A child that ends is started again, at once the first time, then after a pause that doubles up to
 * a second; after it has listened for LIFE_ENOUGH it counts as healthy again.  It keeps its port,
 * so that peers find it where it was; only if it repeatedly ends by itself before it listens a free
 * one is taken. */
#ifndef VICINAL_CLI_SUPERVISE_H
#define VICINAL_CLI_SUPERVISE_H

#include "cli/child.h"

struct supervisor {
    struct child *children; /* the first `running` of them are kept alive */
    size_t running;
    size_t doors;       /* the last of the children: the public doors */
    int signals;        /* signalfd */
    bool is_ready;      /* the start is over: from now on nothing is given up */
    bool is_ending;     /* SIGTERM or SIGINT came */
    bool is_hasty;      /* … again, and not as an echo of the first */
    uint64_t ending_ns; /* boot time of the first */
    int failed;         /* exit code with which the start was given up; 0: it was not */
};

#define SUPERVISED_MAX 500

/* Blocks SIGTERM, SIGINT and SIGCHLD.  Errors: ERR_IO. */
MUST_CHECK enum err_code supervisor_open(struct supervisor *supervisor, struct err *err);

/* Wait for events until the boot time at most, and see to them. */
void supervisor_step(struct supervisor *supervisor, uint64_t until_ns);

/* End all: the public doors first, then the others, within 5 s. */
void supervisor_end(struct supervisor *supervisor);

void supervisor_close(struct supervisor *supervisor);

#endif
