"""Collections whose texts an embedding server turns into vectors: what is written by text is found
by text, unchanged text is embedded once, and a server that is slow, busy, broken, hostile or away
costs an error that says so: never a wrong vector, never a record without one, and never anything
of other collections."""
import concurrent.futures
import math
import subprocess
import time

import pytest

from embeddings_server import EmbeddingsServer
from suite import BIN, CREATED, SLOW, Suite, poll

pytestmark = pytest.mark.embedded("embedding servers: the engines do not matter")

DIM = 8
KEY = "sk-test-0123456789"


@pytest.fixture(scope="module")
def server():
    with EmbeddingsServer(DIM, KEY) as server:
        yield server


@pytest.fixture(scope="module")
def suite(server, tmp_path_factory):
    key = tmp_path_factory.mktemp("key") / "key"
    key.write_text(KEY + "\n")
    away = EmbeddingsServer()
    away.server.server_close()  # a port that nobody serves
    embedders = (f"mini={server.url};dimension={DIM};model=mini-v1;key_file={key};timeout_ms={int(2000 * SLOW)},"
                 f" nokey={server.url}/v1/embeddings;dimension={DIM} away={away.url};dimension={DIM}")
    with Suite(shards=2, embedders=embedders) as suite:
        yield suite


@pytest.fixture
def docs(suite, server, name):
    """A collection of the test's own; the server is honest when the test begins and ends."""
    server.behave(None)
    suite.create(name, DIM, embedder="mini")
    yield name
    server.behave(None)


def write(suite, name, texts, **more):
    return suite.post(f"/v1/collections/{name}/records",
                      {"records": [{"id": key, "text": text} for key, text in texts.items()], **more})


def ask(suite, name, text, **more):
    return suite.post(f"/v1/collections/{name}/search",
                      {"embed": text, "top_k": 3, "include": ["text", "vector"], "fresh": True, "timeout_ms":
                       int(5000 * SLOW), **more})


def count(suite, name):
    return suite.post(f"/v1/collections/{name}/records/count", {"fresh": True}).body["count"]


def metric(suite, name, embedder="mini"):
    """Of the router."""
    for line in suite.get("/metrics").body.decode().splitlines():
        if line.startswith(f'{name}{{embedder="{embedder}"}} '):
            return float(line.split()[1])
    return None


def test_what_is_written_by_text_is_found_by_text(suite, server, docs):
    texts = {"cat": "the cat sat on the mat", "dog": "a dog barked all night", "sea": "ships cross the wide sea"}
    answer = write(suite, docs, texts)
    assert answer.status == 200, answer
    assert suite.get(f"/v1/collections/{docs}").body["embedder"] == "mini"
    for key, text in texts.items():
        found = ask(suite, docs, text)
        assert found.status == 200, found
        best = found.body["matches"][0]
        assert best["id"] == key and best["score"] > 0.999
        assert abs(math.sqrt(sum(x * x for x in best["vector"])) - 1) < 1e-5
        expected = server.vector(text)
        norm = math.sqrt(sum(x * x for x in expected))
        assert all(abs(a - b / norm) < 1e-5 for a, b in zip(best["vector"], expected))
    headers, body = server.requests[-1]
    assert headers["Authorization"] == f"Bearer {KEY}" and b'"model":"mini-v1"' in body


def test_a_single_record_and_a_given_vector(suite, server, docs):
    assert suite.put(f"/v1/collections/{docs}/records/one", {"text": "one record alone"}).status in CREATED
    before = len(server.requests)
    given = [1.0] + [0.0] * (DIM - 1)
    assert suite.upsert(docs, [{"id": "two", "text": "has a vector already", "vector": given}])
    assert len(server.requests) == before
    assert ask(suite, docs, "one record alone").body["matches"][0]["id"] == "one"


def test_unchanged_text_is_embedded_once(suite, server, docs):
    texts = {str(i): f"passage {i} of {docs}" for i in range(250)}
    before = len(server.requests)
    assert write(suite, docs, texts).status == 200
    assert sorted(server.texts()[-250:]) == sorted(texts.values())
    assert len(server.requests) == before + 3  # 96 at a time
    assert write(suite, docs, {"again" + key: text for key, text in texts.items()}).status == 200
    assert len(server.requests) == before + 3
    # The router has a cache of its own: the first question goes out, the second does not.
    hits = metric(suite, "embedding_cache_hits_total")
    for _ in range(2):
        assert ask(suite, docs, texts["17"], fresh=False).status == 200
    assert len(server.requests) == before + 4
    assert ask(suite, docs, texts["17"]).status == 200  # past the result cache
    assert len(server.requests) == before + 4
    assert metric(suite, "embedding_cache_hits_total") > hits


