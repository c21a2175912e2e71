"""A shard keeps its graphs on the disk: killed or stopped, it comes back with them linked and answers
as before; without the store beside which they lay they are not believed; they go with their
collection."""
import os
import random
import shutil
import signal

from suite import Suite, poll

ROWS, DIM = 12000, 16


def vector_of(i):
    chance = random.Random(i)
    return [chance.gauss(0, 1) for _ in range(DIM)]


def shown(suite):
    """What the replica says of its collection; None while it says nothing."""
    for replica in suite.get("/internal/v1/status").body["replicas"]:
        for collection in (replica.get("status") or {}).get("collections", []):
            return collection
    return None


def answers(suite):
    found = []
    for i in range(0, ROWS, 1200):
        answer = suite.post("/v1/collections/c/search", {"vector": vector_of(i + 1), "top_k": 5, "fresh": True,
                                                         "params": {"exact": True}, "timeout_ms": 20000})
        assert answer.status == 200, answer
        found.append(answer.body["matches"])
    found.append(suite.post("/v1/collections/c/records/count", {"fresh": True, "timeout_ms": 20000}).body["count"])
    return found


def kept(suite):
    return poll("a segment", lambda: (shown(suite) or {}).get("covered"), 60)


def folders(suite):
    return sorted(path for path in suite.data.glob("**/segments/*/*"))


def test_graphs_outlive_the_process_and_not_their_store():
    with Suite(shards=1) as suite:
        suite.create("c", DIM)
        for at in range(0, ROWS, 1000):
            suite.upsert("c", [{"id": f"{i}", "vector": vector_of(i)} for i in range(at, at + 1000)])
        assert 10000 <= kept(suite) <= ROWS
        suite.post("/v1/collections/c/records/delete", {"ids": [f"{i}" for i in range(100)]})
        suite.upsert("c", [{"id": "100", "vector": vector_of(-1)}])
        before, covered, [folder] = answers(suite), shown(suite)["covered"], folders(suite)

        pid, = suite.pids("shard")
        os.kill(pid, signal.SIGKILL)
        poll("another shard", lambda: [p for p in suite.pids("shard") if p != pid], 20)
        poll("it answers", lambda: suite.post("/v1/collections/c/search",
                                              {"vector": vector_of(1), "fresh": True}).status == 200, 20)
        assert answers(suite) == before
        poll("it says so", lambda: (shown(suite) or {}).get("linked", 0) >= covered and
             shown(suite)["covered"] >= covered, 20)

        suite.restart()
        assert answers(suite) == before
        assert folders(suite) == [folder]

        suite.stop()
        shutil.rmtree(folder.parent.parent.parent / "store")
        suite.start()
        assert answers(suite) == before
        kept(suite)
        [another] = folders(suite)
        assert another.name == folder.name and another.parent != folder.parent

        assert suite.delete("/v1/collections/c").status == 204
        poll("no folder", lambda: not folders(suite), 20)
