"""The log is trimmed only below what every replica has synced, a verified snapshot of every shard has,
and every other region has read; then snapshot and log together are everything: a shard without a
folder and without another replica comes back from them, equal to the last digest.  A snapshot that
is damaged, missing or not verified trims nothing and is never used, and a gap is never read over.
`vicinal verify` looks at every snapshot, and finds what is damaged, and a log that none reaches to."""
import os
import random
import shutil
import signal
import subprocess

import pytest

import vicinal_cli
from s3_server import S3Server
from standing_still import standing_still
from suite import BIN, SLOW, Client, Suite, poll

DIMENSION = 8


@pytest.fixture(autouse=True)
def only_when_asked(monkeypatch):
    """No trimming of the service's own between what a test looks at; one test sets its own pace."""
    monkeypatch.setenv("VICINAL_TRIM_EVERY", "86400")


def write(suite, name, begin, count):
    chance = random.Random(begin)
    for at in range(begin, begin + count, 500):
        suite.upsert(name, [{"id": f"r{i}", "vector": [chance.gauss(0, 1) for _ in range(DIMENSION)],
                             "text": f"text {i}", "metadata": {"n": i}}
                            for i in range(at, min(at + 500, begin + count))])
    answer = suite.post(f"/v1/collections/{name}/records/delete", {"ids": [f"r{begin + 3}"]})
    assert answer.status == 200, answer


def ask(url, method, path):
    client = Client(url)
    try:
        answer = client.request(method, path)
    finally:
        client.close()
    assert answer.status == 200, answer
    return answer.body


def trim(door):
    return ask(door.node_urls("ingest")["0"], "POST", "/internal/v1/trim")["trim"]


def trim_with_all(door):
    """As trim(); a replica that is late with its answer holds the log, which is asked for anew."""
    def told():
        said = trim(door)
        return said if said["held_by"] != "replica" else None

    return poll("all replicas tell how far they are", told, 30)


def snapshot(door):
    run = subprocess.run([BIN / "vicinal", "snapshot", "--url", door.url], capture_output=True, text=True,
                         timeout=120 * SLOW)
    assert run.returncode == 0 and ": snapshot " in run.stdout, run


def synced(door):
    """Everything is applied, and a sync has followed."""
    ends = {p["partition"]: p["end"] for p in ask(door.node_urls("ingest")["0"], "GET", "/internal/v1/status")["partitions"]}

    def all_synced():
        return all(part["synced"] >= ends[part["partition"]]
                   for url in door.node_urls("shard").values()
                   for part in ask(url, "GET", "/internal/v1/status")["partitions"])

    poll("all replicas have synced", all_synced, 30)


def trim_all(door):
    """A checkpoint, a snapshot behind it, and what may go goes."""
    trim(door)
    synced(door)
    snapshot(door)
    before = ask(door.node_urls("ingest")["0"], "GET", "/internal/v1/status")["trim"]
    after = trim_with_all(door)
    assert after["trims"] == before["trims"] + 1, after
    assert after["trimmed_records"] > before["trimmed_records"], (before, after)
    return after


def state(suite, name="c"):
    chance = random.Random(4)
    found = {"count": suite.post(f"/v1/collections/{name}/records/count", {"fresh": True}).body["count"],
             "collections": suite.get("/v1/collections").body["collections"]}
    for i in range(5):
        answer = suite.post(f"/v1/collections/{name}/search", {
            "vector": [chance.gauss(0, 1) for _ in range(DIMENSION)], "fresh": True,
            "params": {"exact": True}, "timeout_ms": 20000})
        assert answer.status == 200, answer
        found[i] = answer.body["matches"]
    found["digests"] = {key: {p: d for p, (_, d) in parts.items()} for key, parts in suite.digests().items()}
    return found


def expect(suite, before):
    poll("the digests are those of before", lambda: {key: {p: d for p, (_, d) in parts.items()}
                                                     for key, parts in suite.digests().items()} == before["digests"], 60)
    assert state(suite) == before


def segments(suite):
    return sorted(path.name for path in (suite.data / "suite" / "wal").glob("*.wal"))


def snapshots(suite, shard=0):
    """The folders of a shard's snapshots, oldest first."""
    return sorted(path.parent for path in (suite.data / "suite" / "blob" / "snapshots").glob(f"*/{shard}/*/manifest"))