@pytest.mark.parametrize("how, times", [("busy", 1), ("broken", 2), ("cut", 2)])
def test_what_passes_is_waited_for(suite, server, docs, how, times):
    server.behave(how, times)
    assert write(suite, docs, {"x": f"{how} once for {docs}"}, timeout_ms=int(min(60000, 9000 * SLOW))).status == 200
    assert server.plan == []
    assert ask(suite, docs, f"{how} once for {docs}").body["matches"][0]["score"] > 0.999


HOSTILE = ["refuse", "redirect", "garbage", "too_few", "wrong_dimension", "not_a_number", "zeros", "base64",
           "too_big"]


@pytest.mark.parametrize("how", HOSTILE)
def test_what_is_no_vector_is_an_error_at_once_and_writes_nothing(suite, server, docs, how):
    server.behave(how)
    before = len(server.requests)
    answer = write(suite, docs, {"x": f"{how} {docs}", "y": f"{how} {docs} too"})
    assert answer.status == 502 and answer.body["code"] == "embedding_failed", answer
    assert "embedder 'mini'" in answer.body["detail"]
    assert ("512 tokens" in answer.body["detail"]) == (how == "refuse")
    answer = ask(suite, docs, f"{how} {docs} asked")
    assert answer.status == 502 and answer.body["code"] == "embedding_failed", answer
    assert len(server.requests) == before + 2
    server.behave(None)
    assert count(suite, docs) == 0
    assert write(suite, docs, {"x": f"{how} {docs}"}).status == 200


@pytest.mark.parametrize("how", ["hang", "endless", "busy_for_long", "broken"])
def test_an_error_comes_within_the_deadline(suite, server, docs, how):
    server.behave(how)
    began = time.monotonic()
    answer = write(suite, docs, {"x": f"{how} {docs}"}, timeout_ms=700)
    assert (answer.status, answer.body["code"]) in [(504, "timeout"), (502, "embedding_failed")], answer
    answer = ask(suite, docs, f"{how} {docs} asked", timeout_ms=700)
    assert (answer.status, answer.body["code"]) in [(504, "timeout"), (502, "embedding_failed")], answer
    # No timed assertion: merely not the server's own minutes.
    assert time.monotonic() - began < 60
    server.behave(None)
    assert count(suite, docs) == 0


def test_a_collection_made_anew_meanwhile_takes_nothing_of_the_old(suite, server, docs):
    """The write may be sent again: it is not told that there is no collection, for there is one."""
    server.behave("held", 1)
    server.let_go.clear()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write, suite, docs, {"x": f"held {docs}"}, timeout_ms=60000)
        try:
            poll("its text is asked for", lambda: f"held {docs}" in server.texts())
            assert suite.delete(f"/v1/collections/{docs}").status == 204
            suite.create(docs, DIM, embedder="mini")
        finally:
            server.let_go.set()
        answer = writing.result()
    assert answer.status == 503 and "nothing was written" in answer.body["detail"], answer
    assert count(suite, docs) == 0
    assert write(suite, docs, {"x": f"held {docs}"}).status == 200 and count(suite, docs) == 1


def test_many_at_once_get_their_own_vectors(suite, server, docs):
    def work(worker):
        for i in range(10):
            mine, ours = f"words of worker{worker} number{i} {docs}", f"shared number{i} {docs}"
            assert write(suite, docs, {f"{worker}-{i}": mine, f"{worker}-{i}-shared": ours}).status == 200
            best = ask(suite, docs, mine).body["matches"][0]
            assert best["text"] == mine and best["score"] > 0.999, best
            assert ask(suite, docs, ours).body["matches"][0]["text"] == ours

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, worker) for worker in range(8)]:
            done.result()


def test_other_collections_do_not_notice(suite, server, docs, name):
    plain = suite.create(docs + "-plain", 3)["name"]
    server.behave("hang")
    assert suite.upsert(plain, [{"id": "a", "vector": [1, 2, 3], "text": "not embedded"}])
    answer = suite.post(f"/v1/collections/{plain}/search", {"vector": [1, 2, 3], "fresh": True})
    assert answer.status == 200 and answer.body["matches"][0]["id"] == "a"
    answer = suite.post(f"/v1/collections/{docs}/search", {"vector": [1] * DIM})
    assert answer.status == 200


