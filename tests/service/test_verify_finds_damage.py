"""vicinal verify says nothing about what a suite leaves behind, however it ended, changes nothing, and
finds damage in every kind of file."""
import hashlib
import http.client
import os
import random
import shutil
import signal
import subprocess
import threading
import time

import pytest

from imports import Upload, binary_row
from suite import BIN, Suite, poll
from vicinal_cli import verify

pytestmark = pytest.mark.embedded("files are looked at and damaged")
VECTORS = 11000  # so many that a segment is written
IMPORTED = 500


def state(folder):
    """Everything in it, down to the times of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        info = path.stat()
        found[str(path)] = (info.st_mtime_ns, info.st_size,
                            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
    return found


def fill(suite):
    chance = random.Random(5)
    suite.create("a", 8, "cosine")
    suite.create("b", 3, "l2")
    for at in range(0, VECTORS, 1000):
        suite.upsert("a", [{"id": f"{i}", "vector": [chance.gauss(0, 1) for _ in range(8)], "text": f"text {i}",
                            "metadata": {"n": i}} for i in range(at, min(at + 1000, VECTORS))])
    suite.upsert("b", [{"id": f"{i}", "vector": [i, 1, 2]} for i in range(50)])
    suite.post("/v1/collections/a/records/delete", {"filter": {"n": {"$lt": 100}}})
    suite.upsert("a", [{"id": "200", "vector": [1] * 8, "text": "rewritten", "metadata": {"n": 1}}])
    upload = Upload(suite, "b", format="binary")
    upload.put(b"".join(binary_row(f"imported/{i}", [i, 2, 3], metadata={"n": i}) for i in range(IMPORTED)))
    suite.create("gone", 4)
    suite.upsert("gone", [{"id": "x", "vector": [1, 2, 3, 4]}])
    assert suite.delete("/v1/collections/gone").status == 204


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The data folder of a suite that was killed."""
    folder = tmp_path_factory.mktemp("left") / "data"
    with Suite() as suite:
        fill(suite)
        data = suite.data / "suite"
        poll("a segment is written", lambda: list(data.glob("shard-*/segments/*/*/graph.seg")), 60)
        for name, count in (("a", VECTORS - 100), ("b", 50 + IMPORTED)):
            answer = suite.post(f"/v1/collections/{name}/records/count", {"fresh": True, "timeout_ms": 20000})
            assert answer.body["count"] == count
        in_use = subprocess.run([str(BIN / "vicinal"), "verify", str(data)], capture_output=True, text=True, timeout=60)
        assert in_use.returncode == 2 and "in use" in in_use.stderr, in_use
        os.killpg(suite.process.pid, signal.SIGKILL)
        suite.process.wait()
        poll("nobody has the folder", lambda: subprocess.run(
            ["flock", "-n", "-s", str(data / "lock"), "true"], check=False).returncode == 0)
        shutil.copytree(data, folder)
    return folder


def test_what_a_killed_suite_leaves_is_sound_and_stays_as_it_was(left):
    before = state(left)
    found = verify(left, 0)
    assert state(left) == before
    assert found["finding_count"] == 0
    things = {thing["kind"]: thing for thing in found["things"]}
    assert set(things) == {"metadata", "log", "shard", "blobs"}
    assert all(thing["state"] == "ok" for thing in things.values()), things
    counts = things["shard"]["counts"]
    assert counts["live"] == counts["as in the log"] == VECTORS - 100 + 50 + IMPORTED
    assert counts["tombstones"] == 99 + 1  # 200 was written again; x went with its collection
    assert counts["segments"] == 1
    objects = sum(1 for path in (left / "blob" / "imports").rglob("*") if path.is_file())
    assert things["blobs"]["counts"] == {"snapshots": 0, "objects of snapshots": 0, "bytes": 0, "other objects": objects}
    # The parts by themselves.
    assert verify(left / "wal", 0)["things"][0]["counts"]["records"] > VECTORS
    assert verify(left / "shard-0.0", 0)["things"][0]["counts"]["as in the log"] == 0


def test_an_ordinary_end_and_a_restart_leave_it_sound(left, tmp_path):
    shutil.copytree(left, tmp_path / "suite")
    suite = Suite(data=tmp_path)
    try:
        suite.start()
        suite.upsert("b", [{"id": "more", "vector": [1, 2, 3]}])
        suite.get("/v1/collections/b/records/more?fresh=true")
    finally:
        suite.stop()
    verify(tmp_path / "suite", 0)


def write_anything(door, seed, stop):
    """Writes, deletions, collections that come and go, until it is told to stop or the suite is gone."""
    chance = random.Random(seed)
    try:
        while not stop.is_set():
            other, kind = f"t{chance.randrange(3)}", chance.random()
            if kind < 0.8:
                door.post("/v1/collections/c/records", {"records": [
                    {"id": str(chance.randrange(300)), "vector": [chance.random() for _ in range(8)],
                     "text": "x" * chance.randrange(60), "metadata": {"n": chance.randrange(9)}}
                    for _ in range(chance.randrange(1, 20))]})
            elif kind < 0.88:
                door.post("/v1/collections/c/records/delete", {"ids": [str(chance.randrange(300)) for _ in range(4)]})
            elif kind < 0.93:
                door.post("/v1/collections/c/records/delete", {"filter": {"n": chance.randrange(9)}})
            elif kind < 0.96:
                door.put(f"/v1/collections/{other}", {"vector": {"dimension": 4, "metric": "ip"}})
            elif kind < 0.98:
                door.post(f"/v1/collections/{other}/records", {"records": [{"id": "z", "vector": [1, 2, 3, 4]}]})
            else:
                door.delete(f"/v1/collections/{other}")
    except (OSError, http.client.HTTPException):
        pass  # it was killed


