"""Every in-region read level, with two replicas of which one is stopped or held back."""
import threading
import time

import pytest
from standing_still import standing_still
from suite import SLOW, Suite, poll


@pytest.fixture(scope="module")
def pair():
    with Suite(shards=1, replicas=2) as suite:
        suite.wait_for_all_replicas()
        suite.create("c", 3)
        yield suite


def search(suite, **body):
    return suite.post("/v1/collections/c/search", {"vector": [1, 0, 0], "top_k": 1000, "include": [], **body})


def ids(answer):
    return {m["id"] for m in answer.body["matches"]}


def test_every_answer_tells_its_staleness(pair):
    answer = search(pair)
    assert answer.status == 200
    read = answer.body["read"]
    assert 0 <= read["staleness_seconds"] < 5 and read["stale"] is False
    assert read["partial"] is False and read["coverage"] == 1.0 and read["read_token"].startswith("rt1.")


def test_a_token_never_misses_its_write(pair):
    for i in range(200):
        token = pair.upsert("c", [{"id": f"t{i}", "vector": [1, 0, i / 1000]}])["read_token"]
        answer = search(pair, read_token=token)
        assert answer.status == 200 and f"t{i}" in ids(answer), i
        got = pair.post("/v1/collections/c/records/get", {"ids": [f"t{i}"], "read_token": token})
        assert [r["id"] for r in got.body["records"]] == [f"t{i}"]


def test_fresh_sees_what_anybody_was_answered(pair):
    for i in range(50):
        pair.upsert("c", [{"id": f"f{i}", "vector": [1, 0, 0]}])
        answer = search(pair, fresh=True)
        assert answer.status == 200 and f"f{i}" in ids(answer), i


def test_reads_are_monotonic_with_the_reads_token(pair):
    stop = threading.Event()

    def write():
        i = 0
        while not stop.is_set():
            pair.upsert("c", [{"id": f"m{i % 50}", "vector": [1, 0, 0], "metadata": {"n": i}}])
            i += 1

    writer = threading.Thread(daemon=True, target=write)
    writer.start()
    try:
        newest, token = -1, None
        for _ in range(300):
            body = {"vector": [1, 0, 0], "top_k": 1000, "filter": {"n": {"$gte": 0}}}
            if token:
                body["read_token"] = token
            answer = pair.post("/v1/collections/c/search", body)
            assert answer.status == 200, answer
            token = answer.body["read"]["read_token"]
            seen = max((m["metadata"]["n"] for m in answer.body["matches"]), default=-1)
            assert seen >= newest
            newest = seen
    finally:
        stop.set()
        writer.join()


def test_the_last_token_is_enough(pair):
    """Whoever keeps only the last token of its reads loses nothing that it has seen: a read of one
    record hands the demands for all other partitions on."""
    tokens = [pair.upsert("c", [{"id": f"k{i}", "vector": [1, 0, 0]}])["read_token"] for i in range(20)]
    wide = search(pair, read_token=tokens[-1], fresh=True).body["read"]["read_token"]
    narrow = pair.get(f"/v1/collections/c/records/k0?read_token={wide}").body["read"]["read_token"]
    assert len(narrow) >= len(wide)
    again = search(pair, read_token=narrow)
    assert {f"k{i}" for i in range(20)} <= ids(again)


def test_one_replica_stopped(pair):
    """Measured staleness tells the truth, tokens and fresh hold, bounded reads are served by the
    other replica."""
    stopped = pair.pids("shard")[0]
    with standing_still(stopped):
        written = 0
        end = time.monotonic() + 4
        while time.monotonic() < end:
            token = pair.upsert("c", [{"id": f"s{written}", "vector": [1, 0, 0]}])["read_token"]
            answer = search(pair, read_token=token, timeout_ms=10000)
            assert answer.status in (200, 503), answer
            if answer.status == 200:
                assert f"s{written}" in ids(answer)
                assert answer.body["read"]["staleness_seconds"] < 4
            fresh = search(pair, fresh=True, timeout_ms=10000)
            assert fresh.status in (200, 503), fresh
            if fresh.status == 200:
                assert f"s{written}" in ids(fresh)
            written += 1
            time.sleep(0.01)  # a search returns no more than a thousand
        assert written > 0
        began = time.monotonic()
        answer = search(pair, max_staleness_seconds=1, timeout_ms=10000)  # as of when it was asked
        assert answer.status == 200, answer
        assert answer.body["read"]["staleness_seconds"] <= 1 + (answer.came - began), answer
    poll("both replicas are equal", lambda: len({str(d) for d in pair.digests().values()}) == 1)


def test_both_replicas_behind_an_absent_ingest(pair):
    """The log's end cannot move while ingest is stopped, and shards read the end by themselves:
    staleness stays small and true."""
    ingest = pair.pids("ingest")[0]
    with standing_still(ingest):
        time.sleep(0.5)
        answer = search(pair, max_staleness_seconds=5, timeout_ms=5000)
        assert answer.status == 200


def test_a_bound_that_cannot_be_met(pair):
    """A bound of nothing at all: met by a look at the log's end after the request came, or 503;
    what is served without `stale` is no older than the request."""
    answer = search(pair, max_staleness_seconds=0, timeout_ms=300)
    assert answer.status in (200, 503)
    if answer.status == 503:
        assert answer.body["code"] == "staleness_unmet" and answer.headers["Retry-After"]
    answer = search(pair, max_staleness_seconds=0, on_stale="serve", timeout_ms=int(300 * SLOW))
    assert answer.status == 200
    if answer.body["read"]["stale"] is False:
        assert answer.body["read"]["staleness_seconds"] <= 0.3 * SLOW


def test_tokens_of_another_log_are_refused_at_once(pair):
    with Suite() as other:
        other.create("c", 3)
        token = other.upsert("c", [{"id": "x", "vector": [1, 0, 0]}])["read_token"]
    started = time.monotonic()
    answer = search(pair, read_token=token, timeout_ms=20000)
    assert answer.status == 409 and answer.body["code"] == "token_log_gone", answer
    assert time.monotonic() - started < 10


def test_get_forms_take_query_parameters(pair):
    token = pair.upsert("c", [{"id": "q", "text": "one"}])["read_token"]
    assert pair.get(f"/v1/collections/c/records/q?read_token={token}").body["text"] == "one"
    assert pair.get("/v1/collections/c/records/q?fresh=true").body["text"] == "one"
    assert pair.get("/v1/collections/c/records/q?fresh=maybe").status == 400
    assert pair.get("/v1/collections/c/records/q?max_staleness_seconds=-1").status == 400
