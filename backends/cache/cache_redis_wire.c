/* One connection to Redis whose every call ends in time, whatever the server does.
 *
 * hiredis writes commands and reads answers; bytes go over a socket that does not block, with one
 * deadline for a whole call: a server that sends a byte now and then gains nothing by it.
 *
 * Failure modes: an answer that is longer than any entry, a list (none is ever asked for, and its
 * length alone would make hiredis allocate), anything that is not the protocol: the connection is
 * of no use any more.  A server that went away raises no SIGPIPE. */
#include "backends/cache/cache_redis_internal.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/base/text.h"

#define DIAL_NS    (1 * NS_PER_S) /* with what is said first */
#define ANSWER_MAX (REDIS_VALUE_MAX + KIB(4))

/* --- the URL --------------------------------------------------------------------------------- */

/* len bytes of text, percent-decoded. */
static bool url_part(char out[REDIS_URL_PART_BYTES], const char *text, size_t len)
{
    size_t decoded;

    if (len >= REDIS_URL_PART_BYTES)
        return false;
    memcpy(out, text, len);
    decoded = text_percent_decode(out, len);
    if (decoded == SIZE_MAX || memchr(out, '\0', decoded) != NULL)
        return false;
    out[decoded] = '\0';
    return true;
}

/* host:port[/db] */
static bool parse_place(struct redis_address *address, const char *place)
{
    const char *slash = strchr(place, '/'), *end = slash != NULL ? slash : place + strlen(place);
    const char *colon = memrchr(place, ':', (size_t)(end - place));
    uint64_t port, db = 0;

    if (colon == NULL || colon == place ||
        !url_part(address->host, place, (size_t)(colon - place)) ||
        !text_to_u64(colon + 1, (size_t)(end - colon - 1), &port) || port == 0 || port > UINT16_MAX)
        return false;
    if (slash != NULL && slash[1] != '\0' && !text_to_u64(slash + 1, strlen(slash + 1), &db))
        return false;
    address->port = (uint16_t)port;
    address->db = (unsigned)db;
    return db <= 1000000;
}

bool redis_parse_url(struct redis_address *address, const char *url)
{
    const char *place = url + strlen("redis://"), *at, *colon;

    *address = (struct redis_address){0};
    if (strncmp(url, "redis://", strlen("redis://")) != 0)
        return false;
    at = strrchr(place, '@');
    if (at == NULL)
        return parse_place(address, place);
    colon = memchr(place, ':', (size_t)(at - place));
    if (colon == NULL || !url_part(address->user, place, (size_t)(colon - place)) ||
        !url_part(address->password, colon + 1, (size_t)(at - colon - 1)))
        return false;
    return parse_place(address, at + 1);
}

/* --- bytes ------------------------------------------------------------------------------------ */

/* Errors as false: the time is over. */
static bool await(struct redis_connection *connection, short events, uint64_t until_ns)
{
    struct pollfd fd = {.fd = connection->redis->fd, .events = events};
    int got;

    do {
        uint64_t now_ns = env_boot_ns(connection->env);

        if (now_ns >= until_ns)
            return false;
        got = poll(&fd, 1, (int)((until_ns - now_ns) / NS_PER_MS) + 1);
    } while (got < 0 && errno == EINTR);
    return got > 0;
}

bool redis_write(struct redis_connection *connection, int argc, const char **argv,
                 const size_t *lens, uint64_t until_ns)
{
    char *command = NULL;
    int len = redisFormatCommandArgv(&command, argc, argv, (size_t *)lens);
    size_t at = 0;
    bool is_well = len > 0;

    while (is_well && at < (size_t)len) {
        ssize_t sent = send(connection->redis->fd, command + at, (size_t)len - at,
                            MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent > 0)
            at += (size_t)sent;
        else
            is_well = errno == EINTR || ((errno == EAGAIN || errno == EWOULDBLOCK) &&
                                         await(connection, POLLOUT, until_ns));
    }
    if (command != NULL)
        redisFreeCommand(command);
    return is_well;
}

redisReply *redis_read(struct redis_connection *connection, uint64_t until_ns)
{
    redisReader *reader = connection->redis->reader;
    size_t bytes = 0;
    void *reply = NULL;
    char some[16384];

    while (redisReaderGetReply(reader, &reply) == REDIS_OK && reply == NULL) {
        ssize_t len = recv(connection->redis->fd, some, sizeof(some), MSG_DONTWAIT);

        if (len == 0 || bytes > ANSWER_MAX || env_boot_ns(connection->env) >= until_ns)
            return NULL;
        if (len < 0 && errno != EINTR &&
            ((errno != EAGAIN && errno != EWOULDBLOCK) || !await(connection, POLLIN, until_ns)))
            return NULL;
        if (len > 0) {
            bytes += (size_t)len;
            if (redisReaderFeed(reader, some, (size_t)len) != REDIS_OK)
                return NULL;
        }
    }
    return reply;
}

