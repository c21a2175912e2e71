"""Idempotency-Key: the ids of records without one are made of it, so the same request again writes the
same records, whatever became of the first answer."""
import json
import socket
import urllib.parse
import uuid

import pytest

from suite import poll

SPACE = uuid.UUID("7a1f3f0e-52c4-4b7e-9d0b-6c2f5e8d9a41")


@pytest.fixture
def c(shared, name):
    shared.create(name, 3)
    yield name
    shared.delete(f"/v1/collections/{name}")


def write(suite, c, records, key, **more):
    return suite.post(f"/v1/collections/{c}/records", {"records": records, **more}, {"Idempotency-Key": key})


def count(suite, c):
    return suite.post(f"/v1/collections/{c}/records/count", {"fresh": True}).body["count"]


def test_the_same_request_writes_the_same_records(shared, c):
    records = [{"vector": [1, 0, 0], "text": "x"}, {"id": "mine"}, {"text": "y"}]
    first, second = (write(shared, c, records, "key/1") for _ in range(2))
    assert first.status == second.status == 200, (first, second)
    assert first.body["ids"] == second.body["ids"] and count(shared, c) == 3
    assert first.body["ids"] == [str(uuid.uuid5(uuid.uuid5(SPACE, "key/1"), "0")), "mine",
                                 str(uuid.uuid5(uuid.uuid5(SPACE, "key/1"), "2"))]
    assert not set(write(shared, c, records, "key/2").body["ids"]) & {first.body["ids"][0], first.body["ids"][2]}
    without = shared.upsert(c, [{"text": "x"}])["ids"]
    assert without != shared.upsert(c, [{"text": "x"}])["ids"]


def test_a_retry_after_a_lost_answer(shared, c):
    records = [{"text": f"t{i}", "vector": [1, i, 0]} for i in range(50)]
    body = json.dumps({"records": records}).encode()
    door = urllib.parse.urlsplit(shared.url)
    with socket.create_connection((door.hostname, door.port)) as connection:
        connection.sendall(f"POST /v1/collections/{c}/records HTTP/1.1\r\nHost: x\r\nIdempotency-Key: lost\r\n"
                           f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    poll("the write whose answer nobody heard", lambda: count(shared, c) == 50)
    again = write(shared, c, records, "lost")
    assert again.status == 200 and again.body["upserted_count"] == 50
    assert count(shared, c) == 50


def test_conditions_see_the_first_attempt(shared, c):
    records = [{"text": "x"}]
    assert write(shared, c, records, "k", on_conflict="fail").status == 200
    assert write(shared, c, records, "k", on_conflict="fail").body["code"] == "record_exists"
    assert write(shared, c, records, "k", on_conflict="skip").body["skipped_count"] == 1


def test_it_is_harmless_with_ids(shared, c):
    head, path = {"Idempotency-Key": "k"}, f"/v1/collections/{c}/records"
    for _ in range(2):
        assert write(shared, c, [{"id": "a"}], "k").body["ids"] == ["a"]
        assert shared.put(f"{path}/b", {"text": "x"}, head).status in (200, 201)
        assert shared.request("PATCH", f"{path}/b", {"metadata": {"x": 1}}, head).status == 200
        assert shared.post(f"{path}/update", {"ids": ["a"], "metadata": {"x": 1}}, head).status == 200
        assert shared.post(f"{path}/delete", {"ids": ["a"]}, head).status == 200
    assert shared.delete(f"{path}/b", head).status == 200
    assert count(shared, c) == 0


@pytest.mark.parametrize("key", ["", " ", "k" * 256, "a b", "tab\tkey", "schlüssel"])
def test_a_bad_key_is_refused_and_nothing_written(shared, c, key):
    head = {"Idempotency-Key": key.encode()}
    for method, path, body in (("POST", "records", {"records": [{"id": "a"}]}), ("PUT", "records/a", {}),
                               ("POST", "records/update", {"ids": ["a"], "metadata": {}})):
        answer = shared.request(method, f"/v1/collections/{c}/{path}", body, head)
        assert answer.status == 400 and answer.body["code"] == "invalid_argument", answer
    assert count(shared, c) == 0


def test_the_longest_key(shared, c):
    assert write(shared, c, [{"text": "x"}], "k" * 255).status == 200
    assert write(shared, c, [{"text": "x"}], '"quoted!~"').status == 200
    assert count(shared, c) == 2