def log_of(suite):
    return (suite.data / "log").read_text(errors="replace")


def verify(suite):
    run = subprocess.run([BIN / "vicinal", "verify", suite.data / "suite"], capture_output=True, text=True,
                         timeout=120 * SLOW)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def findings(suite, code, blob=None):
    """What `verify` says of the blob store: its counts; of everything: (file, text)."""
    told = vicinal_cli.verify(suite.data / "suite", code, blob)
    [blobs] = [thing for thing in told["things"] if thing["kind"] == "blobs"]
    return blobs["counts"], [(finding["file"], finding["text"]) for thing in told["things"]
                             for finding in thing["findings"]]


def remove_shards(suite):
    for path in (suite.data / "suite").glob("shard-*"):
        shutil.rmtree(path)


@pytest.mark.embedded("the files of the log and of the metadata are looked at, and removed")
def test_everything_comes_back_from_a_snapshot_and_the_rest_of_the_log():
    with Suite(shards=2, partitions=8, log_level="info") as suite:
        suite.create("c", DIMENSION)
        suite.create("gone", 4)
        assert suite.delete("/v1/collections/gone").status == 204
        write(suite, "c", 0, 3000)
        suite.restart()  # a new segment of the log
        write(suite, "c", 2500, 1000)
        first = segments(suite)
        trim(suite)
        synced(suite)
        told = trim_with_all(suite)
        assert (told["held_by"], told["trimmed_records"]) == ("snapshot", 0), told
        assert "no verified snapshot" in told["detail"]
        trim_all(suite)
        assert segments(suite) != first and segments(suite)[-1] == first[-1]
        write(suite, "c", 5000, 700)  # behind the snapshot
        before = state(suite)
        status = subprocess.run([BIN / "vicinal", "status", "--url", suite.url], capture_output=True, text=True,
                                timeout=60).stdout
        assert "were trimmed from its beginning" in status, status

        for pid in suite.pids("shard"):
            os.kill(pid, signal.SIGKILL)
        suite.stop()
        assert "trimmed" in verify(suite)
        remove_shards(suite)
        suite.start()
        expect(suite, before)
        assert "begun with a snapshot" in log_of(suite)

        # Once more, without the metadata, which the trimmed log still brings back, and without the
        # hints of where a new holder may begin to read.
        suite.stop()
        remove_shards(suite)
        for path in [*(suite.data / "suite").glob("meta*"), suite.data / "suite" / "wal" / "control"]:
            path.unlink()
        suite.start(120)
        expect(suite, before)
        write(suite, "c", 9000, 100)
        assert suite.get("/v1/collections/c/records/r9001?fresh=true").status == 200
        # The next trimming begins where this one ended.
        trim_all(suite)
        run = subprocess.run([BIN / "vicinal", "place", "--meta", f"sqlite:{suite.data}/suite/meta.db", "--shards", "3"],
                             capture_output=True, text=True, timeout=60)
        assert run.returncode != 0 and "has been trimmed" in run.stderr, run
        before = state(suite)
        suite.stop()
        verify(suite)
        remove_shards(suite)
        suite.start()
        expect(suite, before)


def test_a_damaged_or_unverified_snapshot_trims_nothing():
    with Suite(partitions=4, log_level="info") as suite:
        suite.create("c", DIMENSION)
        write(suite, "c", 0, 1000)
        trim(suite)
        synced(suite)
        snapshot(suite)
        before = state(suite)
        [folder] = snapshots(suite)
        part = sorted(folder.glob("*.*"))[-1]
        bytes_ = part.read_bytes()
        part.write_bytes(bytes_[:5000] + bytes([bytes_[5000] ^ 1]) + bytes_[5001:])
        told = trim_with_all(suite)
        assert (told["held_by"], told["trimmed_records"]) == ("snapshot", 0) and "damaged" in told["detail"], told
        part.unlink()
        assert trim_with_all(suite)["held_by"] == "snapshot"
        part.write_bytes(bytes_)
        (folder / "verified").rename(folder.parent / "verified-aside")
        told = trim_with_all(suite)
        assert told["held_by"] == "snapshot" and "no verified snapshot" in told["detail"], told
        assert told["trimmed_records"] == 0

        # It is not used either: the shard reads the log.
        suite.stop()
        remove_shards(suite)
        suite.start()
        expect(suite, before)
        assert "begun with a snapshot" not in log_of(suite)
        # Unfinished as it was, it is gone now.
        poll("it is removed", lambda: not folder.exists() or not list(folder.iterdir()), 30)


