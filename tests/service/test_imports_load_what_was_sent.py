"""An import leaves the records that were sent, whatever its format and however it was cut; later
writes win over it and it over earlier ones; rows that cannot be taken are counted and told."""
import json
import random
import shutil
import threading

import pytest

from imports import Upload, binary_row, npy
from suite import Suite

DIM = 4


@pytest.fixture
def c(shared, name):
    shared.create(name, DIM)
    yield name
    shared.delete(f"/v1/collections/{name}")


def rows_of(shared, c, token=None):
    """{id: (vector, text, metadata)}"""
    found, page = {}, None
    while True:
        body = {"limit": 10000, "include": ["vector", "text", "metadata"], "fresh": True,
                **({"page_token": page} if page else {}), **({"read_token": token} if token else {})}
        answer = shared.post(f"/v1/collections/{c}/records/scroll", body)
        assert answer.status == 200, answer
        for row in answer.body["records"]:
            found[row["id"]] = (row.get("vector"), row.get("text"), row.get("metadata"))
        page = answer.body.get("next_page_token")
        if not page:
            return found


def records(count, seed):
    chance = random.Random(seed)
    made = []
    for n in range(count):
        record = {"id": f"r/{n}é" * chance.choice([1, 1, 1, 20])}
        if chance.random() < 0.9:
            record["vector"] = [chance.choice([0.5, -1.25, 3.0, 0.0078125]) * (n + 1) for _ in range(DIM)]
        if chance.random() < 0.5:
            record["text"] = "text " + "ü\"\\\n" * chance.randrange(20)
        if chance.random() < 0.5:
            record["metadata"] = {"n": n, "deep": {"list": [1, None, "x"]}}
        made.append(record)
    return made


def as_expected(made):
    return {r["id"]: (r.get("vector"), r.get("text"), r.get("metadata")) for r in made}


def normal(found):
    """Absent and empty are told alike by reads."""
    return {i: (v or None, t or None, m or None) for i, (v, t, m) in found.items()}


@pytest.mark.parametrize("form", ["ndjson", "binary"])
def test_parts_may_be_cut_anywhere(shared, c, form):
    made = records(300, 7)
    data = "".join(json.dumps(r) + "\n" for r in made).encode() if form == "ndjson" else \
        b"".join(binary_row(r["id"], r.get("vector"), r.get("text"), r.get("metadata")) for r in made)
    longest = max(len(json.dumps(r)) for r in made) + 700
    chance = random.Random(11)
    upload = Upload(shared, c, format=form, bytes_total=len(data))
    while upload.offset < len(data):
        before = upload.offset
        answer = upload.part(data[before:before + longest + chance.randrange(3000)])
        assert answer.status == 200 and before < answer.body["offset"] <= len(data), answer
        if upload.offset < len(data):
            assert answer.body["eta_seconds"] >= 0
    assert upload.look()["state"] == "running"
    body = upload.part(b"", final=True).body
    assert body["state"] == "succeeded" and body["rows_done"] == 300 and body["rows_refused"] == 0
    assert normal(rows_of(shared, c)) == normal(as_expected(made))


def test_the_last_line_needs_no_end(shared, c):
    upload = Upload(shared, c, format="ndjson")
    data = b'\n {"id":"a","vector":[1,0,0,0]} \r\n\n{"id":"b","vector":[0,1,0,0]}'
    assert upload.part(data).body["rows_done"] == 1
    assert upload.part(data[upload.offset:], final=True).body["rows_done"] == 2
    assert set(rows_of(shared, c)) == {"a", "b"}


@pytest.mark.parametrize("kind", ["<f4", "<f2"])
def test_npy_files_are_taken_as_they_are(shared, c, kind):
    rows = [[n, 0.5, -1, n / 4] for n in range(100)]
    data = npy(rows, kind)
    upload = Upload(shared, c, format="npy", id_prefix="v-")
    body = upload.put(data, 1000)
    assert body["rows_done"] == 100
    assert normal(rows_of(shared, c)) == {f"v-{n}": (row, None, None) for n, row in enumerate(rows)}


