"""The client: every operation, errors as exceptions, read tokens, and retries only where safe."""
import asyncio
import json
import random
import threading

import httpx
import pytest

import vicinal
from vicinal import AsyncClient, Client, Session
from vicinal.session import decode, encode


class Both:
    """A Client, or an AsyncClient that is used like one."""

    def __init__(self, kind, url, **options):
        self.loop = asyncio.new_event_loop() if kind == "async" else None
        self.client = (AsyncClient if self.loop else Client)(url, **options)

    def __getattr__(self, name):
        method = getattr(self.client, name)
        if self.loop is None or not callable(method):
            return method
        if name == "scroll_all":
            async def collect(*args, **kwargs):
                return [record async for record in method(*args, **kwargs)]
            return lambda *args, **kwargs: self.loop.run_until_complete(collect(*args, **kwargs))
        return lambda *args, **kwargs: self.loop.run_until_complete(method(*args, **kwargs))

    def end(self):
        if self.loop is None:
            self.client.close()
        else:
            self.loop.run_until_complete(self.client.aclose())
            self.loop.close()


@pytest.fixture(params=["sync", "async"])
def kind(request):
    return request.param


@pytest.fixture
def client(kind, url):
    client = Both(kind, url)
    yield client
    client.end()


@pytest.fixture
def collection(client, name):
    client.create_collection(name, 3)
    yield name
    client.delete_collection(name)


ROWS = [{"id": "a", "vector": [1, 0, 0], "text": "hello", "metadata": {"n": 1}},
        {"id": "b/2 ü", "vector": [0, 1, 0], "metadata": {"n": 2}},
        {"id": "..", "text": "no vector"}]


def test_every_operation(client, name):
    assert client.ready() is True and client.version()["version"]
    made = client.create_collection(name, 3, "l2", index={"m": 8, "code_bits": 2}, embedder="none")
    assert made["vector"] == {"dimension": 3, "metric": "l2"} and made["index"]["m"] == 8
    assert made["index"]["code_bits"] == 2
    assert client.create_collection(name, 3, "l2", index={"m": 8, "code_bits": 2})["name"] == name
    with pytest.raises(vicinal.CollectionExists):
        client.create_collection(name, 4)
    assert name in [c["name"] for c in client.list_collections(limit=1000)["collections"]]

    assert client.upsert(name, ROWS)["upserted_count"] == 3
    assert client.upsert(name, ROWS, on_conflict="skip")["skipped_count"] == 3
    with pytest.raises(vicinal.RecordExists):
        client.upsert(name, ROWS, on_conflict="fail")
    made = client.upsert(name, [{"text": "x"}], wait="searchable", timeout_ms=20000)["ids"]
    assert len(made[0]) == 36
    client.delete_record(name, made[0])

    matches = client.search(name, [1, 0, 0], top_k=2, include=["vector"])["matches"]
    assert [(m["id"], m["vector"]) for m in matches] == [("a", [1, 0, 0]), ("b/2 ü", [0, 1, 0])]
    assert matches[0]["score"] == 0
    assert [m["id"] for m in client.search(name, id="b/2 ü", top_k=1)["matches"]] == ["b/2 ü"]
    assert [m["id"] for m in client.search(name, [1, 0, 0], filter={"n": 2}, params={
        "exact": True}, explain=True, offset=0, score_threshold=-9)["matches"]] == ["b/2 ü"]
    batch = client.search_batch(name, [{"vector": [1, 0, 0], "top_k": 1}, {"vector": [1]}])
    assert batch[0]["matches"][0]["id"] == "a" and batch[1]["error"]["code"] == "dimension_mismatch"

    assert client.get(name, ["..", "?", "a"], include=["text"])[1]["text"] == "hello"
    assert [client.get_record(name, row["id"])["id"] for row in ROWS] == [r["id"] for r in ROWS]
    assert client.get_record(name, "a", include=["vector"])["vector"] == [1, 0, 0]
    with pytest.raises(vicinal.RecordNotFound):
        client.get_record(name, "?", consistency="fresh")
    assert client.count(name) == 3 and client.count(name, filter={"n": {"$gt": 1}}) == 1
    assert [r["id"] for r in client.scroll_all(name, limit=1)] == ["..", "a", "b/2 ü"]
    assert len(client.scroll(name, limit=2, filter={"n": {"$exists": True}})["records"]) == 2

    version = client.get_record(name, "a")["version"]
    client.put_record(name, "a", {"text": "second"}, if_match=version)
    with pytest.raises(vicinal.PreconditionFailed):
        client.put_record(name, "a", {"text": "third"}, if_match=version)
    with pytest.raises(vicinal.PreconditionFailed):
        client.delete_record(name, "a", if_match=version)
    assert client.get_record(name, "a")["text"] == "second"
    version = client.get_record(name, "a")["version"]
    patched = client.patch_record(name, "a", {"x": {"y": 1}}, if_match=version)
    assert patched["updated_count"] == 1 and patched["version"] != version
    with pytest.raises(vicinal.PreconditionFailed):
        client.patch_record(name, "a", {"x": None}, if_match=version)
    assert client.update(name, {"x": {"y": None, "z": 2}}, ids=["a", "?"])["missing_count"] == 1
    assert client.update(name, {"x": 3}, filter={"n": 2}, wait="searchable")["updated_count"] == 1
    assert client.get_record(name, "a")["metadata"] == {"x": {"z": 2}}
    with pytest.raises(vicinal.RecordNotFound):
        client.patch_record(name, "?", {})
    for record in ("..", "b/2 ü"):
        client.delete_record(name, record)
    assert client.delete(name, ["a", "?"])["deleted_count"] == 1
    client.upsert(name, ROWS)
    assert client.delete(name, filter={"n": 1})["deleted_count"] == 1
    assert client.delete(name, delete_all=True)["deleted_count"] == 2
    assert client.count(name) == 0
    client.delete_collection(name)
    with pytest.raises(vicinal.CollectionNotFound):
        client.get_collection(name)


