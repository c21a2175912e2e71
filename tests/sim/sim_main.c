/* sim --seeds FROM:COUNT [--jobs N]: simulated clusters, each in a process of its own, N at a time.
 *
 * Prints one line and the end of the trace for a seed that fails, with the command that runs it
 * again, and at the end how many passed, what went wrong in them on purpose and what was checked. A
 * seed is run twice now and then (--twice: each): both runs have to be equal.  --first: end with
 * the first that fails. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/log.h"
#include "common/base/text.h"
#include "tests/sim/sim.h"

#define STEPS_DEFAULT 40
#define SEED_SECONDS  120 /* of real time: longer is a thread that holds the baton for ever */
#define TWICE_EVERY   20
#define JOBS_MAX      64

struct report {
    uint64_t hash;
    struct sim_counts counts;
};

/* A seed that runs. */
struct run {
    pid_t pid; /* 0: none */
    int fd;
    uint64_t seed;
    bool is_again;
    struct report report;
};

static struct sim_options options = {.steps = STEPS_DEFAULT};
static const char *program;
static uint64_t first_seed = 1, seed_count = 100, jobs = 1;
static bool twice, ends_with_first;
static struct run runs[JOBS_MAX];
static struct sim_counts sum;
static unsigned long long passed, failed;
static volatile sig_atomic_t is_told_to_end;

static void end_soon(int number)
{
    (void)number;
    is_told_to_end = 1;
}

static void run_child(uint64_t seed, int fd)
{
    static struct sim sim;
    static char output[KIB(256)];
    struct report report;

    if (!options.verbose) /* whole, beside those of others */
        (void)setvbuf(stdout, output, _IOFBF, sizeof(output));
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGINT, SIG_DFL);
    (void)alarm(SEED_SECONDS);
    json_object_seed(1);
    log_start("sim", options.verbose ? LOG_DEBUG : LOG_OFF);
    log_redirect(1);
    wal_register(&wal_sim_ops);
    sim.options = options;
    sim.options.seed = seed;
    sim_folder_make();
    report.hash = sim_run(&sim);
    report.counts = sim.counts;
    (void)fflush(stdout);
    if (write(fd, &report, sizeof(report)) != (ssize_t)sizeof(report))
        _exit(1);
    exit(0);
}

static void start(struct run *run, uint64_t seed)
{
    int fds[2];

    (void)fflush(stdout);
    if (pipe(fds) != 0 || (run->pid = fork()) < 0) {
        perror("sim");
        exit(2);
    }
    if (run->pid == 0) {
        (void)close(fds[0]);
        run_child(seed, fds[1]);
    }
    (void)close(fds[1]);
    run->fd = fds[0];
    run->seed = seed;
}

static void tell_failure(const struct run *run)
{
    char regions[32] = "";

    failed++;
    if (options.regions != 0)
        (void)snprintf(regions, sizeof(regions), " --regions %u", options.regions);
    printf("seed %llu FAILED; again: %s --seeds %llu --steps %u%s%s --verbose\n",
           (unsigned long long)run->seed, program, (unsigned long long)run->seed, options.steps,
           regions, options.calm ? " --calm" : "");
    (void)fflush(stdout);
}

