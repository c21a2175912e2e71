"""Make a fixture of tests/service/test_data_of_older_versions_is_read.py: what a small deployment leaves
behind when it is killed, and what was acknowledged by then.

    VICINAL_BIN=folder/of/binaries python3 tests/upgrade/make.py first|newest|spool OUT.tar.xz

  first   two shards: collections, upserts, rewritten and deleted records, a collection that was dropped
          and made again with another form, a restart, and writers at the moment of the kill.  Made with
          the binaries of bee52bb, the first version that kept its promises.  Needs nothing that came later.
  newest  the same and what came later: a graph's segment and a cold part beside the store, patched
          metadata, imports with their objects.  Made with the binaries of the commit that says so in
          its message; it is made anew, under another name, when a format takes its next step.
  spool   the folder of a spool with rows that wait, of a suite whose Kafka broker is gone.  Made with the
          binaries of c967632, the first version that had one.

The archive holds the data folder, without locks, and expected.json: for each collection its options and
records, which ids are gone, and for ids that were being written when it was killed the states that they
may have.  A fixture is never changed: data like it is read for ever.
"""
import io
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tarfile
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))

from imports import Upload, binary_row  # noqa: E402
from suite import Suite, poll  # noqa: E402

WRITERS = 3
ACKNOWLEDGED = 120  # writes of theirs before the kill
GRAPH = 10500       # vectors, so many that a segment is written and the oldest become cold
FORMS = 100         # of them differ, so that graph and cold part are small: the others are their twins
COLD_ABOVE = 10000


def vector(number, dimension):
    """Numbers that a float holds exactly, never all zero."""
    chance = random.Random(number)
    return [chance.randrange(-15, 16) / 8 for _ in range(dimension - 1)] + [1 + number % 7 / 8]


def record(identity, number, dimension, text=None, **metadata):
    made = {"id": identity, "vector": vector(number, dimension), "metadata": {"n": number, **metadata}}
    if text is not None:
        made["text"] = text
    return made


class Deployment:
    """A suite, and what it has acknowledged."""

    def __init__(self, suite):
        self.suite = suite
        self.collections = {}
        self.lock = threading.Lock()

    def create(self, name, dimension, metric, **more):
        self.suite.create(name, dimension, metric, **more)
        before = self.collections.get(name, {"records": {}, "gone": []})
        self.collections[name] = {"dimension": dimension, "metric": metric, "records": {}, "maybe": {},
                                  "gone": sorted({*before["gone"], *before["records"]})}

    def put(self, name, records):
        self.suite.upsert(name, records)
        known = self.collections[name]
        for made in records:
            known["records"][made["id"]] = made
        known["gone"] = [identity for identity in known["gone"] if identity not in known["records"]]

    def forget(self, name, identities):
        for identity in identities:
            self.collections[name]["records"].pop(identity)
            self.collections[name]["gone"].append(identity)

    def delete(self, name, identities):
        answer = self.suite.post(f"/v1/collections/{name}/records/delete", {"ids": identities})
        assert answer.status == 200, answer
        self.forget(name, identities)

    def delete_where(self, name, key, value):
        answer = self.suite.post(f"/v1/collections/{name}/records/delete", {"filter": {key: value}})
        assert answer.status == 200, answer
        self.forget(name, [identity for identity, made in self.collections[name]["records"].items()
                           if made["metadata"].get(key) == value])

    def drop(self, name):
        assert self.suite.delete(f"/v1/collections/{name}").status == 204


# --- what is done -------------------------------------------------------------------------------


def fill(made):
    made.create("kb", 8, "cosine")
    for at in range(0, 400, 50):
        made.put("kb", [record(f"kb/{i}#ä", i, 8, f"passage {i}: " + "lorem ipsum " * (i % 5) if i % 3 else None,
                               lang=("de", "en", "fi", "sv")[i % 4], tags=["x", i % 2 == 0, None, 1.5])
                        for i in range(at, at + 50)])
    made.put("kb", [record(f"kb/{i}#ä", 1000 + i, 8, "written again", lang="en") for i in range(0, 400, 7)])
    made.delete("kb", [f"kb/{i}#ä" for i in range(1, 400, 10)])
    made.delete_where("kb", "lang", "fi")
    made.put("kb", [record("kb/2#ä", 2000, 8, "deleted, then back", lang="sv")])
    made.create("again", 3, "l2")
    made.put("again", [record(f"old {i}", i, 3) for i in range(30)])
    made.drop("again")
    made.create("again", 4, "ip")
    made.put("again", [record(f"new {i}", i, 4) for i in range(20)] + [record("old 3", 3, 4, "under its old id")])


def take(made, name, rows):
    """By an import."""
    upload = Upload(made.suite, name, format="binary")
    upload.put(b"".join(binary_row(row["id"], row["vector"], row.get("text"), row["metadata"]) for row in rows))
    made.collections[name]["records"].update((row["id"], row) for row in rows)


