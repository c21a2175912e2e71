"""on_conflict, If-Match, and deletes say exactly what they did."""
import pytest

from suite import CREATED, poll


@pytest.fixture
def c(shared, name):
    shared.create(name, 3)
    yield name
    shared.delete(f"/v1/collections/{name}")


def text_of(shared, c, identity):
    answer = shared.get(f"/v1/collections/{c}/records/{identity}?fresh=true")
    return answer.body.get("text") if answer.status == 200 else None


def count(shared, c, where=None):
    body = {"fresh": True, **({"filter": where} if where else {})}
    return shared.post(f"/v1/collections/{c}/records/count", body).body["count"]


def test_upsert_replaces_and_does_not_merge(shared, c):
    shared.upsert(c, [{"id": "a", "vector": [1, 0, 0], "text": "one", "metadata": {"x": 1}}])
    shared.upsert(c, [{"id": "a", "text": "two"}])
    record = shared.get(f"/v1/collections/{c}/records/a?fresh=true&include=text,metadata,vector").body
    assert record["text"] == "two"
    assert not record.get("metadata") and "vector" not in record


def test_duplicate_ids_in_one_request_the_last_wins(shared, c):
    answer = shared.upsert(c, [{"id": "a", "text": "one"}, {"id": "b"}, {"id": "a", "text": "two"}])
    assert answer["ids"] == ["a", "b", "a"] and answer["upserted_count"] == 2
    assert text_of(shared, c, "a") == "two"


def test_ids_are_made_when_absent(shared, c):
    ids = shared.upsert(c, [{"text": "x"}, {"text": "y"}])["ids"]
    assert len(set(ids)) == 2
    assert text_of(shared, c, ids[1]) == "y"


def test_fail_writes_nothing_at_all(shared, c):
    shared.upsert(c, [{"id": "a", "text": "one"}])
    answer = shared.post(f"/v1/collections/{c}/records",
                         {"records": [{"id": "new"}, {"id": "a", "text": "two"}], "on_conflict": "fail"})
    assert answer.status == 409 and answer.body["code"] == "record_exists", answer
    assert answer.body["errors"][0]["pointer"].startswith("/records/1")
    assert text_of(shared, c, "a") == "one" and count(shared, c) == 1
    assert shared.upsert(c, [{"id": "new"}], on_conflict="fail")["upserted_count"] == 1


def test_skip_counts_what_it_skipped(shared, c):
    shared.upsert(c, [{"id": "a", "text": "one"}])
    answer = shared.upsert(c, [{"id": "a", "text": "two"}, {"id": "b", "text": "b"}], on_conflict="skip")
    assert (answer["upserted_count"], answer["skipped_count"]) == (1, 1)
    assert text_of(shared, c, "a") == "one" and text_of(shared, c, "b") == "b"


def test_a_deleted_id_can_be_created_again(shared, c):
    shared.upsert(c, [{"id": "a"}], on_conflict="fail")
    shared.post(f"/v1/collections/{c}/records/delete", {"ids": ["a"]})
    assert shared.upsert(c, [{"id": "a"}], on_conflict="fail")["upserted_count"] == 1


def test_put_and_if_match(shared, c):
    path = f"/v1/collections/{c}/records/a"

    def create():
        answer = shared.put(path, {"text": "one"})
        assert answer.status in CREATED and answer.headers["ETag"], answer
        if answer.status == 201:
            return answer
        assert shared.delete(path).status == 200  # no shard could tell that it is new: once more
        return None

    created = poll("it is created", create)
    assert shared.put(path, {"text": "x"}, {"If-Match": '"1-1"'}).status == 412
    replaced = shared.put(path, {"text": "two"}, {"If-Match": created.headers["ETag"]})
    assert replaced.status == 200, replaced
    stale = shared.put(path, {"text": "three"}, {"If-Match": created.headers["ETag"]})
    assert stale.status == 412 and stale.body["code"] == "precondition_failed"
    assert text_of(shared, c, "a") == "two"
    assert shared.get(path + "?fresh=true").headers["ETag"] == replaced.headers["ETag"]
    assert shared.get(path + "?fresh=true", {"If-None-Match": replaced.headers["ETag"]}).status == 304
    assert shared.put(f"/v1/collections/{c}/records/none", {}, {"If-Match": "*"}).status == 412
    assert shared.put(path, {"text": "four"}, {"If-Match": "*"}).status == 200
    assert shared.delete(path, {"If-Match": replaced.headers["ETag"]}).status == 412
    assert shared.delete(path).status == 200
    gone = shared.delete(path)
    assert gone.status == 404 and gone.body["code"] == "record_not_found"


def test_delete_counts_what_was_there(shared, c):
    shared.upsert(c, [{"id": f"{i}", "metadata": {"n": i}} for i in range(100)])
    path = f"/v1/collections/{c}/records/delete"
    assert shared.post(path, {"ids": ["1", "2", "2", "none"]}).body["deleted_count"] == 2
    assert shared.post(path, {"ids": ["1", "2"]}).body["deleted_count"] == 0
    assert shared.post(path, {"filter": {"n": {"$lt": 10}}}).body["deleted_count"] == 8
    answer = shared.post(path, {"ids": ["50"], "count": False})
    assert answer.status == 200 and "deleted_count" not in answer.body
    assert count(shared, c) == 89
    assert shared.post(path, {"delete_all": True}).body["deleted_count"] == 89
    assert count(shared, c) == 0
    shared.upsert(c, [{"id": "after"}])
    assert count(shared, c) == 1


def test_a_delete_by_filter_goes_through_all_pages(shared, c):
    for start in range(0, 3000, 500):
        shared.upsert(c, [{"id": f"{i:0>40}", "metadata": {"n": i}} for i in range(start, start + 500)])
    answer = shared.post(f"/v1/collections/{c}/records/delete", {"filter": {"n": {"$gte": 300}}, "timeout_ms": 60000})
    assert answer.body["deleted_count"] == 2700
    assert count(shared, c) == 300 == count(shared, c, {"n": {"$lt": 300}})


@pytest.mark.parametrize("body", [{}, {"ids": ["a"], "delete_all": True}, {"ids": ["a"], "filter": {"a": 1}},
                                  {"delete_all": False}, {"ids": []}])
def test_delete_wants_exactly_one_of_three(shared, c, body):
    shared.upsert(c, [{"id": "a"}])
    assert shared.post(f"/v1/collections/{c}/records/delete", body).status == 400
    assert count(shared, c) == 1


def test_drop_and_create_again_leaves_nothing(shared, name):
    for round_ in range(5):
        shared.create(name, 3)
        assert shared.post(f"/v1/collections/{name}/search", {"vector": [1, 0, 0]}).body["matches"] == []
        shared.upsert(name, [{"id": f"{round_}-{i}", "vector": [1, 0, 0]} for i in range(20)])
        assert count(shared, name) == 20
        assert shared.delete(f"/v1/collections/{name}").status == 204
        assert shared.post(f"/v1/collections/{name}/search", {"vector": [1, 0, 0]}).status == 404
    shared.create(name, 5)
    assert shared.get(f"/v1/collections/{name}").body["vector"]["dimension"] == 5
    shared.delete(f"/v1/collections/{name}")


def test_wait_searchable_is_found_by_an_eventual_search(shared, c):
    for i in range(20):
        shared.upsert(c, [{"id": f"{i}", "vector": [1, i, 0]}], wait="searchable")
        matches = shared.post(f"/v1/collections/{c}/search", {"vector": [1, i, 0], "top_k": 100}).body["matches"]
        assert f"{i}" in [m["id"] for m in matches]
