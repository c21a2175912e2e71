/* vicinal up: the whole suite on one machine, as separate processes.
 *
 * Happy path: lock the data folder, start ingest (which makes the log), write the shard map, start
 * shards and router, print "ready URL" once the router says so, supervise until SIGTERM or SIGINT,
 * end everything.
 *
 * Failure modes: a second `up` on the folder is refused; the lock is inherited by the services, so
 * it also holds while those of a killed `up` are still ending (they are told by the kernel), which
 * is waited for.  A wrong configuration of a service ends all with exit code 2. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/wal/wal.h"
#include "cli/cli.h"
#include "cli/supervise.h"
#include "cluster/cluster.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/base/text.h"

#define LOCK_WAIT_NS   (6 * NS_PER_S) /* for the services of an `up` that was killed */
#define STEP_NS        (10 * NS_PER_MS)
#define READY_CALL_NS  (300 * NS_PER_MS)
#define INTERNAL       "127.0.0.1:0"
#define URL_TEXT_BYTES (PATH_MAX + 64)

struct up {
    /* settings */
    const char *data, *listen, *wal, *cache, *meta, *log_level;
    uint64_t shards, replicas, partitions;
    bool repair;
    /* state */
    char wal_url[URL_TEXT_BYTES], meta_url[URL_TEXT_BYTES];
    char programs[PATH_MAX]; /* folder of our own executable */
    int lock;
    struct supervisor supervisor;
    struct child *children;
    size_t child_count;
    struct http_client *client;
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct up, row_member)

static const struct option options[] = {
    {ROW("data", OPTION_TEXT, data), .required = true,
     .help = "Folder for everything that is kept; made when missing."},
    {ROW("listen", OPTION_TEXT, listen), .fallback = "127.0.0.1:8080",
     .help = "Address of the public door; port 0 takes a free one."},
    {ROW("shards", OPTION_U64, shards), .fallback = "1", .min = 1, .max = SHARDS_MAX,
     .help = "Sets of partitions that are served together."},
    {ROW("replicas", OPTION_U64, replicas), .fallback = "1", .min = 1, .max = REPLICAS_MAX,
     .help = "Processes that serve each shard."},
    {ROW("partitions", OPTION_U64, partitions), .max = PARTITIONS_MAX,
     .help = "Logs of a new deployment (default 64); fixed from then on."},
    {ROW("wal", OPTION_TEXT, wal), .help = "The log; default file:DATA/wal."},
    {ROW("meta", OPTION_TEXT, meta), .help = "Metadata store; default sqlite:DATA/meta.db."},
    {ROW("cache", OPTION_TEXT, cache), .fallback = "memory:64MiB",
     .help = "Result cache: memory:SIZE, redis://HOST:PORT or none:."},
    {ROW("repair", OPTION_BOOL, repair), .fallback = "false",
     .help = "Cut the log at damage instead of refusing to start: loses what follows it."},
    {ROW("log-level", OPTION_TEXT, log_level), .fallback = "warn",
     .help = "debug, info, warn, error or off; logs go to stderr."},
    {0},
};

/* --- the data folder ------------------------------------------------------------------------- */

static enum err_code make_folder(const char *path, struct err *err)
{
    struct stat info;

    if (mkdir(path, 0755) == 0)
        return ERR_OK;
    if (errno != EEXIST)
        return err_set(err, ERR_CONFIG, "--data %s: %s", path, strerror(errno));
    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return err_set(err, ERR_CONFIG, "--data %s is not a folder", path);
    return ERR_OK;
}

static pid_t read_owner(int fd)
{
    char text[32];
    ssize_t len = pread(fd, text, sizeof(text), 0);
    uint64_t pid;

    while (len > 0 && text[len - 1] == '\n')
        len--;
    if (len <= 0 || !text_to_u64(text, (size_t)len, &pid) || pid == 0 || pid > INT32_MAX)
        return 0;
    return (pid_t)pid;
}

