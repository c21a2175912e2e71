"""Filters: native ones and LangChain's structured queries find exactly what they describe."""
import datetime

import pytest
from langchain_core.documents import Document
from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
)

from embeddings import ReadableEmbeddings
from langchain_vicinal import VicinalTranslator, to_filter
from vicinal import InvalidRequest

METADATA = {
    "a": {"lang": "en", "year": 2020, "score": 1.5, "tags": ["x", "y"], "ok": True,
          "day": "2024-01-10", "owner": {"name": "ann"}},
    "b": {"lang": "en", "year": 2024, "score": -2.0, "tags": ["y"], "ok": False,
          "day": "2024-03-01", "owner": {"name": "bob"}},
    "c": {"lang": "de", "year": 2024, "score": 0.0, "tags": [], "ok": True,
          "day": "2023-12-31"},
    "d": {"lang": "fr", "year": "2024", "note": "no numbers here"},
    "e": {},
}


@pytest.fixture
def store(new_store):
    store = new_store(ReadableEmbeddings())
    store.add_documents([Document(id=i, page_content=f"1 {n} 0|{i}", metadata=m)
                         for n, (i, m) in enumerate(METADATA.items())])
    return store


def eq(attribute, value):
    return Comparison(Comparator.EQ, attribute, value)


def compare(comparator, attribute, value):
    return Comparison(comparator, attribute, value)


NATIVE = [
    ({}, "abcde"),
    (None, "abcde"),
    ({"lang": "en"}, "ab"),
    ({"lang": "en", "year": {"$gte": 2024}}, "b"),
    ({"year": 2024}, "bc"),
    ({"year": "2024"}, "d"),
    ({"lang": {"$ne": "en"}}, "cde"),
    ({"lang": {"$in": ["de", "fr"]}}, "cd"),
    ({"lang": {"$nin": ["de", "fr"]}}, "abe"),
    ({"score": {"$gt": -2, "$lt": 1.5}}, "c"),
    ({"tags": {"$contains": "y"}}, "ab"),
    ({"tags": {"$contains_any": ["x", "z"]}}, "a"),
    ({"tags": {"$contains_all": ["y", "x"]}}, "a"),
    ({"ok": True}, "ac"),
    ({"owner.name": "ann"}, "a"),
    ({"owner": {"$exists": True}}, "ab"),
    ({"owner": {"$exists": False}}, "cde"),
    ({"tags": {"$is_empty": True}}, "cde"),
    ({"lang": None}, "e"),
    ({"day": {"$gte": "2024-01-01", "$lt": "2024-02-01"}}, "a"),
    ({"note": {"$text": "numbers"}}, "d"),
    ({"lang": {"$like": "_n"}}, "ab"),
    ({"$or": [{"lang": "de"}, {"score": {"$gt": 1}}]}, "ac"),
    ({"$not": {"lang": "en"}}, "cde"),
    ({"$nor": [{"lang": "en"}, {"year": 2024}]}, "de"),
    ({"$id": {"$in": ["a", "e", "unknown"]}}, "ae"),
]

STRUCTURED = [
    (eq("lang", "en"), "ab"),
    (compare(Comparator.NE, "lang", "en"), "cde"),
    (compare(Comparator.GT, "year", 2020), "bc"),
    (compare(Comparator.GTE, "year", 2020), "abc"),
    (compare(Comparator.LT, "year", 2024), "a"),
    (compare(Comparator.LTE, "score", 0), "bc"),
    (compare(Comparator.CONTAIN, "tags", "x"), "a"),
    (compare(Comparator.LIKE, "lang", "%n"), "ab"),
    (compare(Comparator.IN, "lang", ["en", "de"]), "abc"),
    (compare(Comparator.NIN, "lang", ["en", "de"]), "de"),
    (compare(Comparator.GTE, "day", {"date": "2024-01-01", "type": "date"}), "ab"),
    (compare(Comparator.LT, "day", datetime.date(2024, 2, 1)), "ac"),
    (Operation(Operator.AND, [eq("lang", "en"), eq("ok", True)]), "a"),
    (Operation(Operator.OR, [eq("lang", "fr"), eq("ok", False)]), "bd"),
    (Operation(Operator.NOT, [eq("lang", "en")]), "cde"),
    (Operation(Operator.NOT, [eq("lang", "en"), eq("ok", True)]), "bcde"),
    (Operation(Operator.AND, [
        Operation(Operator.OR, [eq("lang", "en"), eq("lang", "de")]),
        Operation(Operator.NOT, [compare(Comparator.LT, "year", 2024)])]), "bc"),
]


@pytest.mark.parametrize("where,expected", NATIVE, ids=str)
def test_native(store, ask, where, expected):
    found = ask(store, "similarity_search", "1 0 0", k=10, filter=where)
    assert [d.id for d in found] == list(expected)
    for document in found:
        assert document.metadata == METADATA[document.id]


@pytest.mark.parametrize("where,expected", STRUCTURED, ids=lambda v: str(v)[:60])
def test_structured_queries(store, ask, where, expected):
    for each in (where, StructuredQuery(query="", filter=where), to_filter(where)):
        found = ask(store, "similarity_search_with_score", "1 0 0", k=10, filter=each)
        assert [d.id for d, _ in found] == list(expected)


def test_the_translator_is_one_of_the_self_query_retriever():
    query = StructuredQuery(query="words", filter=eq("lang", "en"), limit=3)
    assert VicinalTranslator().visit_structured_query(query) == (
        "words", {"filter": {"lang": {"$eq": "en"}}})
    query = StructuredQuery(query="words", filter=None)
    assert VicinalTranslator().visit_structured_query(query) == ("words", {})


def test_the_nearest_of_the_few_are_found_among_many(new_store, ask):
    store = new_store(ReadableEmbeddings())
    texts = [f"1 {i} 0|" for i in range(700)]
    store.add_texts(texts, [{"n": i, "rare": i % 97 == 5} for i in range(700)],
                    ids=[str(i) for i in range(700)])
    found = ask(store, "similarity_search", "1 0 0", k=4, filter={"rare": True})
    assert [d.id for d in found] == ["5", "102", "199", "296"]


def test_a_bad_filter_is_refused_and_never_ignored(store, ask):
    with pytest.raises(InvalidRequest) as caught:
        ask(store, "similarity_search", "1 0 0", filter={"year": {"$near": 1}})
    assert caught.value.code == "invalid_filter" and caught.value.pointer.startswith("/filter")
    with pytest.raises(TypeError):
        ask(store, "similarity_search", "1 0 0", filter="lang == 'en'")


def test_delete_by_filter(store, ask):
    assert ask(store, "delete", filter=eq("lang", "en")) is True
    assert [d.id for d in ask(store, "similarity_search", "1 0 0", k=10)] == list("cde")
    with pytest.raises(ValueError):
        ask(store, "delete", filter={})
    with pytest.raises(ValueError):
        ask(store, "delete", ["c"], filter={"lang": "de"})
    assert ask(store, "delete") is True
    assert ask(store, "similarity_search", "1 0 0", k=10) == []
