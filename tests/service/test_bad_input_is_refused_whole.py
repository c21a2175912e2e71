"""Each row of the bad-input table, at both edges: the right code, the right pointer, nothing
half-written, and the suite answers on."""
import json
import socket
import time
import urllib.parse

import pytest

GOOD = {"id": "a", "vector": [1, 0, 0]}


def expect(answer, status, code, pointer=None):
    assert answer.status == status, answer
    assert answer.headers.get_content_type() == "application/problem+json"
    assert answer.body["code"] == code, answer.body
    assert answer.body["status"] == status
    assert answer.body["request_id"]
    if pointer is not None:
        assert answer.body["errors"][0]["pointer"] == pointer, answer.body


@pytest.fixture(scope="module")
def table(shared):
    shared.create("table", 3)
    shared.upsert("table", [{"id": "base", "vector": [0, 0, 1]}])
    return shared


@pytest.fixture(autouse=True)
def nothing_half_written(table):
    yield
    answer = table.post("/v1/collections/table/records/count", {"fresh": True})
    assert answer.status == 200 and answer.body["count"] == 1, answer


def write(table, record, **more):
    return table.post("/v1/collections/table/records", {"records": [GOOD, record], **more})


def search(table, **body):
    return table.post("/v1/collections/table/search", {"vector": [1, 0, 0], **body})


@pytest.mark.parametrize("body", [
    b"", b" ", b"\0", b"{", b"{}x", b"[", b'{"records":[}', b'{"a":"\xff"}', b'{"records":[{"id":"\\u0000"}]}',
    b"[" * 100000 + b"]" * 100000, b'{"a":' * 100000 + b"1" + b"}" * 100000, b'{"vector":[1,2,]}',
    b"{'a':1}", b'{"a":01}', b'{"a":"\\ud800"}',
])
@pytest.mark.parametrize("path", ["records", "search", "records/get", "records/delete",
                                  "records/count", "records/scroll", "search/batch"])
def test_broken_json(table, path, body):
    answer = table.post(f"/v1/collections/table/{path}", body)
    assert answer.status == 400, (body[:40], answer)
    assert answer.body["code"] in ("invalid_json", "invalid_argument", "unknown_field"), answer


def test_a_lone_nul_byte_is_invalid_json(table):
    expect(table.post("/v1/collections/table/records", b"\0"), 400, "invalid_json")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", '"1"', "true", "null", "[1]"])
def test_a_vector_holds_finite_numbers_only(table, number):
    body = '{"records":[{"id":"a","vector":[1,0,0]},{"id":"b","vector":[1,%s,0]}]}' % number
    expect(table.post("/v1/collections/table/records", body), 400, "invalid_argument",
           "/records/1/vector/1")
    body = '{"vector":[1,%s,0]}' % number
    expect(table.post("/v1/collections/table/search", body), 400, "invalid_argument", "/vector/1")


@pytest.mark.parametrize("top_k,fine", [(0, False), (1, True), (10000, True), (10001, False),
                                        (-1, False), (1.5, False), ("1", False), (True, False)])
def test_top_k(table, top_k, fine):
    answer = search(table, top_k=top_k)
    if fine:
        assert answer.status == 200, answer
    else:
        expect(answer, 400, "invalid_argument", "/top_k")


@pytest.mark.parametrize("identity", ["", "x" * 501, "é" * 251, 7, True, {}, []])
def test_ids_that_are_none(table, identity):
    expect(write(table, {"id": identity, "vector": [1, 0, 0]}), 400, "invalid_argument", "/records/1/id")
    expect(table.post("/v1/collections/table/records/get", {"ids": ["a", identity]}), 400,
           "invalid_argument", "/ids/1")


def test_ids_at_their_limits(table):
    ids = ["x" * 500, "é" * 250, "/", " ", "a/b#c?d=e&f%20", "\n", "日本"]
    table.upsert("table", [{"id": i, "vector": [1, 0, 0]} for i in ids])
    got = table.post("/v1/collections/table/records/get", {"ids": ids, "fresh": True}).body
    assert [r["id"] for r in got["records"]] == ids
    for identity in ids:
        path = "/v1/collections/table/records/" + urllib.parse.quote(identity, safe="")
        answer = table.get(path + "?fresh=true")
        assert answer.status == 200 and answer.body["id"] == identity, (identity, answer)
    assert table.post("/v1/collections/table/records/delete", {"ids": ids}).body["deleted_count"] == len(ids)


