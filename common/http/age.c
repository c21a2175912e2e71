/* A fixed width, so that an age can be written again in its place. */
#include "common/http/age.h"

#include <stdio.h>
#include <string.h>

/* From here on no decimal would be left; nothing is so old but what is not known. */
#define SECONDS_MAX 10000000u

void age_write(char out[AGE_CHARS], int64_t since_ns, uint64_t now_ns)
{
    uint64_t age = 0;
    char text[48];

    if ((int64_t)now_ns > since_ns)
        age = now_ns - (uint64_t)since_ns;
    if (since_ns == AGE_UNKNOWN || age / NS_PER_S >= SECONDS_MAX)
        memcpy(text, "1000000000", AGE_CHARS);
    else
        (void)snprintf(text, sizeof(text), "%u.%09u", (unsigned)(age / NS_PER_S),
                       (unsigned)(age % NS_PER_S));
    memcpy(out, text, AGE_CHARS);
}

void age_put(struct request *req, struct json_writer *w, int64_t since_ns)
{
    struct reply_age *age = arena_alloc(&req->arena, 1, sizeof(*age));
    char text[AGE_CHARS];

    age_write(text, since_ns, env_boot_ns(req->env));
    json_raw(w, text, sizeof(text));
    if (age == NULL || w->out->failed) {
        w->out->failed = true;
        return;
    }
    age->at = w->out->len - AGE_CHARS;
    age->since_ns = since_ns;
    age->next = req->reply.ages;
    req->reply.ages = age;
}

void ages_move(struct reply *reply, const struct reply_age *last, size_t by)
{
    for (struct reply_age *age = reply->ages; age != last; age = age->next)
        age->at += by;
}

void ages_refresh(const struct reply *reply, uint64_t now_ns, uint8_t *body)
{
    for (const struct reply_age *age = reply->ages; age != NULL; age = age->next)
        age_write((char *)body + age->at, age->since_ns, now_ns);
}
