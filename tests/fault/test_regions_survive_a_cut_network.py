"""The network between two regions is cut while both write: nothing acknowledged is lost, reads go
on, the lag says what it is, and both converge when the link is back.  VICINAL_CUT_SECONDS: how long
(a nightly run takes a minute)."""
import os
import subprocess
import threading
import time

from fault_proxy import FaultProxy
from kafka_broker import KafkaBroker
from ports import free_port
from suite import BIN, Client, Suite, poll

CUT_SECONDS = float(os.environ.get("VICINAL_CUT_SECONDS", "10"))

# One more listener, for the other region: what it advertises is the proxy.
PEER = """listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},PEER://127.0.0.1:{peer}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PEER://127.0.0.1:{proxy}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PEER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
"""


class Worker:
    """Writes and reads in one region until it is stopped; counts what went wrong."""

    def __init__(self, region):
        self.region, self.ends = region, threading.Event()
        self.acknowledged, self.asked, self.failed = [], 0, 0
        self.thread = threading.Thread(daemon=True, target=self.run)
        self.thread.start()

    def run(self):
        client, number = Client(self.region.url, 10), 0
        while not self.ends.is_set():
            identity = f"{self.region.name}-{number}"
            number += 1
            written = self.ask(client, "/v1/collections/c/records",
                               {"records": [{"id": identity, "vector": [number % 7, 1, 2]}]})
            if written:
                self.acknowledged.append(identity)
                self.ask(client, "/v1/collections/c/records/get",
                         {"ids": [identity], "read_token": written["read_token"]})
            self.ask(client, "/v1/collections/c/search", {"vector": [1, 2, 3], "top_k": 5})
            self.ends.wait(0.005)
        client.close()

    def ask(self, client, path, body):
        """The answer's body, or None."""
        self.asked += 1
        try:
            answer = client.post(path, body)
        except OSError:
            answer = None
        if answer is None or answer.status != 200:
            self.failed += 1
            return None
        return answer.body

    def stop(self):
        self.ends.set()
        self.thread.join()


def lag(region):
    """Endless while nobody has measured it yet."""
    others = [row for row in region.get("/v1/admin/regions").body["regions"] if not row["self"]]
    seconds = others[0].get("replication", {}).get("lag_seconds")
    return 1e9 if seconds is None else seconds


def follow_through(proxy, suite, region, other):
    """Region reads the other's log through the proxy from now on."""
    meta = f"sqlite:{suite.data}/suite/{region.name}/meta.db"
    subprocess.run([BIN / "vicinal", "region", "add", other.name, "--meta", meta, "--router", other.url,
                    "--wal", f"kafka://127.0.0.1:{proxy.port}/r-{other.name}"],
                   check=True, timeout=30, capture_output=True)


def content(region):
    return {p: digest for parts in region.digests().values() for p, (_, digest) in parts.items()}


def check_all_there(region, identities):
    for at in range(0, len(identities), 500):
        wanted = identities[at:at + 500]
        answer = region.post("/v1/collections/c/records/get",
                             {"ids": wanted, "include": [], "fresh": True, "timeout_ms": 20000})
        assert answer.status == 200, answer
        assert {record["id"] for record in answer.body["records"]} == set(wanted)


def test_a_cut_network_between_regions():
    with FaultProxy() as proxy:
        broker = KafkaBroker()
        peer = free_port()
        proxy.target = ("127.0.0.1", peer)
        broker.settings = PEER.format(port=broker.port, controller=broker.controller, peer=peer, proxy=proxy.port)
        with broker, Suite(regions="a,b", wal=broker.url("r-{region}"), partitions=8) as suite:
            a, b = suite.region("a"), suite.region("b")
            follow_through(proxy, suite, a, b)
            follow_through(proxy, suite, b, a)
            a.create("c", 3)
            b.wait_for("the collection in b", "/v1/collections/c", 60)
            workers = [Worker(a), Worker(b)]
            try:
                poll("both follow", lambda: lag(a) < 1 and lag(b) < 1, 30)
                proxy.cut()
                began = time.monotonic()
                poll("the lag is told", lambda: lag(a) > CUT_SECONDS / 2 and lag(b) > CUT_SECONDS / 2,
                     CUT_SECONDS * 2 + 20, 0.1)
                while time.monotonic() - began < CUT_SECONDS:
                    time.sleep(0.1)
                proxy.heal()
                healed = time.monotonic()
                poll("both have caught up", lambda: lag(a) < 1 and lag(b) < 1, 60, 0.05)
                caught_up = time.monotonic() - healed
            finally:
                proxy.heal()
                for worker in workers:
                    worker.stop()
            poll("the regions are equal", lambda: content(a) == content(b), 60, 0.1)
            for region in (a, b):
                for worker in workers:
                    check_all_there(region, worker.acknowledged)
            for worker in workers:
                print(f"region {worker.region.name}: {len(worker.acknowledged)} acknowledged, {worker.failed} of "
                      f"{worker.asked} requests failed; cut for {CUT_SECONDS:.0f} s, back within {caught_up:.1f} s; "
                      "lost 0")
                assert worker.acknowledged and worker.failed < worker.asked * 0.05