def test_errors_carry_code_pointer_and_request_id(client, collection):
    with pytest.raises(vicinal.DimensionMismatch) as caught:
        client.upsert(collection, [{"id": "x", "vector": [1, 2, 3]}, {"id": "y", "vector": [1]}])
    assert caught.value.status == 422 and caught.value.code == "dimension_mismatch"
    assert caught.value.pointer.startswith("/records/1/vector") and caught.value.request_id
    with pytest.raises(vicinal.InvalidRequest) as caught:
        client.search(collection, [1, 0, 0], top_k=0)
    assert caught.value.code == "invalid_argument" and caught.value.pointer == "/top_k"
    with pytest.raises(vicinal.InvalidRequest) as caught:
        client.search(collection, [1, 0, float("nan")])
    assert caught.value.code == "invalid_argument"
    with pytest.raises(vicinal.InvalidRequest) as caught:
        client.search(collection, [1, 0, 0], read_token="rt1.nonsense")
    assert caught.value.pointer == "/read_token"
    with pytest.raises(TypeError):
        client.search(collection, [1, 0, 0], no_such_option=1)
    assert client.count(collection) == 0


def test_a_client_reads_its_writes_over_many_partitions(client, collection):
    """Each write's token names other partitions; all of them must be in the next read's."""
    for i in range(0, 200, 4):
        for j in range(i, i + 4):
            client.upsert(collection, [{"id": str(j), "vector": [1, j, 0]}])
        assert client.count(collection) == i + 4
        assert len(client.get(collection, [str(j) for j in range(i, i + 4)])) == 4
        client.delete_record(collection, str(i))
        client.upsert(collection, [{"id": str(i), "vector": [2, i, 0]}])
    places = decode(client.session.token(collection))
    assert len({partition for _, partition in places}) > 20


def test_clients_of_one_session_read_each_others_writes(url, client, collection):
    with Client(url, session=client.session) as other:
        for i in range(50):
            other.upsert(collection, [{"id": str(i), "vector": [1, 0, 0]}])
            assert client.count(collection) == i + 1


