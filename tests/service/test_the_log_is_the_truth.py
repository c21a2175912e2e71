"""Stop; remove a shard's folder, then the metadata file; start: the same collections, answers and
digests, from the log alone.  And a plain restart answers without rebuilding first."""
import random
import shutil

import pytest

from suite import Suite, poll

pytestmark = pytest.mark.embedded("folders and files are removed")


def fill(suite):
    chance = random.Random(3)
    for name, metric in (("a", "cosine"), ("b", "l2")):
        suite.create(name, 16, metric)
        for at in range(0, 3000, 500):
            suite.upsert(name, [{"id": f"{i}", "vector": [chance.gauss(0, 1) for _ in range(16)],
                                 "text": f"text {i}", "metadata": {"n": i}} for i in range(at, at + 500)])
        suite.post(f"/v1/collections/{name}/records/delete", {"filter": {"n": {"$lt": 100}}})
        suite.upsert(name, [{"id": "200", "vector": [1] * 16, "text": "rewritten"}])
    suite.create("gone", 4)
    suite.upsert("gone", [{"id": "x", "vector": [1, 2, 3, 4]}])
    assert suite.delete("/v1/collections/gone").status == 204
    suite.create("gone", 5)


def state(suite):
    chance = random.Random(4)
    found = {"collections": suite.get("/v1/collections").body["collections"]}
    for name in ("a", "b"):
        for i in range(10):
            query = [chance.gauss(0, 1) for _ in range(16)]
            answer = suite.post(f"/v1/collections/{name}/search",
                                {"vector": query, "fresh": True, "params": {"exact": True}, "timeout_ms": 20000})
            assert answer.status == 200, answer
            found[name, i] = answer.body["matches"]
        found[name] = suite.post(f"/v1/collections/{name}/records/count", {"fresh": True}).body["count"]
    found["digests"] = {k: {p: d for p, (_, d) in v.items()} for k, v in suite.digests().items()}
    return found


def same(suite, before):
    def settled():
        return suite.digests() and {k: {p: d for p, (_, d) in v.items()}
                                    for k, v in suite.digests().items()} == before["digests"]
    poll("the digests are those of before", settled, 30)
    after = state(suite)
    assert after == before


def test_everything_comes_back_from_the_log():
    with Suite(shards=2) as suite:
        fill(suite)
        before = state(suite)
        assert before["a"] == 2900
        suite.restart()
        same(suite, before)

        suite.stop()
        folder = suite.data / "suite"
        shutil.rmtree(next(folder.glob("shard-0*")))
        suite.start()
        same(suite, before)

        suite.stop()
        for path in folder.glob("meta*"):
            path.unlink()
        suite.start()
        same(suite, before)

        suite.stop()
        for path in folder.glob("meta*"):
            path.unlink()
        for path in folder.glob("shard-*"):
            shutil.rmtree(path)
        suite.start()
        same(suite, before)
        suite.upsert("a", [{"id": "new", "vector": [1] * 16}])
        assert suite.get("/v1/collections/a/records/new?fresh=true").status == 200