def test_without_a_usable_snapshot_a_gap_is_never_read_over():
    with Suite(partitions=4, log_level="info") as suite:
        suite.create("c", DIMENSION)
        write(suite, "c", 0, 1000)
        trim_all(suite)
        before = state(suite)
        folder = snapshots(suite)[-1]
        part = sorted(folder.glob("*.*"))[-1]
        bytes_ = part.read_bytes()
        suite.stop()
        part.write_bytes(bytes_[:5000] + bytes([bytes_[5000] ^ 1]) + bytes_[5001:])
        remove_shards(suite)
        with pytest.raises(AssertionError, match="did not become ready"):
            suite.start()  # ends when the shard has failed to start a few times
        assert "a snapshot could not be used" in log_of(suite)
        assert "the log has been trimmed" in log_of(suite)
        part.write_bytes(bytes_)
        suite.start()
        expect(suite, before)


@pytest.mark.embedded("verify reads the log's files")
def test_verify_looks_at_every_snapshot():
    with Suite(shards=2, partitions=4) as suite:
        suite.create("c", DIMENSION)
        write(suite, "c", 0, 1000)
        trim_all(suite)
        suite.stop()
        blob = suite.data / "suite" / "blob"
        counts, found = findings(suite, 0)
        assert counts["snapshots"] == 2 and not found, (counts, found)
        assert counts["objects of snapshots"] == sum(1 for path in blob.rglob("*") if path.is_file())

        # Each object of one: missing, cut, a byte of it changed.  It is named, and the trimmed log has none to
        # begin with, for there is no other snapshot of this shard.
        [folder] = snapshots(suite, 1)
        for path in sorted(folder.iterdir()):
            name, sound = str(path.relative_to(blob)), path.read_bytes()
            for damaged in (None, sound[:-1], sound[:9] + bytes([sound[9] ^ 1]) + sound[10:]):
                if damaged is None:
                    path.unlink()
                else:
                    path.write_bytes(damaged)
                _, found = findings(suite, 1)
                # One without its mark was never finished, and is not damaged.
                named = [] if damaged is None and path.name == "verified" else [name]
                assert [file for file, _ in found[:-1]] == named, (name, found)
                assert found[-1][0] == str(folder.parent.parent.relative_to(blob)), found
                assert "no whole snapshot reaches" in found[-1][1], found
            path.write_bytes(sound)
        assert findings(suite, 0)[1] == []

        # Beyond the end of its log: the log is an older one.
        kept = suite.data / "kept"
        shutil.copytree(suite.data / "suite", kept)
        suite.start()
        write(suite, "c", 1000, 500)
        synced(suite)
        snapshot(suite)
        suite.stop()
        assert findings(suite, 0)[0]["snapshots"] == 4
        for part in ("wal", "shard-0.0", "shard-1.0"):
            shutil.rmtree(suite.data / "suite" / part)
            shutil.copytree(kept / part, suite.data / "suite" / part)
        _, found = findings(suite, 1)
        newest = {str((snapshots(suite, shard)[-1] / "manifest").relative_to(blob)) for shard in (0, 1)}
        assert {file for file, _ in found} == newest, found
        assert all("the log ends at" in text for _, text in found), found


@pytest.mark.embedded("verify reads the log's files")
def test_a_store_below_the_log_is_set_aside():
    with Suite(partitions=4, log_level="info") as suite:
        suite.create("c", DIMENSION)
        write(suite, "c", 0, 1000)
        synced(suite)
        suite.stop()
        folder, kept = suite.data / "suite" / "shard-0.0", suite.data / "kept"
        shutil.copytree(folder, kept)
        suite.start()
        write(suite, "c", 1000, 1000)
        trim_all(suite)
        before = state(suite)
        suite.stop()
        shutil.rmtree(folder)
        kept.rename(folder)
        suite.start()
        expect(suite, before)
        assert (folder / "store.aside").exists()
        assert "the store is set aside" in log_of(suite) and "begun with a snapshot" in log_of(suite)
        suite.stop()
        verify(suite)


