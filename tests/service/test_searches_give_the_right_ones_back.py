"""Searches against brute force: three metrics, filters in every operation, pages, offsets, MMR,
thresholds, explain, batches; records without a vector; one shard or two."""
import math
import random

import pytest

DIMENSION, COUNT = 8, 300


def score(metric, a, b):
    dot = sum(x * y for x, y in zip(a, b))
    if metric == "ip":
        return dot
    if metric == "l2":
        return -math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


@pytest.fixture(scope="module", params=["cosine", "ip", "l2"])
def world(request, shared):
    chance = random.Random(7)
    name = "right-" + request.param
    shared.create(name, DIMENSION, request.param)
    rows = {}
    for i in range(COUNT):
        rows[f"r{i:03}"] = {"id": f"r{i:03}", "vector": [round(chance.gauss(0, 1), 4) for _ in range(DIMENSION)],
                            "text": f"text {i} \"quoted\" é\n", "metadata": {"n": i, "even": i % 2 == 0}}
    everything = list(rows.values())
    # A token covers the partitions of its own write only.
    shared.upsert(name, everything[:150], wait="searchable")
    shared.upsert(name, everything[150:], wait="searchable")
    token = shared.upsert(name, [{"id": "plain", "text": "no vector", "metadata": {"n": -1}}])["read_token"]
    return shared, name, request.param, rows, token


def nearest(metric, rows, query, keep=lambda row: True):
    return sorted(((score(metric, query, row["vector"]), row["id"]) for row in rows.values() if keep(row)),
                  key=lambda pair: (-pair[0], pair[1]))


def ask(world, **body):
    shared, name, _, _, token = world
    answer = shared.post(f"/v1/collections/{name}/search", {"read_token": token, **body})
    assert answer.status == 200, answer
    return answer.body


@pytest.mark.parametrize("top_k", [1, 10, 299, 1000])
def test_nearest_first_with_scores(world, top_k):
    _, _, metric, rows, _ = world
    chance = random.Random(top_k)
    for _ in range(5):
        query = [chance.gauss(0, 1) for _ in range(DIMENSION)]
        matches = ask(world, vector=query, top_k=top_k)["matches"]
        expected = nearest(metric, rows, query)[:top_k]
        assert [m["id"] for m in matches] == [i for _, i in expected]
        for match, (value, identity) in zip(matches, expected):
            assert match["score"] == pytest.approx(value, abs=1e-4)
            assert match["text"] == rows[identity]["text"] and match["metadata"] == rows[identity]["metadata"]
            assert "vector" not in match


def test_filters_everywhere(world):
    shared, name, metric, rows, token = world
    query = [1.0] * DIMENSION
    where = {"even": True, "n": {"$gte": 100}}
    expected = nearest(metric, rows, query, lambda r: r["metadata"]["even"] and r["metadata"]["n"] >= 100)
    matches = ask(world, vector=query, top_k=1000, filter=where)["matches"]
    assert [m["id"] for m in matches] == [i for _, i in expected]
    counted = shared.post(f"/v1/collections/{name}/records/count", {"filter": where, "read_token": token}).body
    assert counted["count"] == len(expected) and counted["exact"] is True
    ids, page = [], None
    while True:
        body = {"filter": where, "limit": 7, "read_token": token, **({"page_token": page} if page else {})}
        answer = shared.post(f"/v1/collections/{name}/records/scroll", body).body
        ids += [r["id"] for r in answer["records"]]
        page = answer.get("next_page_token")
        if not page:
            break
    assert ids == sorted(i for _, i in expected)


def test_offset_and_include(world):
    query = [0.5] * DIMENSION
    whole = ask(world, vector=query, top_k=30, include=[])["matches"]
    part = ask(world, vector=query, top_k=10, offset=20, include=["vector"])["matches"]
    assert [m["id"] for m in whole[20:]] == [m["id"] for m in part]
    assert set(whole[0]) == {"id", "score"}
    assert part[0]["vector"] == pytest.approx(world[3][part[0]["id"]]["vector"], abs=1e-6)


def test_score_threshold(world):
    query = [0.3] * DIMENSION
    whole = ask(world, vector=query, top_k=50)["matches"]
    limit = (whole[9]["score"] + whole[10]["score"]) / 2
    assert [m["id"] for m in ask(world, vector=query, top_k=50, score_threshold=limit)["matches"]] == \
        [m["id"] for m in whole[:10]]


