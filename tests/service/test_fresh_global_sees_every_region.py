"""`fresh: "global"`: what was answered 200 in any region before the read came is in its answer, in
whatever region it is asked; a region that cannot be asked makes it a 503 that names it, or an answer
that is marked stale."""
import subprocess
import threading
import time

import pytest

from standing_still import standing_still
from suite import BIN, SLOW, Client, Suite, poll

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def three():
    with Suite(regions=",".join(NAMES), partitions=8) as suite:
        suite.region("a").create("c", 3)
        for name in NAMES:
            suite.region(name).wait_for(f"the collection in {name}", "/v1/collections/c")
        suite.converge()
        yield suite


def in_every_way(door, identity, **more):
    """Is the record found by this id?  In each kind of read, all over all regions."""
    path = "/v1/collections/c/records"
    demand = {"fresh": "global", "timeout_ms": 20000, **more}
    return [
        door.get(f"{path}/{identity}?fresh=global&timeout_ms=20000").status == 200,
        [r["id"] for r in door.post(f"{path}/get", {"ids": [identity], **demand}).body["records"]] == [identity],
        door.post(f"{path}/count", {"filter": {"me": identity}, **demand}).body["count"] == 1,
        len(door.post(f"{path}/scroll", {"filter": {"me": identity}, **demand}).body["records"]) == 1,
        [m["id"] for m in door.post("/v1/collections/c/search", {
            "vector": [1, 0, 0], "filter": {"me": identity}, **demand}).body["matches"]] == [identity],
    ]


