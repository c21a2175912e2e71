/* The segments beside a store: each is opened and scrubbed, and has to hold what the ids say.
 * Folders of other lives, or of no collection, are not looked at: a shard removes them when it
 * starts. */
#include <stdio.h>
#include <unistd.h>

#include "engine/verify.h"
#include "services/shard/segments.h"
#include "services/shard/verify_internal.h"

static enum err_code look_at_folder(struct shard_verify *verify, const char *folder,
                                    const struct apply_collection *from, struct err *err)
{
    const struct verify_collection *found = &verify->collections[from->number];
    struct engine_options options = segments_engine_options(&from->definition);
    struct engine_bitmap living = {.words = found->living, .word_count = found->word_count};
    struct engine_verified result;
    enum err_code code =
        engine_verify(folder, &options, &living, verify->setup.scrub, &result, err);

    if (code != ERR_OK)
        return code;
    if (result.covered > from->next_ordinal)
        scrub_find(verify->setup.scrub, folder, SCRUB_NO_BYTE,
                   "it reaches up to ordinal %u, the store has given those below %u",
                   result.covered - 1, from->next_ordinal);
    verify->result.segment_files += result.parts + (result.covered > 0);
    verify->result.segment_vectors += result.vectors;
    verify->result.segment_bytes += result.bytes;
    return ERR_OK;
}

enum err_code verify_segments(struct shard_verify *verify, struct err *err)
{
    const struct apply *apply = &verify->apply;
    char root[SEGMENTS_PATH_BYTES], folder[SEGMENTS_PATH_BYTES];
    struct segments_place place = {.root = root, .life = apply->life};
    int len = snprintf(root, sizeof(root), "%s/segments", verify->setup.data);
    enum err_code code = ERR_OK;

    if (len < 0 || (size_t)len >= sizeof(root))
        return err_set(err, ERR_CONFIG, "the path %.200s is too long", verify->setup.data);
    for (uint32_t i = 0; code == ERR_OK && apply->life != 0 && i < apply->collection_count; i++) {
        const struct apply_collection *from = apply->collections[i];

        place.incarnation = from->definition.incarnation;
        code = segments_folder(folder, &place, err);
        if (code == ERR_OK && apply_is_active(apply, from) &&
            from->definition.index != INDEX_FLAT && access(folder, F_OK) == 0)
            code = look_at_folder(verify, folder, from, err);
    }
    return code;
}
