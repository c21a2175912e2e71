"""Does the simulation find what is wrong?  A checker that cannot fail proves nothing.

Each mutant is the product with one promise broken: a source file is copied, one passage of the copy
replaced, the copy compiled, and the simulation linked with it in the place of the right one.  The
sources themselves know nothing of this.  A mutant has to be found within its number of seeds; a
passage that does not stand in the source any more is an error, so the list stays true.

    make sim-mutants                     all of them
    make sim-mutants MUTANTS="a b"       some
"""
import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEEDS = 600
SECONDS = 240  # for the seeds of one mutant


@dataclasses.dataclass
class Mutant:
    name: str
    source: str
    right: str
    wrong: str
    options: str = ""


ACROSS = "--regions 2"  # only regions show it

MUTANTS = [
    # --- a shard: what is applied
    Mutant("older-wins", "services/shard/apply.c",
           "if (stamp_compare(entry.stamp, old.stamp) <= 0)", "if (false)", ACROSS),
    Mutant("void-records-count", "services/shard/apply.c",
           "if (epoch_admit(&step.partition->epoch, &record, input->offset))",
           "if (epoch_admit(&step.partition->epoch, &record, input->offset) || true)"),
    Mutant("no-tombstones", "services/shard/apply.c",
           "    return put_entry(step, &key, &entry, err);",
           "    return entry.is_live ? put_entry(step, &key, &entry, err)\n"
           "                         : store_delete(step->txn, STORE_IDS, id_key_value(&key), err);",
           ACROSS),
    Mutant("truncation-forgotten", "services/shard/apply.c",
           "    part->truncate = step->record->stamp;", "", ACROSS),
    Mutant("published-before-commit", "services/shard/consume.c",
           "        code = store_commit(batch.txn, err);",
           "        publish(shard);\n        code = store_commit(batch.txn, err);"),
    Mutant("object-not-awaited", "services/shard/consume.c",
           "        code = bulk_prepare(shard, &input, err);",
           "        if (bulk_prepare(shard, &input, err) != ERR_OK) {\n"
           "            err_clear(err);\n            i++;\n            continue;\n        }"),
    Mutant("restart-skips-a-record", "services/shard/start.c",
           "        start->is_unproven[slot] = partition->applied + partition->voided > 0;\n"
           "        start->unproven_count += start->is_unproven[slot];\n"
           "        positions[slot] = partition->position - start->is_unproven[slot];",
           "        start->is_unproven[slot] = false;\n"
           "        positions[slot] = partition->position + partition->position % 2;"),
    # --- a shard: when it answers
    Mutant("token-not-awaited", "services/shard/freshness.c",
           "waiting->need[shard->slot_of[entry->partition]] = entry->position;",
           "waiting->need[shard->slot_of[entry->partition]] = 0;"),
    Mutant("distant-token-not-awaited", "services/shard/freshness.c",
           "return entry->position == 0 || (known != NULL && known->position >= entry->position);",
           "return entry->position == 0 || known != NULL;", ACROSS),
    Mutant("fresh-not-awaited", "services/shard/freshness.c",
           "        if (waiting->demand->fresh)\n", "        if (false)\n"),
    Mutant("end-asked-before", "services/shard/freshness.c",
           "    wanted = shard->rounds_begun + 1;\n    while",
           "    wanted = shard->rounds_begun + !shard->round_is_open;\n    while"),
    Mutant("age-counted-from-the-answer", "services/shard/freshness.c",
           "freshness_note_locked(&shard->partitions[slot], asked_ns, ends[slot]);",
           "freshness_note_locked(&shard->partitions[slot], env_boot_ns(shard->env), ends[slot]);"),
    Mutant("bound-not-awaited", "services/shard/freshness.c",
           "            partition->fresh_ns < waiting->fresh_from_ns)", "            false)"),
    # --- the router
    Mutant("token-says-less", "cluster/ask.c",
           "        asking.rc = token_merge(&out->seen, &ask->question->demands, err);",
           "        asking.rc = ERR_OK;"),
    Mutant("cache-misses-changes", "services/router/cached.c",
           "return known->heard && (computed >= known->position || computed >= known->last_change);",
           "return known->heard || computed > 0;"),
    Mutant("other-regions-not-asked", "services/router/router.c",
           "    cluster_reach(router->cluster, from_ns + wait_ns, &consistency->reached);",
           "    cluster_reach(router->cluster, from_ns, &consistency->reached);\n"
           "    consistency->reached.is_met = true;", ACROSS),
    # --- the ingest: what is answered 200
    Mutant("doubt-is-success", "services/ingest/append.c",
           "    rc = append_staged(s, &cause);\n",
           "    rc = append_staged(s, &cause);\n    rc = rc == ERR_TIMEOUT ? ERR_OK : rc;\n"),
    Mutant("offset-not-compared", "services/ingest/append.c",
           "if (s->offsets[i] != s->staged[i].expected)", "if (false)"),
    Mutant("doubt-is-failure", "services/ingest/takeover.c",
           "        doubt->found = true;\n", "        doubt->found = false;\n"),
    Mutant("ids-not-held", "services/ingest/write.c",
           "                                        .mode = mode};\n",
           "                                        .mode = mode == BUSY_ALONE ? BUSY_SHARED : mode};\n"),
    Mutant("condition-on-old-state", "services/ingest/decide.c",
           "if (partition_set_has(&question->partitions, i) && views[i].end > 0)",
           "if (partition_set_has(&question->partitions, i) && views[i].end > UINT64_MAX - 1)"),
    Mutant("if-match-ignored", "services/ingest/record.c",
           "if_match != NULL && !decide_if_match(if_match, row)",
           "if_match != NULL && row == NULL"),
    Mutant("not-searchable-yet", "services/ingest/write.c",
           "    if (rc == ERR_OK && write->wait_searchable && write->token.count > 0)",
           "    if (false)"),
    Mutant("key-ignored", "services/ingest/records.c",
           "        if (key != NULL)\n", "        if (key != NULL && key[0] == 0)\n"),
    Mutant("patch-without-vector", "services/ingest/update.c",
           ".vector = row->vector};", ".vector = NULL};"),
    # --- the spool
    Mutant("spool-not-synced", "services/ingest/spool_put.c",
           "rc = store_sync(spool->store, err);", "rc = ERR_OK;"),
    Mutant("spool-always-newer", "services/ingest/replay.c",
           "stamp_compare(present->stamp, row->stamp) < 0)",
           "stamp_compare(present->stamp, row->stamp) < 9)"),
    Mutant("spool-passed-by", "services/ingest/write.c",
           "    if (spool != NULL && spool_waits(spool) && !sequencer_stands_by(s))\n",
           "    if (false)\n"),
    # --- imports
    Mutant("import-with-new-stamp", "services/ingest/import_write.c",
           ".stamp = work->job->objects[manifest->object].stamp};",
           ".stamp = sequencer_change_stamp(&write->ingest->sequencer)};"),
    Mutant("object-not-put", "services/ingest/import_write.c",
           "    if (rc != ERR_OK)\n        return rc;\n    rc = add_manifests(work, job,",
           "    err_clear(err);\n    rc = add_manifests(work, job,"),
    Mutant("object-of-another-removed", "services/ingest/import_write.c",
           "(unsigned long long)work->putter);", "0ull);"),
    Mutant("object-removed-in-doubt", "services/ingest/import_write.c",
           "    work->is_offered = rc == ERR_OK;\n    if (rc == ERR_OK)\n        rc = save(work);\n",
           "    if (rc == ERR_OK)\n        rc = save(work);\n    work->is_offered = rc == ERR_OK;\n"),
    # --- snapshots, and a log that is trimmed
    Mutant("trims-one-too-far", "services/ingest/trim.c",
           "    if (rc == ERR_OK)\n        rc = wal_trim(",
           "    for (uint32_t p = 0; p < trimmer->ingest->sequencer.partitions; p++)\n"
           "        trimmer->checkpoints[at].positions[p]++;\n"
           "    if (rc == ERR_OK)\n        rc = wal_trim("),
    Mutant("replicas-do-not-count", "services/ingest/trim.c",
           "if (holder->kind == HOLDER_REGION && overdue)",
           "if (holder->kind == HOLDER_REPLICA || overdue)"),
    Mutant("snapshots-do-not-count", "services/ingest/trim.c",
           "if (holder->kind == HOLDER_REGION && overdue)",
           "if (holder->kind == HOLDER_SNAPSHOT || overdue)"),
    Mutant("regions-do-not-count", "services/ingest/trim.c",
           "if (holder->kind == HOLDER_REGION && overdue)",
           "if (holder->kind == HOLDER_REGION || overdue)", ACROSS),
    Mutant("applied-is-synced", "services/shard/status.c",
           "json_u64(w, partition->synced);", "json_u64(w, partition->position);"),
    Mutant("marked-before-it-is-there", "services/shard/snapshot_make.c",
           "    if (code == ERR_OK)\n        code = put_files(making, err);\n"
           "    /* Behind the last use of its bytes: who opens a store may write to it. */\n"
           "    if (code == ERR_OK)\n        code = describe(making, err);\n"
           "    if (code == ERR_OK)\n        code = snapshot_publish(making->blob, &making->made, err);\n"
           "    if (code == ERR_OK)\n        code = read_back(making, err);\n"
           "    if (code == ERR_OK)\n        code = mark(making, err);\n",
           "    if (code == ERR_OK)\n        code = describe(making, err);\n"
           "    if (code == ERR_OK)\n        code = snapshot_publish(making->blob, &making->made, err);\n"
           "    if (code == ERR_OK)\n        code = mark(making, err);\n"
           "    if (code == ERR_OK)\n        code = put_files(making, err);\n"
           "    if (code == ERR_OK)\n        code = read_back(making, err);\n"),
    Mutant("all-snapshots-removed", "services/shard/snapshot_make.c",
           "    *goes = covering >= wanted;", "    *goes = true;"),
    Mutant("begins-in-the-middle", "services/shard/start.c",
           "firsts[count - 1] > 0)", "firsts[count - 1] > UINT64_MAX - 1)"),
    Mutant("position-of-a-copy-forgotten", "services/shard/start.c",
           "        start->is_unproven[slot] = partition->applied + partition->voided > 0;\n"
           "        start->unproven_count += start->is_unproven[slot];\n"
           "        positions[slot] = partition->position - start->is_unproven[slot];",
           "        start->is_unproven[slot] = false;\n"
           "        positions[slot] = partition->position + (shard->setup.copied_bytes > 0);"),
    Mutant("truncation-not-in-a-copy", "services/shard/apply_state.c",
           "    part->truncate = read_stamp(r);", "    (void)read_stamp(r);", ACROSS),
    Mutant("epoch-not-known-at-the-beginning", "services/ingest/takeover.c",
           "        line->admitted = (struct epoch_state){.epoch = record.epoch};", ""),
    # --- between regions
    Mutant("runs-taken-twice", "services/ingest/append.c",
           "        item->skipped = item->origin_offset < position;",
           "        item->skipped = false;", ACROSS),
    Mutant("told-too-far", "services/replicator/ship.c",
           "return MAX_OF(line->data, (uint64_t)1);", "return MAX_OF(line->data, (uint64_t)1) + 1;",
           ACROSS),
    Mutant("foreign-shipped-on", "services/replicator/follow.c",
           "record.origin_region == peer->number ? add_to_run(peer, item, &record, err) : ERR_OK;",
           "add_to_run(peer, item, &record, err);", "--regions 3"),
    Mutant("quorum-not-awaited", "services/ingest/write.c",
           "    if (write->awaits_quorum && write->written.count > 0)", "    if (false)", ACROSS),
]