bool redis_read_pending(struct redis_connection *connection, uint64_t until_ns)
{
    while (connection->pending > 0) {
        redisReply *reply = redis_read(connection, until_ns);

        if (reply == NULL)
            return false;
        freeReplyObject(reply);
        connection->pending--;
    }
    return true;
}

const char *redis_why(const struct redis_connection *connection)
{
    const redisReader *reader = connection->redis->reader;

    return reader != NULL && reader->err != 0 ? reader->errstr : "cut, or no answer in time";
}

/* --- dialling --------------------------------------------------------------------------------- */

/* What passes by itself; everything else that a server says against us does not. */
static bool passes(const char *text)
{
    static const char *const words[] = {"LOADING", "BUSY",        "ERR max number", "MASTERDOWN",
                                        "OOM",     "CLUSTERDOWN", "TRYAGAIN"};

    for (size_t i = 0; i < ARRAY_COUNT(words); i++)
        if (strncmp(text, words[i], strlen(words[i])) == 0)
            return true;
    return false;
}

/* A command at the start of a connection; its answer must be a status. */
static enum err_code say(struct redis_connection *connection, int argc, const char **argv,
                         uint64_t until_ns, struct err *err)
{
    redisReply *reply = NULL;
    enum err_code rc = ERR_OK;

    if (redis_write(connection, argc, argv, NULL, until_ns))
        reply = redis_read(connection, until_ns);
    if (reply == NULL)
        return err_set(err, ERR_UNAVAILABLE, "redis: %s", redis_why(connection));
    if (reply->type == REDIS_REPLY_ERROR)
        rc = passes(reply->str)
                 ? err_set(err, ERR_UNAVAILABLE, "redis says: %.200s", reply->str)
                 : err_set(err, ERR_CONFIG,
                           "redis says: %.200s (check user, password and database)", reply->str);
    else if (reply->type != REDIS_REPLY_STATUS)
        rc = err_set(err, ERR_UNAVAILABLE, "redis: what answers there is no redis");
    freeReplyObject(reply);
    return rc;
}

static enum err_code greet(struct redis_connection *connection, const struct redis_address *address,
                           uint64_t until_ns, struct err *err)
{
    bool has_user = address->user[0] != '\0';
    const char *auth[] = {"AUTH", has_user ? address->user : address->password, address->password};
    const char *ping[] = {"PING"}, *choose[] = {"SELECT", NULL};
    char db[16];
    enum err_code rc = ERR_OK;

    if (address->password[0] != '\0')
        rc = say(connection, has_user ? 3 : 2, auth, until_ns, err);
    if (rc == ERR_OK && address->db != 0) {
        (void)snprintf(db, sizeof(db), "%u", address->db);
        choose[1] = db;
        rc = say(connection, 2, choose, until_ns, err);
    }
    return rc == ERR_OK ? say(connection, 1, ping, until_ns, err) : rc;
}

/* The length of a list is believed by hiredis, and memory taken for it. */
static void *no_list(const redisReadTask *task, int elements)
{
    (void)task;
    (void)elements;
    return NULL;
}

static void refuse_lists(redisReader *reader, redisReplyObjectFunctions *own)
{
    *own = *reader->fn;
    own->createArray = no_list;
    reader->fn = own;
}

struct wire {
    struct redis_connection connection; /* first */
    redisReplyObjectFunctions functions;
};

enum err_code redis_dial(struct redis_connection **out, const struct redis_address *address,
                         struct env *env, struct err *err)
{
    const struct timeval patience = {.tv_sec = DIAL_NS / NS_PER_S};
    uint64_t until_ns = env_boot_ns(env) + 2 * DIAL_NS;
    struct wire *wire = calloc(1, sizeof(*wire));
    redisContext *redis =
        wire == NULL ? NULL : redisConnectWithTimeout(address->host, address->port, patience);
    const int on = 1;
    enum err_code rc = ERR_OK;

    *out = NULL;
    if (redis == NULL) {
        free(wire);
        return err_set(err, ERR_NO_MEMORY, "redis: no memory");
    }
    wire->connection = (struct redis_connection){.env = env, .redis = redis};
    if (redis->err != 0) {
        rc = err_set(err, ERR_UNAVAILABLE, "redis at %s:%u: %s", address->host, address->port,
                     redis->errstr);
    } else {
        (void)setsockopt(redis->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        redis->reader->maxbuf = KIB(64); /* kept when idle */
        refuse_lists(redis->reader, &wire->functions);
        rc = greet(&wire->connection, address, until_ns, err);
    }
    if (rc == ERR_OK)
        *out = &wire->connection;
    else
        redis_hang_up(&wire->connection);
    return rc;
}

void redis_hang_up(struct redis_connection *connection)
{
    if (connection == NULL)
        return;
    redisFree(connection->redis);
    free(connection);
}
