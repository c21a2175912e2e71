"""A patch changes the metadata that it names and nothing else, and says exactly what it did."""
import json
import threading

import pytest

VECTOR = [0.12, -0.3, 0.5]


@pytest.fixture
def c(shared, name):
    shared.create(name, 3)
    yield name
    shared.delete(f"/v1/collections/{name}")


def record(shared, c, identity):
    return shared.get(f"/v1/collections/{c}/records/{identity}?fresh=true&include=text,metadata,vector").body


def patch(shared, c, identity, metadata, headers=None, query=""):
    return shared.request("PATCH", f"/v1/collections/{c}/records/{identity}{query}", {"metadata": metadata}, headers)


def update(shared, c, **body):
    return shared.post(f"/v1/collections/{c}/records/update", body)


def test_vector_and_text_stay_as_they_are(shared, c):
    text = 'Umlaute: äöü "quoted" \\ \n end 🦆'
    shared.upsert(c, [{"id": "a", "vector": VECTOR, "text": text, "metadata": {"x": 1, "o": {"p": 1, "q": 2}}}])
    before = record(shared, c, "a")
    answer = patch(shared, c, "a", {"y": [1, 2], "x": None, "o": {"q": None, "r": {"s": 1}}})
    assert answer.status == 200 and answer.body["matched_count"] == answer.body["updated_count"] == 1, answer
    after = record(shared, c, "a")
    assert after["metadata"] == {"y": [1, 2], "o": {"p": 1, "r": {"s": 1}}}
    assert after["vector"] == before["vector"] and after["text"] == text
    assert answer.headers["ETag"] == f'"{after["version"]}"' and answer.body["version"] == after["version"]
    found = shared.post(f"/v1/collections/{c}/search", {"vector": VECTOR, "filter": {"o.r.s": 1},
                                                        "read_token": answer.body["read_token"]}).body["matches"]
    assert [match["id"] for match in found] == ["a"] and found[0]["score"] > 0.999


def test_records_without_vector_text_or_metadata_are_patched_too(shared, c):
    shared.upsert(c, [{"id": "a"}, {"id": "b", "text": ""}])
    assert update(shared, c, ids=["a", "b"], metadata={"x": 1}).body["updated_count"] == 2
    a, b = record(shared, c, "a"), record(shared, c, "b")
    assert a["metadata"] == b["metadata"] == {"x": 1} and "vector" not in a and a.get("text") is None
    assert b["text"] == ""


def test_numbers_keep_their_digits(shared, c):
    head = {"Content-Type": "application/json"}
    shared.post(f"/v1/collections/{c}/records", '{"records":[{"id":"a","metadata":{"n":12345678901234567890,'
                                                '"f":1.10}}]}', head)
    answer = shared.request("PATCH", f"/v1/collections/{c}/records/a", '{"metadata":{"m":0.1,"k":9007199254740993}}')
    assert answer.status == 200, answer
    kept = record(shared, c, "a")["metadata"]
    assert kept == {"n": 12345678901234567890, "f": 1.1, "m": 0.1, "k": 9007199254740993}


def test_what_changes_nothing_is_matched_and_not_written(shared, c):
    made = shared.put(f"/v1/collections/{c}/records/a", {"metadata": {"x": 1}})
    answer = patch(shared, c, "a", {"x": 1, "none": None})
    assert (answer.body["matched_count"], answer.body["updated_count"]) == (1, 0)
    assert answer.headers["ETag"] == made.headers["ETag"]
    assert record(shared, c, "a")["version"] == made.body["version"]


def test_if_match_and_404(shared, c):
    made = shared.put(f"/v1/collections/{c}/records/a", {"metadata": {"x": 1}})
    tag = {"If-Match": made.headers["ETag"]}
    assert patch(shared, c, "a", {"x": 2}, {"If-Match": '"1-1"'}).status == 412
    assert patch(shared, c, "a", {"x": 2}, tag).status == 200
    late = patch(shared, c, "a", {"x": 3}, tag)
    assert late.status == 412 and late.body["code"] == "precondition_failed"
    assert patch(shared, c, "a", {"x": 4}, {"If-Match": "*"}).status == 200
    assert patch(shared, c, "none", {"x": 1}, {"If-Match": "*"}).status == 412
    gone = patch(shared, c, "none", {"x": 1})
    assert gone.status == 404 and gone.body["code"] == "record_not_found"
    assert record(shared, c, "a")["metadata"] == {"x": 4}
    assert patch(shared, c, "a", {"x": 5}, query="?wait=searchable&timeout_ms=5000").status == 200
    assert record(shared, c, "none").get("code") == "record_not_found"


