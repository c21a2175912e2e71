"""A new replica beside a loaded one begins with a copy of it: it reads from the log only what came
after, links no vector that is in the copy, and has the same digests.  A copy that was interrupted is
begun again; nothing of it is ever opened.  Where no copy can be had the log is read from its start."""
import os
import random
import shutil
import signal
import subprocess
import threading
import time
import urllib.request

import pytest

from standing_still import standing_still
from suite import BIN, SLOW, Client, Suite, poll

pytestmark = pytest.mark.embedded("a replica is started by hand, on the suite's own files")

RECORDS = 30000 if SLOW <= 2 else 12000  # enough for a graph on the disk
DIMENSION = 32


class Replica:
    """shard 0, replica 1, started by hand."""

    def __init__(self, suite, *words, wait=True):
        self.data = suite.data / "suite" / "shard-0.1"
        self.log = open(suite.data / "log", "ab")
        self.process = subprocess.Popen(
            [BIN / "vicinal-shard", "--shard", "0", "--replica", "1", "--data", self.data,
             "--wal", f"file:{suite.data}/suite/wal", "--meta", f"sqlite:{suite.data}/suite/meta.db", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.port = None
        if wait:
            self.listen()

    def listen(self):
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.port = int(line.split()[-1])

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(name):
                    return float(line.split()[-1])
        raise AssertionError(f"{name} is not measured")

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=10) as answer:
                return answer.status == 200
        except OSError:
            return False

    def end(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
            self.process.wait(30)
        self.process.stdout.close()
        self.log.close()


def load(suite):
    """Records, of which a tenth is written again and a tenth deleted."""
    chance = random.Random(7)
    suite.create("c", DIMENSION)
    for begin in range(0, RECORDS, 1000):
        suite.upsert("c", [{"id": f"r{i}", "vector": [chance.gauss(0, 1) for _ in range(DIMENSION)], "text": "x" * 200}
                           for i in range(begin, begin + 1000)])
    for begin in range(0, RECORDS, 1000):
        suite.upsert("c", [{"id": f"r{i}", "vector": [chance.gauss(0, 1) for _ in range(DIMENSION)]}
                           for i in range(begin, begin + 1000, 10)])
        answer = suite.post("/v1/collections/c/records/delete", {"ids": [f"r{i}" for i in range(begin + 5, begin + 1000, 10)]})
        assert answer.status == 200, answer


def segments(suite, replica):
    return sorted(str(path.relative_to(suite.data / "suite" / f"shard-0.{replica}"))
                  for path in (suite.data / "suite" / f"shard-0.{replica}" / "segments").rglob("*.seg"))


def first(suite, replica):
    """The process of replica 0."""
    return next(pid for pid in suite.pids("shard") if pid != replica.process.pid)


def is_back(suite, replica, gone):
    """Does another process than the one that has gone serve replica 0?"""
    if not [pid for pid in suite.pids("shard") if pid not in (replica.process.pid, gone)]:
        return False
    try:
        with urllib.request.urlopen(suite.node_urls("shard")["0.0"] + "/readyz", timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def place(suite, replicas):
    subprocess.run([BIN / "vicinal", "place", "--meta", f"sqlite:{suite.data}/suite/meta.db", "--replicas",
                    str(replicas)], check=True, timeout=60)


def expect_equal(suite, wal_records):
    poll("both replicas are asked", lambda: [r["health"] for r in suite.get("/internal/v1/status").body["replicas"]]
         == ["in", "in"], 30)
    poll("both have the same", lambda: len({str(d) for d in suite.digests().values()}) == 1, 30)
    assert sum(position for position, _ in suite.digests()[0, 1].values()) >= wal_records


def keep_writing(suite, stop):
    client, number = Client(suite.url, 30), 0
    while not stop.is_set():
        number += 1
        answer = client.post("/v1/collections/c/records", {"records": [
            {"id": f"late{number % 500}", "vector": [random.random() for _ in range(DIMENSION)]}]})
        assert answer.status == 200, answer
        time.sleep(0.002)
    client.close()


@pytest.fixture(scope="module")
def loaded_once():
    """A folder of a suite that is loaded and has ended."""
    with Suite(shards=1, partitions=8) as suite:
        load(suite)
        poll("the graph is on the disk", lambda: segments(suite, 0), 60, 0.1)
        suite.stop()
        yield suite.data


@pytest.fixture
def loaded(loaded_once, tmp_path):
    shutil.copytree(loaded_once / "suite", tmp_path / "suite")
    with Suite(shards=1, partitions=8, data=tmp_path) as suite:
        yield suite


def test_it_reads_only_what_came_after(loaded):
    suite, stop = loaded, threading.Event()
    before = sum(position for position, _ in suite.digests()[0, 0].values())
    writer = threading.Thread(daemon=True, target=keep_writing, args=(suite, stop))
    writer.start()
    replica = None
    try:
        replica = Replica(suite)
        poll("it is ready", replica.is_ready, 60)
        assert replica.metric("shard_copied_bytes") > RECORDS * DIMENSION * 4
        place(suite, 2)
        time.sleep(0.5)
    finally:
        stop.set()
        writer.join()
    try:
        expect_equal(suite, before)
        read = replica.metric("shard_read_records_total")
        after = sum(position for position, _ in suite.digests()[0, 1].values())
        print(f"{read:.0f} of {after} records read from the log, {replica.metric('shard_copied_bytes') / 1e6:.1f} MB copied")
        assert read < after - before + 1000, (read, after, before)
        assert [path.split("/")[2] for path in segments(suite, 1)] == [path.split("/")[2] for path in segments(suite, 0)]
        assert replica.metric("shard_segments_set_aside_total") == 0
        # It answers as the other does.
        vector = [random.gauss(0, 1) for _ in range(DIMENSION)]
        answers = []
        for gone in (first(suite, replica), replica.process.pid):
            with standing_still(gone):
                answer = suite.post("/v1/collections/c/search", {
                    "vector": vector, "params": {"exact": True}, "timeout_ms": 20000, "include": ["text"]})
                assert answer.status == 200, answer
                answers.append(answer.body["matches"])
        assert answers[0] == answers[1]
    finally:
        place(suite, 1)
        replica.end()


def test_an_interrupted_copy_begins_again(loaded, monkeypatch):
    suite = loaded
    suite.stop()
    monkeypatch.setenv("VICINAL_COPY_RATE", "4000000")  # seconds for a copy
    suite.start()
    records = sum(position for position, _ in suite.digests()[0, 0].values())
    folder = suite.data / "suite" / "shard-0.1"

    def is_fetching():
        try:
            return (folder / "seed/store/data.mdb").stat().st_size > 1e6
        except FileNotFoundError:
            return False

    replica = Replica(suite, wait=False)
    try:
        poll("files are fetched", is_fetching, 60)
    finally:
        replica.end(signal.SIGKILL)
    assert not (folder / "store").exists() and (folder / "seed").exists()
    # The one that is copied goes in the middle, too: the fetch fails, and begins anew when it is back.
    replica = Replica(suite, wait=False)
    try:
        poll("what was left is removed", lambda: not is_fetching(), 60)
        poll("files are fetched", is_fetching, 60)
        assert not (folder / "store").exists()
        gone = first(suite, replica)
        with standing_still(replica.process.pid):  # who finds nobody for two seconds reads the log
            os.kill(gone, signal.SIGKILL)
            poll("another one is ready", lambda: is_back(suite, replica, gone), 60)
        replica.listen()
        poll("it is ready", replica.is_ready, 60)
        assert replica.metric("shard_copied_bytes") > 0
        assert replica.metric("shard_read_records_total") < 1000
        assert not (folder / "seed").exists()
        place(suite, 2)
        expect_equal(suite, records)
    finally:
        place(suite, 1)
        replica.end()


def test_without_a_copy_the_log_is_read(loaded):
    suite = loaded
    records = sum(position for position, _ in suite.digests()[0, 0].values())
    replica = Replica(suite, "--seed=false")
    try:
        poll("it is ready", replica.is_ready, 60)
        assert replica.metric("shard_copied_bytes") == 0
        assert replica.metric("shard_read_records_total") >= records
        place(suite, 2)
        expect_equal(suite, records)
    finally:
        place(suite, 1)
        replica.end()
