/* vicinal demo: start the suite, import a folder, ask a question, go on serving.
 *
 * The suite is a child `vicinal up`, which also ends when we die; import and search are the verbs
 * that a user calls, in processes of their own, so the demo shows what the commands do. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/search.h"

#define END_NS       (6 * NS_PER_S)
#define DEMO_TOP_K   5u
#define COLLECTION   "docs"
#define DEFAULT_ASK  "How is an acknowledged write kept from being lost?"
#define END_PAUSE_NS (20 * NS_PER_MS)

struct demo {
    const char *data, *listen, *docs, *ask;
    bool once;
    char self[PATH_MAX];
    char url[256];
    pid_t up;
    int up_out;
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct demo, row_member)

static const struct option options[] = {
    {ROW("data", OPTION_TEXT, data), .required = true, .help = "Folder for everything kept."},
    {ROW("listen", OPTION_TEXT, listen), .fallback = "127.0.0.1:8080",
     .help = "Address of the public door; port 0 takes a free one."},
    {ROW("docs", OPTION_TEXT, docs), .fallback = ".", .help = "Folder of text to import."},
    {ROW("ask", OPTION_TEXT, ask), .fallback = DEFAULT_ASK, .help = "The question."},
    {ROW("once", OPTION_BOOL, once), .fallback = "false", .help = "End after the answer."},
    {0},
};

static volatile sig_atomic_t is_ending;

static void on_end(int number)
{
    (void)number;
    is_ending = 1;
}

/* Become `vicinal WORDS…`; the child has out as its stdout unless that is negative. */
static pid_t start_verb(struct demo *demo, char *const *words, int out)
{
    pid_t parent = getpid(), pid = fork();

    if (pid != 0)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == parent && (out < 0 || dup2(out, STDOUT_FILENO) >= 0))
        (void)execv(demo->self, words);
    _exit(127);
}

/* Wait for a child; its exit code, -1 for a signal. */
static int wait_for(pid_t pid)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Read "ready URL" from the suite.  Errors: ERR_UNAVAILABLE (it has ended before). */
static enum err_code wait_for_ready(struct demo *demo, struct err *err)
{
    FILE *in = fdopen(demo->up_out, "re");
    char line[300];
    bool is_ready = false;

    if (in == NULL)
        return err_set_errno(err, errno, "the suite's output");
    demo->up_out = -1;
    while (!is_ready && !is_ending && fgets(line, sizeof(line), in) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        is_ready = strncmp(line, "ready ", 6) == 0;
        if (is_ready)
            (void)snprintf(demo->url, sizeof(demo->url), "%.255s", line + 6);
    }
    (void)fclose(in); /* it writes nothing more */
    if (!is_ready)
        return err_set(err, ERR_UNAVAILABLE, "the suite did not start");
    return ERR_OK;
}

static enum err_code start_up(struct demo *demo, struct err *err)
{
    char name[] = "vicinal", verb[] = "up", data_flag[] = "--data", listen_flag[] = "--listen";
    char *data = strdup(demo->data), *listen = strdup(demo->listen);
    char *const words[] = {name, verb, data_flag, data, listen_flag, listen, NULL};
    int ends[2] = {-1, -1};
    enum err_code rc = ERR_OK;

    if (data == NULL || listen == NULL)
        rc = err_set(err, ERR_NO_MEMORY, "no memory");
    else if (pipe2(ends, O_CLOEXEC) != 0)
        rc = err_set_errno(err, errno, "pipe");
    if (rc == ERR_OK) {
        demo->up = start_verb(demo, words, ends[1]);
        (void)close(ends[1]);
        demo->up_out = ends[0];
        if (demo->up < 0)
            rc = err_set_errno(err, errno, "cannot start the suite");
    }
    free(data);
    free(listen);
    return rc == ERR_OK ? wait_for_ready(demo, err) : rc;
}

/* What the import remembers stays in the suite's folder: nothing is left outside. */
static enum err_code import_docs(struct demo *demo, struct err *err)
{
    char name[] = "vicinal", verb[] = "import", url_flag[] = "--url", state_flag[] = "--state";
    char collection_flag[] = "--collection", collection[] = COLLECTION, state[PATH_MAX];
    char *docs = strdup(demo->docs);
    char *const words[] = {name,       verb,       url_flag, demo->url, collection_flag,
                           collection, state_flag, state,    docs,      NULL};
    int len = snprintf(state, sizeof(state), "%s/import.state", demo->data);
    int code;
    pid_t pid;

