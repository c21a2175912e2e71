"""kill -9 of any service at any moment, in a loop, while writing and searching: every acknowledged
record is there afterwards with its newest value, none that was deleted comes back, searches recover
within 2 s, and `vicinal verify` finds nothing wrong in what is left."""
import os
import random
import signal
import threading
import time

from fault_clients import Outcome
from suite import SLOW, Client, Suite, poll
from vicinal_cli import verify

KILLS = int(os.environ.get("VICINAL_KILLS", "24"))
WRITERS = 4


class Writer(threading.Thread):
    """Owns its ids; knows for each what may be there."""

    def __init__(self, suite, number, stop):
        super().__init__(daemon=True)
        self.suite, self.number, self.stop_event = suite, number, stop
        self.chance = random.Random(number)
        self.outcomes = {}  # {id: Outcome}
        self.acknowledged = self.unknown = 0

    def run(self):
        client, serial = Client(self.suite.url, 30), 0
        while not self.stop_event.is_set():
            ids = [f"w{self.number}-{self.chance.randrange(200)}" for _ in range(self.chance.choice([1, 1, 20]))]
            ids = sorted(set(ids))
            serial += 1
            delete = self.chance.random() < 0.2
            value = None if delete else f"{self.number}:{serial}"
            outcomes, sent = [self.outcomes.setdefault(identity, Outcome()) for identity in ids], time.monotonic()
            try:
                if delete:
                    answer = client.post("/v1/collections/c/records/delete",
                                         {"ids": ids, "count": self.chance.random() < 0.5})
                else:
                    answer = client.post("/v1/collections/c/records", {"records": [
                        {"id": i, "vector": [self.chance.random() for _ in range(8)], "text": value} for i in ids]})
                status = answer.status
            except Exception:
                status = 0
            if status == 200:
                self.acknowledged += 1
                for outcome in outcomes:
                    outcome.acknowledge(value, sent)
            else:
                assert status in (0, 503, 504), answer
                for outcome in outcomes:
                    outcome.give_up(value)
                self.unknown += 1
                time.sleep(0.02)
        client.close()


def search_gap(suite, seconds=2.0):
    """Time until a search works again."""
    client, started = Client(suite.url, 5), time.monotonic()
    while True:
        try:
            answer = client.post("/v1/collections/c/search", {"vector": [0.5] * 8, "timeout_ms": 2000})
            if answer.status == 200:
                client.close()
                return time.monotonic() - started
        except Exception:
            pass
        assert time.monotonic() - started < seconds * SLOW + 8, "searches do not recover"
        time.sleep(0.01)


def test_kill_loop():
    seed = int(os.environ.get("VICINAL_SEED", str(int(time.time()))))
    print("VICINAL_SEED", seed)
    chance = random.Random(seed)
    with Suite(shards=2) as suite:
        suite.create("c", 8)
        stop = threading.Event()
        writers = [Writer(suite, i, stop) for i in range(WRITERS)]
        for writer in writers:
            writer.start()
        gaps = {}
        try:
            for kill in range(KILLS):
                time.sleep(chance.uniform(0.05, 0.6))
                service = chance.choice(["shard", "ingest", "ingest", "router"])
                pids = poll(f"a {service} runs", lambda: suite.pids(service))
                os.kill(chance.choice(pids), signal.SIGKILL)
                gaps.setdefault(service, []).append(search_gap(suite))
        finally:
            stop.set()
            for writer in writers:
                writer.join()
        acknowledged = sum(w.acknowledged for w in writers)
        unknown = sum(w.unknown for w in writers)
        wrong, reader = [], Client(suite.url)
        for writer in writers:
            ids = sorted(writer.outcomes)
            for at in range(0, len(ids), 100):
                answer = poll("a fresh read works", lambda: (lambda a: a if a.status == 200 else None)(
                    reader.post("/v1/collections/c/records/get",
                               {"ids": ids[at:at + 100], "fresh": True, "timeout_ms": 10000})), 20)
                there = {r["id"]: r.get("text") for r in answer.body["records"]}
                wrong += [(i, there.get(i), may) for i in ids[at:at + 100]
                          if there.get(i) not in (may := writer.outcomes[i].possible())]
        report = {s: f"{len(g)} kills, searches back after {max(g):.2f} s at most" for s, g in gaps.items()}
        print(f"kill loop: {KILLS} kills, {acknowledged} writes acknowledged, {unknown} not, {report}")
        assert not wrong, wrong[:5]
        assert acknowledged > KILLS
        suite.stop()
        assert verify(suite.data / "suite", 0)["finding_count"] == 0
        slow = {s: max(g) for s, g in gaps.items() if max(g) > 2.0 * SLOW}
        assert not slow, slow
