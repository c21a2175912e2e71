"""A shard with little memory (--memory) is never filled beyond it: vectors are refused with 507 before they
are in the log, with the reason, and taken again when there is room.  The shard goes on applying."""
import base64
import random
import struct
import threading
import time

import pytest

import imports
from standing_still import standing_still
from suite import Client, Suite, poll

DIM = 256
LIMIT = 16 << 20


@pytest.fixture
def tight(monkeypatch):
    monkeypatch.setenv("VICINAL_MEMORY", str(LIMIT))  # read by the shards
    with Suite(shards=1) as suite:
        suite.create("c", DIM)
        poll("ingest has heard the shard", lambda: is_heard_by_ingest(suite))  # until then nothing is refused
        yield suite


def vector(seed):
    return random.Random(seed).choices((-1.0, -0.5, 0.25, 0.5, 1.0), k=DIM)


def records(first, count):
    return [{"id": f"{first + i:07}", "metadata": {"n": first + i},
             "vector_base64": base64.b64encode(struct.pack(f"<{DIM}f", *vector(first + i))).decode()}
            for i in range(count)]


def put(suite, first, count=100):
    return suite.post("/v1/collections/c/records", {"records": records(first, count)})


def fill(suite, first=0, step=1):
    """Write until it is refused: how many were taken, and the refusal."""
    taken = 0
    while True:
        answer = put(suite, first + 100 * step * (taken // 100))
        if answer.status != 200:
            return taken, answer
        taken += 100
        assert taken * DIM * 4 < LIMIT, "more vectors than there are bytes"


def count(suite):
    answer = suite.post("/v1/collections/c/records/count", {"fresh": True, "timeout_ms": 20000})
    assert answer.status == 200, (answer, shard(suite))
    return answer.body["count"]


def shard(suite):
    return suite.get("/internal/v1/status").body["replicas"][0]["status"]


def is_heard_by_ingest(suite):
    """Ingest asks shards itself: that the router has heard one says nothing."""
    client = Client(suite.node_urls("ingest")["0"])
    try:
        return b'replica_in_use{shard="0",replica="0"} 1\n' in client.get("/metrics").body
    finally:
        client.close()


def refused_for_memory(answer):
    return answer.status == 507 and answer.body["code"] == "insufficient_storage" and \
        "shard 0.0" in answer.body["detail"] and str(LIMIT) in answer.body["detail"]


def test_what_does_not_fit_is_refused_and_the_shard_goes_on(tight):
    taken, lock = [], threading.Lock()

    def work(number):
        mine, refusal = fill(tight, 1000000 * number)
        with lock:
            taken.append((mine, refusal))

    threads = [threading.Thread(daemon=True, target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(refused_for_memory(refusal) for _, refusal in taken), taken
    total, more = sum(mine for mine, _ in taken), [0]

    def is_filled():  # while something is under way it is reckoned by a guess
        mine, refusal = fill(tight, 9000000 + sum(more))
        assert refused_for_memory(refusal)
        more.append(mine)
        return ", 0 were admitted just now" in refusal.body["detail"]

    poll("what was under way is known exactly", is_filled, 30, 0.2)
    total += sum(more)
    assert total * DIM * 4 > LIMIT // 3  # it is no timid guess
    assert count(tight) == total  # nothing of the refused ones, and the shard has applied all others
    status = poll("the report is of now",
                  lambda: (lambda s: s if s["collections"][0]["count"] == total else None)(shard(tight)))
    assert status["state"] == "ready" and status["memory"]["limit_bytes"] == LIMIT
    assert LIMIT * 3 // 4 < status["memory"]["wanted_bytes"] <= LIMIT

    path = "/v1/collections/c/records"
    assert tight.post(path, {"records": [{"id": "words", "text": "no vector"}]}).status == 200
    one = records(0, 1)[0]["id"]
    assert tight.request("PATCH", f"{path}/{one}", {"metadata": {"patched": True}}).status == 200
    assert tight.post(f"{path}/update", {"filter": {"n": {"$lt": 20}}, "metadata": {"p": 1}}).body["updated_count"] == 20
    assert tight.post(f"{path}/delete", {"ids": [one]}).body["deleted_count"] == 1
    assert count(tight) == total
    assert shard(tight)["state"] == "ready"


def test_it_recovers_when_there_is_room(tight):
    taken, refusal = fill(tight)
    assert refused_for_memory(refusal)
    answer = tight.post("/v1/collections/c/records/delete", {"filter": {"n": {"$gte": 200}}, "timeout_ms": 60000})
    assert answer.body["deleted_count"] == taken - 200
    more = 0

    def half_of_it_again():
        nonlocal more
        found, answer = fill(tight, 5000000 + more)
        assert refused_for_memory(answer)
        more += found
        return more > taken // 2

    poll("the graph has left its dead behind", half_of_it_again, 60, 0.05)
    assert count(tight) == 200 + more
    assert tight.delete("/v1/collections/c").status == 204
    tight.create("c", DIM)
    poll("the memory of a dropped collection", lambda: put(tight, 7000000).status == 200, 20, 0.05)
    assert shard(tight)["state"] == "ready"


def test_imports_are_refused_too_and_taken_later(tight):
    rows = 30000
    part = imports.npy([[float(i % 7), float(i % 11)] + [0.5] * (DIM - 2) for i in range(rows)])
    upload = imports.Upload(tight, "c", format="npy", id_prefix="v-")
    for _ in range(2):
        answer = upload.part(part, final=True)
        assert refused_for_memory(answer), answer
    assert upload.look()["rows_done"] == 0
    assert count(tight) == 0 and put(tight, 0).status == 200
    small = imports.Upload(tight, "c", format="npy", id_prefix="w-")
    answer = small.part(imports.npy([vector(i) for i in range(2000)]), final=True)
    assert answer.status == 200 and answer.body["rows_done"] == 2000, answer
    assert count(tight) == 2100 and shard(tight)["state"] == "ready"


def test_a_shard_that_is_not_heard_for_seconds_is_not_filled_beyond_its_memory(tight):
    """What it said last counts, less what has come since."""
    assert put(tight, 0).status == 200
    count(tight)
    taken, number, pid = 100, 1000000, tight.pids("shard")[0]
    with standing_still(pid):
        end = time.monotonic() + 3
        while time.monotonic() < end:
            number += 100
            taken += 100 if put(tight, number).status == 200 else 0
    assert count(tight) == taken
