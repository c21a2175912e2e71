"""A token of a read is honoured in every region at once, also when the log it is of ends in what
never leaves it: epochs of a restarted ingest, version vectors of an idle log."""
import os
import signal

import pytest

from suite import Suite, poll

PATH = "/v1/collections/c/records"


@pytest.fixture(scope="module")
def pair():
    with Suite(regions="a,b", partitions=8) as suite:
        suite.region("a").create("c", 3)
        suite.region("b").wait_for("the collection in b", "/v1/collections/c")
        suite.region("a").upsert("c", [{"id": "x", "vector": [1, 2, 3]}])
        suite.converge()
        yield suite


def restart(suite, region, service):
    old = set(suite.pids(service, region))
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    poll(f"another {service}", lambda: (lambda new: new and not old & new)(set(suite.pids(service, region))))


def seen_at(door):
    """The token of a read at the log's end."""
    answer = poll("a fresh read", lambda: (lambda a: a if a.status == 200 else None)(
        door.post(f"{PATH}/count", {"fresh": True})))
    return answer.body["read"]["read_token"]


def honoured(door, token):
    kinds = [door.post(f"{PATH}/get", {"ids": ["x"], "read_token": token, "timeout_ms": 8000}),
             door.post("/v1/collections/c/search", {"vector": [1, 2, 3], "read_token": token, "timeout_ms": 8000})]
    assert all(answer.status == 200 for answer in kinds), kinds
    return kinds


def ends_in_other_things(door):
    """In every partition something stands behind the newest data."""
    door.digests()  # all replicas have reported since
    parts = [part for replica in door.get("/internal/v1/status").body["replicas"]
             for part in replica["status"]["partitions"]]
    return len(parts) == 8 and all(part["data"] < part["position"] for part in parts)


def test_after_the_ingest_was_started_again(pair):
    a, b = pair.region("a"), pair.region("b")
    for _ in range(2):
        restart(pair, "a", "ingest")
        poll("its epochs are in the log", lambda: ends_in_other_things(a), 20)
        honoured(b, seen_at(a))
    # And the shards, which have to know it still.
    restart(pair, "a", "shard")
    honoured(b, seen_at(a))


def test_after_idle_seconds(pair):
    a, b = pair.region("a"), pair.region("b")
    a.upsert("c", [{"id": f"idle{i}", "vector": [1, 2, 3]} for i in range(100)])
    poll("its version vectors are in the log", lambda: ends_in_other_things(a), 30, 0.05)
    for kind in honoured(b, seen_at(a)):
        honoured(a, kind.body["read"]["read_token"])


def test_of_writes_that_found_nothing_to_do(pair):
    a, b = pair.region("a"), pair.region("b")
    restart(pair, "a", "ingest")
    poll("its epochs are in the log", lambda: ends_in_other_things(a), 20)
    body = {"records": [{"id": "x", "vector": [3, 2, 1]}], "on_conflict": "skip"}
    skipped = poll("the new ingest decides", lambda: (lambda answer: answer.body if answer.status == 200 else None)(
        a.post(PATH, body)), 20)
    assert skipped["skipped_count"] == 1
    honoured(b, skipped["read_token"])
    nothing = a.post(f"{PATH}/delete", {"filter": {"k": 1}})
    assert nothing.status == 200
    honoured(b, nothing.body["read_token"])
