"""Two ingests on one log in Kafka.  The holder of the lease is stopped in the middle of its appends,
for longer than its lease; the other takes over; the first wakes: nothing acknowledged is lost, every
answer was true, and what the first still sends does not count.  The same with the metadata store
away: reads and writes go on, nobody can take over, and status says so."""
import subprocess
import threading

import pytest

from kafka_broker import KafkaBroker
from postgres_server import PostgresServer
from standing_still import standing_still
from suite import BIN, Client, Suite, poll

ROUNDS = 2
WRITERS = 4


class Writer:
    """Makes new ids, `fail` on conflict, until it is stopped."""

    def __init__(self, suite, number):
        self.suite, self.number, self.ends = suite, number, threading.Event()
        self.acknowledged, self.refused, self.unknown = [], [], 0
        self.thread = threading.Thread(daemon=True, target=self.run)
        self.thread.start()

    def run(self):
        client, at = Client(self.suite.url, 30), 0
        while not self.ends.is_set():
            identity = f"{self.number}-{at}"
            at += 1
            try:
                answer = client.post("/v1/collections/c/records", {
                    "records": [{"id": identity, "vector": [at % 5, 1, 2], "metadata": {"by": self.number}}],
                    "on_conflict": "fail" if at % 4 == 0 else "replace", "timeout_ms": 4000})
            except OSError:
                answer = None
            if answer is not None and answer.status == 200:
                self.acknowledged.append(identity)
            elif answer is not None and "nothing was written" in str(answer.body):
                self.refused.append(identity)
            else:
                self.unknown += 1
                self.ends.wait(0.02)
        client.close()

    def stop(self):
        self.ends.set()
        self.thread.join()


@pytest.fixture(scope="module")
def engines():
    with KafkaBroker() as kafka, PostgresServer() as postgres:
        yield kafka, postgres


def second_ingest(suite, wal, meta):
    """It stands by when this returns: one that starts while an engine is away ends."""
    log = open(suite.data / "second-ingest", "wb")
    second = subprocess.Popen([BIN / "vicinal-ingest", "--name", "1", "--wal", wal, "--meta", meta,
                               "--partitions", "8", "--listen", "127.0.0.1:0", "--log-level", "info"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    door = Client(f"http://127.0.0.1:{second.stdout.readline().split()[-1].decode()}")
    try:
        poll("the second ingest stands by", lambda: "stands by" in str(door.get("/readyz").body), 30)
    except BaseException:
        second.kill()
        raise
    finally:
        door.close()
    return second


def count(writers):
    return sum(len(writer.acknowledged) for writer in writers)


def present(suite, identities):
    found = set()
    for at in range(0, len(identities), 500):
        answer = suite.post("/v1/collections/c/records/get", {"ids": identities[at:at + 500], "include": [],
                                                              "fresh": True, "timeout_ms": 20000})
        assert answer.status == 200, answer
        found |= {record["id"] for record in answer.body["records"]}
    return found


def test_the_holder_is_stopped_past_its_lease(engines):
    kafka, postgres = engines
    wal, meta = kafka.url("stopped"), f"{postgres.url}?schema=stopped"
    with Suite(shards=2, wal=wal, meta=meta, partitions=8) as suite:
        suite.create("c", 3)
        second = second_ingest(suite, wal, meta)
        writers = [Writer(suite, number) for number in range(WRITERS)]
        try:
            poll("writes", lambda: count(writers) > 50, 30)
            holder, standby = suite.pids("ingest")[0], second.pid
            for _ in range(ROUNDS):
                before = count(writers)
                with standing_still(holder):
                    poll("the other takes over", lambda n=before: count(writers) > n + 100, 40)
                before = count(writers)
                poll("writes go on", lambda n=before: count(writers) > n + 100, 40)
                holder, standby = standby, holder
            assert second.poll() is None
        finally:
            for writer in writers:
                writer.stop()
            second.terminate()
            second.wait(20)
        suite.client.close()  # the router has closed it meanwhile
        poll("somebody holds the log", lambda: suite.post(
            "/v1/collections/c/records", {"records": [{"id": "last", "vector": [1, 2, 3]}]}).status == 200, 40)
        acknowledged = [identity for writer in writers for identity in writer.acknowledged]
        refused = [identity for writer in writers for identity in writer.refused]
        lost = set(acknowledged) - present(suite, acknowledged)
        risen = present(suite, refused)
        print(f"{ROUNDS} holders stopped: {len(acknowledged)} acknowledged, {len(refused)} refused, "
              f"{sum(w.unknown for w in writers)} undecided; lost {len(lost)}, risen {len(risen)}")
        assert not lost and not risen
        # Both replicas of the truth agree: what a shard has is what the log says.
        digests = suite.digests()
        before = {key: {p: d for p, (_, d) in parts.items()} for key, parts in digests.items()}
        suite.restart()
        poll("the same content after a restart", lambda: {
            key: {p: d for p, (_, d) in parts.items()} for key, parts in suite.digests().items()} == before, 30)


def test_without_the_metadata_store_reads_and_writes_go_on(engines):
    kafka, _ = engines
    with PostgresServer() as postgres:
        wal, meta = kafka.url("away"), f"{postgres.url}?schema=away"
        with Suite(shards=2, wal=wal, meta=meta, partitions=8) as suite:
            suite.create("c", 3)
            second = second_ingest(suite, wal, meta)
            writer = Writer(suite, 0)
            try:
                poll("writes", lambda: count([writer]) > 20, 30)
                postgres.stop()
                failed, before = writer.unknown + len(writer.refused), count([writer])
                poll("writes go on", lambda: count([writer]) > before + 200, 40)
                answer = suite.post("/v1/collections/c/search", {"vector": [1, 2, 3], "fresh": True,
                                                                 "timeout_ms": 10000})
                assert answer.status == 200
                assert writer.unknown + len(writer.refused) - failed <= (count([writer]) - before) * 0.05
                # Nothing that needs the store succeeds, and it says why.
                answer = suite.put("/v1/collections/new", {"vector": {"dimension": 3}})
                assert answer.status == 503, answer
                assert second.poll() is None
                postgres.start()
                poll("collections can be made again",
                     lambda: suite.put("/v1/collections/new", {"vector": {"dimension": 3}}).status in (200, 201), 40)
            finally:
                writer.stop()
                second.terminate()
                second.wait(20)
            assert set(writer.acknowledged) <= present(suite, writer.acknowledged)
            print(f"store away: {len(writer.acknowledged)} acknowledged, {writer.unknown} undecided, lost 0")