@pytest.mark.parametrize("metadata", [[], "x", 1, True])
def test_metadata_is_an_object(table, metadata):
    expect(write(table, {"id": "b", "metadata": metadata}), 400, "invalid_argument", "/records/1/metadata")


def nested(depth):
    value = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_metadata_depth(table):
    expect(write(table, {"id": "b", "metadata": nested(9)}), 400, "invalid_argument", "/records/1/metadata")
    table.upsert("table", [{"id": "b", "metadata": nested(8)}])
    table.post("/v1/collections/table/records/delete", {"ids": ["b"]})


def test_metadata_and_text_sizes(table):
    fits = {"k": "x" * (64 * 1024 - 8)}
    assert len(json.dumps(fits, separators=(",", ":"))) == 64 * 1024
    body = json.dumps({"records": [{"id": "b", "metadata": fits, "text": "t" * 512 * 1024}]},
                      separators=(",", ":"))
    assert table.post("/v1/collections/table/records", body).status == 200
    table.post("/v1/collections/table/records/delete", {"ids": ["b"]})
    fits["k"] += "x"
    answer = write(table, {"id": "b", "metadata": fits})
    assert answer.status in (400, 413), answer
    answer = write(table, {"id": "b", "text": "t" * (512 * 1024 + 1)})
    assert answer.status in (400, 413), answer


@pytest.mark.parametrize("dimension,fine", [(0, False), (1, True), (8192, True), (8193, False), (-1, False),
                                            ("3", False), (2.5, False), (None, False)])
def test_dimensions(table, name, dimension, fine):
    answer = table.put(f"/v1/collections/{name}", {"vector": {"dimension": dimension}})
    if fine:
        assert answer.status == 201, answer
        assert table.delete(f"/v1/collections/{name}").status == 204
    else:
        assert answer.status == 400 and answer.body["code"] == "invalid_argument", answer


@pytest.mark.parametrize("bad", ["-a", ".a", "a b", "a/b", "x" * 129, "ä"])
def test_collection_names(table, bad):
    path = "/v1/collections/" + urllib.parse.quote(bad, safe="")
    expect(table.put(path, {"vector": {"dimension": 3}}), 400, "invalid_argument")
    assert table.get(path).status == 404


def test_unknown_fields(table):
    expect(search(table, nonsense=1), 400, "unknown_field", "/nonsense")
    expect(write(table, {"id": "b", "vektor": [1]}), 400, "unknown_field", "/records/1/vektor")
    expect(write(table, {"id": "b"}, nonsense=1), 400, "unknown_field", "/nonsense")
    expect(table.put("/v1/collections/x", {"vector": {"dimension": 3, "x": 1}}), 400, "unknown_field",
           "/vector/x")
    expect(table.get("/v1/collections?nonsense=1"), 400, "unknown_field")


@pytest.mark.parametrize("recall", [0.79, 1, "0.9", None, -1e300])
def test_a_recall_that_cannot_be_promised(table, recall):
    expect(search(table, params={"recall": recall}), 400, "invalid_argument", "/params/recall")
    assert search(table, params={"recall": 0.9}).status == 200


@pytest.mark.parametrize("field,value", [("text", "x"), ("sparse_vector", {}), ("fusion", {})])
def test_what_is_not_built_yet_says_so(table, field, value):
    answer = search(table, **{field: value})
    assert answer.status == 400 and answer.body["code"] == "not_supported", answer


def test_more_of_what_is_not_built_yet(table):
    answer = table.post("/v1/collections/table/imports", {"format": "npy"}, {"Idempotency-Key": "k"})
    assert answer.status == 400 and answer.body["code"] == "not_supported", answer
    answer = table.post("/v1/collections/table/records", json.dumps(GOOD) + "\n",
                        {"Content-Type": "application/x-ndjson"})
    assert answer.status == 400 and answer.body["code"] == "not_supported", answer


