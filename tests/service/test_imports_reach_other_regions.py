"""An import into one region is found in the other, like any write, and conflicts end alike."""
import json

import engines
from imports import Upload, binary_row
from suite import Suite
from vicinal_cli import verify


def count(region, **more):
    answer = region.post("/v1/collections/c/records/count", {"timeout_ms": 20000, **more})
    return answer.body["count"] if answer.status == 200 else answer


def test_an_import_reaches_the_other_region():
    with Suite(regions="a,b") as suite:
        a, b = suite.region("a"), suite.region("b")
        a.create("c", 4)
        suite.settle()
        b.upsert("c", [{"id": "1", "text": "b before"}])
        suite.converge()
        data = b"".join(binary_row(f"{n}", [n, 1, 2, 3], text="a") for n in range(11000))
        token = Upload(a, "c", format="binary").put(data)["read_token"]
        assert count(b, read_token=token) == 11000  # a token of one region is honoured in the other
        b.upsert("c", [{"id": "2", "text": "b after"}])
        mine = "".join(json.dumps({"id": f"{n}", "text": "b import"}) + "\n" for n in (3, 20000)).encode()
        body = Upload(b, "c", format="ndjson").put(mine)
        assert count(a, read_token=body["read_token"]) == 11001
        suite.converge()
        for region in (a, b):
            answer = region.post("/v1/collections/c/records/get", {"ids": ["1", "2", "3", "4", "20000"], "fresh": True})
            assert [r["text"] for r in answer.body["records"]] == ["a", "b after", "b import", "a", "b import"]
        suite.stop()
        if not engines.wanted():
            # Of one blob store for both.
            shards = [thing["counts"] for thing in verify(suite.data / "suite", 0)["things"]
                      if thing["kind"] == "shard"]
            assert [counts["as in the log"] for counts in shards] == [11001, 11001], shards
