"""Scores are what the metric says, higher is better; relevance is in [0, 1] and keeps the order."""
import math

import pytest
from langchain_core.documents import Document

from embeddings import ReadableEmbeddings

TEXTS = ["1 0 0|a", "0.5 0.5 0|b", "0 2 0|c", "-1 0 0|d", "-3 0.25 0|e"]
QUERY = "2 0 0"


def vector(text):
    return ReadableEmbeddings().embed_query(text)


def score(metric, a, b):
    dot = sum(x * y for x, y in zip(a, b))
    if metric == "ip":
        return dot
    if metric == "l2":
        return -math.dist(a, b)
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def expected(metric, query=QUERY):
    return sorted(((score(metric, vector(query), vector(text)), text) for text in TEXTS),
                  reverse=True)


@pytest.fixture(params=["cosine", "ip", "l2"])
def metric(request):
    return request.param


@pytest.fixture
def store(new_store, metric):
    store = new_store(ReadableEmbeddings(), metric=metric)
    store.add_texts(TEXTS)
    return store


def test_scores(store, ask, metric):
    for found in (ask(store, "similarity_search_with_score", QUERY, k=5),
                  ask(store, "similarity_search_with_score_by_vector", vector(QUERY), k=5)):
        assert [d.page_content for d, _ in found] == [text for _, text in expected(metric)]
        assert [s for _, s in found] == pytest.approx([s for s, _ in expected(metric)], abs=1e-5)


def test_by_vector(store, ask, metric):
    found = ask(store, "similarity_search_by_vector", vector(QUERY), k=2)
    assert [d.page_content for d in found] == [text for _, text in expected(metric)[:2]]


def test_score_threshold_is_the_raw_score(store, ask, metric):
    (third, _), (fourth, _) = expected(metric)[2:4]
    found = ask(store, "similarity_search_with_score", QUERY, k=5,
                score_threshold=(third + fourth) / 2)
    assert len(found) == 3


RELEVANCE = {"cosine": lambda s: (s + 1) / 2, "ip": lambda s: 1 / (1 + math.exp(-s)),
             "l2": lambda s: 1 / (1 - s)}


def test_relevance(store, ask, metric, recwarn):
    found = ask(store, "similarity_search_with_relevance_scores", QUERY, k=5)
    assert [d.page_content for d, _ in found] == [text for _, text in expected(metric)]
    assert [s for _, s in found] == pytest.approx(
        [RELEVANCE[metric](s) for s, _ in expected(metric)], abs=1e-5)
    assert all(0 <= s <= 1 for _, s in found)
    some = ask(store, "similarity_search_with_relevance_scores", QUERY, k=5,
               score_threshold=found[1][1])
    assert len(some) == 2
    assert not [w for w in recwarn if "Relevance scores" in str(w.message)]


def test_relevance_of_a_store_that_was_made_by_another(store, ask, metric, new_store):
    other = new_store(ReadableEmbeddings())  # it does not know the metric
    best = ask(other, "similarity_search_with_relevance_scores", QUERY, k=1)[0][1]
    assert best == pytest.approx(RELEVANCE[metric](expected(metric)[0][0]), abs=1e-5)


def test_relevance_function_of_the_user(store, ask, new_store):
    other = new_store(ReadableEmbeddings(), relevance_score_fn=lambda score: 0.25)
    assert [s for _, s in ask(other, "similarity_search_with_relevance_scores", QUERY, k=2)] == [
        0.25, 0.25]


def test_huge_scores_stay_in_bounds(ask, new_store):
    for metric in ("ip", "l2"):
        store = new_store(ReadableEmbeddings(), metric=metric)
        store.add_texts(["1e15 0", "-1e15 0"])
        found = ask(store, "similarity_search_with_relevance_scores", "1e15 0", k=2)
        assert all(0 <= s <= 1 for _, s in found)
        store.delete_collection()


VALUES = {"none": None, "true": True, "int": 7, "negative": -3, "big": 2**53 + 1, "float": 0.1,
          "whole float": 1.0, "text": "héllo \"quoted\"\n\u2028 🎉", "empty": "",
          "list": [1, "a", None],
          "nested": {"deep": {"deeper": [True, {"x": 1.5}]}}, "": "empty name", "dotted.name": 1}


def same(a, b):
    """Equal, and of equal types: 1 is not 1.0 and not True."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_metadata_and_text_come_back_as_they_were(ask, new_store):
    store = new_store(ReadableEmbeddings())
    text = "1 0 0|\n text with \"quotes\", \\ and é 🎉 \u0001"
    ask(store, "add_documents", [Document(id="x", page_content=text, metadata=VALUES),
                                 Document(id="bare", page_content="0 1 0")])
    for found in (ask(store, "get_by_ids", ["x"])[0],
                  ask(store, "similarity_search", "1 0 0", k=1)[0]):
        assert found.id == "x" and found.page_content == text
        assert same(found.metadata, VALUES), found.metadata
    assert ask(store, "get_by_ids", ["bare"])[0].metadata == {}
