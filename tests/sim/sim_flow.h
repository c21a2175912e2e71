/* Flows of control, of which one runs at a time: what simulated threads run on.
 *
 * They are stacks of one thread of the process, which changes between them without asking the
 * kernel: a hundred times as fast as threads that wake each other.  Sanitizers want to see threads;
 * built for one, each flow is a thread that waits for its turn.
 *
 * A flow calls its function again and again, each time for another simulated thread; it is given
 * out, and taken back when that thread has ended. */
#ifndef VICINAL_TESTS_SIM_FLOW_H
#define VICINAL_TESTS_SIM_FLOW_H

struct sim_flow;

typedef void sim_flow_fn(struct sim_flow *flow, void *argument);

/* The caller's own, once per process. */
struct sim_flow *sim_flow_own(void);

/* One that calls fn when it is passed to; kept from an earlier use where there is one. */
struct sim_flow *sim_flow_get(sim_flow_fn *fn, void *argument);

/* fn is about to end, and passes on for the last time: the next sim_flow_get may have it. */
void sim_flow_put(struct sim_flow *flow);

/* Go on in `to`; returns when somebody passes back to `from`, which is the caller. */
void sim_flow_pass(struct sim_flow *from, struct sim_flow *to);

#endif
