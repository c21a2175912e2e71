"""What a new replica got as a copy of another one has the rows that were imported, passes `vicinal verify`,
and finds the objects of later imports."""
import json
import shutil

import pytest

from imports import Upload, binary_row
from suite import Suite, poll
from vicinal_cli import verify

pytestmark = pytest.mark.embedded("a replica's folder is removed")
ROWS = 12000  # so many that a copy is worth it, and that a segment is written


def load(suite, prefix, count):
    upload = Upload(suite, "c", format="binary")
    upload.put(b"".join(binary_row(f"{prefix}/{i}", [i % 97, i % 89, i % 83, i % 79], metadata={"n": i})
                        for i in range(count)))


def begun(suite):
    """What the log says of copies that replicas began with."""
    suite.log.flush()
    lines = (suite.data / "log").read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if "begun with a copy" in line]


def agree(suite):
    poll("the replicas hold the same", lambda: len({str(d) for d in suite.digests().values()}) == 1, 30, 0.1)


def segment_files(suite, replica):
    folder = suite.data / "suite" / f"shard-0.{replica}" / "segments"
    return {str(path.relative_to(folder)) for path in folder.glob("*/*/*") if not path.name.endswith(".tmp")}


def test_a_copy_has_imports_and_segments_is_whole_and_is_read_on_from():
    with Suite(shards=1, replicas=2, log_level="info") as suite:
        suite.create("c", 4, "l2")
        load(suite, "first", ROWS)
        suite.upsert("c", [{"id": f"first/{i}", "vector": [1, 2, 3, 4]} for i in range(100)])
        suite.post("/v1/collections/c/records/delete", {"filter": {"n": {"$lt": 200}}})
        poll("a segment is written", lambda: any(name.endswith(".seg") for name in segment_files(suite, 0)), 60)
        agree(suite)
        suite.stop()
        kept = segment_files(suite, 0)
        for _ in range(3):  # the log is read where the other one needs more than two seconds to start
            shutil.rmtree(suite.data / "suite" / "shard-0.1")
            suite.start()
            suite.wait_for_all_replicas()
            if begun(suite):
                break
            suite.stop()
        told = begun(suite)
        assert len(told) == 1 and told[0]["replica"] == 1 and told[0]["bytes"] > 0, told
        agree(suite)
        assert any(name.endswith(".seg") for name in kept & segment_files(suite, 1))
        load(suite, "second", 500)
        agree(suite)
        answer = suite.post("/v1/collections/c/records/count", {"fresh": True, "timeout_ms": 20000})
        assert answer.body["count"] == ROWS - 100 + 500, answer
        suite.stop()
        found = verify(suite.data / "suite", 0)
        shards = [thing["counts"] for thing in found["things"] if thing["kind"] == "shard"]
        assert len(shards) == 2
        assert all(counts["as in the log"] == counts["live"] == ROWS - 100 + 500 for counts in shards), shards
