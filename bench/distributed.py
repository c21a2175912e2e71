"""Measure the suite on the engines that it outgrows one machine with, and between two regions.

    bench/distributed.py [--seconds S] [--cut-seconds S] [--only kafka,regions,redis]

Starts private servers (those of the tests) on 127.0.0.1, measures, prints one table.  A write over
REST is set beside an append to the same log alone (wal-bench), in the same run.  Exit code 0 with a
whole table.  Nothing is left running.
"""
import argparse
import base64
import json
import os
import pathlib
import random
import signal
import struct
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests/lib"), str(ROOT / "bench")]
BIN = pathlib.Path(os.environ.get("VICINAL_BIN", ROOT / "bin"))

from door import Door, at, say, times  # noqa: E402
from kafka_broker import KafkaBroker  # noqa: E402
from postgres_server import PostgresServer  # noqa: E402
from redis_server import RedisServer  # noqa: E402
from suite import Suite, poll  # noqa: E402

DIMENSION = 384
BATCH = 1000
SINGLES = 2000
BATCHES = 30


def vector(chance):
    return base64.b64encode(struct.pack(f"<{DIMENSION}f", *(chance.gauss(0, 1) for _ in range(DIMENSION)))).decode()


def batch(first, count, vectors):
    return {"records": [{"id": str(first + i), "vector_base64": vectors[(first + i) % len(vectors)]}
                        for i in range(count)]}


# --- writes into a log ---------------------------------------------------------------------------


def log_alone(url):
    out = subprocess.run([BIN / "wal-bench", "--wal", url, "--singles", str(SINGLES), "--batch", str(BATCH),
                          "--batches", str(BATCHES)], check=True, capture_output=True, text=True, timeout=300)
    return json.loads(out.stdout)


def write_singles(suite, vectors):
    door = Door(suite.url)
    requests = [door.prepare("/v1/collections/c/records", batch(i, 1, vectors)) for i in range(SINGLES)]
    return [door.send(request)[0] for request in requests]