def test_a_key_that_is_not_accepted_is_told_without_the_key(suite, server, name):
    suite.create(name, DIM, embedder="nokey")
    answer = write(suite, name, {"x": "some text"})
    assert answer.status == 502 and "key is not accepted" in answer.body["detail"]
    assert KEY not in str(answer.body)


def test_a_server_that_is_away(suite, name):
    suite.create(name, DIM, embedder="away")
    answer = write(suite, name, {"x": "some text"}, timeout_ms=1500)
    assert answer.status in (502, 504) and "embedder 'away'" in answer.body["detail"], answer
    assert suite.upsert(name, [{"id": "v", "vector": [1.0] * DIM}])


def test_collections_name_what_is_configured_and_nothing_else(suite, server, name):
    put = lambda body: suite.put(f"/v1/collections/{name}", body)  # noqa: E731
    before = len(server.requests)
    answer = put({"vector": {"dimension": DIM}, "embedder": "unknown"})
    assert answer.status == 400 and answer.body["code"] == "invalid_argument", answer
    assert answer.body["errors"][0]["pointer"] == "/embedder" and "mini" in answer.body["detail"]
    answer = put({"vector": {"dimension": DIM + 1}, "embedder": "mini"})
    assert answer.status == 400 and answer.body["errors"][0]["pointer"] == "/vector/dimension"
    for foreign in (server.url, {"url": server.url, "model": "mini-v1"}, "http://169.254.169.254/latest"):
        answer = put({"vector": {"dimension": DIM}, "embedder": foreign})
        assert answer.status == 400 and answer.body["code"] == "not_supported", answer
    assert len(server.requests) == before
    answer = put({"vector": {"metric": "ip"}, "embedder": "mini"})  # its dimension is known
    assert answer.status == 201 and answer.body["vector"]["dimension"] == DIM
    assert put({"vector": {"metric": "ip", "dimension": DIM}, "embedder": "mini"}).status == 200
    assert put({"vector": {"metric": "ip", "dimension": DIM}}).status == 409


def test_numbers_are_kept(suite, server, docs):
    failures = metric(suite, "embedding_failures_total")
    server.behave("refuse")
    assert ask(suite, docs, f"counted {docs}").status == 502
    server.behave(None)
    assert ask(suite, docs, f"counted {docs}").status == 200
    assert metric(suite, "embedding_failures_total") == failures + 1
    assert metric(suite, "embedding_requests_total") >= 2
    assert metric(suite, "embedding_texts_total") >= 1
    assert metric(suite, "embedding_latency_seconds_count") >= 2


@pytest.mark.parametrize("service", ["router", "ingest"])
def test_a_wrong_list_is_refused_at_start(service, tmp_path):
    run = subprocess.run([BIN / f"vicinal-{service}", "--meta", f"sqlite:{tmp_path}/meta.db", "--listen", "127.0.0.1:0",
                          "--embedders", "mini=http://127.0.0.1:1", *(["--wal", f"file:{tmp_path}/wal"] if
                          service == "ingest" else [])], capture_output=True, text=True, timeout=30 * SLOW)
    assert run.returncode == 2 and "--embedders: mini: want dimension=" in run.stderr, run


def test_a_suite_that_lost_the_configuration_says_so(server, tmp_path):
    """Vectors go on; what needs the embedder is told."""
    (tmp_path / "key").write_text(KEY)
    data = tmp_path / "data"
    data.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # As an operator may also say it.
        patch.setenv("VICINAL_EMBEDDERS", f"gone={server.url};dimension={DIM};key_file={tmp_path}/key")
        with Suite(data=data) as suite:
            suite.create("docs", embedder="gone", dimension=DIM)
            assert write(suite, "docs", {"x": "hello there"}).status == 200
    with Suite(data=data) as suite:
        poll("the collection is searched", lambda: suite.post(
            "/v1/collections/docs/search", {"vector": [1] * DIM}).status == 200)
        for answer in (write(suite, "docs", {"y": "hello"}), ask(suite, "docs", "hello")):
            assert answer.status == 502 and "not configured here" in answer.body["detail"], answer
