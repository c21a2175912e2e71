/* What the two files of the Redis cache share: one connection with calls that end in time
 * (cache_redis_wire.c), and what is made of it (cache_redis.c). */
#ifndef VICINAL_BACKENDS_CACHE_REDIS_INTERNAL_H
#define VICINAL_BACKENDS_CACHE_REDIS_INTERNAL_H

#include <hiredis/hiredis.h>

#include "backends/cache/cache.h"
#include "common/base/limits.h"

#define REDIS_URL_PART_BYTES 256
#define REDIS_VALUE_MAX      MIB(1)

struct redis_address {
    char host[REDIS_URL_PART_BYTES], user[REDIS_URL_PART_BYTES], password[REDIS_URL_PART_BYTES];
    uint16_t port;
    unsigned db;
};

struct redis_connection {
    struct redis_connection *next;
    struct env *env;
    redisContext *redis;
    unsigned pending; /* puts whose answers have not been read */
};

/* False: malformed.  Nothing of the URL is told to anybody: there may be a password in it. */
bool redis_parse_url(struct redis_address *address, const char *url);

/* A connection that answers.  Errors: ERR_UNAVAILABLE (away, starting, full), ERR_CONFIG
 * (credentials, database), ERR_NO_MEMORY. */
MUST_CHECK enum err_code redis_dial(struct redis_connection **out,
                                    const struct redis_address *address, struct env *env,
                                    struct err *err);
void redis_hang_up(struct redis_connection *connection);

/* Write one command.  False: the connection is of no use any more. */
bool redis_write(struct redis_connection *connection, int argc, const char **argv,
                 const size_t *lens, uint64_t until_ns);

/* The next answer, to be freed with freeReplyObject; NULL: the connection is of no use any more. */
redisReply *redis_read(struct redis_connection *connection, uint64_t until_ns);

/* Read the answers to puts: whether they succeeded is of no interest, a full server says no. */
bool redis_read_pending(struct redis_connection *connection, uint64_t until_ns);

/* Why it is of no use any more. */
const char *redis_why(const struct redis_connection *connection);

#endif
