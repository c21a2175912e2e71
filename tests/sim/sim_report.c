/* What was done to the clusters and what was looked at, over all seeds that passed. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/sim/sim.h"

#define COLUMNS 100

struct figure {
    const char *group; /* NULL: that of the one before */
    size_t offset;
    const char *what;
};

#define FIGURE(member, text)                                                                       \
    {                                                                                              \
        NULL, offsetof(struct sim_counts, member), text                                            \
    }
#define GROUP(title, member, text)                                                                 \
    {                                                                                              \
        title, offsetof(struct sim_counts, member), text                                           \
    }
#define CHECK(kind, text)                                                                          \
    {                                                                                              \
        NULL, offsetof(struct sim_counts, checks[kind]), text                                      \
    }
#define CHECKS(title, kind, text)                                                                  \
    {                                                                                              \
        title, offsetof(struct sim_counts, checks[kind]), text                                     \
    }

static const struct figure FIGURES[] = {
    GROUP("nodes", regions, "regions"),
    FIGURE(restarts, "starts"),
    FIGURE(crashes, "crashes"),
    FIGURE(power_cuts, "of these power cuts"),
    FIGURE(disks_lost, "disks lost"),
    FIGURE(shards_lost, "all disks of a shard lost"),
    FIGURE(old_disks, "old disks put back"),
    FIGURE(pauses, "pauses"),
    FIGURE(frozen, "of these with frozen clocks"),
    FIGURE(clock_steps, "clock steps"),
    FIGURE(dawdles, "threads that dawdle"),
    FIGURE(disk_errors, "disk errors"),
    FIGURE(quiet, "rests"),
    GROUP("network", calls, "calls"),
    FIGURE(dropped, "lost"),
    FIGURE(broken, "broken"),
    FIGURE(refused, "refused"),
    FIGURE(doubled, "doubled"),
    FIGURE(reordered, "overtaken by a later one"),
    FIGURE(isolations, "nodes cut off"),
    FIGURE(links_cut, "links cut"),
    FIGURE(cuts, "cuts between regions"),
    FIGURE(meta_outages, "metadata faults"),
    GROUP("log", appends, "appends"),
    FIGURE(unknown, "of unknown outcome"),
    FIGURE(landed_unanswered, "landed unanswered"),
    FIGURE(never_landed, "entries never landed"),
    FIGURE(landed_late, "landed late"),
    FIGURE(voided, "void records"),
    FIGURE(epochs, "epochs"),
    FIGURE(takeovers, "take-overs"),
    FIGURE(log_faults, "faults"),
    FIGURE(log_outages, "outages"),
    GROUP("writes", acked, "acknowledged"),
    FIGURE(failed, "refused"),
    FIGURE(undecided, "undecided"),
    FIGURE(spooled, "spooled"),
    FIGURE(handovers, "hand-overs of spools"),
    FIGURE(replays, "counted twice"),
    FIGURE(wins, "creations won"),
    FIGURE(losses, "lost"),
    FIGURE(precondition_failed, "If-Match refused"),
    FIGURE(patches, "patches"),
    FIGURE(repeats, "sent again with their key"),
    FIGURE(truncates, "truncations"),
    FIGURE(drops, "collections dropped"),
    GROUP("imports", imports, "begun"),
    FIGURE(parts, "parts acknowledged"),
    FIGURE(manifests, "manifests in logs"),
    FIGURE(blob_puts, "objects put"),
    FIGURE(blob_gets, "read"),
    FIGURE(blob_faults, "calls of the store failed"),
    FIGURE(blob_late, "puts that came late"),
    GROUP("reads", reads, "answered"),
    FIGURE(searches, "searches"),
    FIGURE(fresh_reads, "fresh"),
    FIGURE(global_reads, "over all regions"),
    FIGURE(token_reads, "by token"),
    FIGURE(distant_tokens, "by another region's"),
    FIGURE(bounded_reads, "bounded"),
    FIGURE(stale_served, "served stale"),
    FIGURE(unmet, "not met"),
    FIGURE(unknown_tokens, "before the first contact"),
    FIGURE(cache_hits, "from the cache"),
    FIGURE(retries, "asked of another replica"),
    FIGURE(hedges, "hedged"),
    FIGURE(hedge_wins, "hedges that won"),
    FIGURE(scrubs, "scrubs of stores"),
    GROUP("copies", copies, "replicas begun with a copy"),
    FIGURE(copied_bytes, "bytes"),
    FIGURE(copies_failed, "begun without"),
    FIGURE(begun_with_snapshot, "begun with a snapshot"),
    FIGURE(set_aside, "stores set aside"),
    GROUP("trimming", snapshots, "snapshots made"),
    FIGURE(snapshots_removed, "removed"),
    FIGURE(trims, "times that a log was trimmed"),
    FIGURE(trims_in_part, "in part only"),
    FIGURE(trimmed, "records trimmed"),
    GROUP("regions", foreign, "records shipped"),
    FIGURE(overtaken, "overtaken by newer ones"),
    FIGURE(quorums_missed, "quorums missed"),
    CHECKS("checked", CHECK_ACKED, "acknowledged writes in the log"),
    CHECK(CHECK_REFUSED, "refused ones not in it"),
    CHECK(CHECK_CONDITION, "conditions at their place in it"),
    CHECK(CHECK_READ, "ids read, a state of theirs"),
    CHECK(CHECK_FRESH, "at least what was acknowledged or read before (fresh)"),
    CHECK(CHECK_TOKEN, "at least the token's"),
    CHECK(CHECK_BOUND, "within their bound"),
    CHECK(CHECK_CLAIM, "as their answer claims"),
    CHECK(CHECK_GLOBAL, "over all regions"),
    CHECK(CHECK_SEARCHABLE, "searchable when they were to be"),
    CHECK(CHECK_QUORUM, "values in their quorum"),
    CHECK(CHECK_DIGEST, "equal digests of replicas at one position"),
    CHECK(CHECK_COMPARED, "comparisons by routers, none different"),
    CHECK(CHECK_SNAPSHOT, "partitions in snapshots"),
    CHECK(CHECK_BEGINNING, "beginnings of logs"),
    CHECK(CHECK_END, "equal digests in the end"),
    GROUP("baton", switches, "times handed on"),
};

void sim_report_print(const struct sim_counts *counts)
{
    int column = 0;

    for (size_t i = 0; i < ARRAY_COUNT(FIGURES); i++) {
        const struct figure *figure = &FIGURES[i];
        unsigned long long value =
            *(const uint64_t *)(const void *)((const char *)counts + figure->offset);
        char text[80];
        int len = snprintf(text, sizeof(text), "%llu %s", value, figure->what);

        if (figure->group != NULL)
            column = printf("%s  %-8s %s", i == 0 ? "" : "\n", figure->group, text);
        else if (column + len + 2 > COLUMNS)
            column = printf(",\n           %s", text);
        else
            column += printf(", %s", text);
    }
    printf("\n");
}

/* Counters are all of one type. */
void sim_report_add(struct sim_counts *sum, const struct sim_counts *one)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)one;

    for (size_t i = 0; i < sizeof(*sum) / sizeof(*to); i++)
        to[i] += from[i];
}
