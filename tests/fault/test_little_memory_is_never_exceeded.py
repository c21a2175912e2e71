"""A shard with little memory under writes of several collections that do not stop: it never dies, never lets a
read fail, and takes no more than its limit and, while one of them leaves its dead behind, that one's second
graph; vectors are refused with 507, deletes make room again, and who was refused gets its turn."""
import base64
import os
import random
import struct
import threading
import time

from deployment import Deployment
from fault_clients import READ_MS
from suite import SLOW, Client, poll

DIMENSION = 256
LIMIT = 24 << 20
TENANTS = 4  # a collection each
BATCH = 50
SECONDS = float(os.environ.get("VICINAL_MEMORY_SECONDS", "30"))
SECOND = LIMIT // 4  # a graph that is made anew, of a tenant's share; it is held against the limit by itself
BESIDE = 48 << 20    # what a shard takes beside what the limit is about


class Tenant(threading.Thread):
    """Writes until it is refused, then deletes its oldest, or only waits, and goes on."""

    def __init__(self, deployment, name, seed):
        super().__init__(daemon=True)
        self.url, self.name, self.chance, self.ends = deployment.url, name, random.Random(seed), threading.Event()
        self.first = self.next = 0      # ids that are there
        self.taken = self.refused = self.taken_later = self.deleted = 0
        self.wrong = []

    def path(self, rest):
        return f"/v1/collections/{self.name}/{rest}"

    def run(self):
        self.client = Client(self.url, 60)
        while not self.ends.is_set():
            try:
                self.step()
            except Exception as error:  # none is expected
                self.wrong.append(repr(error))
        self.client.close()

    def step(self):
        records = [{"id": f"{self.next + i:08}", "metadata": {"n": self.next + i},
                    "vector_base64": base64.b64encode(struct.pack(
                        f"<{DIMENSION}f", *self.chance.choices((-1.0, -0.5, 0.25, 1.0), k=DIMENSION))).decode()}
                   for i in range(BATCH)]
        answer = self.client.post(self.path("records"), {"records": records})
        if answer.status == 200:
            self.next += BATCH
            self.taken += BATCH
            self.taken_later += BATCH if self.refused else 0
            return
        if answer.status != 507 or answer.body["code"] != "insufficient_storage":
            self.wrong.append(answer)
        self.refused += 1
        if self.chance.random() < 0.3:
            self.delete()
        self.ends.wait(self.chance.uniform(0, 0.1))

    def delete(self):
        """The older half."""
        until = self.first + (self.next - self.first) // 2
        answer = self.client.post(self.path("records/delete"), {"filter": {"n": {"$lt": until}}, "timeout_ms": 30000})
        if answer.status != 200 or answer.body["deleted_count"] != until - self.first:
            self.wrong.append(("delete", until - self.first, answer))
            return
        self.deleted += until - self.first
        self.first = until


class Reader(threading.Thread):
    def __init__(self, deployment, tenants):
        super().__init__(daemon=True)
        self.url, self.tenants, self.ends = deployment.url, tenants, threading.Event()
        self.asked, self.wrong, self.slowest = 0, [], 0.0

    def run(self):
        client, chance = Client(self.url, 60), random.Random(1)
        while not self.ends.is_set():
            tenant, began = chance.choice(self.tenants), time.monotonic()
            answer = client.post(tenant.path("search"), {
                "vector": chance.choices((-1.0, 0.5), k=DIMENSION), "top_k": 5, "timeout_ms": READ_MS})
            if answer.status != 200 or answer.body["read"]["partial"]:
                self.wrong.append(answer)
            self.asked += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.ends.wait(0.005)
        client.close()


def memory_of(deployment):
    """What the shard says: limit, used, wanted."""
    return deployment.get("/internal/v1/status").body["replicas"][0]["status"]["memory"]


def test_writes_do_not_stop_and_memory_does_not_grow():
    words = {"shard": ["--memory", str(LIMIT)]}
    with Deployment(shards=1, replicas=1, ingests=1, partitions=8, words=words) as deployment:
        shard = deployment.member("shard-0.0")
        tenants = [Tenant(deployment, f"tenant{i}", i) for i in range(TENANTS)]
        for tenant in tenants:
            deployment.create(tenant.name, DIMENSION)
        process, reader = shard.process, Reader(deployment, tenants)
        empty = shard.memory()
        for thread in (*tenants, reader):
            thread.start()
        wanted, most, end = 0, 0, time.monotonic() + SECONDS
        try:
            poll("every tenant has been refused", lambda: all(tenant.refused for tenant in tenants), 60)
            end = max(end, time.monotonic() + SECONDS / 2)
            while time.monotonic() < end:
                wanted, most = max(wanted, memory_of(deployment)["wanted_bytes"]), max(most, shard.memory())
                time.sleep(0.05)
            poll("every tenant has had a turn since", lambda: all(tenant.taken_later for tenant in tenants), 60)
        finally:
            for thread in (*tenants, reader):
                thread.ends.set()
            for thread in (*tenants, reader):
                thread.join()
        deployment.client.close()  # the router has closed it meanwhile
        print(f"{sum(t.taken for t in tenants)} records taken, {sum(t.refused for t in tenants)} requests refused, "
              f"{sum(t.deleted for t in tenants)} deleted, {sum(t.taken_later for t in tenants)} taken later; "
              f"{reader.asked} searches, slowest {reader.slowest:.2f} s; wanted {wanted / 1e6:.1f} of "
              f"{LIMIT / 1e6:.1f} MB, memory {empty / 1e6:.0f} MB empty, {most / 1e6:.0f} at most")
        assert not (wrong := [what for thread in (*tenants, reader) for what in thread.wrong]), wrong[:3]
        assert shard.process is process and not deployment.deaths, deployment.deaths
        assert wanted <= LIMIT + SECOND
        if SLOW == 1:
            assert most < empty + LIMIT + SECOND + BESIDE
        for tenant in tenants:
            answer = deployment.post(tenant.path("records/count"), {"fresh": True, "timeout_ms": 20000})
            assert answer.status == 200 and answer.body["count"] == tenant.next - tenant.first, (tenant.name, answer)
        deployment.stop()
        assert deployment.verify()["finding_count"] == 0
