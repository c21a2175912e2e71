"""`write_quorum: n`: answered once n regions have it in their logs, this one included; not in time:
504 quorum_unmet, committed all the same; so what was answered outlives the loss of a region."""
import os
import signal
import threading
import time

import pytest

from standing_still import standing_still
from suite import CREATED, SLOW, Client, Suite, poll

NAMES = ["a", "b", "c"]
PATH = "/v1/collections/c/records"


@pytest.fixture(scope="module")
def three():
    with Suite(regions=",".join(NAMES), partitions=8) as suite:
        suite.region("a").create("c", 3)
        for name in NAMES:
            suite.region(name).wait_for(f"the collection in {name}", "/v1/collections/c")
        suite.converge()
        yield suite


def is_in(door, identity):
    """At the end of that region's own log?"""
    found = door.post(f"{PATH}/get", {"ids": [identity], "fresh": True, "timeout_ms": 20000, "include": []})
    assert found.status == 200, found
    return len(found.body["records"]) == 1


def stopped(suite, region, *services):
    return standing_still(*(pid for service in services for pid in suite.pids(service, region)))


def test_what_was_answered_is_at_the_end_of_the_others_logs(three):
    took = []
    for turn in range(60):
        origin, quorum, identity = NAMES[turn % 3], 2 + turn % 2, f"q{turn}"
        began = time.monotonic()
        three.region(origin).upsert("c", [{"id": identity, "vector": [1, 0, 0]}], write_quorum=quorum)
        took.append(time.monotonic() - began)
        assert sum(is_in(three.region(name), identity) for name in NAMES) >= quorum, (turn, origin)
    print(f"a write in two or three regions: median {sorted(took)[30] * 1000:.1f} ms, slowest {max(took) * 1000:.1f}")


def test_every_kind_of_write_takes_it(three):
    a, b = three.region("a"), three.region("b")
    written = a.put(f"{PATH}/one?write_quorum=3", {"vector": [1, 2, 3]})
    assert written.status in CREATED and is_in(b, "one"), written
    assert a.delete(f"{PATH}/one?write_quorum=3").status == 200 and not is_in(b, "one")
    a.upsert("c", [{"id": f"k{i}", "vector": [1, 2, 3], "metadata": {"k": i}} for i in range(9)], write_quorum=3,
             wait="searchable", on_conflict="skip")
    assert all(is_in(b, f"k{i}") for i in range(9))
    changed = a.request("PATCH", f"{PATH}/k0?write_quorum=3", {"metadata": {"new": 1}})
    assert changed.status == 200, changed
    for body in ({"ids": ["k1", "k2"]}, {"filter": {"k": {"$gt": 2}}}):
        changed = a.post(f"{PATH}/update", {**body, "metadata": {"new": 1}, "write_quorum": 3})
        assert changed.status == 200, changed
    found = b.post(f"{PATH}/get", {"ids": [f"k{i}" for i in range(9)], "fresh": True, "timeout_ms": 20000})
    assert [record["metadata"]["new"] for record in found.body["records"]] == [1] * 9, found
    # Skipped, all of them: nothing to wait for.
    skipped = a.upsert("c", [{"id": "k1", "vector": [3, 2, 1]}], write_quorum=3, on_conflict="skip")
    assert skipped["skipped_count"] == 1
    for body, gone in (({"ids": ["k0", "k1"]}, "k1"), ({"ids": ["k2"], "count": False}, "k2"),
                       ({"filter": {"k": {"$lt": 5}}}, "k4"), ({"delete_all": True}, "k8")):
        answer = a.post(f"{PATH}/delete", {**body, "write_quorum": 3})
        assert answer.status == 200 and not is_in(b, gone), (body, answer)
    assert a.post(f"{PATH}/delete", {"filter": {"k": 99}, "write_quorum": 3}).status == 200


def test_missed_in_time_it_is_committed_and_says_so(three):
    a, c = three.region("a"), three.region("c")
    with stopped(three, "c", "ingest", "replicator"):
        a.upsert("c", [{"id": "two", "vector": [1, 0, 0]}], write_quorum=2)
        assert is_in(three.region("b"), "two")
        patience = int(1500 * SLOW)  # in it b is to have it
        began = time.monotonic()
        missed = a.post(PATH, {"records": [{"id": "missed", "vector": [1, 0, 0]}], "write_quorum": 3,
                               "timeout_ms": patience})
        took = time.monotonic() - began
        assert missed.status == 504 and missed.body["code"] == "quorum_unmet", missed
        assert missed.body["committed"] is True and "2 of 3 regions" in missed.body["detail"], missed
        assert took < patience / 1000 + 2 * SLOW
        assert is_in(a, "missed")
    # It goes on to the third one, and the token says until when.
    found = c.post(f"{PATH}/get", {"ids": ["missed"], "read_token": missed.body["read_token"], "timeout_ms": 30000})
    assert found.status == 200 and len(found.body["records"]) == 1, found
    three.converge()