/* Take the lock; where its owner has died, wait for its services to end. */
static enum err_code take_lock(struct up *up, struct err *err)
{
    uint64_t deadline = env_boot_ns(env_real()) + LOCK_WAIT_NS;

    while (flock(up->lock, LOCK_EX | LOCK_NB) != 0) {
        pid_t owner = read_owner(up->lock);
        bool is_alive = owner != 0 && (kill(owner, 0) == 0 || errno == EPERM);

        if (is_alive)
            return err_set(err, ERR_CONFIG, "--data %s is in use by another vicinal up (pid %ld)",
                           up->data, (long)owner);
        if (env_boot_ns(env_real()) >= deadline)
            return err_set(err, ERR_CONFIG,
                           "--data %s is in use by services of an earlier vicinal up", up->data);
        if (env_sleep_until(env_real(), env_boot_ns(env_real()) + STEP_NS) != ERR_OK)
            return err_set(err, ERR_DEAD, "stopped");
    }
    return ERR_OK;
}

static enum err_code lock_folder(struct up *up, struct err *err)
{
    char path[PATH_MAX], text[32];
    int len = snprintf(path, sizeof(path), "%s/lock", up->data);
    enum err_code rc;

    if (len < 0 || (size_t)len >= sizeof(path))
        return err_set(err, ERR_CONFIG, "--data is too long");
    rc = make_folder(up->data, err);
    if (rc != ERR_OK)
        return rc;
    up->lock = open(path, O_RDWR | O_CREAT, 0644); /* inherited by the services, on purpose */
    if (up->lock < 0)
        return err_set(err, ERR_CONFIG, "%s: %s", path, strerror(errno));
    rc = take_lock(up, err);
    if (rc != ERR_OK)
        return rc;
    len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(up->lock, 0) != 0 || pwrite(up->lock, text, (size_t)len, 0) != len)
        return err_set_errno(err, errno, "%s", path);
    return ERR_OK;
}

/* --- the children ---------------------------------------------------------------------------- */

static enum err_code find_programs(struct up *up, struct err *err)
{
    ssize_t len = readlink("/proc/self/exe", up->programs, sizeof(up->programs) - 1);
    char *slash;

    if (len < 0)
        return err_set_errno(err, errno, "/proc/self/exe");
    up->programs[len] = '\0';
    slash = strrchr(up->programs, '/');
    if (slash != NULL)
        *slash = '\0';
    return ERR_OK;
}

static enum err_code set_urls(struct up *up, struct err *err)
{
    int wal = up->wal != NULL ? snprintf(up->wal_url, sizeof(up->wal_url), "%s", up->wal)
                              : snprintf(up->wal_url, sizeof(up->wal_url), "file:%s/wal", up->data);
    int meta = up->meta != NULL
                   ? snprintf(up->meta_url, sizeof(up->meta_url), "%s", up->meta)
                   : snprintf(up->meta_url, sizeof(up->meta_url), "sqlite:%s/meta.db", up->data);

    if (wal < 0 || (size_t)wal >= sizeof(up->wal_url) || meta < 0 ||
        (size_t)meta >= sizeof(up->meta_url))
        return err_set(err, ERR_CONFIG, "--wal, --meta or --data is too long");
    return ERR_OK;
}

/* What a look at the log can tell before anything is started: that the URL is none of ours, and how
 * many partitions there are.  Everything else about it is for ingest to say. */
static enum err_code look_at_log(struct up *up, struct err *err)
{
    struct wal *wal = NULL;
    struct err found = {0};
    enum err_code rc =
        wal_open(&wal, &(struct wal_options){.url = up->wal_url, .env = env_real()}, &found);
    uint32_t partitions = rc == ERR_OK ? wal_partitions(wal) : 0;

    wal_close(wal);
    if (rc == ERR_CONFIG) {
        *err = found;
        return err_wrap(err, "--wal");
    }
    if (partitions != 0 && up->partitions != 0 && up->partitions != partitions)
        return err_set(err, ERR_CONFIG, "--partitions %llu: the log has %u, which is fixed",
                       (unsigned long long)up->partitions, partitions);
    if (up->partitions == 0)
        up->partitions = partitions != 0 ? partitions : PARTITIONS_DEFAULT;
    return ERR_OK;
}

