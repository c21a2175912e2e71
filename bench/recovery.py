"""How soon a killed shard answers again, and how soon it has caught up.

    bench/recovery.py [--rows 1000000] [--dimension 384] [--tail 100000] [--rounds 3]
                      [--set BASE,QUERIES,TRUTH]

One suite with one shard, loaded by an import, all in the graph; then in turns:

  loaded     kill -9 of the shard as soon as all is in the graph; until a search gives nine of the true ten
  cold       the same, and what the system had cached of its files is dropped; only as root, who may do that
  killed     the same after the graph has rested for a while, and has been written
  tail       the shard stands still while --tail records are written, is killed; until the first
             right answer, and until it has applied all (a fresh read is answered)

The supervisor's pause before it starts a service again is in all times.  Exit code 0 with a table.
Nothing is left running.
"""
import argparse
import base64
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests/lib")]

import engine_data  # noqa: E402
import imports  # noqa: E402
import numpy  # noqa: E402
from door import say  # noqa: E402
from suite import Suite, poll  # noqa: E402

LOAD_SECONDS_MAX = 1800
BATCH = 1000
RIGHT = 9        # of ten
LINK_BATCH = 64  # vectors that the engine links at a time
REST = 60        # seconds
DROP_CACHES = pathlib.Path("/proc/sys/vm/drop_caches")


class Searches:
    """Asks for neighbours that are known; ids of imported rows are their numbers from 0."""

    def __init__(self, suite, paths):
        self.suite, self.number = suite, 0
        self.queries = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in numpy.load(paths[1])[:50]]
        self.truth = [frozenset(map(str, row[:10])) for row in numpy.load(paths[2])[:50]]

    def is_right(self):
        self.number = (self.number + 1) % len(self.queries)
        try:
            answer = self.suite.post("/v1/collections/c/search", {
                "vector_base64": self.queries[self.number], "top_k": 10, "include": [], "timeout_ms": 500})
        except OSError:
            return False
        return answer.status == 200 and len(self.truth[self.number] & {
            match["id"] for match in answer.body["matches"]}) >= RIGHT


def collection(suite):
    replica = suite.get("/internal/v1/status").body["replicas"][0]
    found = (replica.get("status") or {}).get("collections", [])
    return found[0] if found else {"count": 0, "linked": 0}


def wait_linked(suite, rows):
    def is_linked():
        found = collection(suite)
        return found["count"] >= rows and found["count"] - found["linked"] < LINK_BATCH

    poll("all in the graph", is_linked, LOAD_SECONDS_MAX, 0.5)


def load(suite, paths, rows, dimension):
    suite.create("c", dimension)
    began = time.monotonic()
    imports.upload(suite, pathlib.Path(paths[0]), "npy", dimension)
    durable = time.monotonic() - began
    wait_linked(suite, rows)
    say(f"durable after {durable:.1f} s, all in the graph after {time.monotonic() - began:.1f} s")


def start_number(suite):
    pids = suite.pids("shard")
    return pids[0] if pids else 0


def wait_right(searches, began):
    poll("a right answer", searches.is_right, 120, 0.01)
    return time.monotonic() - began


def drop_caches():
    os.sync()
    DROP_CACHES.write_text("1")


def measure_killed(suite, searches, is_cold=False):
    pid = start_number(suite)
    if is_cold:
        drop_caches()
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    poll("it has ended", lambda: start_number(suite) != pid, 10, 0.002)
    if is_cold:
        drop_caches()  # again, for nothing is mapped now
    return wait_right(searches, began)


def write_tail(suite, paths, first, count):
    """New records, as far from all queries as those that are there are near: the truth stays."""
    base = numpy.load(paths[0], mmap_mode="r")
    for begin in range(0, count, BATCH):
        vectors = numpy.asarray(base[(first + begin) % len(base):][:BATCH], dtype="<f4")
        records = [{"id": f"t{first + begin + i}",
                    "vector_base64": base64.b64encode((-vector).tobytes()).decode()}
                   for i, vector in enumerate(vectors)]
        answer = suite.post("/v1/collections/c/records", {"records": records, "timeout_ms": 60000})
        assert answer.status == 200, answer


def measure_tail(suite, searches, paths, first, count):
    pid = start_number(suite)
    os.kill(pid, signal.SIGSTOP)
    try:
        write_tail(suite, paths, first, count)
    finally:
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
    poll("it has ended", lambda: start_number(suite) != pid, 10, 0.002)
    answered = wait_right(searches, began)

    def is_fresh():
        answer = suite.post("/v1/collections/c/records/get", {
            "ids": [f"t{first + count - 1}"], "include": [], "fresh": True, "timeout_ms": 1000})
        return answer.status == 200 and len(answer.body["records"]) == 1

    poll("all applied", is_fresh, 300, 0.02)
    return answered, time.monotonic() - began


def told(values):
    return f"{statistics.median(values):.2f} s ({min(values):.2f}–{max(values):.2f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=1000000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--tail", type=int, default=100000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vicinal-bench-") as folder:
        say("vectors are drawn")
        paths = options.set.split(",") if options.set else engine_data.draw(options.rows, options.dimension, folder)
        rows, dimension = numpy.load(paths[0], mmap_mode="r").shape
        with Suite(cache="none:") as suite:
            say("loading")
            load(suite, paths, rows, dimension)
            searches = Searches(suite, paths)
            wait_right(searches, time.monotonic())
            killed, answered, applied = [], [], []
            at_once = measure_killed(suite, searches)
            say(f"killed at once: {at_once:.2f} s")
            cold = measure_killed(suite, searches, True) if os.access(DROP_CACHES, os.W_OK) else None
            wait_linked(suite, rows)
            time.sleep(REST)
            for number in range(options.rounds):
                killed.append(measure_killed(suite, searches))
                say(f"killed: {killed[-1]:.2f} s")
                wait_linked(suite, rows)
            for number in range(options.rounds):
                right, fresh = measure_tail(suite, searches, paths, number * options.tail, options.tail)
                answered.append(right)
                applied.append(fresh)
                say(f"tail: {right:.2f} s, {fresh:.2f} s")
                wait_linked(suite, rows + (number + 1) * options.tail)
    print(f"{rows:,} × {dimension}; {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the end.\n")
    print("| | |\n|---|---|")
    print(f"| kill -9 → first right answer, once loaded | {at_once:.2f} s |")
    if cold is not None:
        print(f"| … and with nothing cached of its files | {cold:.2f} s |")
    print(f"| … after a rest | {told(killed)} |")
    print(f"| the same with a tail of {options.tail:,} records | {told(answered)} |")
    print(f"| … → all of the tail applied | {told(applied)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