/* Its process has ended; true: the seed passed, and the report is filled. */
static bool take_report(struct run *run, int status, struct report *report)
{
    ssize_t got = read(run->fd, report, sizeof(*report));

    (void)close(run->fd);
    sim_folder_remove(run->pid);
    run->pid = 0;
    if (WIFSIGNALED(status))
        printf("seed %llu ended by signal %d%s\n", (unsigned long long)run->seed, WTERMSIG(status),
               WTERMSIG(status) == SIGALRM ? " (it hangs)" : "");
    return got == (ssize_t)sizeof(*report) && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void take_end(struct run *run, int status)
{
    struct report report = {0};

    if (!take_report(run, status, &report)) {
        tell_failure(run);
    } else if (run->is_again && report.hash != run->report.hash) {
        printf("seed %llu: two runs differ (%016llx, %016llx)\n", (unsigned long long)run->seed,
               (unsigned long long)run->report.hash, (unsigned long long)report.hash);
        tell_failure(run);
    } else if (!run->is_again && (twice || (run->seed - first_seed) % TWICE_EVERY == 0)) {
        run->report = report;
        run->is_again = true;
        start(run, run->seed);
    } else {
        passed++;
        sim_report_add(&sum, &report.counts);
    }
}

static void end_all(void)
{
    for (size_t i = 0; i < jobs; i++)
        if (runs[i].pid != 0) {
            (void)kill(runs[i].pid, SIGKILL);
            (void)waitpid(runs[i].pid, NULL, 0);
            sim_folder_remove(runs[i].pid);
        }
    exit(2);
}

/* Until one of those that run has ended. */
static void await_one(void)
{
    int status = 0;
    pid_t pid = waitpid(-1, &status, 0);

    if (is_told_to_end)
        end_all();

    if (pid < 0 && errno != EINTR) {
        perror("sim");
        exit(2);
    }
    for (size_t i = 0; pid > 0 && i < jobs; i++)
        if (runs[i].pid == pid) {
            take_end(&runs[i], status);
            return;
        }
}

static struct run *free_run(void)
{
    for (;;) {
        for (size_t i = 0; i < jobs; i++)
            if (runs[i].pid == 0)
                return &runs[i];
        await_one();
    }
}

static bool some_run(void)
{
    for (size_t i = 0; i < jobs; i++)
        if (runs[i].pid != 0)
            return true;
    return false;
}

static void run_seeds(void)
{
    for (uint64_t i = 0; i < seed_count; i++) {
        struct run *run = free_run();

        if (ends_with_first && failed > 0)
            break;
        run->is_again = false;
        start(run, first_seed + i);
    }
    while (some_run())
        await_one();
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

static bool parse_number(const char *text, uint64_t most, uint64_t *out)
{
    return text_to_u64(text, strlen(text), out) && *out >= 1 && *out <= most;
}

static bool parse_arguments(int argc, char **argv)
{
    uint64_t steps = options.steps, regions = 0;

    program = argv[0];
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (strcmp(argv[i], "--verbose") == 0)
            options.verbose = true;
        else if (strcmp(argv[i], "--calm") == 0)
            options.calm = true;
        else if (strcmp(argv[i], "--twice") == 0)
            twice = true;
        else if (strcmp(argv[i], "--first") == 0)
            ends_with_first = true;
        else if (strcmp(argv[i], "--regions") == 0 &&
                 parse_number(value, SIM_REGIONS_MAX, &regions))
            i++;
        else if (strcmp(argv[i], "--jobs") == 0 && parse_number(value, JOBS_MAX, &jobs))
            i++;
        else if (strcmp(argv[i], "--seeds") == 0 && parse_seeds(value))
            i++;
        else if (strcmp(argv[i], "--steps") == 0 && parse_number(value, 500, &steps))
            i++;
        else
            return false;
    }
    options.steps = (uint32_t)steps;
    options.regions = (uint32_t)regions;
    return true;
}

int main(int argc, char **argv)
{
    if (!parse_arguments(argc, argv)) {
        (void)fprintf(stderr, "usage: sim [--seeds FROM:COUNT] [--jobs N] [--steps 1..500] "
                              "[--regions 1..3] [--calm] [--twice] [--first] [--verbose]\n");
        return 2;
    }
    (void)sigaction(SIGTERM, &(struct sigaction){.sa_handler = end_soon}, NULL);
    (void)sigaction(SIGINT, &(struct sigaction){.sa_handler = end_soon}, NULL);
    run_seeds();
    sim_report_print(&sum);
    printf("%llu passed, %llu failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