@pytest.mark.parametrize("where,pointer", [
    ({"a": {"$nonsense": 1}}, "/filter/a/$nonsense"),
    ({"a": {"$in": 1}}, "/filter/a/$in"),
    ({"a": {"$gt": "no date"}}, "/filter/a/$gt"),
    ({"a": {"$gt": None}}, "/filter/a/$gt"),
    ({"$and": {}}, "/filter/$and"),
    ({"$or": []}, "/filter/$or"),
    ({"$nonsense": []}, "/filter/$nonsense"),
    ({"a": {"$exists": 1}}, "/filter/a/$exists"),
    ({"a": {"$like": 1}}, "/filter/a/$like"),
])
def test_filters(table, where, pointer):
    expect(search(table, filter=where), 400, "invalid_filter", pointer)
    expect(table.post("/v1/collections/table/records/count", {"filter": where}), 400, "invalid_filter", pointer)
    expect(table.post("/v1/collections/table/records/scroll", {"filter": where}), 400, "invalid_filter", pointer)
    expect(table.post("/v1/collections/table/records/delete", {"filter": where}), 400, "invalid_filter", pointer)


def deep_filter(depth):
    value = {"a": 1}
    for _ in range(depth - 1):
        value = {"$not": value}
    return value


def test_filter_limits(table):
    assert search(table, filter=deep_filter(15)).status == 200
    assert search(table, filter=deep_filter(18)).body["code"] == "invalid_filter"
    clause = {"a": 1}
    assert search(table, filter={"$or": [clause] * 250}).status == 200
    assert search(table, filter={"$or": [clause] * 258}).body["code"] == "invalid_filter"
    assert search(table, filter={"a": {"$in": list(range(10000))}}).status == 200
    assert search(table, filter={"a": {"$in": list(range(10001))}}).body["code"] == "invalid_filter"


@pytest.mark.parametrize("vector", [[], [1], [1, 0], [1, 0, 0, 0]])
def test_wrong_length(table, vector):
    answer = write(table, {"id": "b", "vector": vector})
    assert answer.status == 422 and answer.body["code"] == "dimension_mismatch", answer
    assert answer.body["errors"][0]["pointer"] == "/records/1/vector"
    answer = table.post("/v1/collections/table/search", {"vector": vector})
    assert answer.status == 422 and answer.body["code"] == "dimension_mismatch", answer
    assert answer.body["errors"][0]["pointer"] == "/vector"


@pytest.mark.parametrize("text,status", [("AAAAAAAAAAAAAAAA", 200), ("AAAA", 422), ("!", 400),
                                         ("AACAfwAAgH8AAIB/", 400)])
def test_vector_base64(table, text, status):
    answer = table.post("/v1/collections/table/search", {"vector_base64": text})
    assert answer.status == status, answer


@pytest.mark.parametrize("count,fine", [(0, False), (1, True), (1000, True), (1001, False)])
def test_records_of_one_request(table, count, fine):
    records = [{"id": f"n{i}", "vector": [1, 0, 0]} for i in range(count)]
    answer = table.post("/v1/collections/table/records", {"records": records})
    if fine:
        assert answer.status == 200 and answer.body["upserted_count"] == count
        answer = table.post("/v1/collections/table/records/delete", {"ids": [r["id"] for r in records]})
        assert answer.body["deleted_count"] == count
    else:
        expect(answer, 400, "invalid_argument", "/records")


@pytest.mark.parametrize("ms,fine", [(0, False), (1, None), (60000, True), (60001, False)])
def test_deadlines(table, ms, fine):
    answer = search(table, timeout_ms=ms)
    if fine is False:
        expect(answer, 400, "invalid_argument", "/timeout_ms")
    elif fine:
        assert answer.status == 200
    else:
        assert answer.status in (200, 503, 504), answer


def test_a_body_over_the_limit(table):
    body = b'{"records":[{"id":"b","text":"' + b"x" * (64 * 1024 * 1024) + b'"}]}'
    try:
        answer = table.post("/v1/collections/table/records", body)
        expect(answer, 413, "payload_too_large")
    except (ConnectionResetError, BrokenPipeError):
        pass  # the door was closed before all of it was sent: fine too
    assert search(table).status == 200