def test_more_rows_than_an_object_holds(shared, c):
    count = 30011
    data = b"".join(binary_row(f"{n}", [n, 1, 2, 3], metadata={"n": n}) for n in range(count))
    body = Upload(shared, c, format="binary").put(data, 32 << 20)
    assert body["rows_done"] == count
    answer = shared.post(f"/v1/collections/{c}/records/count", {"read_token": body["read_token"],
                                                                "timeout_ms": 30000})
    assert answer.body["count"] == count
    for n in (0, 9999, 10000, 30010):
        answer = shared.post(f"/v1/collections/{c}/records/get", {"ids": [f"{n}"], "read_token": body["read_token"]})
        assert answer.body["records"][0]["metadata"] == {"n": n}
    found = shared.post(f"/v1/collections/{c}/search", {"vector": [30010, 1, 2, 3], "top_k": 30, "fresh": True,
                                                        "params": {"exact": True}})
    assert len(found.body["matches"]) == 30


def test_the_newest_writer_wins(shared, c):
    shared.upsert(c, [{"id": "a", "text": "before"}, {"id": "gone", "text": "before"}])
    upload = Upload(shared, c, format="ndjson")
    line = '{"id":"%s","text":"%s"}\n'
    assert upload.part((line % ("a", "import") + line % ("b", "first") + line % ("b", "second") +
                        line % ("gone", "import")).encode()).status == 200
    shared.upsert(c, [{"id": "b", "text": "after"}])
    shared.post(f"/v1/collections/{c}/records/delete", {"ids": ["gone"]})
    assert upload.part((line % ("c", "import")).encode(), final=True).status == 200
    found = {i: text for i, (_, text, _) in rows_of(shared, c).items()}
    assert found == {"a": "import", "b": "after", "c": "import"}


def test_refused_rows_are_counted_and_told(shared, c):
    good = '{"id":"good-%d","vector":[1,2,3,4]}\n'
    bad = [('{"id":"x","vector":[1,2]}', "dimension_mismatch"), ("{", "invalid_json"),
           ('{"id":"","vector":[1,2,3,4]}', "invalid_argument"), ('{"id":"x","colour":1}', "unknown_field"),
           ('{"id":"x","vector":[1,2,3,1e400]}', "invalid_argument"), ('"x"', "invalid_argument")]
    data, where = "", []
    for n, (line, code) in enumerate(bad):
        data += good % n
        where.append({"row": 2 * n + 1, "offset": len(data), "code": code})
        data += line + "\n"
    upload = Upload(shared, c, format="ndjson")
    body = upload.part(data.encode(), final=True).body
    assert body["state"] == "succeeded" and body["rows_done"] == 6 and body["rows_refused"] == 6
    assert [{k: e[k] for k in ("row", "offset", "code")} for e in body["errors"]] == where
    assert all(e["detail"] for e in body["errors"])
    assert upload.look()["errors"] == body["errors"]
    assert set(rows_of(shared, c)) == {f"good-{n}" for n in range(6)}


def test_refused_rows_of_the_binary_form(shared, c):
    rows = [binary_row("ok", [1, 2, 3, 4]), binary_row("short", [1, 2, 3]), binary_row("", [1, 2, 3, 4]),
            binary_row("nan", [1, float("nan"), 3, 4]), binary_row("list", [1, 2, 3, 4], metadata=[1]),
            binary_row("u", [1, 2, 3, 4])[:-4] + b"\xff\xfe\0\0"]
    upload = Upload(shared, c, format="binary")
    body = upload.part(b"".join(rows), final=True).body
    assert body["rows_done"] == 1 and body["rows_refused"] == 5, body
    assert set(rows_of(shared, c)) == {"ok"}


