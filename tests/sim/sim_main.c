/* sim --seeds FROM:COUNT: simulated clusters, one after another, each in a process of its own.
 *
 * Prints one line and the end of the trace for a seed that fails, and at the end how many passed
 * and what went wrong in them on purpose.  A seed is run twice now and then (--twice: each): both
 * runs have to be equal. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/text.h"
#include "tests/sim/sim.h"

#define STEPS_DEFAULT 120
#define SEED_SECONDS  120 /* of real time: longer is a thread that holds the baton for ever */
#define TWICE_EVERY   10

struct report {
    uint64_t hash;
    struct sim_counts counts;
};

static struct sim_options options = {.steps = STEPS_DEFAULT};
static uint64_t first_seed = 1, seed_count = 100;
static bool twice;

/* One CPU for all threads of a simulation: only one runs at a time anyway. */
static void stay_on_one_cpu(void)
{
    cpu_set_t set;
    int cpu = sched_getcpu();

    CPU_ZERO(&set);
    CPU_SET(cpu < 0 ? 0 : cpu, &set);
    (void)sched_setaffinity(0, sizeof(set), &set);
}

static void run_child(uint64_t seed, int fd)
{
    static struct sim sim;
    struct report report;

    stay_on_one_cpu();
    (void)alarm(SEED_SECONDS);
    json_object_seed(1);
    log_start("sim", options.verbose ? LOG_DEBUG : LOG_OFF);
    log_redirect(1);
    wal_register(&wal_sim_ops);
    sim.options = options;
    sim.options.seed = seed;
    report.hash = sim_run(&sim);
    report.counts = sim.counts;
    (void)fflush(stdout);
    if (write(fd, &report, sizeof(report)) != (ssize_t)sizeof(report))
        _exit(1);
    exit(0);
}

/* True: the seed passed, and the report is filled. */
static bool run_seed(uint64_t seed, struct report *report)
{
    int fds[2], status = 0;
    ssize_t got;
    pid_t pid;

    (void)fflush(stdout);
    if (pipe(fds) != 0 || (pid = fork()) < 0) {
        perror("sim");
        exit(2);
    }
    if (pid == 0) {
        (void)close(fds[0]);
        run_child(seed, fds[1]);
    }
    (void)close(fds[1]);
    got = read(fds[0], report, sizeof(*report));
    (void)close(fds[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFSIGNALED(status))
        printf("seed %llu ended by signal %d%s\n", (unsigned long long)seed, WTERMSIG(status),
               WTERMSIG(status) == SIGALRM ? " (it hangs)" : "");
    return got == (ssize_t)sizeof(*report) && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool run_and_compare(uint64_t seed, struct report *report)
{
    struct report again;

    if (!run_seed(seed, report))
        return false;
    if (!twice && (seed - first_seed) % TWICE_EVERY != 0)
        return true;
    if (!run_seed(seed, &again))
        return false;
    if (again.hash == report->hash)
        return true;
    printf("seed %llu: two runs differ (%016llx, %016llx)\n", (unsigned long long)seed,
           (unsigned long long)report->hash, (unsigned long long)again.hash);
    return false;
}

/* Counters are all of one type. */
static void add_counts(struct sim_counts *sum, const struct sim_counts *one)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)one;

    for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
        to[i] += from[i];
}

