"""With --cold-above a shard lets the oldest vectors of a collection become cold: searches find what is
nearest as before, and say how; what was deleted or rewritten stays so, over kill -9 and restart."""
import os
import random
import signal
import subprocess

from suite import BIN, Suite, poll

ROWS, DIM, ABOVE = 16000, 16, 10000
GONE, REWRITTEN = range(0, 200), range(200, 400)  # the oldest: cold


def vector_of(i):
    chance = random.Random(i)
    return [chance.gauss(0, 1) for _ in range(DIM)]


def written(i):
    """What record i holds in the end."""
    return vector_of(-1 - i if i in REWRITTEN else i)


def shown(suite):
    """What the replica says of its collection; {} while it says nothing."""
    for replica in suite.get("/internal/v1/status").body["replicas"]:
        for collection in (replica.get("status") or {}).get("collections", []):
            return collection
    return {}


def search(suite, vector, k=10, **more):
    answer = suite.post("/v1/collections/c/search", {"vector": vector, "top_k": k, "fresh": True, "include": [],
                                                     "timeout_ms": 20000, **more})
    assert answer.status == 200, answer
    return answer


def ids(answer):
    found = [match["id"] for match in answer.body["matches"]]
    assert len(found) == len(set(found)), found
    return found


def recall(suite, params):
    right = 0
    for i in range(100):
        query = vector_of(ROWS + i)
        best = ids(search(suite, query, params={"exact": True}))
        right += len(set(best) & set(ids(search(suite, query, params=params))))
    return right / 1000


def check(suite):
    """All that was written last is there, and nothing else."""
    count = suite.post("/v1/collections/c/records/count", {"fresh": True, "timeout_ms": 20000}).body["count"]
    assert count == ROWS - len(GONE)
    for i in range(0, ROWS, 37):
        nearest = ids(search(suite, vector_of(i), 1))
        assert (nearest == [str(i)]) == (i not in GONE and i not in REWRITTEN), i
    for i in list(GONE)[::20] + list(REWRITTEN)[::20]:
        for params in ({}, {"exact": True}):
            found = ids(search(suite, vector_of(i), 50, params=params))
            assert not set(found) & {str(gone) for gone in GONE}
            assert i in GONE or ids(search(suite, written(i), 1, params=params)) == [str(i)]
    assert recall(suite, {}) >= 0.95
    assert recall(suite, {"recall": 0.95}) >= 0.94


def settled(suite):
    """When all that is to be cold is, and a segment says so."""
    def quiet():
        told = shown(suite)
        return told if told.get("cold", 0) > 0 and told["count"] - told["cold"] <= ABOVE and \
            not told["maintaining"] and told["covered"] > 0 else None
    return poll("vectors that are cold", quiet, 60)


def test_cold_ones_are_found_deleted_and_rewritten_like_others(monkeypatch):
    monkeypatch.setenv("VICINAL_COLD_ABOVE", str(ABOVE))
    with Suite(shards=1) as suite:
        suite.create("c", DIM)
        for at in range(0, ROWS, 1000):
            suite.upsert("c", [{"id": str(i), "vector": vector_of(i)} for i in range(at, at + 1000)])
        assert settled(suite)["cold"] >= ABOVE // 2
        assert "+ivf" in str(search(suite, vector_of(1), explain=True).body["explain"])
        assert ids(search(suite, vector_of(0), 1)) == ["0"]
        suite.post("/v1/collections/c/records/delete", {"ids": [str(i) for i in GONE]})
        suite.upsert("c", [{"id": str(i), "vector": written(i)} for i in REWRITTEN])
        check(suite)
        cold = settled(suite)["cold"]

        pid, = suite.pids("shard")
        os.kill(pid, signal.SIGKILL)
        poll("another shard", lambda: [p for p in suite.pids("shard") if p != pid], 20)
        poll("it answers", lambda: suite.post("/v1/collections/c/search",
                                              {"vector": vector_of(1), "fresh": True}).status == 200, 20)
        poll("it says so", lambda: shown(suite).get("cold", 0) >= cold, 20)
        check(suite)

        suite.restart()
        check(suite)
        assert shown(suite)["cold"] >= cold
        told = (suite.data / "log").read_text()
        assert "segment is removed" not in told and "segment was set aside" not in told


def test_so_few_that_it_is_not_worth_it_are_refused():
    answer = subprocess.run([BIN / "vicinal-shard", "--shard", "0", "--data", "/nonexistent", "--wal", "file:x",
                             "--meta", "sqlite:x", "--cold-above", "9999"], capture_output=True, text=True,
                            timeout=60, check=False)
    assert answer.returncode != 0 and "--cold-above" in answer.stderr, answer
