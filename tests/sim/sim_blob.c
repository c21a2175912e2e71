/* The blob store of all regions as a node sees it.  An object is there whole or not at all; a put
 * may fail, may be made and not be answered, or may come long after its caller has given up, even
 * after the caller's process has died.  The world itself sees it as it is, at once. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backends/blob/blob.h"
#include "tests/sim/sim.h"

#define TRIP_NS     (200 * NS_PER_US)
#define TRIP_MAX_NS (10 * NS_PER_MS)

struct sim_object {
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct buffer bytes;
    struct sim_object *next;
};

struct sim_blob {
    struct blob base; /* first */
    struct sim_node *node;
};

/* A put on its way after its caller has given up. */
struct late_put {
    struct sim *sim;
    uint64_t ns;
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct buffer bytes;
};

static struct sim *sim_of(struct blob *blob)
{
    return ((struct sim_blob *)blob)->node->sim;
}

static struct sim_object **place_of(struct sim *sim, const char *name)
{
    struct sim_object **at = &sim->blobs.objects;

    while (*at != NULL && strcmp((*at)->name, name) != 0)
        at = &(*at)->next;
    return at;
}

const struct buffer *sim_blob_find(struct sim *sim, const char *name)
{
    const struct sim_object *object = *place_of(sim, name);

    return object == NULL ? NULL : &object->bytes;
}

static void keep(struct sim *sim, const char *name, const void *data, size_t len)
{
    struct sim_object **at = place_of(sim, name);

    if (*at == NULL && (*at = calloc(1, sizeof(**at))) == NULL)
        abort();
    memcpy((*at)->name, name, strlen(name) + 1);
    buffer_reset(&(*at)->bytes);
    buffer_append(&(*at)->bytes, data, len);
    sim->counts.blob_puts++;
    sim_note(sim, "object %.80s: %zu bytes", name, len);
    sim_snapshot_put(sim, name);
}

static void put_late(void *argument)
{
    struct late_put *late = argument;

    sim_world_sleep(late->sim, late->ns);
    keep(late->sim, late->name, late->bytes.data, late->bytes.len);
    late->sim->counts.blob_late++;
    buffer_free(&late->bytes);
    free(late);
}

static void send_late(struct sim *sim, const char *name, const void *data, size_t len)
{
    struct late_put *late = calloc(1, sizeof(*late));

    if (late == NULL)
        abort();
    late->sim = sim;
    late->ns = sim_delay(sim, NS_PER_MS, 8 * NS_PER_S);
    memcpy(late->name, name, strlen(name) + 1);
    buffer_append(&late->bytes, data, len);
    sim_spawn(sim, "late object", put_late, late);
}

/* There or back.  Errors: ERR_DEAD, ERR_UNAVAILABLE. */
static enum err_code trip(struct blob *blob, struct err *err)
{
    struct sim *sim = sim_of(blob);
    const struct sim_node *node = ((struct sim_blob *)blob)->node;
    uint64_t ns;

    if (node == &sim->world_node)
        return ERR_OK;
    ns = sim_delay(sim, TRIP_NS, TRIP_MAX_NS) +
         sim_below(sim, sim->blobs.slow_ns + node->blob_slow_ns);
    if (sim_pass(blob->env, ns) != ERR_OK)
        return err_set(err, ERR_DEAD, "blob: the node is dead");
    if (!sim->blobs.is_away && !sim_percent(sim, sim->blobs.fail))
        return ERR_OK;
    sim->counts.blob_faults++;
    return err_set(err, sim_below(sim, 2) == 0 ? ERR_UNAVAILABLE : ERR_IO, "blob: away");
}

static enum err_code blob_sim_put(struct blob *blob, const char *name, const void *data, size_t len,
                                  struct err *err)
{
    struct sim *sim = sim_of(blob);
    enum err_code code = trip(blob, err);

    if (code == ERR_UNAVAILABLE || code == ERR_IO) {
        if (sim_percent(sim, sim->blobs.late))
            send_late(sim, name, data, len);
        return code;
    }
    if (code != ERR_OK)
        return code;
    keep(sim, name, data, len);
    code = trip(blob, err);
    if (code == ERR_OK && sim_percent(sim, sim->blobs.unanswered))
        code = err_set(err, ERR_IO, "blob: no answer");
    return code;
}

static enum err_code blob_sim_get(struct blob *blob, const struct blob_range *range,
                                  struct buffer *out, struct err *err)
{
    struct sim *sim = sim_of(blob);
    enum err_code code = trip(blob, err);
    const struct buffer *bytes = sim_blob_find(sim, range->name);

    if (code != ERR_OK)
        return code;
    if (bytes == NULL)
        return err_set(err, ERR_NOT_FOUND, "blob: no object %s", range->name);
    if (range->at > bytes->len || bytes->len - range->at < range->len)
        return err_set(err, ERR_CORRUPT, "blob: object %s ends before", range->name);
    sim->counts.blob_gets++;
    ((struct sim_blob *)blob)->node->blob_gets++;
    buffer_append(out, bytes->data + range->at, range->len);
    return buffer_check(out, err);
}

static enum err_code blob_sim_size(struct blob *blob, const char *name, uint64_t *bytes,
                                   struct err *err)
{
    enum err_code code = trip(blob, err);
    const struct buffer *found = sim_blob_find(sim_of(blob), name);

    if (code != ERR_OK)
        return code;
    if (found == NULL)
        return err_set(err, ERR_NOT_FOUND, "blob: no object %s", name);
    *bytes = found->len;
    return ERR_OK;
}

static void free_object(struct sim_object *object)
{
    buffer_free(&object->bytes);
    free(object);
}

static enum err_code blob_sim_remove(struct blob *blob, const char *name, struct err *err)
{
    enum err_code code = trip(blob, err);
    struct sim_object **at = place_of(sim_of(blob), name), *object = *at;

    if (code == ERR_OK && object != NULL) {
        sim_note(sim_of(blob), "object %.80s is removed", name);
        *at = object->next;
        free_object(object);
        sim_snapshot_removed(sim_of(blob), name);
    }
    return code;
}

static enum err_code blob_sim_list(struct blob *blob, const char *prefix, blob_seen_fn *seen,
                                   void *context, struct err *err)
{
    enum err_code code = trip(blob, err);

    for (struct sim_object *object = sim_of(blob)->blobs.objects; code == ERR_OK && object != NULL;
         object = object->next)
        if (strncmp(object->name, prefix, strlen(prefix)) == 0 && !seen(context, object->name))
            break;
    return code;
}

static void blob_sim_close(struct blob *blob)
{
    free(blob);
}

static const struct blob_ops blob_sim_ops = {
    .scheme = "sim",
    .close = blob_sim_close,
    .put = blob_sim_put,
    .get = blob_sim_get,
    .size = blob_sim_size,
    .remove = blob_sim_remove,
    .list = blob_sim_list,
};

struct blob *sim_blob_open(struct sim_node *node)
{
    struct sim_blob *blob = calloc(1, sizeof(*blob));

    if (blob == NULL)
        abort();
    blob->base = (struct blob){.ops = &blob_sim_ops, .env = &node->life->env};
    blob->node = node;
    return &blob->base;
}

void sim_blob_free(struct sim *sim)
{
    while (sim->blobs.objects != NULL) {
        struct sim_object *object = sim->blobs.objects;

        sim->blobs.objects = object->next;
        free_object(object);
    }
}