def write_batches(suite, vectors, threads=4):
    """Records a second, from several connections, bodies prepared beforehand."""
    doors = [Door(suite.url) for _ in range(threads)]
    work = [[door.prepare("/v1/collections/c/records", batch((t * BATCHES + i) * BATCH, BATCH, vectors))
             for i in range(BATCHES // 2)] for t, door in enumerate(doors)]
    errors = []

    def run(door, requests):
        try:
            for request in requests:
                door.send(request)
        except Exception as error:  # told below
            errors.append(error)

    for door, requests in zip(doors, work):
        door.send(requests[0])
    began = time.perf_counter()
    running = [threading.Thread(target=run, args=pair) for pair in zip(doors, work)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not errors, errors
    return threads * (BATCHES // 2) * BATCH / (time.perf_counter() - began)


def measure_log(name, log_url, up, rows):
    chance = random.Random(1)
    vectors = [vector(chance) for _ in range(200)]
    alone = log_alone(log_url)
    with Suite(**up) as suite:
        suite.create("c", DIMENSION)
        write_singles(suite, vectors)
        singles = write_singles(suite, vectors)
        again = log_alone(log_url)
        rate = max(write_batches(suite, vectors) for _ in range(2))
    own = min(alone["p50_ms"], again["p50_ms"])
    rows.append((f"{name}: one append to the log alone, p50 / p99 ms", f"{own:.2f} / {alone['p99_ms']:.2f}"))
    rows.append((f"{name}: one record over REST", times(singles)))
    rows.append((f"{name}: … p50 beyond the log's", f"{at(singles, .5) * 1000 - own:.2f} ms"))
    rows.append((f"{name}: batches of {BATCH} × {DIMENSION} over REST, records/s", f"{rate:,.0f}"))
    rows.append((f"{name}: batches to the log alone, records/s",
                 f"{max(alone['records_per_s'], again['records_per_s']):,.0f}"))


def measure_spool(kafka, up, rows):
    """Writes while the broker is away, and how long they take to come into the log afterwards."""
    chance = random.Random(1)
    vectors = [vector(chance) for _ in range(200)]
    with Suite(**up) as suite:
        suite.create("c", DIMENSION)
        kafka.kill()
        poll("the log is known to be away", lambda: suite.post(
            "/v1/collections/c/records", {"records": [{"id": "first", "vector": [1] * DIMENSION}]}).status == 202)
        door = Door(suite.url)
        requests = [door.prepare("/v1/collections/c/records", batch(i, 1, vectors)) for i in range(SINGLES)]
        singles = [door.send(request, 202)[0] for request in requests]
        kafka.start()
        began = time.perf_counter()
        poll("the spool is empty", lambda: suite.post(
            "/v1/collections/c/records", {"records": [{"id": "last", "vector": [1] * DIMENSION}]}).status == 200,
             120, 0.05)
        took = time.perf_counter() - began
    rows.append(("Kafka away: one record over REST into the spool (202)", times(singles)))
    rows.append((f"Kafka back: {SINGLES:,} records out of the spool, and writes are 200 again", f"{took:.1f} s"))


# --- two regions ---------------------------------------------------------------------------------


class Writer(threading.Thread):
    """Writes at a steady rate until told to stop; what could not be written is counted."""

    def __init__(self, url, per_second, each=1):
        super().__init__(daemon=True)
        self.door, self.pause, self.each = Door(url), each / per_second, each
        self.written = self.errors = 0
        self.ends = threading.Event()

    def run(self):
        chance, due = random.Random(2), time.perf_counter()
        while not self.ends.is_set():
            records = [{"id": str(chance.randrange(20000)), "vector": [chance.random() for _ in range(8)]}
                       for _ in range(self.each)]
            try:
                self.door.send(self.door.prepare("/v1/collections/c/records", {"records": records}))
                self.written += self.each
            except AssertionError:
                self.errors += self.each
            due += self.pause
            time.sleep(max(0, due - time.perf_counter()))

    def end(self):
        self.ends.set()
        self.join()


def propagation(here, there, seconds):
    """Seconds from a write's answer in one region to the answer of a read by its token in the
    other."""
    writer, door, reader = Writer(here.url, 500), Door(here.url), Door(there.url)
    writer.start()
    found, end, i = [], time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        i += 1
        _, body = door.send(door.prepare("/v1/collections/c/records",
                                         {"records": [{"id": f"probe-{i}", "vector": [1] * 8}]}))
        token = json.loads(body)["read_token"]
        took, body = reader.send(reader.prepare("/v1/collections/c/records/get",
                                                {"ids": [f"probe-{i}"], "read_token": token, "timeout_ms": 5000,
                                                 "include": []}))
        assert len(json.loads(body)["records"]) == 1
        found.append(took)
        time.sleep(0.02)
    writer.end()
    return found, writer


def lag_of(region):
    rows = [row for row in region.get("/v1/admin/regions").body["regions"] if not row["self"]]
    lag = rows[0]["replication"]["lag_seconds"]
    return 1e9 if lag is None else lag


def cut_and_heal(suite, here, there, seconds):
    """The other region's replicator stands still while this one writes; seconds until it is within a
    second of it again."""
    writer = Writer(here.url, 1000, each=10)
    writer.start()
    time.sleep(2)
    pid = suite.pids("replicator", there.name)[0]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(pid, signal.SIGCONT)
    healed = time.perf_counter()
    poll("the lag is below a second", lambda: lag_of(there) < 1.0, 120, 0.05)
    took = time.perf_counter() - healed
    writer.end()
    return took, writer


def measure_regions(name, up, options, rows):
    with Suite(regions="a,b", **up) as suite:
        a, b = suite.doors["a"], suite.doors["b"]
        a.create("c", 8)
        b.wait_for("the collection in b", "/v1/collections/c", 30)
        propagation(a, b, 1)
        found, writer = propagation(a, b, options.seconds)
        rows.append((f"{name}: write answered in a → read by its token in b, at 500 writes/s "
                     f"({len(found)} probes)", times(found)))
        took, writer = cut_and_heal(suite, a, b, options.cut_seconds)
        rows.append((f"{name}: lag below 1 s after a cut of {options.cut_seconds:.0f} s at 1,000 writes/s",
                     f"{took:.1f} s ({writer.written:,} written, {writer.errors} refused)"))

        def equal():
            mine, theirs = ({p: d[1] for r in region.digests().values() for p, d in r.items()} for region in (a, b))
            return mine == theirs

        poll("equal digests", equal, 60, 0.2)
        rows.append((f"{name}: digests of all partitions in the end", "equal"))


# --- the cache -----------------------------------------------------------------------------------


def measure_cache(url, rows):
    with Suite(cache=url) as suite:
        suite.create("c", DIMENSION)
        chance = random.Random(3)
        vectors = [vector(chance) for _ in range(2000)]
        for i in range(0, 2000, BATCH):
            suite.upsert("c", batch(i, BATCH, vectors)["records"], wait="searchable")
        door = Door(suite.url)
        request = door.prepare("/v1/collections/c/search", {"vector_base64": vectors[7], "top_k": 10})
        hit = door.prepare("/v1/collections/c/search", {"vector_base64": vectors[7], "top_k": 10, "explain": True})
        for _ in range(20):
            door.send(request)
        assert b'"hit"' in door.send(hit)[1] or b'"cache"' in door.send(hit)[1]
        rows.append(("Redis: a search answered from the cache, end to end", times(
            [door.send(request)[0] for _ in range(4000)])))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--cut-seconds", type=float, default=60)
    parser.add_argument("--only", default="kafka,regions,redis")
    options = parser.parse_args()
    parts, rows = options.only.split(","), []
    if "redis" in parts:
        say("the cache in Redis")
        with RedisServer() as redis:
            measure_cache(redis.url, rows)
    if "regions" in parts:
        say("two regions on files")
        measure_regions("two regions", {}, options, rows)
    if "kafka" in parts:
        with KafkaBroker() as kafka, PostgresServer() as postgres:
            base = f"kafka://{kafka.bootstrap}"
            say("Kafka")
            measure_log("Kafka", f"{base}/alone", {"wal": f"{base}/one", "meta": f"{postgres.url}?schema=one"}, rows)
            say("the spool")
            measure_spool(kafka, {"wal": f"{base}/away", "meta": f"{postgres.url}?schema=away"}, rows)
            if "regions" in parts:
                say("two regions on Kafka and Postgres")
                measure_regions("two regions, Kafka", {"wal": base + "/r-{region}",
                                                       "meta": postgres.url + "?schema={region}"}, options, rows)
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average {load:.1f} at the end; servers and clients on the same cores.\n")
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