/* The next child: program "vicinal-KIND", named, on an address, with arguments. */
static enum err_code add_child(struct up *up, const char *kind, const char *listen,
                               const char *const *args, struct err *err)
{
    struct child *child = &up->children[up->child_count++];
    size_t size = strlen(up->programs) + strlen(kind) + 16;
    const char *const common[] = {"--meta", up->meta_url, "--log-level", up->log_level, NULL};
    enum err_code rc;

    child->out = -1;
    (void)snprintf(child->name, sizeof(child->name), "%s", kind);
    child->program = malloc(size);
    if (child->program == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %s", kind);
    (void)snprintf(child->program, size, "%s/vicinal-%s", up->programs, kind);
    rc = child_listen_on(child, listen, err);
    if (rc == ERR_OK)
        rc = child_add_args(child, args, err);
    if (rc == ERR_OK)
        rc = child_add_args(child, common, err);
    return rc;
}

static enum err_code add_shard(struct up *up, uint32_t shard, uint32_t replica, struct err *err)
{
    char shard_text[16], replica_text[16], data[PATH_MAX];
    const char *const args[] = {"--shard", shard_text, "--replica", replica_text, "--data",
                                data,      "--wal",    up->wal_url, NULL};
    struct child *child = &up->children[up->child_count];
    enum err_code rc;
    int len;

    (void)snprintf(shard_text, sizeof(shard_text), "%u", shard);
    (void)snprintf(replica_text, sizeof(replica_text), "%u", replica);
    len = snprintf(data, sizeof(data), "%s/shard-%u.%u", up->data, shard, replica);
    if (len < 0 || (size_t)len >= sizeof(data))
        return err_set(err, ERR_CONFIG, "--data is too long");
    rc = add_child(up, "shard", INTERNAL, args, err);
    (void)snprintf(child->name, sizeof(child->name), "shard %u.%u", shard, replica);
    return rc;
}

static enum err_code add_children(struct up *up, struct err *err)
{
    char partitions[16];
    const char *const ingest_args[] = {
        "--wal", up->wal_url, "--partitions", partitions, up->repair ? "--repair" : NULL, NULL};
    const char *const router_args[] = {"--cache", up->cache, NULL};
    size_t total = up->shards * up->replicas + 2;
    enum err_code rc;

    if (total > SUPERVISED_MAX)
        return err_set(err, ERR_CONFIG, "%zu processes are too many for one machine", total);
    up->children = array_alloc(total, sizeof(*up->children));
    if (up->children == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    (void)snprintf(partitions, sizeof(partitions), "%llu", (unsigned long long)up->partitions);
    rc = add_child(up, "ingest", INTERNAL, ingest_args, err);
    for (uint32_t shard = 0; shard < up->shards; shard++)
        for (uint32_t replica = 0; replica < up->replicas && rc == ERR_OK; replica++)
            rc = add_shard(up, shard, replica, err);
    if (rc == ERR_OK)
        rc = add_child(up, "router", up->listen, router_args, err);
    up->supervisor.children = up->children;
    return rc;
}

/* --- the start ------------------------------------------------------------------------------- */

static bool goes_on(const struct up *up)
{
    return !up->supervisor.is_ending && up->supervisor.failed == 0;
}

static void step(struct up *up)
{
    supervisor_step(&up->supervisor, env_boot_ns(env_real()) + STEP_NS);
}

/* Write the shard map, as soon as ingest has said how many partitions there are. */
static enum err_code place(struct up *up, struct err *err)
{
    struct meta *meta = NULL;
    enum err_code rc;

    while (goes_on(up) && !up->children[0].is_listening)
        step(up);
    if (!goes_on(up))
        return ERR_OK;
    rc = meta_open(&meta, up->meta_url, env_real(), err);
    if (rc != ERR_OK)
        return err_wrap(err, "--meta");
    do {
        rc = cluster_place(meta, (uint32_t)up->shards, (uint32_t)up->replicas, err);
        if (rc != ERR_OK)
            step(up);
    } while (rc == ERR_NOT_FOUND && goes_on(up));
    meta_close(meta);
    return goes_on(up) ? rc : ERR_OK;
}

static bool is_ready(struct up *up, const char *url)
{
    struct http_call call = {.method = "GET", .base = url, .path = "/readyz", .reply_max = MIB(1)};
    bool ready =
        http_call_one(up->client, &call, env_boot_ns(env_real()) + READY_CALL_NS) == ERR_OK &&
        call.status == 200;

    http_call_free(&call);
    return ready;
}

static void wait_for_ready(struct up *up)
{
    struct child *router = &up->children[up->child_count - 1];
    const char *host = strcmp(router->host, "0.0.0.0") == 0 ? "127.0.0.1" : router->host;
    char url[128];

    while (goes_on(up)) {
        if (router->is_listening) {
            (void)snprintf(url, sizeof(url), "http://%s:%u", host, router->port);
            if (is_ready(up, url))
                break;
        }
        step(up);
    }
    if (!goes_on(up))
        return;
    up->supervisor.is_ready = true;
    (void)printf("ready %s\n", url);
    (void)fflush(stdout);
}

static enum err_code serve(struct up *up, struct err *err)
{
    enum err_code rc;

    up->supervisor.running = 1;
    rc = place(up, err);
    if (rc != ERR_OK || !goes_on(up))
        return rc;
    up->supervisor.running = up->child_count;
    wait_for_ready(up);
    while (goes_on(up))
        supervisor_step(&up->supervisor, NEVER_NS);
    return ERR_OK;
}

static enum err_code prepare(struct up *up, struct err *err)
{
    enum err_code rc;

    up->lock = up->supervisor.signals = -1;
    if (log_level_from_text(up->log_level, LOG_DEBUG) !=
        log_level_from_text(up->log_level, LOG_OFF))
        return err_set(err, ERR_CONFIG, "--log-level \"%s\" is none", up->log_level);
    log_start("up", log_level_from_text(up->log_level, LOG_WARN));
    (void)unsetenv("VICINAL_CONFIG"); /* it was ours, not the services' */
    if ((rc = find_programs(up, err)) != ERR_OK || (rc = set_urls(up, err)) != ERR_OK ||
        (rc = lock_folder(up, err)) != ERR_OK || (rc = look_at_log(up, err)) != ERR_OK ||
        (rc = add_children(up, err)) != ERR_OK ||
        (rc = supervisor_open(&up->supervisor, err)) != ERR_OK)
        return rc;
    return http_client_open(&up->client, &(struct http_client_options){.env = env_real()}, err);
}

static int run_up(void *settings, const struct cli_operands *operands)
{
    struct up *up = settings;
    struct err err = {0};
    int exit_code = EXIT_SUCCESS;

    (void)operands;
    if (prepare(up, &err) != ERR_OK || serve(up, &err) != ERR_OK)
        exit_code = cli_fail("up", &err);
    else if (up->supervisor.failed != 0)
        exit_code = up->supervisor.failed;
    supervisor_end(&up->supervisor);
    supervisor_close(&up->supervisor);
    http_client_close(up->client);
    for (size_t i = 0; i < up->child_count; i++)
        child_free(&up->children[i]);
    free(up->children);
    if (up->lock >= 0)
        (void)close(up->lock);
    return exit_code;
}

const struct verb verb_up = {
    .name = "up",
    .brief = "Start the whole suite on this machine and keep it running.",
    .synopsis = "--data DIR [options]",
    .about =
        "Starts ingest, shards and router as separate processes, prints one line \"ready URL\"\n"
        "when searches work, restarts what dies, and ends everything within five seconds of\n"
        "SIGTERM or Ctrl-C.  Everything is kept in DIR, which one `up` uses at a time.\n\n"
        "Exit codes: 0 ended by a signal, 1 could not start, 2 wrong configuration.",
    .options = options,
    .settings_size = sizeof(struct up),
    .run = run_up,
};
