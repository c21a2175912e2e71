"""Two replicas of each shard: whichever is killed or stands still, no search and no read fails; the
router leaves it and comes back to it when it has caught up; both end with equal digests."""
import os
import random
import signal
import threading
import time

from fault_clients import READ_MS
from standing_still import standing_still
from suite import SLOW, Client, Suite, poll

STOP_SECONDS = 6.0
READERS = 4


class Reader(threading.Thread):
    """Searches and reads what was acknowledged, without a pause and without a second try."""

    def __init__(self, suite, number, written, stop):
        super().__init__(daemon=True)
        self.suite, self.number, self.written, self.stop_event = suite, number, written, stop
        self.chance = random.Random(number)
        self.failed, self.took, self.explained = [], [], {}

    def ask(self, client):
        vector = [self.chance.random() for _ in range(8)]
        kind, began = self.chance.randrange(4), time.monotonic()
        if kind == 0:
            answer = client.post("/v1/collections/c/search", {"vector": vector, "top_k": 3, "explain": True,
                                                                    "timeout_ms": READ_MS})
            parts = answer.body.get("explain", {}).get("shards", []) if answer.status == 200 else []
            for part in parts:
                key = (part["shard"], part["replica"])
                self.explained[key] = self.explained.get(key, 0) + 1
        elif kind == 1:
            answer = client.post("/v1/collections/c/search", {
                "vector": vector, "filter": {"n": {"$gte": self.chance.randrange(50)}}, "timeout_ms": READ_MS})
        else:
            identity = self.chance.choice(self.written)
            answer = client.post("/v1/collections/c/records/get", {
                "ids": [identity], **({"fresh": True, "timeout_ms": 5000} if kind == 2 else {"timeout_ms": READ_MS})})
            if kind == 2 and answer.status == 200 and not answer.body["records"]:
                self.failed.append(("lost", identity))
        self.took.append(time.monotonic() - began)
        if answer.status != 200:
            self.failed.append((round(time.monotonic(), 2), kind, answer))

    def run(self):
        client = Client(self.suite.url, 30)
        while not self.stop_event.is_set():
            try:
                self.ask(client)
            except Exception as error:  # a connection that breaks is a failed request too
                self.failed.append(repr(error))
        client.close()


def write_on(suite, written, stop):
    client, number = Client(suite.url, 30), 0
    while not stop.is_set():
        number += 1
        records = [{"id": f"r{number}-{i}", "vector": [random.random() for _ in range(8)], "metadata": {"n": i}}
                   for i in range(20)]
        answer = client.post("/v1/collections/c/records", {"records": records})
        assert answer.status == 200, answer
        written.extend(record["id"] for record in records)
        time.sleep(0.01)
    client.close()


def test_no_request_fails():
    seed = int(os.environ.get("VICINAL_SEED", str(int(time.time()))))
    print("VICINAL_SEED", seed)
    chance = random.Random(seed)
    with Suite(shards=2, replicas=2) as suite:
        suite.create("c", 8)
        written, stop = [], threading.Event()
        writer = threading.Thread(daemon=True, target=write_on, args=(suite, written, stop))
        writer.start()
        poll("something is written", lambda: len(written) > 1000, 20)
        suite.wait_for_all_replicas()
        readers = [Reader(suite, seed + i, written, stop) for i in range(READERS)]
        for reader in readers:
            reader.start()
        left, back = [], []
        try:
            for _ in range(3):
                time.sleep(1)
                victim = chance.choice(suite.pids("shard"))
                os.kill(victim, signal.SIGKILL)
                poll("it is started again", lambda: victim not in suite.pids("shard") and
                     len(suite.pids("shard")) == 4, 30)
                suite.digests()  # all have reported since
                poll("it is used", lambda: suite.healths() == ["in"] * 4, 30)
            for _ in range(2):
                time.sleep(1)
                victim = chance.choice(suite.pids("shard"))
                with standing_still(victim):
                    stopped = time.monotonic()
                    poll("the router has left it", lambda: suite.healths() == ["in"] * 3 + ["out"], 10)
                    left.append(time.monotonic() - stopped)
                    time.sleep(max(0.0, STOP_SECONDS - left[-1]))
                continued = time.monotonic()
                poll("it is used again", lambda: suite.healths() == ["in"] * 4, 30)
                back.append(time.monotonic() - continued)
        finally:
            stop.set()
            for thread in [writer, *readers]:
                thread.join()
        took = sorted(t for reader in readers for t in reader.took)
        failed = [f for reader in readers for f in reader.failed]
        used = {}
        for reader in readers:
            for key, count in reader.explained.items():
                used[key] = used.get(key, 0) + count
        print(f"{len(took)} requests, {len(failed)} failed, p50 {1000 * took[len(took) // 2]:.1f} ms, "
              f"p99 {1000 * took[len(took) * 99 // 100]:.1f} ms, slowest {took[-1]:.2f} s; a stopped replica was left "
              f"within {max(left):.1f} s and used again {max(back):.1f} s after it went on; asked: {used}")
        assert not failed, failed[:5]
        assert max(left) < 2.0 * SLOW + 0.3, left
        assert len(used) == 4, used
        poll("the replicas are equal", lambda: all(
            suite_digests[shard, 0] == suite_digests[shard, 1]
            for suite_digests in [suite.digests()] for shard in (0, 1)), 20)