def test_every_kind_of_read_sees_every_regions_writes(three):
    for turn in range(30):
        origin, reader = NAMES[turn % 3], NAMES[(turn + 1 + turn // 3 % 2) % 3]
        identity = f"r{turn}"
        three.region(origin).upsert("c", [{"id": identity, "vector": [1, 0, 0], "metadata": {"me": identity}}])
        # The first one asked is the one that has to wait: each kind has its turn.
        answers = in_every_way(three.region(reader), identity)
        assert all(answers), (turn, origin, reader, answers)


@pytest.mark.parametrize("kind", ["get", "search"])
def test_the_first_read_sees_it_too(three, kind):
    path = "/v1/collections/c/records/get" if kind == "get" else "/v1/collections/c/search"
    slowest = 0
    for turn in range(60):
        origin, reader, identity = NAMES[turn % 3], NAMES[(turn + 1) % 3], f"{kind}{turn}"
        three.region(origin).upsert("c", [{"id": identity, "vector": [0, 1, 0], "metadata": {"me": identity}}])
        body = {"ids": [identity]} if kind == "get" else {"vector": [0, 1, 0], "filter": {"me": identity}}
        began = time.monotonic()
        answer = three.region(reader).post(path, {**body, "fresh": "global", "timeout_ms": 20000})
        slowest = max(slowest, time.monotonic() - began)
        assert answer.status == 200, answer
        found = answer.body["records" if kind == "get" else "matches"]
        assert [row["id"] for row in found] == [identity], (turn, answer)
        read = answer.body["read"]
        assert read["stale"] is False and 0 <= read["staleness_seconds"] <= time.monotonic() - began
    print(f"slowest {slowest * 1000:.1f} ms")


def test_a_collection_made_elsewhere_is_found(three, name):
    for turn in range(6):
        own = f"{name}{turn}"
        three.region("a").create(own)
        three.region("a").upsert(own, [{"id": "x", "vector": [1, 2, 3]}])
        demand = {"fresh": "global", "timeout_ms": 20000}
        if turn % 2 == 0:
            answer = three.region("b").post(f"/v1/collections/{own}/records/count", demand)
            assert answer.status == 200 and answer.body["count"] == 1, answer
        else:
            answer = three.region("b").post(f"/v1/collections/{own}/search", {"vector": [1, 2, 3], **demand})
            assert answer.status == 200 and len(answer.body["matches"]) == 1, answer
    assert three.region("b").post(f"/v1/collections/{name}/records/count", demand).status == 404


def test_many_at_once_while_all_write(three):
    """What each thread was answered before it asked is there; nobody waits for longer than for one
    round."""
    stop, failures, reads = threading.Event(), [], []

    def work(number):
        client, turn = Client(three.region(NAMES[number % 3]).url), 0
        other = Client(three.region(NAMES[(number + 1) % 3]).url)
        while not stop.is_set():
            turn += 1
            identity = f"m{number}-{turn}"
            if client.post("/v1/collections/c/records", {"records": [{"id": identity, "vector": [0, 0, 1]}]}
                           ).status != 200:
                failures.append(identity)
            answer = other.post("/v1/collections/c/records/get", {
                "ids": [identity], "fresh": "global", "timeout_ms": 20000, "include": []})
            if answer.status != 200 or len(answer.body["records"]) != 1:
                failures.append((identity, answer))
            reads.append(identity)
        client.close()
        other.close()

    threads = [threading.Thread(daemon=True, target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    try:
        poll("they have read", lambda: len(reads) > 50 or failures, 30)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[:3]


def test_what_it_costs_is_explained(three):
    answer = three.region("b").post("/v1/collections/c/search", {
        "vector": [1, 0, 0], "fresh": "global", "explain": True, "timeout_ms": 20000})
    assert answer.body["explain"]["stages_us"]["reach_regions"] > 0
    assert answer.body["explain"]["cache"] == "bypass"
    plain = three.region("b").post("/v1/collections/c/search", {"vector": [1, 0, 0], "explain": True})
    assert "reach_regions" not in plain.body["explain"]["stages_us"]


def test_a_region_whose_services_stand_still_is_asked_nevertheless(three):
    """Its log is what is asked: what it acknowledged is there, whoever of it does not answer."""
    three.region("a").upsert("c", [{"id": "last", "vector": [1, 0, 0], "metadata": {"me": "last"}}])
    with standing_still(*three.pids_of_region("a")):
        assert all(in_every_way(three.region("b"), "last"))
    three.converge()


def test_a_replicator_that_stands_still(three):
    door, stopped = three.region("b"), three.pids("replicator", "b")
    with standing_still(*stopped):
        three.region("a").upsert("c", [{"id": "unseen", "vector": [1, 0, 0]}])
        began = time.monotonic()
        answer = door.post("/v1/collections/c/records/get", {"ids": ["unseen"], "fresh": "global", "timeout_ms": 700})
        assert answer.status == 503 and answer.body["code"] == "staleness_unmet", answer
        assert "region a" in answer.body["detail"] and answer.headers["Retry-After"]
        assert time.monotonic() - began < 0.7 + 2 * SLOW
        answer = door.post("/v1/collections/c/records/get", {
            "ids": ["unseen"], "fresh": "global", "on_stale": "serve", "timeout_ms": int(1500 * SLOW)})
        assert answer.status == 200 and answer.body["read"]["stale"] is True, answer
        assert answer.body["read"]["staleness_seconds"] > time.monotonic() - began
        # What this region promises by itself needs no other one.
        assert door.post("/v1/collections/c/records/get", {"ids": ["unseen"], "fresh": True}).status == 200
    answer = door.post("/v1/collections/c/records/get", {"ids": ["unseen"], "fresh": "global", "timeout_ms": 30000})
    assert answer.status == 200 and len(answer.body["records"]) == 1, answer


def test_a_region_that_cannot_be_asked_is_named(three):
    def region(*words):
        subprocess.run([str(BIN / "vicinal"), "region", *words, "--meta", three.region("b").meta],
                       check=True, timeout=60 * SLOW)

    door, path = three.region("b"), "/v1/collections/c/records/count"
    region("add", "far", "--wal", f"file:{three.data}/nowhere", "--router", "http://127.0.0.1:1")
    try:
        refused = poll("the region is missed", lambda: (
            lambda a: a if a.status == 503 and "region far" in a.body["detail"] else None)(
                door.post(path, {"fresh": "global", "timeout_ms": 600})))
        assert refused.body["code"] == "staleness_unmet", refused
        three.region("a").upsert("c", [{"id": "served", "vector": [1, 0, 0]}])
        served = door.post(path, {"fresh": "global", "on_stale": "serve", "timeout_ms": int(1500 * SLOW)})
        assert served.status == 200 and served.body["read"]["stale"] is True, served
        assert served.body["read"]["staleness_seconds"] >= 1e8  # nothing of it has ever come
        # The others do not miss it.
        assert three.region("a").post(path, {"fresh": "global", "timeout_ms": 20000}).status == 200
    finally:
        region("remove", "far")
    poll("all are reached again", lambda: door.post(path, {"fresh": "global", "timeout_ms": 2000}).status == 200)


def test_the_replicator_refuses_what_it_cannot_read(three):
    client = Client(next(iter(three.region("b").node_urls("replicator").values())))
    token = three.region("b").upsert("c", [{"id": "held", "vector": [1, 0, 0]}], write_quorum=3)["read_token"]
    mixed = three.region("b").post("/v1/collections/c/records/count", {}).body["read"]["read_token"]
    for path, body in (("reach", {}), ("reach", {"region": ""}), ("reach", {"region": "x" * 300}),
                       ("reach", {"region": "a", "wait_ms": 0}), ("reach", {"region": "a", "wait_ms": 60001}),
                       ("reach", {"region": 1}), ("reach", {"region": "a", "more": 1}), ("reach", b"{"), ("reach", b""),
                       ("held", {"read_token": "rt1.x"}), ("held", {"read_token": token, "regions": 0}),
                       ("held", {"read_token": token, "regions": 33}), ("held", {"read_token": 5}), ("held", b"[]"),
                       ("held", {"read_token": mixed})):
        answer = client.post(f"/internal/v1/{path}", body)
        assert answer.status == 400, (path, body, answer)
    unknown = client.post("/internal/v1/reach", {"region": "nobody", "wait_ms": 50})
    assert unknown.status == 200 and unknown.body["reached"] is False and unknown.body["lag_us"] is None
    held = client.post("/internal/v1/held", {"read_token": token, "regions": 32, "wait_ms": 50})
    assert held.status == 200 and held.body["held"] == 2, held
    client.close()


def test_who_waits_does_not_hold_up_the_end():
    with Suite(regions="a,b", partitions=8) as suite:
        door = suite.region("a")
        door.create("c", 3)
        subprocess.run([str(BIN / "vicinal"), "region", "add", "far", "--wal", f"file:{suite.data}/nowhere",
                        "--router", "http://127.0.0.1:1", "--meta", door.meta], check=True, timeout=60 * SLOW)
        poll("the region is missed", lambda: door.post("/v1/collections/c/records/count", {
            "fresh": "global", "timeout_ms": 300}).status == 503)
        poll("ingest knows of it too", lambda: door.post("/v1/collections/c/records", {
            "records": [{"id": "w", "vector": [1, 2, 3]}], "write_quorum": 3, "timeout_ms": 300}).status == 504)
        answers = []

        def wait(path, body):
            client = Client(door.url)
            try:
                answers.append(client.post(path, {**body, "timeout_ms": 50000}).status)
            except OSError:
                answers.append(0)

        waiting = [threading.Thread(daemon=True, target=wait, args=args) for args in (
            ("/v1/collections/c/records/count", {"fresh": "global"}),
            ("/v1/collections/c/records", {"records": [{"id": "x", "vector": [1, 2, 3]}], "write_quorum": 3}))]
        for thread in waiting:
            thread.start()
        client = Client(next(iter(door.node_urls("replicator").values())))
        poll("both wait", lambda: sum(
            float(line.split()[1]) for line in client.get("/metrics").body.decode().splitlines()
            if line.startswith("replication_waiters")) == 2)
        client.close()
        began = time.monotonic()
        suite.stop(10)
        assert time.monotonic() - began < 10 * SLOW
        for thread in waiting:
            thread.join()
        assert set(answers) <= {0, 503, 504}, answers


def test_one_region_alone(shared, name):
    shared.create(name)
    for i in range(10):
        shared.upsert(name, [{"id": f"x{i}", "vector": [1, 2, 3]}])
        answer = shared.post(f"/v1/collections/{name}/records/count", {"fresh": "global"})
        assert answer.status == 200 and answer.body["count"] == i + 1 and answer.body["read"]["stale"] is False


def test_another_word_is_refused(shared, name):
    shared.create(name)
    for value in ("everywhere", "", "true", 1, None):
        answer = shared.post(f"/v1/collections/{name}/records/count", {"fresh": value})
        assert answer.status == 400 and answer.body["errors"][0]["pointer"] == "/fresh", (value, answer)
    assert shared.get(f"/v1/collections/{name}/records/x?fresh=Global").status == 400