def test_by_id(world):
    _, _, metric, rows, _ = world
    query = rows["r007"]["vector"]
    assert [m["id"] for m in ask(world, id="r007", top_k=20)["matches"]] == \
        [i for _, i in nearest(metric, rows, query)[:20]]
    shared, name, *_ , token = world
    missing = shared.post(f"/v1/collections/{name}/search", {"id": "nobody", "read_token": token})
    assert missing.status == 404 and missing.body["code"] == "record_not_found"
    plain = shared.post(f"/v1/collections/{name}/search", {"id": "plain", "read_token": token})
    assert plain.status == 400, plain


def test_mmr_trades_relevance_for_diversity(world):
    query = [0.3] * DIMENSION
    relevant = [m["id"] for m in ask(world, vector=query, top_k=10)["matches"]]
    assert [m["id"] for m in ask(world, vector=query, top_k=10, mmr={"lambda": 1.0, "fetch_k": 50})["matches"]] \
        == relevant or world[2] != "cosine"
    diverse = [m["id"] for m in ask(world, vector=query, top_k=10, mmr={"lambda": 0.1, "fetch_k": 50})["matches"]]
    assert len(set(diverse)) == 10 and set(diverse) != set(relevant)


def test_explain_tells_the_plan(world):
    body = ask(world, vector=[0.3] * DIMENSION, explain=True)
    text = str(body["explain"])
    for word in ("plan", "distances", "replica", "positions", "cache"):
        assert word in text, text


def test_a_batch_answers_each_and_fails_one_alone(world):
    shared, name, _, rows, token = world
    searches = [{"vector": rows["r001"]["vector"], "top_k": 3, "read_token": token}, {"vector": [1]},
                {"id": "r002", "top_k": 1, "read_token": token}, {"vector": [1] * DIMENSION, "nonsense": 1}]
    answer = shared.post(f"/v1/collections/{name}/search/batch", {"searches": searches})
    assert answer.status == 200, answer
    first, second, third, fourth = answer.body["results"]
    alone = ask(world, **searches[0])["matches"]
    assert first["matches"] == alone
    assert second["error"]["code"] == "dimension_mismatch"
    assert len(third["matches"]) == 1
    assert fourth["error"]["code"] == "unknown_field"


def test_records_without_a_vector_are_kept_filtered_and_not_searched(world):
    shared, name, *_, token = world
    got = shared.post(f"/v1/collections/{name}/records/get", {"ids": ["plain", "nobody", "r001"],
                                                             "read_token": token}).body["records"]
    assert [r["id"] for r in got] == ["plain", "r001"]
    assert got[0]["text"] == "no vector" and got[0]["metadata"] == {"n": -1}
    counted = shared.post(f"/v1/collections/{name}/records/count", {"filter": {"n": -1}, "read_token": token})
    assert counted.body["count"] == 1
    assert "plain" not in [m["id"] for m in ask(world, vector=[1.0] * DIMENSION, top_k=1000)["matches"]]


def test_dimension_six_is_legal_and_empty_is_fine(shared, name):
    shared.create(name, 6)
    answer = shared.post(f"/v1/collections/{name}/search", {"vector": [1, 2, 3, 4, 5, 6]})
    assert answer.status == 200 and answer.body["matches"] == []
    shared.delete(f"/v1/collections/{name}")


def test_the_built_in_embedder(shared, name):
    shared.create(name, 384, embedder="hash")
    texts = ["How to reset a forgotten password", "Baking bread with rye flour", "The orbit of the moon"]
    token = shared.upsert(name, [{"id": f"{i}", "text": t} for i, t in enumerate(texts)])["read_token"]
    matches = shared.post(f"/v1/collections/{name}/search", {"embed": "reset my password", "read_token": token}).body
    assert matches["matches"][0]["id"] == "0" and len(matches["matches"]) == 3
    shared.delete(f"/v1/collections/{name}")


def test_collections_are_listed_page_by_page(shared):
    names = [f"page-{i}" for i in range(5)]
    for each in names:
        shared.create(each, 2)
    seen, token = [], None
    while True:
        answer = shared.get("/v1/collections?limit=2" + (f"&page_token={token}" if token else "")).body
        seen += [c["name"] for c in answer["collections"]]
        token = answer.get("next_page_token")
        if not token:
            break
    assert [s for s in seen if s in names] == names and seen == sorted(seen)
    one = shared.counted("page-0")
    assert one.body["vector_count"] == 0 and one.headers["ETag"]
    assert shared.get("/v1/collections/page-0", {"If-None-Match": one.headers["ETag"]}).status == 304
    for each in names:
        shared.delete(f"/v1/collections/{each}")
