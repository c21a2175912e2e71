"""`wait: "searchable"`: a shard's replica finds what was answered, and so does a read without any demand
that asks one; not in time: 504, committed all the same, and the token says from when on it is found."""
import itertools
import time

import pytest

from standing_still import standing_still
from suite import CREATED, SLOW, Suite, poll

PATH = "/v1/collections/c/records"


@pytest.fixture(scope="module")
def suite():
    with Suite(shards=2, partitions=8) as started:
        started.create("c", 3)
        yield started


questions = itertools.count(1)


def found(suite, identity, **demand):
    """Asked in a way that nobody has asked before: the result cache may be as old as it says."""
    vector = [1, 0, next(questions) / 1000]
    answer = suite.post("/v1/collections/c/search", {"vector": vector, "filter": {"me": identity}, **demand})
    assert answer.status == 200, answer
    return [match["id"] for match in answer.body["matches"]]


def test_every_kind_of_write_is_seen_by_a_read_without_demands(suite):
    for turn in range(60):
        record = {"vector": [1, 0, 0], "metadata": {"me": f"x{turn}"}}
        if turn % 2:
            suite.upsert("c", [{"id": f"x{turn}", **record}], wait="searchable")
        else:
            assert suite.put(f"{PATH}/x{turn}?wait=searchable", record).status in CREATED
        assert found(suite, f"x{turn}") == [f"x{turn}"], turn
    assert suite.delete(f"{PATH}/x0?wait=searchable").status == 200
    assert found(suite, "x0") == []
    for body, gone in (({"ids": ["x1"]}, "x1"), ({"ids": ["x2"], "count": False}, "x2"),
                       ({"filter": {"me": "x3"}}, "x3"), ({"delete_all": True}, "x59")):
        assert suite.post(f"{PATH}/delete", {**body, "wait": "searchable"}).status == 200
        assert found(suite, gone) == [], body


def test_missed_in_time_it_is_committed_and_says_so(suite):
    stopped = suite.pids("shard")
    with standing_still(*stopped):
        patience = int(1000 * SLOW)  # in it the log is to have it
        began = time.monotonic()
        missed = suite.post(PATH, {"records": [{"id": "late", "vector": [1, 0, 0], "metadata": {"me": "late"}}],
                                   "wait": "searchable", "timeout_ms": patience})
        assert missed.status == 504 and missed.body["code"] == "timeout", missed
        assert missed.body["committed"] is True and missed.body["read_token"].startswith("rt1."), missed
        assert time.monotonic() - began < patience / 1000 + 2 * SLOW
    assert poll("it is found", lambda: found(suite, "late", read_token=missed.body["read_token"],
                                             timeout_ms=20000)) == ["late"]


def test_another_word_is_refused(suite):
    for wait in ("", "durable", 1, True):
        answer = suite.post(PATH, {"records": [{"id": "never", "vector": [1, 0, 0]}], "wait": wait})
        assert answer.status == 400 and answer.body["errors"][0]["pointer"] == "/wait", (wait, answer)
    assert suite.put(f"{PATH}/never?wait=soon", {"vector": [1, 0, 0]}).status == 400
    assert suite.get(f"{PATH}/never?fresh=true").status == 404