def test_threads_share_a_client(url, name):
    with Client(url) as client:
        client.create_collection(name, 3)
        failures = []

        def work(me):
            try:
                for i in range(20):
                    client.upsert(name, [{"id": f"{me}-{i}", "vector": [1, me, i]}])
                    assert client.get(name, [f"{me}-{i}"])
            except Exception as error:  # reported by the main thread
                failures.append(error)

        threads = [threading.Thread(daemon=True, target=work, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures and client.count(name) == 160
        client.delete_collection(name)


# --- tokens ------------------------------------------------------------------------------------


def test_the_codec_of_tokens_is_the_servers(client, collection):
    chance = random.Random(3)
    for _ in range(20):
        client.upsert(collection, [{"id": str(chance.random())}
                                   for _ in range(chance.randint(1, 9))])
        answered = client.search(collection, [1, 0, 0])["read"]["read_token"]
        assert encode(decode(answered)) == answered
        assert encode(decode(client.session.token(collection))) == client.session.token(collection)


def test_the_token_of_a_log_that_is_gone_is_dropped(client, collection):
    client.upsert(collection, [{"id": "x", "vector": [1, 0, 0]}])
    for ahead in (lambda region: region, lambda region: region ^ 0x5A5A):
        places = decode(client.session.token(collection))
        gone = encode({(ahead(region), partition): position + 10**9
                       for (region, partition), position in places.items()})
        client.session.learn(collection, gone)
        assert [r["id"] for r in client.get(collection, ["x"], consistency="fresh")] == ["x"]
        client.session.learn(collection, gone)
        assert [m["id"] for m in client.search(collection, [1, 0, 0])["matches"]] == ["x"]
        assert decode(client.session.token(collection)).keys() >= places.keys()


def test_tokens_are_joined():
    session = Session()
    old = encode({(1, 3): 10, (1, 5): 2, (2**32 - 1, 1023): 2**63})
    new = encode({(1, 3): 9, (1, 4): 1, (1, 5): 7})
    session.learn("c", old)
    session.learn("c", new)
    assert decode(session.token("c")) == {(1, 3): 10, (1, 4): 1, (1, 5): 7,
                                          (2**32 - 1, 1023): 2**63}
    assert session.token("other") is None
    session.gone("c", old)  # something newer came meanwhile
    assert session.token("c") is not None
    session.gone("c", session.token("c"))
    assert session.token("c") is None


@pytest.mark.parametrize("token", ["", "rt1", "rt1.", "rt1.AcDL3uMJAhUDBwPN9mzP", "rt2.AAAA",
                                   "rt1.!!!!", "rt1.AAAA", "rt1.é"])
def test_no_token(token):
    with pytest.raises(ValueError):
        decode(token)


# --- against a server that misbehaves -----------------------------------------------------------

OK = {"matches": [], "read": {"staleness_seconds": 0}, "records": [],
      "upserted_count": 1, "ids": ["x"], "count": 0}


class Server:
    """Plays the answers one after the other, then OK; remembers the requests."""

    def __init__(self, kind, *answers, **options):
        self.answers, self.requests = list(answers), []

        def answer(request):
            self.requests.append((request.method, request.url.path,
                                  json.loads(request.content) if request.content else None))
            step = self.answers.pop(0) if self.answers else (200, OK)
            if isinstance(step, Exception):
                raise step
            status, body, *headers = step
            return httpx.Response(status, json=body, headers=headers[0] if headers else None)

        self.client = Both(kind, "http://nowhere.invalid", transport=httpx.MockTransport(answer),
                           **{"retry_pause": 0.0, **options})

    def bodies(self):
        return [body for _, _, body in self.requests]


def problem(status, code, **more):
    return status, {"type": f"/problems/{code}", "title": code, "status": status, "code": code,
                    **more}


BUSY = (*problem(503, "shards_unavailable"), {"Retry-After": "0"})
LIMITED = (*problem(429, "rate_limited"), {"Retry-After": "0"})
READS = [("search", "c", [1, 2]), ("get", "c", ["x"]), ("scroll", "c"), ("count", "c"),
         ("get_collection", "c"), ("upsert", "c", [{"id": "x"}]), ("delete", "c", ["x"]),
         ("create_collection", "c", 3), ("put_record", "c", "x", {}),
         ("patch_record", "c", "x", {})]
ONCE = [("upsert", "c", [{"id": "x"}], {"on_conflict": "fail"}),
        ("upsert", "c", [{"id": "x"}], {"on_conflict": "skip"}),
        ("delete", "c", None, {"filter": {"n": 1}}), ("delete", "c", None, {"delete_all": True}),
        ("put_record", "c", "x", {}, {"if_match": "1"}),
        ("patch_record", "c", "x", {}, {"if_match": "1"}),
        ("update", "c", {}, {"filter": {"n": 1}}),
        ("delete_record", "c", "x", {}),
        ("delete_collection", "c", {})]


def run(server, operation):
    name, *args = operation
    options = args.pop() if operation in ONCE else {}
    return getattr(server.client, name)(*args, **options)


@pytest.mark.parametrize("operation", READS, ids=lambda o: o[0])
@pytest.mark.parametrize("fault", [BUSY, LIMITED, httpx.ConnectError("refused"),
                                   httpx.RemoteProtocolError("cut off")], ids=str)
def test_what_may_be_repeated_is_repeated(kind, operation, fault):
    server = Server(kind, fault, fault)
    run(server, operation)
    assert len(server.requests) == 3 and server.requests[0] == server.requests[2]


@pytest.mark.parametrize("operation", ONCE, ids=lambda o: o[0])
def test_what_may_not_be_repeated_is_not(kind, operation):
    for fault, error in ((BUSY, vicinal.Unavailable),
                         (httpx.RemoteProtocolError("cut off"), vicinal.TransportError),
                         (httpx.ReadTimeout("slow"), vicinal.TransportError)):
        server = Server(kind, fault)
        with pytest.raises(error):
            run(server, operation)
        assert len(server.requests) == 1
    for fault in (LIMITED, httpx.ConnectError("refused")):  # nothing was done
        server = Server(kind, fault)
        run(server, operation)
        assert len(server.requests) == 2


def test_retries_end(kind):
    server = Server(kind, *[BUSY] * 9, retries=2)
    with pytest.raises(vicinal.Unavailable) as caught:
        server.client.search("c", [1])
    assert len(server.requests) == 3 and caught.value.retry_after == 0
    server = Server(kind, (*problem(503, "shards_unavailable"), {"Retry-After": "3600"}))
    with pytest.raises(vicinal.Unavailable) as caught:  # too long to wait here
        server.client.search("c", [1])
    assert len(server.requests) == 1 and caught.value.retry_after == 3600


@pytest.mark.parametrize("status,code", [(400, "invalid_filter"), (404, "collection_not_found"),
                                         (409, "collection_exists"), (422, "dimension_mismatch"),
                                         (500, "internal"), (504, "timeout"), (507, "x")])
def test_other_errors_are_final(kind, status, code):
    server = Server(kind, problem(status, code, errors=[{"pointer": "/a", "detail": "b"}]))
    with pytest.raises(vicinal.ApiError) as caught:
        server.client.search("c", [1])
    assert (caught.value.status, caught.value.code, caught.value.pointer) == (status, code, "/a")
    assert len(server.requests) == 1


def test_pauses_grow_and_retry_after_is_honoured(kind, monkeypatch):
    pauses = []

    async def asleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr("vicinal.client.time.sleep", pauses.append)
    monkeypatch.setattr("vicinal.client.asyncio.sleep", asleep)
    monkeypatch.setattr("vicinal.client.random.uniform", lambda low, high: 1.0)
    busy = problem(503, "shards_unavailable")
    server = Server(kind, busy, busy, (*busy, {"Retry-After": "7"}), retry_pause=0.5)
    server.client.search("c", [1])
    assert pauses == [0.5, 1.0, 7.0]


def test_a_gone_token(kind):
    first, second = encode({(1, 2): 3}), encode({(9, 2): 1})
    for operation in (("search", "c", [1]), ("get", "c", ["x"]), ("count", "c"), ("scroll", "c"),
                      ("search_batch", "c", [{"vector": [1]}])):
        server = Server(kind, (200, {**OK, "read_token": first}), problem(409, "token_log_gone"),
                        (200, {**OK, "results": [], "read": {"read_token": second}}))
        server.client.upsert("c", [{"id": "x"}])
        run(server, operation)
        asked, again = server.bodies()[1], server.bodies()[2]
        assert first in json.dumps(asked) and "read_token" not in json.dumps(again)
        assert server.client.session.token("c") == second


def test_without_a_token_gone_is_final(kind):
    server = Server(kind, problem(409, "token_log_gone"))
    with pytest.raises(vicinal.ApiError):
        server.client.search("c", [1])
    assert len(server.requests) == 1


def test_consistency(kind):
    token = encode({(1, 2): 3})
    server = Server(kind, (200, {**OK, "read_token": token}), *[(200, {"count": 0})] * 9)
    client = server.client
    client.upsert("c", [{"id": "x"}])
    client.count("c")
    client.count("c", consistency="eventual")
    client.count("c", consistency="fresh", timeout_ms=5)
    client.count("c", read_token="mine", max_staleness_seconds=0, on_stale="serve")
    client.count("other")
    client.count("c", consistency="fresh_global")
    assert server.bodies()[1:] == [
        {"read_token": token}, {}, {"read_token": token, "fresh": True, "timeout_ms": 5},
        {"read_token": "mine", "max_staleness_seconds": 0, "on_stale": "serve"}, {},
        {"read_token": token, "fresh": "global"}]
    client.delete_collection("c")
    client.count("c")
    assert server.bodies()[-1] == {}


def test_a_token_of_another_version_makes_reads_fresh(kind):
    answers = [(200, {**OK, "read": None, "read_token": token}) for token in ("rt9.a", "rt9.b")]
    server = Server(kind, answers[0], (200, {"count": 0}), answers[1], (200, {"count": 0}))
    for _ in range(2):
        server.client.upsert("c", [{"id": "x"}])
        server.client.count("c")
    assert server.bodies()[1] == {"read_token": "rt9.a"}
    assert server.bodies()[3] == {"read_token": "rt9.b", "fresh": True}


def test_a_half_committed_write_leaves_its_token(kind):
    token = encode({(1, 2): 3})
    server = Server(kind, problem(503, "internal", read_token=token, committed=True), retries=0)
    with pytest.raises(vicinal.Unavailable) as caught:
        server.client.upsert("c", [{"id": "x"}])
    assert caught.value.committed is True and server.client.session.token("c") == token


def test_a_write_that_misses_its_quorum_is_written(kind):
    token = encode({(1, 2): 3})
    server = Server(kind, problem(504, "quorum_unmet", read_token=token, committed=True))
    with pytest.raises(vicinal.QuorumUnmet) as caught:
        server.client.upsert("c", [{"id": "x"}], write_quorum=2, timeout_ms=5)
    assert caught.value.committed is True and server.client.session.token("c") == token
    assert server.bodies() == [{"records": [{"id": "x"}], "write_quorum": 2, "timeout_ms": 5}]


def test_a_reply_that_is_no_problem_json(kind):
    for status, text in ((502, "<html>"), (500, ""), (503, "[]")):
        client = Both(kind, "http://nowhere.invalid", retry_pause=0.0, retries=0,
                      transport=httpx.MockTransport(
                          lambda request: httpx.Response(status, text=text)))
        with pytest.raises(vicinal.ApiError) as caught:
            client.search("c", [1])
        assert caught.value.status == status and caught.value.pointer is None


def test_generated_ids_are_the_same_in_a_repetition(kind):
    server = Server(kind, httpx.ReadError("cut off"))
    server.client.upsert("c", [{"vector": [1.0]}, {"vector": [2.0]}])
    first, second = server.bodies()
    assert first == second and first["records"][0]["id"] != first["records"][1]["id"]


def test_ids_of_a_key_are_the_same_in_another_process(client, collection):
    first = client.upsert(collection, [{"text": "x"}, {"id": "a"}], idempotency_key="job-7")
    second = client.upsert(collection, [{"text": "x"}, {"id": "a"}], idempotency_key="job-7")
    assert first["ids"] == second["ids"] and client.count(collection) == 2


def test_an_async_client_lives_in_several_loops(url, name):
    client = AsyncClient(url)

    async def go():
        try:
            await client.create_collection(name, 3)
            await client.upsert(name, [{"id": "x", "vector": [1, 0, 0]}])
            return await asyncio.gather(*(client.count(name) for _ in range(20)))
        finally:
            await client.aclose()

    for _ in range(3):
        assert asyncio.run(go()) == [1] * 20
    with Client(url) as other:
        other.delete_collection(name)