def test_it_happens_by_itself(monkeypatch):
    for name, value in (("SNAPSHOT_RECORDS", 1000), ("TRIM_EVERY", 1), ("TRIM_RECORDS", 500)):
        monkeypatch.setenv(f"VICINAL_{name}", str(value))
    with Suite(partitions=4) as suite:
        suite.create("c", DIMENSION)
        for begin in range(0, 6000, 500):
            write(suite, "c", begin, 500)
        url = suite.node_urls("ingest")["0"]
        poll("the log is trimmed", lambda: ask(url, "GET", "/internal/v1/status")["trim"]["trimmed_records"] > 500, 60, 0.2)
        before = state(suite)
        suite.stop()
        remove_shards(suite)
        suite.start()
        expect(suite, before)


def test_the_same_in_s3(monkeypatch):
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with Suite(partitions=4, blob=server.url("here")) as suite:
            suite.create("c", DIMENSION)
            write(suite, "c", 0, 1000)
            trim_all(suite)
            write(suite, "c", 1000, 500)
            trim_all(suite)
            trim_all(suite)  # the first one goes
            write(suite, "c", 2000, 100)
            before = state(suite)
            suite.stop()
            # Its snapshots are looked at where they are, with or without the log's files.
            counts, found = findings(suite, 0, server.url("here"))
            assert counts["snapshots"] == 2 and counts["bytes"] > 0 and not found, (counts, found)
            remove_shards(suite)
            suite.start()
            expect(suite, before)


def test_a_stopped_replica_holds_the_log():
    with Suite(replicas=2, partitions=4) as suite:
        suite.wait_for_all_replicas()
        suite.create("c", DIMENSION)
        write(suite, "c", 0, 500)
        stopped = suite.pids("shard")[1]
        with standing_still(stopped):
            trim(suite)
            snapshot_of_first(suite)

            def held_by_the_stopped_one():  # the other one syncs when it comes to it
                told = trim(suite)
                assert told["held_by"] == "replica" and told["trimmed_records"] == 0, told
                return "replica 0.1" in told["detail"]

            poll("only the stopped one holds it", held_by_the_stopped_one, 30, 0.2)
        trim_all(suite)
        assert len(snapshots(suite)) == 2
        trim_all(suite)
        assert len(snapshots(suite)) == 2, "older ones go"
        before = suite.digests()
        # One without a folder begins with the other one, whatever little that has.
        os.kill(stopped, signal.SIGKILL)
        suite.stop()
        shutil.rmtree(suite.data / "suite" / "shard-0.1")
        suite.start()
        poll("both have the same", lambda: {str({p: d for p, (_, d) in parts.items()}) for parts in suite.digests(60).values()}
             == {str({p: d for p, (_, d) in parts.items()}) for parts in before.values()}, 60)


def snapshot_of_first(suite):
    url = suite.node_urls("shard")["0.0"]
    ask(url, "POST", "/internal/v1/snapshot")
    poll("the snapshot is made", lambda: ask(url, "GET", "/internal/v1/snapshot")["made"] > 0, 60)


def test_another_region_holds_the_log():
    with Suite(regions="a,b", partitions=4) as suite:
        a, b = suite.region("a"), suite.region("b")
        a.create("c", DIMENSION)
        write(a, "c", 0, 500)
        suite.converge()
        stopped = b.pids("replicator")[0]
        with standing_still(stopped):
            write(a, "c", 500, 200)
            trim(a)
            synced(a)
            snapshot(a)
            told = trim_with_all(a)
            assert told["held_by"] == "region" and "region b" in told["detail"], told
            assert told["trimmed_records"] == 0
        suite.converge()
        poll("the log is trimmed", lambda: trim(a)["trimmed_records"] > 0, 30, 0.2)
        # Both go on, also when everything is started again and reads the trimmed log.
        write(b, "c", 2000, 200)
        write(a, "c", 3000, 200)
        suite.converge()
        suite.restart()
        write(b, "c", 4000, 200)
        write(a, "c", 5000, 200)
        parts = suite.converge(40)
        assert len(parts) == 4
