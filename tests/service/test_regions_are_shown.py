"""GET /v1/admin/regions and `vicinal status` show every region, its role and how far this one is
behind it; a region that is away is not called fresh; rows can be listed, added and removed."""
import subprocess

import pytest

import vicinal_cli
from standing_still import standing_still
from suite import BIN, SLOW, Suite, poll

NAMES = ["a", "b"]


@pytest.fixture(scope="module")
def two():
    with Suite(regions="a,b", partitions=8) as suite:
        yield suite


def replication(suite, reader="a", origin="b"):
    rows = suite.region(reader).get("/v1/admin/regions").body["regions"]
    return next(row for row in rows if row["name"] == origin)["replication"]


def region(suite, reader, *words, code=0):
    done = subprocess.run([str(BIN / "vicinal"), "region", *words, "--meta",
                           suite.region(reader).meta],
                          capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == code, done
    return done


def test_the_router_tells_of_all_regions(two, name):
    two.region("b").create(name)
    two.region("b").upsert(name, [{"id": str(i), "vector": [1, 2, 3]} for i in range(50)])
    two.settle()
    page = two.get("/v1/admin/regions").body
    assert page["self"] == "a" and page["role"] == "active"
    assert [row["name"] for row in page["regions"]] == NAMES
    assert [row["self"] for row in page["regions"]] == [True, False]
    assert [row["router_url"] for row in page["regions"]] == two.urls
    assert all(row["number"] > 0 for row in page["regions"])
    # Its replicator is asked for a second at most.
    known = poll("it follows", lambda: (
        lambda told: told if told["state"] == "following" and told["lag_records"] == 0 else None)(replication(two)))
    assert known["lag_seconds"] < 5 * SLOW
    assert 0 < known["propagation_seconds"]["p50"] <= known["propagation_seconds"]["p99"]
    # The row is written once a second.
    poll("when it was seen", lambda: (replication(two)["seen_seconds_ago"] or 99) < 5 * SLOW)


def test_status_shows_them_with_their_roles(two):
    assert two.region("b").post("/v1/admin/regions/b/role", {"role": "passive"}).status == 200
    try:
        def shown():
            text = vicinal_cli.run(two, "status").stdout
            lines = {words[0]: words for words in map(str.split, text.splitlines()) if words}
            return lines if lines["b"][1:3] == ["passive", "following"] else None

        # Who does not answer within a second is shown as unknown.
        lines = poll("the roles are known", shown)
        assert lines["REGION"][1] == "ROLE" and lines["a"][1] == "active"
        assert lines["a"][-1] == two.urls[0] and lines["b"][-1] == two.urls[1]
        poll("in numbers too", lambda: {
            row["name"]: row.get("role") for row in vicinal_cli.run_json(two, "status")["regions"]["regions"]
        } == {"a": "active", "b": "passive"})
    finally:
        assert two.region("b").post("/v1/admin/regions/b/role", {"role": "active"}).status == 200


def test_a_region_that_is_away_is_not_called_fresh(two):
    pid = two.pids("replicator", "a")[0]
    with standing_still(pid):
        known = poll("the lag grows without a replicator", lambda: (
            lambda r: r if r["lag_seconds"] is not None and r["lag_seconds"] > 1.5 else None)(replication(two)), 20)
        assert known["state"] == "unknown"
        assert "REGION" in vicinal_cli.run(two, "status").stdout
    poll("it follows again", lambda: replication(two)["state"] == "following", 20)
    two.settle()


def test_rows_are_listed_added_and_removed(two, tmp_path):
    assert [line.split()[0] for line in region(two, "a", "list").stdout.splitlines()] == ["REGION", *NAMES]
    region(two, "a", "add", "far-away", "--wal", f"file:{tmp_path}/no-such-log", "--router", "http://127.0.0.1:9")
    known = poll("the new one is seen at once", lambda: "far-away" in str(two.get("/v1/admin/regions").body) and
                 replication(two, "a", "far-away"), 10)
    assert known.get("lag_seconds") is None
    poll("it is away, and said why", lambda: replication(two, "a", "far-away")["state"] == "away" and
         replication(two, "a", "far-away")["detail"], 10)
    poll("the others are not held up", lambda: replication(two)["state"] == "following", 10)
    assert "far-away" in vicinal_cli.run(two, "status").stdout
    region(two, "a", "remove", "far-away")
    poll("it is gone", lambda: "far-away" not in str(two.get("/v1/admin/regions").body), 10)
    region(two, "a", "remove", "far-away", code=1)


@pytest.mark.parametrize("words", [
    ("add", "Bad_Name", "--wal", "file:x"), ("add", "x" * 33, "--wal", "file:x"), ("add", "c"), ("add",),
    ("add", "c", "--wal", "nonsense:x"), ("add", "c", "--wal", "file:x", "--router", "ftp://x"),
    ("add", "c", "--wal", "file:x", "--self"), ("list", "c"), ("remove",), ("dance",)])
def test_rows_that_cannot_be_are_refused(two, words):
    before = region(two, "a", "list").stdout
    assert "vicinal region: " in region(two, "a", *words, code=2).stderr
    assert region(two, "a", "list").stdout == before