def fill_more(made):
    """What the first version did not have."""
    suite = made.suite
    made.create("many", 4, "l2", index={"m": 4})
    take(made, "many", [record(f"{i:05}", i % FORMS, 4) for i in range(GRAPH)])
    poll("the oldest are cold", lambda: list((suite.data / "suite").glob("shard-*/segments/*/*/cold-*.seg")), 60)
    poll("the graph is kept", lambda: list((suite.data / "suite").glob("shard-*/segments/*/*/graph.seg")), 60)
    made.delete("many", [f"{i:05}" for i in range(0, GRAPH, 50)])
    answer = suite.post("/v1/collections/kb/records/update",
                        {"ids": ["kb/4#ä"], "metadata": {"reviewed": True, "n": None}})
    assert answer.status == 200, answer
    fields = made.collections["kb"]["records"]["kb/4#ä"]["metadata"]
    fields["reviewed"] = True
    del fields["n"]
    take(made, "again", [record(f"imported/{i}", i, 4, f"row {i}") for i in range(200)])


def write_until_killed(made, writer, acknowledged):
    """Each writer has ids of its own; the one in hand may or may not be there in the end."""
    known, number, chance = made.collections["kb"], 0, random.Random(writer)
    while True:
        number += 1
        identity = f"tail/{writer}/{chance.randrange(40)}"
        new = record(identity, 3000 + number, 8, f"tail {number}", lang="en")
        now = known["records"].get(identity)
        takes_away = now is not None and chance.random() < 0.3
        with made.lock:
            known["maybe"][str(writer)] = {"id": identity, "states": [now, None if takes_away else new]}
        try:
            if takes_away:
                answer = made.suite.post("/v1/collections/kb/records/delete", {"ids": [identity]})
            else:
                answer = made.suite.post("/v1/collections/kb/records", {"records": [new]})
            assert answer.status == 200, answer
        except OSError:
            return
        except Exception as error:
            if "http.client" in type(error).__module__:
                return
            raise
        with made.lock:
            if takes_away:
                made.forget("kb", [identity])
            else:
                known["records"][identity] = new
                known["gone"] = [gone for gone in known["gone"] if gone != identity]
            acknowledged.append(identity)


def end_in_the_middle(made):
    acknowledged = []
    writers = [threading.Thread(target=write_until_killed, args=(made, i, acknowledged)) for i in range(WRITERS)]
    for writer in writers:
        writer.start()
    poll("enough is written", lambda: len(acknowledged) >= ACKNOWLEDGED, 30)
    kill(made.suite)
    for writer in writers:
        writer.join()
    for known in made.collections.values():
        uncertain = {maybe["id"]: maybe["states"] for maybe in known["maybe"].values()}
        known["maybe"] = uncertain
        known["records"] = [made for identity, made in known["records"].items() if identity not in uncertain]
        known["gone"] = [identity for identity in known["gone"] if identity not in uncertain]


def kill(suite):
    os.killpg(suite.process.pid, signal.SIGKILL)
    suite.process.wait()
    poll("nobody has the folder", lambda: subprocess.run(
        ["flock", "-n", "-s", str(suite.data / "suite" / "lock"), "true"], check=False).returncode == 0)


# --- the archive --------------------------------------------------------------------------------


def pack(out, folder, expected):
    def plain(info):
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        info.mtime = 0
        return None if info.name.endswith("/lock") or info.name.endswith("lock.mdb") else info

    with tarfile.open(out, "w:xz", preset=9) as archive:
        archive.add(folder, "data", filter=plain)
        text = json.dumps(expected, indent=0, ensure_ascii=False).encode()
        info = tarfile.TarInfo("expected.json")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    print(f"{out}: {os.path.getsize(out)} bytes")


def make(kind, out):
    if kind == "newest":
        os.environ["VICINAL_COLD_ABOVE"] = str(COLD_ABOVE)
    # Few partitions: rows follow each other in the order of their ids, which makes it small.
    options = {"shards": 2} if kind == "first" else {"partitions": 2}
    with Suite(**options) as suite:
        made = Deployment(suite)
        fill(made)
        if kind == "newest":
            fill_more(made)
        suite.restart()
        made.put("kb", [record(f"kb/{i}#ä", 4000 + i, 8, "after a restart", lang="de") for i in range(3, 400, 40)])
        end_in_the_middle(made)
        pack(out, suite.data / "suite", made.collections)


def make_spool(out):
    from kafka_broker import KafkaBroker

    with KafkaBroker() as kafka, Suite(wal=f"kafka://{kafka.bootstrap}/spooled") as suite:
        suite.create("kb", 8, "cosine")
        suite.upsert("kb", [record("before", 1, 8, "in the log")])
        kafka.kill()
        rows = [record(f"kb/{i}", i, 8, f"waits {i}", lang="en") for i in range(40)]
        poll("the log is known to be away", lambda: suite.post(
            "/v1/collections/kb/records", {"records": rows[:1]}).status == 202, 60)
        again = [record("kb/5", 500, 8, "newer", lang="de")]
        for records in (rows, again):
            answer = suite.post("/v1/collections/kb/records", {"records": records})
            assert answer.status == 202, answer
        answer = suite.post("/v1/collections/kb/records/delete", {"ids": ["kb/6", "before"], "count": False})
        assert answer.status == 202, answer
        kill(suite)
        states = {made["id"]: made for made in rows + again}
        states.update({"kb/6": None, "before": None})
        pack(out, suite.data / "suite" / "spool", {"kb": states})


def main():
    kind, out = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    assert kind in ("first", "newest", "spool"), kind
    if kind == "spool":
        make_spool(out)
    else:
        make(kind, out)


if __name__ == "__main__":
    main()
