"""A replica whose store is damaged sets it aside, loudly, and begins anew: from another replica or from
the log.  Nothing is lost; where there is another replica no read fails meanwhile."""
import os
import random
import threading

import pytest

from suite import Client, Suite, poll

ROWS, DIM, PAGE = 3000, 8, 4096


@pytest.fixture(autouse=True)
def crashes_are_meant(monkeypatch):
    """A sanitizer leaves crash signals alone: LMDB runs into what is damaged."""
    for name in ("ASAN_OPTIONS", "TSAN_OPTIONS"):
        monkeypatch.setenv(name, ":".join([*filter(None, [os.environ.get(name)]),
                                           "handle_segv=0:handle_sigbus=0:handle_abort=0"]))


def write(suite):
    chance = random.Random(7)
    suite.create("c", DIM)
    for at in range(0, ROWS, 1000):
        suite.upsert("c", [{"id": f"{i}", "vector": [chance.gauss(0, 1) for _ in range(DIM)], "text": f"text {i}",
                            "metadata": {"n": i}} for i in range(at, at + 1000)])
    suite.post("/v1/collections/c/records/delete", {"filter": {"n": {"$lt": 50}}})
    assert count(suite) == ROWS - 50


def count(suite):
    answer = suite.post("/v1/collections/c/records/count", {"fresh": True, "timeout_ms": 20000})
    return answer.body["count"] if answer.status == 200 else None


def state(suite):
    """The digest of each partition."""
    return {partition: digest for replica in suite.digests().values() for partition, (_, digest) in replica.items()}


def store_of(suite, replica=0):
    return suite.data / f"suite/shard-0.{replica}/store"


def metric(suite, name):
    """The greatest over the shards' processes."""
    urls = [replica["url"] for replica in suite.get("/internal/v1/status").body["replicas"]]
    lines = [line for url in urls for line in Client(url).get("/metrics").body.decode().splitlines()]
    return max(float(line.split()[-1]) for line in lines if line.startswith(name + "{"))


def no_head(path):
    with open(path, "r+b") as file:
        file.write(b"\xff" * 2 * PAGE)


def cut(path):
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def no_body(path):
    chance, size = random.Random(3), path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(2 * PAGE)
        file.write(chance.randbytes(size - 2 * PAGE))


@pytest.mark.embedded("the store's file is damaged")
@pytest.mark.parametrize("damage", [no_head, cut, no_body])
def test_from_the_log(damage):
    with Suite() as suite:
        write(suite)
        before = state(suite)
        suite.stop()
        damage(store_of(suite) / "data.mdb")
        suite.start()
        poll("all is there again", lambda: count(suite) == ROWS - 50, 60, 0.05)
        assert state(suite) == before
        assert (store_of(suite).parent / "store.aside/data.mdb").exists()
        assert not (store_of(suite).parent / "suspect").exists()
        assert metric(suite, "shard_store_set_aside") == 1
        assert "the store is set aside" in (suite.data / "log").read_text()
        suite.restart()
        assert state(suite) == before and metric(suite, "shard_store_set_aside") == 0


def test_from_another_replica_while_it_is_used():
    with Suite(replicas=2) as suite:
        write(suite)
        suite.wait_for_all_replicas()
        poll("both have all", lambda: len({str(d) for d in suite.digests().values()}) == 1, 30)
        before, failed, ends = state(suite), [], threading.Event()

        def read():
            client, chance = Client(suite.url), random.Random(1)
            while not ends.is_set():
                answer = client.post("/v1/collections/c/records/get", {"ids": [str(chance.randrange(50, ROWS))]})
                if answer.status != 200 or len(answer.body["records"]) != 1:
                    failed.append(answer)

        reader = threading.Thread(daemon=True, target=read)
        reader.start()
        try:
            cut(store_of(suite, 1) / "data.mdb")
            poll("it is set aside", (store_of(suite, 1).parent / "store.aside").exists, 60, 0.05)
            poll("both replicas are whole", lambda: set(suite.healths()) == {"in"}
                 and len(suite.digests()) == 2 and state(suite) == before, 60, 0.2)
        finally:
            ends.set()
            reader.join()
        assert not failed, failed[:3]
        digests = list(suite.digests().values())
        assert digests[0] == digests[1]


@pytest.mark.embedded("the store's file is looked at")
def test_a_crash_alone_sets_nothing_aside():
    with Suite() as suite:
        write(suite)
        before, [pid] = state(suite), suite.pids("shard")
        os.kill(pid, 6)
        poll("another process", lambda: [p for p in suite.pids("shard") if p != pid], 20)
        poll("all is there", lambda: count(suite) == ROWS - 50, 30, 0.05)
        assert state(suite) == before
        assert "the store was looked at: it is sound" in (suite.data / "log").read_text()
        assert not (store_of(suite).parent / "store.aside").exists()