def test_regions_that_were_killed_while_both_write_are_sound():
    seed = int(os.environ.get("VICINAL_SEED", str(int(time.time()))))
    print("VICINAL_SEED", seed)
    with Suite(shards=2, regions="a,b") as suite:
        suite.create("c", 8)
        suite.region("b").wait_for("the collection is in b", "/v1/collections/c")
        stop = threading.Event()
        writers = [threading.Thread(daemon=True, target=write_anything, args=(suite.region(name), seed + i, stop))
                   for i, name in enumerate("abab")]
        for writer in writers:
            writer.start()
        time.sleep(2)
        os.killpg(suite.process.pid, signal.SIGKILL)
        suite.process.wait()
        stop.set()
        for writer in writers:
            writer.join()
        data = suite.data / "suite"
        poll("nobody has the folders", lambda: all(subprocess.run(
            ["flock", "-n", "-s", str(data / name / "lock"), "true"], check=False).returncode == 0 for name in "ab"))
        found = verify(data, 0)
        assert [thing["kind"] for thing in found["things"]] == ["metadata", "log", "shard", "shard"] * 2 + ["blobs"], found
        suite.start()
        suite.stop()
        verify(data, 0)


def damages(folder):
    """(file, length to cut to or None, place to flip)"""
    chance = random.Random(11)
    shard = next(folder.glob("shard-*"))
    files = {
        "log": (next((folder / "wal").glob("*.wal")), 1000000),
        "store": (shard / "store" / "data.mdb", None),
        "segment": (next(shard.glob("segments/*/*/graph.seg")), None),
        "metadata": (folder / "meta.db", None),
        "metadata log": (folder / "meta.db-wal", None),
        "control": (folder / "wal" / "control", None),
    }
    for kind, (path, end) in files.items():
        size = min(path.stat().st_size, end or 1 << 60)
        for _ in range(12):
            yield kind, path, None, chance.randrange(size)
        for _ in range(4):
            yield kind, path, chance.randrange(size), None


def test_damage_is_found_and_never_crashes(left):
    found = {}
    for kind, path, length, place in damages(left):
        sound = path.read_bytes()
        if length is not None:
            os.truncate(path, length)
        else:
            with open(path, "r+b") as out:
                out.seek(place)
                out.write(bytes([sound[place] ^ 0x10]))
        try:
            told = verify(left)
        finally:
            path.write_bytes(sound)
        found.setdefault(kind, []).append(told["finding_count"] > 0)
    # In a log and a segment nothing is without a checksum but padding.
    assert all(found["log"]), found
    assert sum(found["segment"]) >= 14, found
    assert any(found["store"]), found
    verify(left, 0)


def test_an_object_of_an_import_that_is_damaged_or_missing_is_named(left):
    path = next(path for path in sorted((left / "blob").rglob("*")) if path.is_file())
    name = str(path.relative_to(left / "blob"))
    sound = path.read_bytes()
    flipped = bytearray(sound)
    flipped[-9] ^= 1  # of the last section
    path.write_bytes(flipped)
    found = verify(left, 1)
    assert found["finding_count"] == 1
    assert [finding["file"] for thing in found["things"] for finding in thing["findings"]] == [name]
    path.unlink()
    found = verify(left, 1)
    assert {finding["file"] for thing in found["things"] for finding in thing["findings"]} == {name}
    path.write_bytes(sound)
    verify(left, 0)


def test_an_object_that_no_log_names_is_counted_and_no_damage(left, tmp_path):
    shutil.copytree(left, tmp_path / "data")
    named = next(path for path in sorted((tmp_path / "data" / "blob").rglob("*")) if path.is_file())
    shutil.copy(named, named.with_name("0.0-nobodys"))
    counts = {thing["kind"]: thing for thing in verify(tmp_path / "data", 0)["things"]}["blobs"]["counts"]
    assert counts["that no log here names"] == 1, counts
    # Where the log is not at hand it cannot be said.
    shutil.rmtree(tmp_path / "data" / "wal")
    counts = {thing["kind"]: thing for thing in verify(tmp_path / "data", 0)["things"]}["blobs"]["counts"]
    assert "that no log here names" not in counts and counts["other objects"] >= 2, counts


def test_imports_are_compared_only_with_their_blob_store(left, tmp_path):
    shutil.copytree(left, tmp_path / "data")
    (tmp_path / "data" / "blob").rename(tmp_path / "elsewhere")
    without = {thing["kind"]: thing for thing in verify(tmp_path / "data", 0)["things"]}["shard"]["counts"]
    assert without["sections of imports not compared"] > 0
    assert without["as in the log"] == without["live"] - IMPORTED
    found = verify(tmp_path / "data", 0, blob=f"file:{tmp_path}/elsewhere")
    counts = {thing["kind"]: thing for thing in found["things"]}["shard"]["counts"]
    assert counts["as in the log"] == counts["live"]
    assert "sections of imports not compared" not in counts
    done = subprocess.run([str(BIN / "vicinal"), "verify", str(left), "--blob", f"file:{tmp_path}/no"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "--blob" in done.stderr, done
    assert not (tmp_path / "no").exists()


def test_what_holds_nothing_is_said_to_hold_nothing(tmp_path):
    done = subprocess.run([str(BIN / "vicinal"), "verify", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "holds nothing" in done.stderr, done
    done = subprocess.run([str(BIN / "vicinal"), "verify", str(tmp_path / "no")], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 2, done


def test_an_interrupt_ends_it(left):
    process = subprocess.Popen([str(BIN / "vicinal"), "verify", str(left)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    # It may have come before the handler was there, or after the end.
    assert process.returncode in (0, 2, -signal.SIGINT), (process.returncode, errors)