static void print_counts(const struct sim_counts *c)
{
#define N(member) (unsigned long long)c->member
    printf("  nodes    %llu crashes (%llu power cuts), %llu starts, %llu pauses (%llu with frozen "
           "clocks), %llu isolations, %llu clock steps, %llu threads "
           "that dawdle\n",
           N(crashes), N(power_cuts), N(restarts), N(pauses), N(frozen), N(isolations),
           N(clock_steps), N(dawdles));
    printf("  network  %llu calls, %llu lost, %llu broken, %llu refused, %llu doubled\n", N(calls),
           N(dropped), N(broken), N(refused), N(doubled));
    printf("  log      %llu appends, %llu of unknown outcome, %llu landed unanswered; %llu entries "
           "never landed, %llu late\n",
           N(appends), N(unknown), N(landed_unanswered), N(never_landed), N(landed_late));
    printf(
        "           %llu epochs, %llu take-overs, %llu void records; %llu log, %llu metadata and "
        "%llu disk faults; %llu rests\n",
        N(epochs), N(takeovers), N(voided), N(log_faults), N(meta_outages), N(disk_errors),
        N(quiet));
    printf("  writes   %llu acknowledged, %llu refused, %llu undecided; %llu creations won, %llu "
           "lost; %llu If-Match refused; %llu truncations, %llu collections dropped\n",
           N(acked), N(failed), N(undecided), N(wins), N(losses), N(precondition_failed),
           N(truncates), N(drops));
    printf("  spools   %llu outages of the log, %llu values spooled, %llu counted twice\n",
           N(log_outages), N(spooled), N(replays));
    printf("  reads    %llu answered (%llu fresh, %llu by token, %llu bounded, %llu searches, %llu "
           "served stale, %llu from the cache), %llu not met\n",
           N(reads), N(fresh_reads), N(token_reads), N(bounded_reads), N(searches), N(stale_served),
           N(cache_hits), N(unmet));
    printf("  regions  %llu in all; %llu cuts, %llu records shipped, %llu overtaken by newer ones; "
           "%llu "
           "reads by a token of another region, %llu before the first contact\n",
           N(regions), N(cuts), N(foreign), N(overtaken), N(distant_tokens), N(unknown_tokens));
    printf("           %llu reads over all regions, %llu values in a quorum of them, %llu quorums "
           "missed\n",
           N(global_reads), N(quorums), N(quorums_missed));
    printf("  baton    handed on %llu times\n", N(switches));
#undef N
}

static bool parse_seeds(const char *text)
{
    size_t len = strcspn(text, ":");

    if (!text_to_u64(text, len, &first_seed))
        return false;
    if (text[len] == '\0') {
        seed_count = 1;
        return true;
    }
    return text_to_u64(text + len + 1, strlen(text + len + 1), &seed_count);
}

static bool parse_arguments(int argc, char **argv)
{
    uint64_t steps, regions;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--verbose") == 0)
            options.verbose = true;
        else if (strcmp(argv[i], "--calm") == 0)
            options.calm = true;
        else if (strcmp(argv[i], "--twice") == 0)
            twice = true;
        else if (strcmp(argv[i], "--regions") == 0 && text_to_u64(value, strlen(value), &regions) &&
                 regions >= 1 && regions <= SIM_REGIONS_MAX)
            options.regions = (uint32_t)regions, i++;
        else if (strcmp(argv[i], "--seeds") == 0 && parse_seeds(value))
            i++;
        else if (strcmp(argv[i], "--steps") == 0 && text_to_u64(value, strlen(value), &steps) &&
                 steps >= 1 && steps <= 500)
            options.steps = (uint32_t)steps, i++;
        else
            return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct sim_counts sum = {0};
    unsigned long long passed = 0, failed = 0;

    if (!parse_arguments(argc, argv)) {
        (void)fprintf(stderr, "usage: sim [--seeds FROM:COUNT] [--steps 1..500] [--regions 1..3] "
                              "[--calm] [--twice] [--verbose]\n");
        return 2;
    }
    for (uint64_t i = 0; i < seed_count; i++) {
        struct report report = {0};

        if (run_and_compare(first_seed + i, &report)) {
            passed++;
            add_counts(&sum, &report.counts);
        } else {
            failed++;
            printf("seed %llu FAILED; again: sim --seeds %llu --steps %u --verbose\n",
                   (unsigned long long)(first_seed + i), (unsigned long long)(first_seed + i),
                   options.steps);
        }
    }
    print_counts(&sum);
    printf("%llu passed, %llu failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
