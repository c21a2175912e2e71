"""Whatever of a region is killed, stopped or lost, it catches up by itself, and nothing that was
acknowledged in any region is missing in one of them."""
import contextlib
import http.client
import os
import random
import signal
import threading

import pytest

from standing_still import standing_still
from suite import Client, Suite, poll

NAMES = ["a", "b"]


class Writer:
    """Writes new ids into one region until it is stopped, and remembers what was acknowledged."""

    def __init__(self, suite, region, collection):
        self.region, self.path = region, f"/v1/collections/{collection}/records"
        self.url, self.acknowledged, self.failed = suite.region(region).url, [], 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(daemon=True, target=self.run)
        self.thread.start()

    def run(self):
        client, number = Client(self.url, 10), 0
        while not self.stopping.is_set():
            ids = [f"{self.region}-{number}-{i}" for i in range(5)]
            number += 1
            try:
                answer = client.post(self.path, {"records": [{"id": i, "vector": [1, 2, 3]} for i in ids]})
            except (OSError, http.client.HTTPException):
                answer = None
            if answer is not None and answer.status == 200:
                self.acknowledged += ids
            else:
                self.failed += 1
            self.stopping.wait(0.01)
        client.close()

    def stop(self):
        self.stopping.set()
        self.thread.join()
        return self.acknowledged


def ids_of(region, collection):
    found, page = set(), None
    while True:
        body = {"limit": 1000, "fresh": True, "timeout_ms": 20000, **({"page_token": page} if page else {})}
        answer = region.post(f"/v1/collections/{collection}/records/scroll", body)
        assert answer.status == 200, answer
        found |= {record["id"] for record in answer.body["records"]}
        page = answer.body.get("next_page_token")
        if not page:
            return found


def check(suite, collection, acknowledged):
    """Nothing is missing anywhere, and all regions hold the same."""
    for name in NAMES:
        poll(f"{name} is ready", lambda n=name: ready(suite.region(n)), 20)
        suite.region(name).client.close()
    suite.converge(30)
    for name in NAMES:
        assert acknowledged <= ids_of(suite.region(name), collection)


def ready(region):
    client = Client(region.url, 5)
    try:
        return client.get("/readyz").status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        client.close()


def begin(suite, collection):
    suite.client.close()  # routers may have been killed
    for name in NAMES:
        suite.region(name).client.close()
    suite.create(collection)
    suite.region("b").wait_for("the collection", f"/v1/collections/{collection}")


@pytest.fixture(scope="module")
def two():
    with Suite(regions="a,b", partitions=8) as suite:
        yield suite


def test_a_region_that_was_killed(two, name):
    begin(two, name)
    writers = [Writer(two, region, name) for region in NAMES]
    for turn in range(3):
        region = NAMES[turn % 2]
        pids = two.pids_of_region(region)
        assert len(pids) == 4
        before = len(writers[1 - turn % 2].acknowledged)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        poll("all of it is back", lambda r=region: len(two.pids_of_region(r)) == 4, 15)
        poll("it is ready", lambda r=region: ready(two.region(r)), 20)
        poll("the other one went on", lambda: len(writers[1 - turn % 2].acknowledged) > before, 10)
    acknowledged = {i for writer in writers for i in writer.stop()}
    assert len(acknowledged) > 100
    check(two, name, acknowledged)


def test_a_region_that_was_stopped_for_a_while(two, name):
    begin(two, name)
    writer = Writer(two, "a", name)
    with standing_still(*two.pids_of_region("b")):
        poll("a writes on", lambda: len(writer.acknowledged) > 500, 30)
        assert writer.failed == 0
        assert two.post(f"/v1/collections/{name}/search", {"vector": [1, 2, 3]}).status == 200
    check(two, name, set(writer.stop()))


def test_a_replicator_that_is_killed_again_and_again(two, name):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    begin(two, name)
    writers = [Writer(two, region, name) for region in NAMES]
    for _ in range(12):
        region = dice.choice(NAMES)
        pid = poll("there is a replicator", lambda r=region: two.pids("replicator", r), 15)[0]
        with contextlib.suppress(ProcessLookupError):  # the one before, on its way out
            os.kill(pid, dice.choice([signal.SIGKILL, signal.SIGTERM]))
        reached = len(writers[0].acknowledged) + dice.randrange(1, 100)
        poll("writes go on", lambda n=reached: len(writers[0].acknowledged) >= n, 20)
    assert all(writer.failed == 0 for writer in writers)
    check(two, name, {i for writer in writers for i in writer.stop()})


def test_an_ingest_that_is_killed_while_records_come(two, name):
    begin(two, name)
    writer = Writer(two, "a", name)
    for _ in range(5):
        reached = len(writer.acknowledged) + 60
        pid = poll("b has an ingest", lambda: two.pids("ingest", "b"), 15)[0]
        os.kill(pid, signal.SIGKILL)
        poll("a writes on", lambda n=reached: len(writer.acknowledged) >= n, 20)
    check(two, name, set(writer.stop()))


def test_all_is_there_after_a_restart(two, name):
    begin(two, name)
    ids = set()
    for region in NAMES:
        two.region(region).upsert(name, [{"id": f"{region}{i}", "vector": [1, 2, 3]} for i in range(50)])
        ids |= {f"{region}{i}" for i in range(50)}
    two.restart()
    check(two, name, ids)


def test_a_region_whose_metadata_is_lost(two, name):
    begin(two, name)
    token = two.region("a").upsert(name, [{"id": "x", "vector": [1, 2, 3]}])["read_token"]
    two.stop()
    for path in (two.data / "suite" / "b").glob("meta.db*"):
        path.unlink()
    two.start()
    found = two.region("b").get(f"/v1/collections/{name}/records/x?timeout_ms=20000&read_token={token}")
    assert found.status == 200
    assert [row["name"] for row in two.region("b").get("/v1/admin/regions").body["regions"]] == NAMES
    two.region("b").upsert(name, [{"id": "y", "vector": [1, 2, 3]}])
    check(two, name, {"x", "y"})


@pytest.mark.embedded("the log is a folder, which is moved away")
def test_a_region_whose_log_is_lost_gets_what_others_wrote_and_goes_on(two, name):
    """What it wrote itself is in the others only: bringing that back is another mechanism's."""
    begin(two, name)
    two.region("a").upsert(name, [{"id": f"a{i}", "vector": [1, 2, 3]} for i in range(20)])
    two.settle()
    before = {row["name"]: row["number"] for row in two.get("/v1/admin/regions").body["regions"]}
    two.stop()
    os.rename(two.data / "suite" / "b", two.data / "lost")
    two.start()
    after = {row["name"]: row["number"] for row in two.get("/v1/admin/regions").body["regions"]}
    assert after["a"] == before["a"] and after["b"] not in (0, before["b"])
    two.settle()
    assert ids_of(two.region("b"), name) == {f"a{i}" for i in range(20)}
    for region in NAMES:
        token = two.region(region).upsert(name, [{"id": region, "vector": [1, 2, 3]}])["read_token"]
        for reader in NAMES:
            path = f"/v1/collections/{name}/records/{region}?timeout_ms=20000&read_token={token}"
            assert two.region(reader).get(path).status == 200