def test_updates_by_ids_count_what_matched_changed_and_is_missing(shared, c):
    shared.upsert(c, [{"id": f"{i:03}", "metadata": {"n": i}} for i in range(300)])
    ids = [f"{i:03}" for i in range(100, 300)] + ["none", "100", "none"]
    answer = update(shared, c, ids=ids, metadata={"seen": True})
    assert answer.status == 200 and answer.body["read_token"], answer
    assert {name: answer.body[name] for name in ("matched_count", "updated_count", "missing_count")} == {
        "matched_count": 200, "updated_count": 200, "missing_count": 1}
    again = update(shared, c, ids=ids, metadata={"seen": True}).body
    assert (again["matched_count"], again["updated_count"], again["missing_count"]) == (200, 0, 1)
    counted = shared.post(f"/v1/collections/{c}/records/count", {"filter": {"seen": True}, "fresh": True})
    assert counted.body["count"] == 200


def test_updates_by_filter_go_through_all_pages(shared, c):
    for start in range(0, 2500, 500):
        shared.upsert(c, [{"id": f"{i:0>30}", "vector": [1, i, 0], "text": "t", "metadata": {"n": i, "old": 1}}
                          for i in range(start, start + 500)])
    answer = update(shared, c, filter={"n": {"$gte": 300}}, metadata={"old": None, "n": -1}, wait="searchable",
                    timeout_ms=60000)
    assert answer.status == 200, answer
    assert answer.body["matched_count"] == answer.body["updated_count"] == 2200
    assert "missing_count" not in answer.body
    counts = [shared.post(f"/v1/collections/{c}/records/count", {"filter": where}).body["count"]
              for where in ({"n": -1}, {"old": 1}, {})]
    assert counts == [2200, 300, 2500]
    none = update(shared, c, filter={"n": {"$gte": 300}}, metadata={"x": 1}).body
    assert (none["matched_count"], none["updated_count"]) == (0, 0)


def test_patches_that_race_are_all_there(shared, c):
    """Each adds a member of its own: none goes over another's."""
    shared.upsert(c, [{"id": "a", "vector": VECTOR, "metadata": {}}])
    failures = []

    def work(number):
        for i in range(20):
            if number % 2:
                answer = patch(shared, c, "a", {f"{number}-{i}": i})
            else:
                answer = update(shared, c, filter={"$id": {"$in": ["a"]}}, metadata={f"{number}-{i}": i})
            if answer.status != 200 or answer.body["updated_count"] != 1:
                failures.append(answer)

    threads = [threading.Thread(daemon=True, target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert record(shared, c, "a")["metadata"] == {f"{n}-{i}": i for n in range(6) for i in range(20)}


@pytest.mark.parametrize("body, code, pointer", [
    ({}, "invalid_argument", None),
    ({"metadata": {"x": 1}}, "invalid_argument", None),
    ({"ids": ["a"]}, "invalid_argument", "/metadata"),
    ({"ids": ["a"], "metadata": None}, "invalid_argument", "/metadata"),
    ({"ids": ["a"], "metadata": [1]}, "invalid_argument", "/metadata"),
    ({"ids": ["a"], "filter": {}, "metadata": {}}, "invalid_argument", None),
    ({"ids": [], "metadata": {}}, "invalid_argument", "/ids"),
    ({"ids": ["a", 7], "metadata": {}}, "invalid_argument", "/ids/1"),
    ({"filter": {"x": {"$no": 1}}, "metadata": {}}, "invalid_filter", "/filter/x/$no"),
    ({"ids": ["a"], "metadata": {}, "text": "x"}, "unknown_field", "/text"),
    ({"ids": ["a"], "metadata": {}, "wait": "never"}, "invalid_argument", "/wait"),
    ({"ids": ["a"], "metadata": {"x": "y" * 65536}}, "payload_too_large", "/metadata"),
])
def test_bad_updates_are_refused_whole(shared, c, body, code, pointer):
    shared.upsert(c, [{"id": "a", "metadata": {"x": 1}}])
    answer = update(shared, c, **body)
    assert answer.status in (400, 413) and answer.body["code"] == code, answer
    if pointer:
        assert answer.body["errors"][0]["pointer"] == pointer
    assert record(shared, c, "a")["metadata"] == {"x": 1}


def test_bad_patches_are_refused(shared, c):
    shared.upsert(c, [{"id": "a", "metadata": {"x": 1}}])
    path = f"/v1/collections/{c}/records/a"
    deep = json.loads("{\"a\":" * 9 + "1" + "}" * 9)
    for body in ("", "{", "[]", "{}", '{"metadata":1}', '{"metadata":{"a":1,"a":2}}', '{"metadata":{},"id":"a"}',
                 json.dumps({"metadata": deep})):
        assert shared.request("PATCH", path, body).status == 400, body
    assert shared.request("PATCH", path, {"metadata": {"y": 1}}, {"Content-Type": "text/csv"}).status == 415
    assert shared.request("PATCH", f"/v1/collections/{c}nope/records/a", {"metadata": {}}).status == 404
    big = shared.request("PATCH", path, {"metadata": {"a": "x" * 65000}})
    assert big.status == 200, big
    assert shared.request("PATCH", path, {"metadata": {"b": "x" * 1000}}).status == 413