def test_a_replicator_that_dies_is_asked_again(three):
    """Who has what is learned anew from the other regions' logs, also of what came before."""
    a = three.region("a")
    for turn in range(3):
        for pid in three.pids("replicator", "a"):
            os.kill(pid, signal.SIGKILL)
        written = a.post(PATH, {"records": [{"id": f"d{turn}", "vector": [1, 0, 0]}], "write_quorum": 3,
                                "timeout_ms": 30000})
        assert written.status == 200, written
        assert is_in(three.region("b"), f"d{turn}") and is_in(three.region("c"), f"d{turn}")


def test_many_wait_at_once(three):
    """More writers than may wait: the others are told so, before anything is written."""
    answers, lock = [], threading.Lock()

    def write(number):
        client = Client(three.region(NAMES[number % 3]).url)
        for turn in range(10):
            answer = client.post(PATH, {"records": [{"id": f"m{number}-{turn}", "vector": [0, 1, 0]}],
                                        "write_quorum": 3, "timeout_ms": 20000})
            with lock:
                answers.append((f"m{number}-{turn}", answer))
        client.close()

    threads = [threading.Thread(daemon=True, target=write, args=(number,)) for number in range(45)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for _, answer in answers} <= {200, 503}, [a for _, a in answers if a.status not in (200, 503)]
    taken = [identity for identity, answer in answers if answer.status == 200]
    assert len(taken) > 200
    for name in NAMES:
        found = three.region(name).post(f"{PATH}/get", {"ids": taken, "fresh": True, "include": []})
        assert len(found.body["records"]) == len(taken)


def test_more_than_there_are(three, shared, name):
    def refused(answer):
        return answer.status == 400 and answer.body["code"] == "invalid_argument" and \
            answer.body["errors"][0]["pointer"] == "/write_quorum"

    a, body = three.region("a"), {"records": [{"id": "never", "vector": [1, 0, 0]}]}
    for quorum in (0, 4, 33, 1000, "2", 1.5, -1):
        assert refused(a.post(PATH, {**body, "write_quorum": quorum})), quorum
        assert refused(a.post(f"{PATH}/delete", {"ids": ["x"], "write_quorum": quorum})), quorum
    for quorum in ("0", "4", "x", ""):
        assert refused(a.put(f"{PATH}/never?write_quorum={quorum}", {"vector": [1, 0, 0]})), quorum
        assert refused(a.delete(f"{PATH}/never?write_quorum={quorum}")), quorum
    assert not is_in(a, "never")
    shared.create(name)
    path = f"/v1/collections/{name}/records"
    assert shared.post(path, {**body, "write_quorum": 1}).status == 200
    assert refused(shared.post(path, {**body, "write_quorum": 2}))


@pytest.mark.embedded("a log that is taken away is a folder")
def test_it_outlives_the_loss_of_a_region():
    with Suite(regions="a,b", partitions=8) as suite:
        a, b = suite.region("a"), suite.region("b")
        a.create("c", 3)
        b.wait_for("the collection in b", "/v1/collections/c")
        answered, stop = [], threading.Event()

        def write(number):
            client, turn = Client(a.url, timeout=5), 0
            while not stop.is_set():
                turn += 1
                try:
                    answer = client.post(PATH, {"records": [{"id": f"w{number}-{turn}", "vector": [0, 1, 0]}],
                                                "write_quorum": 2})
                except OSError:
                    return
                if answer.status == 200:
                    answered.append(f"w{number}-{turn}")

        threads = [threading.Thread(daemon=True, target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        poll("many are answered", lambda: len(answered) > 300, 30)
        # All at once, in the middle of it; and its log is gone for whoever reads it.
        with stopped(suite, "a", "router", "ingest", "shard", "replicator"):
            os.rename(suite.data / "suite" / "a" / "wal", suite.data / "suite" / "a" / "gone")
            kept = list(answered)
            stop.set()
            found = b.post(f"{PATH}/get", {"ids": kept, "fresh": True, "include": [], "timeout_ms": 20000})
            assert found.status == 200 and len(found.body["records"]) == len(kept)
            print(f"{len(kept)} answered, all in the other region")
            # Of a region that is lost nobody can say what it had.
            unmet = b.post(f"{PATH}/get", {"ids": ["x"], "fresh": "global", "timeout_ms": 1000})
            assert unmet.status == 503 and "region a" in unmet.body["detail"], unmet
            for thread in threads:
                thread.join()
            os.rename(suite.data / "suite" / "a" / "gone", suite.data / "suite" / "a" / "wal")