    if (docs == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    if (len < 0 || (size_t)len >= sizeof(state)) {
        free(docs);
        return err_set(err, ERR_CONFIG, "--data is too long");
    }
    (void)printf("importing %s\n", docs);
    (void)fflush(stdout);
    pid = start_verb(demo, words, -1);
    free(docs);
    if (pid < 0)
        return err_set_errno(err, errno, "cannot start the import");
    code = wait_for(pid);
    if (code != EXIT_SUCCESS && code != EXIT_REFUSED)
        return err_set(err, ERR_UNAVAILABLE, "the import has failed");
    return ERR_OK;
}

static enum err_code ask(struct demo *demo, struct err *err)
{
    const struct search_question question = {
        .collection = COLLECTION, .text = demo->ask, .top_k = DEMO_TOP_K, .fresh = true};
    struct http_client *client = NULL;
    json_t *answer = NULL;
    enum err_code rc =
        http_client_open(&client, &(struct http_client_options){.env = env_real()}, err);

    if (rc == ERR_OK)
        rc = search_ask(client, demo->url, &question, &answer, err);
    if (rc == ERR_OK) {
        (void)printf("\n%s\n\n", demo->ask);
        search_print(stdout, answer, demo->ask);
    }
    json_decref(answer);
    http_client_close(client);
    return rc;
}

/* Until Ctrl-C, or until the suite ends. */
static void serve(struct demo *demo)
{
    (void)printf("serving on %s until Ctrl-C; try\n"
                 "  vicinal search --url %s --collection %s \"your question\"\n"
                 "  vicinal status --url %s\n",
                 demo->url, demo->url, COLLECTION, demo->url);
    (void)fflush(stdout);
    while (!is_ending && waitpid(demo->up, NULL, WNOHANG) == 0)
        (void)usleep(100000);
}

static int end_up(struct demo *demo)
{
    uint64_t deadline = env_boot_ns(env_real()) + END_NS;
    int status = 0;

    if (demo->up <= 0)
        return -1;
    (void)kill(demo->up, SIGTERM);
    while (waitpid(demo->up, &status, WNOHANG) == 0) {
        if (env_boot_ns(env_real()) > deadline) {
            (void)kill(demo->up, SIGKILL);
            return wait_for(demo->up);
        }
        if (env_sleep_until(env_real(), env_boot_ns(env_real()) + END_PAUSE_NS) != ERR_OK)
            break;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* --data may lie in folders that are not there yet. */
static void make_parents(const char *path)
{
    char copy[PATH_MAX];
    int len = snprintf(copy, sizeof(copy), "%s", path);

    if (len < 0 || (size_t)len >= sizeof(copy))
        return;
    for (char *slash = strchr(copy + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(copy, 0755);
        *slash = '/';
    }
}

static int run_demo(void *settings, const struct cli_operands *operands)
{
    struct demo *demo = settings;
    struct sigaction action = {.sa_handler = on_end};
    struct err err = {0};
    ssize_t len = readlink("/proc/self/exe", demo->self, sizeof(demo->self) - 1);
    int up_code;
    enum err_code rc = ERR_OK;

    (void)operands;
    demo->up_out = -1;
    if (len <= 0)
        rc = err_set_errno(&err, errno, "/proc/self/exe");
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    if (rc == ERR_OK && demo->data[0] != '\0')
        make_parents(demo->data);
    if (rc == ERR_OK)
        rc = start_up(demo, &err);
    if (rc == ERR_OK && !is_ending)
        rc = import_docs(demo, &err);
    if (rc == ERR_OK && !is_ending)
        rc = ask(demo, &err);
    if (rc == ERR_OK && !is_ending && !demo->once)
        serve(demo);
    if (demo->up_out >= 0)
        (void)close(demo->up_out);
    up_code = end_up(demo);
    if (rc != ERR_OK && !is_ending)
        return up_code == EXIT_CONFIG ? EXIT_CONFIG : cli_fail("demo", &err);
    return EXIT_SUCCESS;
}

const struct verb verb_demo = {
    .name = "demo",
    .brief = "Start everything, import a folder, ask a question, go on serving.",
    .synopsis = "--data DIR [--docs DIR] [--ask \"QUESTION\"] [--once]",
    .about = "What `make run` calls.  The passages go into the collection \"" COLLECTION "\".",
    .options = options,
    .settings_size = sizeof(struct demo),
    .run = run_demo,
};
