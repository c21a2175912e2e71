"""What is written is found: how soon, what it costs the searches meanwhile, and what a dead replica
costs.

    bench/fresh.py [--rows 100000] [--seconds 8] [--rounds 3] [--per-second 1000] [--only PART,…]

Vectors are drawn as embeddings of texts lie (engine_data.py), 384 numbers.  Servers are suites of
their own on 127.0.0.1, the result cache off; clients run on the same processors.  Parts:

  found      a write is sent, then a search with its token: until that has answered with the record
  searching  searches a second, quiet and while records are inserted, in turns
  token      what a search with a token that is long applied takes beyond one without
  failover   two replicas of two shards, one is killed: failed requests, the slowest answer

Exit code 0 with a whole table.  Nothing is left running.
"""
import argparse
import base64
import json
import multiprocessing
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests/lib")]

import engine_data  # noqa: E402
import imports  # noqa: E402
import numpy  # noqa: E402
import rest_client  # noqa: E402
from door import Door, at, say, times  # noqa: E402
from suite import Suite, poll  # noqa: E402

DIMENSION = 384
INSERTED = 50000      # vectors that are drawn for inserting; taken again when they have all been
WRITERS = 4           # connections of the inserting process
SEARCHERS = 4         # connections
LINK_BATCH = 64       # vectors that the engine links at a time
PROBE_SECONDS = 0.02  # between two probes
TOKENS = 3000
RECORDS = "/v1/collections/c/records"
SEARCH = "/v1/collections/c/search"


class Vectors:
    """base.npy for loading, the rest as base64 for inserting, queries."""

    def __init__(self, rows, folder):
        base, queries, _ = engine_data.draw(rows + INSERTED, DIMENSION, folder)
        drawn = numpy.load(base, mmap_mode="r")
        self.rows, self.path = rows, pathlib.Path(folder) / "loaded.npy"
        numpy.save(self.path, numpy.ascontiguousarray(drawn[:rows], dtype="<f4"))
        self.inserted = [self.text(row) for row in drawn[rows:]]
        self.queries = [self.text(row) for row in numpy.load(queries)]

    @staticmethod
    def text(row):
        return base64.b64encode(row.astype("<f4").tobytes()).decode()


def load(suite, vectors):
    """Until all are in the graph."""
    suite.create("c", DIMENSION)
    imports.upload(suite, vectors.path, "npy", DIMENSION)

    def linked():
        replicas = suite.get("/internal/v1/status").body["replicas"]
        held = {}
        for replica in replicas:
            for collection in (replica.get("status") or {}).get("collections", []):
                count, done = held.get(replica["replica"], (0, 0))
                held[replica["replica"]] = (count + collection["count"], done + collection["linked"])
        return len(held) == suite.replicas and all(
            count == vectors.rows and count - done < LINK_BATCH * suite.shards for count, done in held.values())

    poll("all vectors in the graph", linked, 600, 0.1)


def search_requests(suite, vectors):
    door = Door(suite.url)
    return [door.prepare(SEARCH, {"vector_base64": query, "top_k": 10, "include": []}) for query in vectors.queries]