def make_mutant(mutant, options):
    """The simulation with this mutant in it; its path."""
    folder = pathlib.Path(options.build) / "mutants" / mutant.name
    folder.mkdir(parents=True, exist_ok=True)
    text = (ROOT / mutant.source).read_text()
    if text.count(mutant.right) < 1:
        raise LookupError(f"{mutant.source} has no passage {mutant.right!r}")
    copy = folder / pathlib.Path(mutant.source).name
    copy.write_text(text.replace(mutant.right, mutant.wrong))
    subprocess.run([*shlex.split(options.compile), "-w", f"-I{(ROOT / mutant.source).parent}", "-c",
                    str(copy), "-o", str(folder / "mutant.o")], cwd=ROOT, check=True)
    program = folder / "sim"
    subprocess.run([*shlex.split(options.link), "-o", str(program), options.main,
                    str(folder / "mutant.o"), "-Wl,--start-group", *shlex.split(options.libs),
                    "-Wl,--end-group", *shlex.split(options.system_libs)], cwd=ROOT, check=True)
    return program


def run_mutant(mutant, options):
    """(found, what is told of it)"""
    began = time.monotonic()
    try:
        program = make_mutant(mutant, options)
    except (LookupError, subprocess.CalledProcessError) as error:
        return False, f"cannot be made: {error}"
    command = [str(program), "--seeds", f"1:{SEEDS}", "--first", *shlex.split(mutant.options),
               *shlex.split(options.options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output = process.communicate(timeout=SECONDS)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        process.terminate()  # it tidies up
        process.communicate()
        return False, f"not found within {SECONDS} s"
    finally:
        os.unlink(program)
    first = re.search(r"seed (\d+)(?: failed at [^:]*: (.*)| (ended by .*)|(: two runs.*))", output)
    took = time.monotonic() - began
    if process.returncode != 1 or first is None:
        return False, f"not found by {SEEDS} seeds ({took:.0f} s)"
    return True, f"seed {first[1]} ({took:.0f} s): {(first[2] or first[3] or first[4])[:110]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("build", "compile", "link", "main", "libs", "system-libs"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--options", default="", help="more for the simulation")
    parser.add_argument("names", nargs="*", help="all of them when there is none")
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.names or m.name in options.names]
    missed = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        runs = {pool.submit(run_mutant, mutant, options): mutant for mutant in chosen}
        for done in concurrent.futures.as_completed(runs):
            found, told = done.result()
            missed += not found
            print(f"{'found' if found else 'MISSED':7}{runs[done].name:30}{told}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} mutants found")
    return 1 if missed or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