def test_a_record_over_the_limit(table):
    shared_name = "wide"
    table.create(shared_name, 8192)
    record = {"id": "b", "vector": [0.5] * 8192, "text": "é" * (256 * 1024), "metadata": {"k": "x" * 60000}}
    answer = table.post(f"/v1/collections/{shared_name}/records", {"records": [record]})
    assert answer.status in (200, 413), answer
    assert table.delete(f"/v1/collections/{shared_name}").status == 204


@pytest.mark.parametrize("method,path,allow", [
    ("PATCH", "/v1/collections/table", "PUT"), ("POST", "/v1/collections/table", "GET"),
    ("TRACE", "/v1/collections/table", "GET"), ("DELETE", "/v1/collections", "GET"),
    ("GET", "/v1/collections/table/search", "POST"), ("PUT", "/livez", "GET")])
def test_other_methods(table, method, path, allow):
    answer = table.request(method, path, b"{}")
    expect(answer, 405, "method_not_allowed")
    assert allow in answer.headers["Allow"]


def test_unknown_paths(table):
    expect(table.get("/nonsense"), 404, "not_found")
    expect(table.get("/v1/collections/table/nonsense"), 404, "not_found")


def test_unknown_collections(table):
    for path, body in (("search", {"vector": [1]}), ("records", {"records": [GOOD]}),
                       ("records/get", {"ids": ["a"]}), ("records/delete", {"ids": ["a"]}),
                       ("records/count", {}), ("records/scroll", {})):
        expect(table.post(f"/v1/collections/nobody/{path}", body), 404, "collection_not_found")
    expect(table.get("/v1/collections/nobody"), 404, "collection_not_found")
    expect(table.delete("/v1/collections/nobody"), 404, "collection_not_found")
    expect(table.get("/v1/collections/nobody/records/a"), 404, "collection_not_found")


def test_the_same_collection_with_another_schema(table):
    assert table.put("/v1/collections/table", {"vector": {"dimension": 3}}).status == 200
    expect(table.put("/v1/collections/table", {"vector": {"dimension": 4}}), 409, "collection_exists")
    expect(table.put("/v1/collections/table", {"vector": {"dimension": 3, "metric": "l2"}}), 409,
           "collection_exists")


@pytest.mark.parametrize("token", ["x", "rt1.", "rt1.!!!", "rt1.AAAA", "rt2.AAAA", "x" * 70000])
def test_malformed_tokens(table, token):
    expect(search(table, read_token=token), 400, "invalid_argument", "/read_token")


def test_a_client_that_stalls_in_the_middle_of_a_body(table):
    parts = urllib.parse.urlsplit(table.url)
    stalled = []
    for _ in range(8):
        s = socket.create_connection((parts.hostname, parts.port))
        s.sendall(b"POST /v1/collections/table/search HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        stalled.append(s)
    started = time.monotonic()
    assert search(table).status == 200
    assert time.monotonic() - started < 5, "the others wait for a client that stalls"
    for s in stalled:
        s.settimeout(60)
        reply = s.recv(4096)
        assert reply == b"" or b" 408 " in reply.split(b"\r\n")[0], reply[:100]
        s.close()


def test_gzip_and_unknown_encodings(table):
    import gzip
    body = gzip.compress(json.dumps({"vector": [1, 0, 0]}).encode())
    answer = table.post("/v1/collections/table/search", body, {"Content-Encoding": "gzip"})
    assert answer.status == 200, answer
    expect(table.post("/v1/collections/table/search", b"x", {"Content-Encoding": "br"}), 415,
           "unsupported_media_type")
    bomb = gzip.compress(b" " * (80 * 1024 * 1024))
    expect(table.post("/v1/collections/table/search", bomb, {"Content-Encoding": "gzip"}), 413,
           "payload_too_large")
    cut = table.post("/v1/collections/table/search", body[:-9], {"Content-Encoding": "gzip"})
    assert cut.status == 400, cut
