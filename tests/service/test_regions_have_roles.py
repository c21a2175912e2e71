"""A passive region takes no writes of its clients and everything that other regions wrote; one
command makes another region the primary one without losing what the old one acknowledged."""
import os
import re
import signal
import subprocess
import threading

import pytest

import vicinal_cli
from standing_still import standing_still
from suite import BIN, SLOW, Client, Suite, poll

NAMES = ["a", "b"]


@pytest.fixture(scope="module")
def two():
    with Suite(regions="a,b", partitions=8) as suite:
        yield suite


@pytest.fixture(autouse=True)
def all_active(two):
    yield
    for name in NAMES:
        two.region(name).client.close()
        assert set_role(two, name, "active").status == 200


def set_role(suite, name, role):
    return suite.region(name).post(f"/v1/admin/regions/{name}/role", {"role": role})


def promote(suite, new, old, *words, code=0):
    done = subprocess.run([str(BIN / "vicinal"), "promote", "--url", suite.region(new).url, "--from",
                           suite.region(old).url, *words], capture_output=True, text=True, timeout=100 * SLOW)
    assert done.returncode == code, done
    return done


def begin(suite, collection):
    suite.create(collection)
    suite.region("b").wait_for("the collection", f"/v1/collections/{collection}")


def test_a_passive_region_refuses_every_kind_of_write(two, name):
    begin(two, name)
    two.upsert(name, [{"id": "x", "vector": [1, 2, 3]}])
    answer = set_role(two, "a", "passive")
    assert answer.status == 200 and answer.body["role"] == "passive"
    base = f"/v1/collections/{name}"
    record = {"vector": [1, 2, 3]}
    for method, path, body in (
            ("POST", f"{base}/records", {"records": [{"id": "y", **record}]}), ("PUT", f"{base}/records/y", record),
            ("DELETE", f"{base}/records/x", None), ("POST", f"{base}/records/delete", {"ids": ["x"]}),
            ("POST", f"{base}/records/delete", {"filter": {"k": 1}}),
            ("POST", f"{base}/records/delete", {"delete_all": True}),
            ("PUT", f"/v1/collections/{name}2", {"vector": {"dimension": 3}}), ("DELETE", base, None)):
        refused = two.request(method, path, body)
        assert (refused.status, refused.body["code"]) == (403, "read_only"), (method, path, refused)
        assert two.region("b").url in refused.body["detail"]
    # Reads go on, and what the other region writes comes.
    token = two.region("b").upsert(name, [{"id": "from-b", "vector": [1, 2, 3]}])["read_token"]
    for identity in ("x", "from-b"):
        assert two.get(f"{base}/records/{identity}?timeout_ms=20000&read_token={token}").status == 200
    two.region("b").create(f"{name}2")
    two.wait_for("a collection of the other one", f"/v1/collections/{name}2")
    assert two.region("b").delete(base).status == 204
    two.wait_for("the drop", base, status=404)


def test_a_role_outlives_restarts_and_crashes(two, name):
    begin(two, name)
    assert set_role(two, "a", "passive").status == 200
    before = two.pids("ingest", "a")
    os.kill(before[0], signal.SIGKILL)
    poll("another ingest", lambda: len(two.pids("ingest", "a")) == 1 and two.pids("ingest", "a") != before, 15)
    # Never in between is a write taken.
    for _ in range(50):
        refused = two.post(f"/v1/collections/{name}/records", {"records": [{"id": "x", "vector": [1, 2, 3]}]})
        assert refused.status in (403, 503), refused
    two.restart()
    assert two.get("/v1/admin/regions").body["role"] == "passive"
    refused = two.post(f"/v1/collections/{name}/records", {"records": [{"id": "x", "vector": [1, 2, 3]}]})
    assert refused.status == 403


def test_a_role_is_set_at_the_region_itself_and_is_a_role(two):
    there = two.post("/v1/admin/regions/b/role", {"role": "passive"})
    assert (there.status, there.body["code"]) == (409, "wrong_region")
    assert two.region("b").url in there.body["detail"]
    assert two.post("/v1/admin/regions/nobody/role", {"role": "passive"}).status == 404
    for body in ({"role": "boss"}, {}, {"role": 1}, {"role": "active", "more": 1}, [], "x"):
        assert two.post("/v1/admin/regions/a/role", body).status == 400
    assert [two.region(name).get("/v1/admin/regions").body["role"] for name in NAMES] == ["active"] * 2