def test_more_errors_than_are_told_and_than_are_allowed(shared, c):
    upload = Upload(shared, c, format="ndjson", max_errors=250)
    assert upload.part(b"nonsense\n" * 250).body["state"] == "running"
    body = upload.part(b'nonsense\n{"id":"a"}\n').body
    assert body["state"] == "failed" and body["rows_refused"] == 251 and len(body["errors"]) == 100
    assert body["rows_done"] == 1
    assert upload.part(b'{"id":"b"}\n').status == 409


def test_what_makes_no_sense_is_refused_and_changes_nothing(shared, c):
    base = f"/v1/collections/{c}/imports"
    for body, status in (({}, 400), ({"format": "csv"}, 400), ({"format": "ndjson", "x": 1}, 400),
                         ({"format": "ndjson", "id_prefix": "p"}, 400), ({"format": "npy", "id_prefix": "p" * 65}, 400),
                         ({"format": "ndjson", "bytes_total": 0}, 400)):
        assert shared.post(base, body).status == status
    assert shared.post("/v1/collections/nothing/imports", {"format": "ndjson"}).status == 404
    for other in ("x", "01a1ff25-2dd2-7482-ab00-803bd391495c"):
        assert shared.get(f"{base}/{other}").status == 404
        assert shared.put(f"{base}/{other}/data?offset=0", b"x").status == 404
        assert shared.post(f"{base}/{other}/cancel", b"").status == 404
    upload = Upload(shared, c, format="ndjson")
    line = b'{"id":"a"}\n'
    assert upload.part(line, offset=5).status == 409
    assert upload.part(b'{"id":').status == 400
    for query in ("", "?offset=x", "?offset=0&final=maybe", "?offset=0&other=1"):
        assert shared.put(f"{upload.path}/data{query}", line).status == 400
    assert upload.look()["offset"] == 0 and upload.look()["rows_done"] == 0
    assert upload.part(line).status == 200
    assert upload.part(line, offset=0).status == 409  # sent twice: taken once
    assert shared.post(f"{upload.path}/cancel", b"").body["state"] == "cancelled"
    assert upload.part(line).status == 409 and shared.post(f"{upload.path}/cancel", b"").status == 409
    assert set(rows_of(shared, c)) == {"a"}


def test_broken_uploads_are_told(shared, c):
    upload = Upload(shared, c, format="binary")
    row = binary_row("a", [1, 2, 3, 4])
    assert upload.part(row + b"\1\0\0\0").status == 400  # what follows can never be a row
    assert upload.part(row + row[:9], final=True).status == 400  # the end cuts a row
    npys = npy([[1, 2, 3, 4]] * 5)
    upload = Upload(shared, c, format="npy")
    assert upload.part(b"nonsense").status == 400
    assert upload.part(npy([[1, 2, 3]])).status == 422
    assert upload.part(npys[:-3], final=True).status == 400
    assert upload.part(npys + b"x", final=True).status == 400
    assert upload.look()["rows_done"] == 0 and rows_of(shared, c) == {}
    assert upload.part(npys, final=True).body["rows_done"] == 5


def test_a_dropped_collection_takes_nothing_more(shared, name):
    shared.create(name, DIM)
    upload = Upload(shared, name, format="ndjson")
    assert upload.part(b'{"id":"a"}\n').status == 200
    shared.delete(f"/v1/collections/{name}")
    assert upload.part(b'{"id":"b"}\n').status == 404
    shared.create(name, DIM)
    assert upload.part(b'{"id":"b"}\n').status == 404
    assert rows_of(shared, name) == {}
    shared.delete(f"/v1/collections/{name}")


