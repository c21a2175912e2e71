"""What older versions have written is read for ever: log, stores, metadata, segments, objects of imports,
the spool.  The fixtures were left by suites that were killed (tests/upgrade/make.py); today's binaries
open a copy, find every record and none of the deleted, go on writing, and verify the whole."""
import json
import pathlib
import random
import shutil
import subprocess

import pytest

from suite import Suite, poll
from vicinal_cli import verify

pytestmark = pytest.mark.embedded("files of the embedded defaults are opened")
FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "upgrade"
DEPLOYMENTS = {"first": 2, "newest": 1}  # and how many shards each has


def unpack(name, folder):
    subprocess.run(["tar", "-xJf", str(FIXTURES / f"{name}.tar.xz"), "-C", str(folder)], check=True)
    return json.loads((folder / "expected.json").read_text())


@pytest.fixture(params=sorted(DEPLOYMENTS))
def old(request, tmp_path):
    """A suite over a copy, and what it has to hold."""
    expected = unpack(request.param, tmp_path)
    shutil.move(tmp_path / "data", tmp_path / "suite")
    suite = Suite(shards=DEPLOYMENTS[request.param], data=tmp_path)
    try:
        yield suite, expected
    finally:
        suite.__exit__(None, None, None)


def scroll(suite, name, **more):
    """Every record of a collection, by its id."""
    found, page = {}, None
    while True:
        answer = suite.post(f"/v1/collections/{name}/records/scroll",
                            {"limit": 1000, "include": ["vector", "text", "metadata"], "fresh": True,
                             "timeout_ms": 30000, **more, **({"page_token": page} if page else {})})
        assert answer.status == 200, answer
        found.update((record["id"], record) for record in answer.body["records"])
        page = answer.body.get("next_page_token")
        if not page:
            return found


def same(found, expected, is_unit):
    """The record, as it was acknowledged; where vectors are kept as unit vectors, in the same direction."""
    if found is None or expected is None:
        return found is expected
    mine, theirs = found["vector"], expected["vector"]
    if is_unit:
        length = sum(x * x for x in theirs) ** 0.5
        theirs = [x / length for x in theirs]
        if abs(sum(x * x for x in mine) - 1) > 1e-5:
            mine = [x / sum(y * y for y in mine) ** 0.5 for x in mine]
    return all(abs(x - y) < 1e-6 for x, y in zip(mine, theirs, strict=True)) and \
        found.get("text") == expected.get("text") and found.get("metadata", {}) == expected["metadata"]


def check(suite, expected, more=()):
    """All of it is there; more: ids that were written since, left out."""
    assert {c["name"] for c in suite.get("/v1/collections").body["collections"]} >= set(expected)
    for name, known in expected.items():
        about = suite.get(f"/v1/collections/{name}").body
        assert about["vector"]["dimension"] == known["dimension"], about
        assert about["vector"]["metric"] == known["metric"], about
        found, is_unit = scroll(suite, name), known["metric"] == "cosine"
        for record in known["records"]:
            if record["id"] not in more:
                assert same(found.get(record["id"]), record, is_unit), (name, record, found.get(record["id"]))
        for identity, states in known["maybe"].items():
            if identity not in more:
                assert any(same(found.get(identity), state, is_unit) for state in states), (name, identity, states)
        assert not found.keys() & (set(known["gone"]) - set(more)), name
        unknown = found.keys() - {record["id"] for record in known["records"]} - known["maybe"].keys() - set(more)
        assert not unknown, (name, unknown)
        answer = suite.post(f"/v1/collections/{name}/records/count", {"fresh": True})
        assert answer.body["count"] == len(found), (name, answer)


def search_finds(suite, expected):
    """What is searched by its own vector comes first, or one that is as near."""
    chance = random.Random(4)
    for name, known in expected.items():
        if known["metric"] == "ip":
            continue
        for record in chance.sample(known["records"], 20):
            answer = suite.post(f"/v1/collections/{name}/search",
                                {"vector": record["vector"], "top_k": 1, "fresh": True, "include": []})
            assert answer.status == 200 and len(answer.body["matches"]) == 1, answer
            score = answer.body["matches"][0]["score"]
            assert score > (0.9999 if known["metric"] == "cosine" else -1e-3), (name, record, answer)


def write(suite):
    """Writes go on: new, rewritten, deleted, a new collection, one that is dropped."""
    suite.upsert("kb", [{"id": "new", "vector": [1] * 8, "text": "today's", "metadata": {"n": -1}},
                        {"id": "kb/10#ä", "vector": [2] + [1] * 7, "metadata": {"n": -2}}])
    answer = suite.post("/v1/collections/kb/records/delete", {"ids": ["kb/12#ä"]})
    assert answer.status == 200 and answer.body["deleted_count"] == 1, answer
    suite.create("today", 3)
    suite.upsert("today", [{"id": "x", "vector": [1, 2, 3]}])
    return {"new", "kb/10#ä", "kb/12#ä"}


def check_written(suite):
    answer = suite.post("/v1/collections/kb/records/get", {"ids": ["new", "kb/10#ä", "kb/12#ä"], "fresh": True})
    found = {record["id"]: record["metadata"]["n"] for record in answer.body["records"]}
    assert found == {"new": -1, "kb/10#ä": -2}, answer
    assert suite.get("/v1/collections/today/records/x?fresh=true").status == 200


def test_everything_is_there_and_writes_go_on(old):
    suite, expected = old
    verify(suite.data / "suite", 0)
    suite.start()
    check(suite, expected)
    search_finds(suite, expected)
    written = write(suite)
    check_written(suite)
    suite.restart()
    check(suite, expected, written)
    check_written(suite)
    text = (suite.data / "log").read_text()
    assert "built again from the log" not in text and "set aside" not in text, text
    suite.stop()
    verify(suite.data / "suite", 0)


def test_the_log_alone_is_enough(old):
    suite, expected = old
    for path in [*(suite.data / "suite").glob("shard-*"), *(suite.data / "suite").glob("meta.db*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    suite.start()
    poll("the collections are known", lambda: len(suite.get("/v1/collections").body["collections"]) >= len(expected))
    check(suite, expected)
    suite.stop()
    verify(suite.data / "suite", 0)


def test_a_spool_is_sound(tmp_path):
    """That its rows are read is tests/unit/test_spool_upgrade.c's."""
    expected = unpack("spool", tmp_path)
    (tmp_path / "data").rename(tmp_path / "spool")
    things = verify(tmp_path, 0)["things"]
    assert [thing["kind"] for thing in things] == ["spool"]
    assert things[0]["counts"]["waiting"] == len(expected["kb"]), things