def test_promotion_under_writes_loses_nothing(two, name):
    begin(two, name)
    assert set_role(two, "b", "passive").status == 200
    acknowledged, refusals, stopping = [], [], threading.Event()

    def write(number):
        client, turn = Client(two.url), 0
        while not stopping.is_set():
            identity = f"{number}-{turn}"
            turn += 1
            answer = client.put(f"/v1/collections/{name}/records/{identity}", {"vector": [1, 2, 3]})
            if answer.status in (200, 201):
                assert not refusals, "taken after a refusal"
                acknowledged.append(identity)
            else:
                assert answer.status == 403, answer
                break
        client.close()

    writers = [threading.Thread(daemon=True, target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    poll("writes are under way", lambda: len(acknowledged) > 100, 20)
    said = promote(two, "b", "a").stdout
    assert re.search(r"region b is primary; region a is passive", said)
    # At this moment all is in b's log: a fresh read sees it.
    found = two.region("b").post(f"/v1/collections/{name}/records/count", {"fresh": True, "timeout_ms": 20000})
    stopping.set()
    for writer in writers:
        writer.join()
    assert found.body["count"] >= len(acknowledged) > 100
    for identity in acknowledged[::17] + acknowledged[-4:]:
        assert two.region("b").get(f"/v1/collections/{name}/records/{identity}").status == 200
    assert two.region("b").get("/v1/admin/regions").body["role"] == "primary"
    assert two.get("/v1/admin/regions").body["role"] == "passive"
    two.region("b").upsert(name, [{"id": "new", "vector": [1, 2, 3]}])
    # And back.
    promote(two, "a", "b")
    two.upsert(name, [{"id": "newer", "vector": [1, 2, 3]}])
    assert two.get(f"/v1/collections/{name}/records/new?fresh=true&timeout_ms=20000").status == 200


def test_promotion_that_cannot_be_complete_changes_nothing_unless_forced(two, name):
    begin(two, name)
    assert set_role(two, "a", "primary").status == 200 and set_role(two, "b", "passive").status == 200
    poll("b has noted how far it follows a", lambda: two.region("b").get("/v1/admin/regions").body["regions"][0][
        "replication"].get("seen_seconds_ago") is not None)
    pid = two.pids("replicator", "b")[0]
    with standing_still(pid):
        two.upsert(name, [{"id": "x", "vector": [1, 2, 3]}])
        done = promote(two, "b", "a", "--timeout", "5", code=1)
        assert "region a is primary again" in done.stderr and "lacks" in done.stderr
        two.upsert(name, [{"id": "y", "vector": [1, 2, 3]}])
        done = promote(two, "b", "a", "--timeout", "5", "--force")
        assert "not here" in done.stderr and "by force" in done.stdout
        assert two.region("b").get("/v1/admin/regions").body["role"] == "primary"
    two.converge(30)
    assert two.region("b").get(f"/v1/collections/{name}/records/y").status == 200


def test_promotion_while_the_old_one_is_away(two, name):
    begin(two, name)
    assert set_role(two, "b", "passive").status == 200
    with standing_still(*two.pids_of_region("a")):
        done = promote(two, "b", "a", code=1)
        assert two.region("a").url in done.stderr
        assert two.region("b").get("/v1/admin/regions").body["role"] == "passive"
        done = promote(two, "b", "a", "--force")
        assert "made passive" in done.stderr and "by force" in done.stdout
        two.region("b").upsert(name, [{"id": "x", "vector": [1, 2, 3]}])
    two.client.close()
    two.converge(30)


def test_promotion_is_refused_for_what_is_no_two_regions(two):
    done = promote(two, "a", "a", code=2)
    assert "same region" in done.stderr
    with Suite() as alone:
        done = subprocess.run([str(BIN / "vicinal"), "promote", "--url", two.url, "--from", alone.url],
                              capture_output=True, text=True, timeout=60 * SLOW)
        assert done.returncode == 2 and "no region" in done.stderr
        assert alone.get("/v1/admin/regions").body == {"role": "active", "regions": []}
        assert alone.post("/v1/admin/regions/a/role", {"role": "passive"}).status == 404
        assert "REGION" not in vicinal_cli.run(alone, "status").stdout