def test_of_two_requests_for_one_offset_one_is_taken(shared, c):
    upload = Upload(shared, c, format="ndjson")
    answers = []

    def send(n):
        answers.append(upload.part(('{"id":"%d"}\n' % n).encode(), offset=0).status)

    threads = [threading.Thread(daemon=True, target=send, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [409] * 7
    assert len(rows_of(shared, c)) == 1 and upload.look()["rows_done"] == 1


def test_conditional_writes_and_imports_take_turns(shared, c):
    """on_conflict=fail creates an id only if no import has it, and an import that comes later wins."""
    for n in range(60):
        upload, made = Upload(shared, c, format="ndjson"), []
        thread = threading.Thread(daemon=True, target=lambda: made.append(
            shared.post(f"/v1/collections/{c}/records",
                        {"records": [{"id": f"{n}", "text": "single"}], "on_conflict": "fail"}).status))
        thread.start()
        assert upload.part(('{"id":"%d","text":"import"}\n' % n).encode()).status == 200
        thread.join()
        text = rows_of(shared, c)[f"{n}"][1]
        assert (made[0], text) in ((409, "import"), (200, "import")), (made, text)


def count_freshly(suite):
    answer = suite.post("/v1/collections/c/records/count", {"fresh": True, "timeout_ms": 30000})
    assert answer.status == 200, answer
    return answer.body["count"]


@pytest.mark.embedded("what is removed are files")
def test_the_log_and_the_objects_are_the_truth():
    """A shard that lost its folder, and a metadata store that is gone: everything comes back."""
    with Suite() as suite:
        suite.create("c", DIM)
        suite.upsert("c", [{"id": "5", "text": "before"}])
        Upload(suite, "c", format="binary").put(b"".join(binary_row(f"{n}", [n, 1, 2, 3]) for n in range(12000)))
        suite.upsert("c", [{"id": "7", "text": "after"}])
        assert count_freshly(suite) == 12000
        digests = {p: d for p, (_, d) in suite.digests()[0, 0].items()}
        suite.stop()
        shutil.rmtree(suite.data / "suite/shard-0.0")
        for path in (suite.data / "suite").glob("meta.db*"):
            path.unlink()
        suite.start()
        assert count_freshly(suite) == 12000
        assert {p: d for p, (_, d) in suite.digests()[0, 0].items()} == digests


@pytest.mark.embedded("what is damaged is a file")
def test_a_damaged_or_missing_object_is_waited_for_loudly():
    with Suite() as suite:
        suite.create("c", DIM)
        Upload(suite, "c", format="binary").put(b"".join(binary_row(f"{n}", [n, 1, 2, 3]) for n in range(500)))
        assert count_freshly(suite) == 500
        suite.stop()
        shutil.rmtree(suite.data / "suite/shard-0.0")
        path, = (suite.data / "suite/blob/imports").glob("*/*")
        whole = path.read_bytes()
        for damage in (lambda: path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1])), path.unlink):
            damage()
            try:
                suite.start(10)
            except AssertionError:
                pass  # it does not become ready
            else:
                raise AssertionError("the shard has passed over what it could not read")
            assert path.name in (suite.data / "log").read_text()
        path.write_bytes(whole)
        suite.start()
        assert count_freshly(suite) == 500


def test_parts_may_be_sent_side_by_side(shared, c):
    upload = Upload(shared, c, format="ndjson")
    parts, at = [], 0
    for number in range(6):
        data = "".join('{"id":"%d-%d"}\n' % (number, n) for n in range(500)).encode() + b"nonsense\n"
        parts.append((at, data))
        at += len(data)
    answers = {}

    def send(number):
        while True:
            answer = upload.door.request("PUT", f"{upload.path}/data?offset={parts[number][0]}" +
                                         ("&final=true" if number == 5 else ""), parts[number][1])
            if answer.status != 409:
                break
        answers[number] = answer

    threads = [threading.Thread(daemon=True, target=send, args=(number,)) for number in (3, 1, 5, 0, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[n].status for n in range(6)] == [200] * 6
    body = upload.look()
    assert body["state"] == "succeeded" and body["rows_done"] == 3000 and body["offset"] == at
    assert [e["row"] for e in body["errors"]] == [501 * n + 500 for n in range(6)]
    assert len(rows_of(shared, c)) == 3000