class Inserting:
    """A process that writes records at a steady rate, `each` a request; .written tells how many."""

    def __init__(self, suite, vectors, per_second, each):
        context = multiprocessing.get_context("fork")
        self.ends, self.written = context.Event(), context.Value("L", 0)
        self.process = context.Process(target=self.run, args=(suite.url, vectors.inserted, per_second, each),
                                       daemon=True)

    def run(self, url, inserted, per_second, each):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        threads = [threading.Thread(target=self.write, args=(url, inserted, per_second, each, number),
                                    daemon=True)
                   for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def write(self, url, inserted, per_second, each, number):
        door, due = Door(url), time.perf_counter()
        while not self.ends.is_set():
            records = [{"id": f"i{at}", "vector_base64": inserted[at % len(inserted)]}
                       for at in range(number, number + each * WRITERS, WRITERS)]
            door.send(door.prepare(RECORDS, {"records": records}))
            number += each * WRITERS
            with self.written.get_lock():
                self.written.value += each
            due += each * WRITERS / per_second
            time.sleep(max(0, due - time.perf_counter()))

    def __enter__(self):
        self.began = time.perf_counter()
        self.process.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.process.join(10)
        self.rate = self.written.value / (time.perf_counter() - self.began)
        if self.process.is_alive():
            self.process.kill()
            raise RuntimeError("the inserting process does not end")


def measure_found(suite, vectors, options, rows):
    door, found, answered = Door(suite.url), [], []
    with Inserting(suite, vectors, options.per_second, 1) as inserting:
        end, number = time.perf_counter() + options.seconds * options.rounds, 0
        while time.perf_counter() < end:
            number += 1
            vector = vectors.inserted[-number]
            write = door.prepare(RECORDS, {"records": [{"id": f"probe-{number}", "vector_base64": vector}]})
            began = time.perf_counter()
            _, body = door.send(write)
            answered.append(time.perf_counter() - began)
            _, body = door.send(door.prepare(SEARCH, {"vector_base64": vector, "top_k": 2, "include": [],
                                                      "read_token": json.loads(body)["read_token"]}))
            found.append(time.perf_counter() - began)
            assert f"probe-{number}" in [match["id"] for match in json.loads(body)["matches"]], body
            time.sleep(PROBE_SECONDS)
    rows.append((f"one record written → found by a search with its token, at {inserting.rate:,.0f} inserts/s "
                 f"({len(found)} probes)", times(found)))
    rows.append(("… of which until the write was answered", times(answered)))


def searches(suite, requests, seconds):
    parts = urllib.parse.urlsplit(suite.url)
    told = rest_client.run((parts.hostname, parts.port), requests, SEARCHERS, seconds)
    assert told["errors"] == 0, told["errors"]
    return told["qps"], told["p99_ms"]


def spread(values, form="{:,.0f}"):
    return (f"{form} ({form}–{form})").format(statistics.median(values), min(values), max(values))


def measure_searching(suite, vectors, options, each, rows):
    requests = search_requests(suite, vectors)
    quiet, busy, rates = [], [], []
    searches(suite, requests, 1)
    for _ in range(options.rounds):
        quiet.append(searches(suite, requests, options.seconds))
        with Inserting(suite, vectors, options.per_second, each) as inserting:
            time.sleep(0.5)
            busy.append(searches(suite, requests, options.seconds))
        rates.append(inserting.rate)
    quiet.append(searches(suite, requests, options.seconds))
    rows.append((f"searches/s quiet, {SEARCHERS} connections", spread([qps for qps, _ in quiet])))
    rows.append((f"searches/s while {statistics.median(rates):,.0f} records/s are inserted, {each} a request",
                 spread([qps for qps, _ in busy])))
    shares = [2 * busy[i][0] / (quiet[i][0] + quiet[i + 1][0]) for i in range(len(busy))]
    rows.append(("… share of quiet", spread([100 * share for share in shares], "{:.0f} %")))
    rows.append(("… p99 quiet / while inserting, ms", " / ".join(
        f"{statistics.median([p99 for _, p99 in told]):.2f}" for told in (quiet, busy))))


def measure_token(suite, vectors, rows):
    door = Door(suite.url)
    _, body = door.send(door.prepare(RECORDS, {"wait": "searchable", "records": [
        {"id": "token", "vector_base64": vectors.inserted[0]}]}))
    token = json.loads(body)["read_token"]
    plain, with_token = [], []
    for number in range(TOKENS):
        search = {"vector_base64": vectors.queries[number % len(vectors.queries)], "top_k": 10, "include": []}
        plain.append(door.send(door.prepare(SEARCH, search))[0])
        with_token.append(door.send(door.prepare(SEARCH, {**search, "read_token": token}))[0])
    rows.append(("a search without a token", times(plain)))
    rows.append(("… with a token that is applied", times(with_token)))
    rows.append(("… more in the median", f"{(at(with_token, .5) - at(plain, .5)) * 1000:.3f} ms"))


def measure_failover(vectors, options, rows):
    with Suite(shards=2, replicas=2, cache="none:") as suite:
        load(suite, vectors)
        requests, failed, took, ends = search_requests(suite, vectors), [], [], threading.Event()

        def ask(first):
            door = Door(suite.url)
            while not ends.is_set():
                first += 1
                try:
                    took.append(door.send(requests[first % len(requests)])[0])
                except Exception as error:  # a broken connection is a failed request too
                    failed.append(repr(error))
                    door = Door(suite.url)

        threads = [threading.Thread(target=ask, args=(i * 250,)) for i in range(SEARCHERS)]
        for thread in threads:
            thread.start()
        time.sleep(options.seconds / 2)
        before = max(took)
        for _ in range(options.rounds):
            os.kill(suite.pids("shard")[0], signal.SIGKILL)
            time.sleep(options.seconds / 2)
        ends.set()
        for thread in threads:
            thread.join()
    rows.append((f"a replica killed, {options.rounds} times, {SEARCHERS} connections searching",
                 f"{len(took):,} searches, {len(failed)} failed; slowest {max(took) * 1000:.1f} ms "
                 f"(before: {before * 1000:.1f} ms)"))
    for text in failed[:5]:
        say(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=100000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--per-second", type=int, default=1000)
    parser.add_argument("--only", default="found,searching,token,failover")
    options = parser.parse_args()
    parts, rows = options.only.split(","), []
    with tempfile.TemporaryDirectory(prefix="vicinal-bench-") as folder:
        say("vectors are drawn")
        vectors = Vectors(options.rows, folder)
        if set(parts) & {"found", "searching", "token"}:
            with Suite(cache="none:") as suite:
                say("loading")
                load(suite, vectors)
                if "token" in parts:
                    say("tokens")
                    measure_token(suite, vectors, rows)
                if "searching" in parts:
                    say("searching while inserting")
                    for each in (1, 10):
                        measure_searching(suite, vectors, options, each, rows)
                if "found" in parts:
                    say("written and found")
                    measure_found(suite, vectors, options, rows)
        if "failover" in parts:
            say("a replica is killed")
            measure_failover(vectors, options, rows)
    print(f"{options.rows:,} × {DIMENSION}; {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end; "
          "servers and clients on the same cores.\n")
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
