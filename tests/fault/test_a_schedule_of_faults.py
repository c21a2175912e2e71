"""Faults by a seed, one after the other and two at a time, while clients write, read and search: services
killed, stopped, cut off, slowed down, their connections reset, their answers torn, their disks filled.

At every moment: what was acknowledged is there, whole, with its payload and its vector; what was deleted
stays away; nobody meets what nobody wrote; counts are right; a record finds itself by its vector; a write's
token shows it, the last read's token never steps back, `fresh` is fresh, and an answer is never older than it
says.  While one replica of each shard is healthy no read fails, and no write while the log's services are.
In the end all replicas have equal digests and `vicinal verify` finds nothing.

VICINAL_FAULT_SECONDS: how long at least, for each kind of fault comes (a nightly run takes half an hour);
VICINAL_SEED: which faults, and when.
"""
import os
import time

import fault_clients
from deployment import Deployment
from fault_clients import STATICS, Journal, Searcher, Ticker, Watcher, Writer, record_of
from fault_schedule import EVERYTHING, Schedule, kinds, of_servers
from kafka_broker import KafkaBroker
from postgres_server import PostgresServer
from redis_server import RedisServer
from suite import SLOW, poll

SECONDS = float(os.environ.get("VICINAL_FAULT_SECONDS", "90"))
WRITERS = 3
READ_GAP = 2.5    # seconds without any read, while a healthy replica is there
WRITE_GAP = 20.0  # without any write, from the moment when one may be waited for


def run(deployment, choice, seed, seconds):
    """The report's lines, and what is wrong."""
    deployment.create("c", fault_clients.DIMENSION, "l2")
    deployment.upsert("c", [record_of(f"s{i}", "s", 0) for i in range(STATICS)], wait="searchable")
    journal = Journal()
    ticker = Ticker(deployment.url, journal)
    writers = [Writer(deployment.url, journal, i, seed + i) for i in range(WRITERS)]
    watchers = [Watcher(deployment.url, journal, ticker, seed + 10 + i) for i in range(2)]
    clients = [ticker, *writers, *watchers, Searcher(deployment.url, journal, seed + 20)]
    schedule = Schedule(deployment, journal, seed, choice)
    for client in clients:
        client.start()
    began = time.monotonic()
    try:
        poll("everything succeeds", lambda: journal.last.keys() >= EVERYTHING, 20)
        schedule.run(seconds)
    finally:
        for client in clients:
            client.end()
        lines = schedule.report()
        print("\n".join(lines))
    took = time.monotonic() - began
    there = poll("what waits in spools is there", lambda: settled(deployment, journal, writers, ticker), 60, 0.2)
    codes = {}
    for failure in journal.failures:
        key = f"{failure.kind} {failure.code}"
        codes[key] = codes.get(key, 0) + 1
    print(f"VICINAL_SEED={seed}: {took:.0f} s, {len(schedule.faults)} faults; {sum(journal.requests.values())} "
          f"requests {journal.requests}, "
          f"{sum(w.acknowledged for w in writers) + len(ticker.numbers)} writes acknowledged "
          f"({sum(w.spooled for w in writers)} of them from the spool), failures {codes or 0}; slowest request "
          f"{max(journal.slowest.values()):.1f} s; oldest answer {max(w.oldest for w in watchers):.1f} s; "
          f"{there} records in the end")
    return journal, schedule


def settled(deployment, journal, writers, ticker):
    """How many records there are; 0 while something waits in a spool, or may, where an ingest does not answer."""
    if any(member.metric("spool_records") != 0 for member in deployment.named("ingest")):
        return 0
    deployment.client.close()  # the router has closed it meanwhile
    return fault_clients.check_the_end(deployment, journal, writers, ticker)


def judge(deployment, journal, schedule):
    assert not journal.violations, journal.violations[:5]
    unexcused = schedule.unexcused()
    assert not unexcused, (len(unexcused), [schedule.told(failure) for failure in unexcused[:3]])
    assert not (deaths := [death for death in deployment.deaths if not schedule.is_start_without(death)]), deaths
    for fault in schedule.faults:
        if all("read" not in other.kind.excuses for other in schedule.beside(fault)):
            gap = journal.slowest_gap("read", fault.began, fault.well)
            assert gap < READ_GAP * SLOW, (fault.kind.name, gap)
        gap = journal.slowest_gap("write", schedule.writes_from(fault), fault.well)
        assert gap < WRITE_GAP * SLOW, (fault.kind.name, gap)

    def equal():
        digests = deployment.digests()
        return all(digests[shard, i] == digests[shard, 0]
                   for shard in range(deployment.shards) for i in range(deployment.replicas))

    poll("the replicas are equal", equal, 20)
    deployment.stop()
    assert deployment.verify()["finding_count"] == 0


def seed_of_the_run():
    seed = int(os.environ.get("VICINAL_SEED", str(int(time.time()))))
    print(f"VICINAL_SEED={seed}")
    return seed


def test_on_files():
    with Deployment() as deployment:
        judge(deployment, *run(deployment, kinds(deployment.has_disks, True), seed_of_the_run(), SECONDS))


def test_on_kafka_postgres_and_redis():
    """Half as long, at least 90 s.  Without the brokers nobody can say what is the newest, and writes go
    into the spool; an ingest that is started meanwhile takes none.  What was acknowledged just before may
    not be read yet."""
    with KafkaBroker() as kafka, PostgresServer() as postgres, RedisServer() as redis, \
            Deployment(wal=kafka.url("faults"), meta=f"{postgres.url}?schema=faults", cache=redis.url) as deployment:
        servers = {"kafka": (kafka, {"fresh read", "write"}), "postgres": (postgres, {"fresh read"}),
                   "redis": (redis, set())}
        judge(deployment, *run(deployment, kinds(deployment.has_disks, False) + of_servers(servers),
                               seed_of_the_run(), max(90, SECONDS / 2)))
