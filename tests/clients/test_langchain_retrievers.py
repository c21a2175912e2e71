"""as_retriever() in its three search types, and the life of a store around it."""
import asyncio

import pytest
from langchain_core.documents import Document

from embeddings import ReadableEmbeddings
from langchain_vicinal import VicinalVectorStore
from vicinal import Client, DimensionMismatch

DOCUMENTS = [Document(id=i, page_content=text, metadata={"n": n}) for n, (i, text) in enumerate([
    ("a", "1 0 0"), ("a2", "1 0.01 0"), ("b", "0.6 0.8 0"), ("c", "0 1 0"), ("d", "-1 0 0")])]


@pytest.fixture
def store(new_store):
    store = new_store(ReadableEmbeddings())
    store.add_documents(DOCUMENTS)
    return store


@pytest.fixture(params=["sync", "async"])
def invoke(request, store):
    """invoke(query, as_retriever's options…) -> ids"""
    def run(query, call=None, **options):
        retriever = store.as_retriever(**options)
        if request.param == "sync":
            return [d.id for d in retriever.invoke(query, **(call or {}))]

        async def go():
            try:
                return await retriever.ainvoke(query, **(call or {}))
            finally:
                await store.aclose()
        return [d.id for d in asyncio.run(go())]
    return run


def test_similarity(invoke):
    assert invoke("1 0 0") == ["a", "a2", "b", "c"]
    assert invoke("1 0 0", search_kwargs={"k": 2}) == ["a", "a2"]
    assert invoke("1 0 0", call={"k": 1}, search_kwargs={"k": 2}) == ["a"]
    assert invoke("1 0 0", search_kwargs={"k": 9, "filter": {"n": {"$gte": 2}}}) == ["b", "c", "d"]


def test_mmr(invoke):
    found = invoke("1 0 0", search_type="mmr",
                   search_kwargs={"k": 3, "fetch_k": 5, "lambda_mult": 0.1})
    assert found[0] == "a" and "a2" not in found
    assert invoke("1 0 0", search_type="mmr",
                  search_kwargs={"k": 3, "lambda_mult": 1.0}) == ["a", "a2", "b"]


def test_similarity_score_threshold(invoke):
    options = {"search_type": "similarity_score_threshold"}
    assert invoke("1 0 0", search_kwargs={"score_threshold": 0.75, "k": 5}, **options) == [
        "a", "a2", "b"]
    assert invoke("1 0 0", search_kwargs={"score_threshold": 0.999, "k": 5}, **options) == [
        "a", "a2"]
    assert invoke("1 0 0", search_kwargs={"score_threshold": 0.0, "k": 5}, **options) == [
        "a", "a2", "b", "c", "d"]


def test_from_texts(url, name):
    store = VicinalVectorStore.from_texts(
        ["1 0", "0 1"], ReadableEmbeddings(), [{"n": 1}, {"n": 2}], ids=["x", "y"], url=url,
        collection=name)
    assert [d.id for d in store.similarity_search("0 1", k=1)] == ["y"]

    async def go():
        other = await VicinalVectorStore.afrom_documents(
            [Document(id="z", page_content="-1 0")], ReadableEmbeddings(), url=url, collection=name)
        found = await other.asimilarity_search("-1 0", k=3)
        await other.adelete_collection()
        assert await other.asimilarity_search("-1 0", k=3) == []
        await other.aclose()
        return [d.id for d in found]

    assert asyncio.run(go()) == ["z", "y", "x"]
    store.close()


def test_before_the_first_add_there_is_nothing(new_store, ask):
    store = new_store(ReadableEmbeddings())
    assert ask(store, "similarity_search", "1 0 0") == []
    assert ask(store, "similarity_search_with_relevance_scores", "1 0 0") == []
    assert ask(store, "get_by_ids", ["x"]) == []
    assert ask(store, "delete", ["x"]) is True
    assert ask(store, "delete") is True
    assert ask(store, "add_texts", []) == []
    ask(store, "delete_collection")


def test_a_dropped_collection_is_made_anew(store, ask, url, name):
    with Client(url) as other:
        other.delete_collection(name)
    assert ask(store, "similarity_search", "1 0 0") == []
    ask(store, "add_texts", ["0 0 1"], ids=["new"])
    assert [d.id for d in ask(store, "similarity_search", "1 0 0")] == ["new"]
    ask(store, "delete_collection")
    ask(store, "add_texts", ["0 1"], ids=["two"])  # another dimension
    assert [d.id for d in ask(store, "similarity_search", "1 0")] == ["two"]


def test_a_store_joins_an_existing_collection(new_store, ask, url, name):
    with Client(url) as client:
        client.create_collection(name, 3, "l2", index={"kind": "flat"})
    store = new_store(ReadableEmbeddings())
    ask(store, "add_texts", ["1 0 0"])
    assert ask(store, "similarity_search_with_score", "0 0 0")[0][1] == pytest.approx(-1)
    with pytest.raises(ValueError, match="dimension 2"):
        ask(new_store(ReadableEmbeddings()), "add_texts", ["1 0"])
    with pytest.raises(ValueError, match="cosine"):
        ask(new_store(ReadableEmbeddings(), metric="cosine"), "add_texts", ["1 0 0"])
    with pytest.raises(DimensionMismatch):
        ask(store, "add_texts", ["1 0"])


def test_get_by_ids_keeps_the_order_asked(store, ask):
    found = ask(store, "get_by_ids", ["d", "unknown", "a", "c"])
    assert [d.id for d in found] == ["d", "a", "c"]
    assert found[0] == DOCUMENTS[4]


def test_many_documents_go_in_batches(new_store, ask):
    store = new_store(ReadableEmbeddings(), batch_size=100)
    ids = ask(store, "add_texts", [f"1 {i} 0" for i in range(1050)])
    assert len(set(ids)) == 1050
    assert [d.page_content for d in ask(store, "get_by_ids", ids)] == [
        f"1 {i} 0" for i in range(1050)]
    assert len(ask(store, "similarity_search", "1 0 0", k=2000)) == 1050
    assert ask(store, "delete", ids[:1049]) is True
    assert [d.id for d in ask(store, "similarity_search", "1 0 0", k=2000)] == ids[1049:]


@pytest.mark.parametrize("consistency", ["read_your_writes", "fresh"])
def test_a_store_finds_what_it_wrote_at_once(new_store, ask, consistency):
    store = new_store(ReadableEmbeddings(), consistency=consistency)
    for i in range(30):
        first = ask(store, "add_texts", [f"1 {i} 0"], ids=[f"first {i}"])
        second = ask(store, "add_texts", [f"1 {i} 1"], ids=[f"second {i}"])
        assert [d.id for d in ask(store, "get_by_ids", first + second)] == first + second
        assert len(ask(store, "similarity_search", "1 0 0", k=1000)) == i + 2
        ask(store, "delete", first)
        assert ask(store, "get_by_ids", first) == []


def test_consistency_per_call(store, ask):
    for options in ({"consistency": "fresh"}, {"consistency": "eventual"},
                    {"max_staleness_seconds": 60}, {"timeout_ms": 5000}):
        assert len(ask(store, "similarity_search", "1 0 0", k=5, **options)) == 5
    with pytest.raises(ValueError):
        ask(store, "similarity_search", "1 0 0", consistency="never")
    with pytest.raises(TypeError):
        ask(store, "similarity_search", "1 0 0", unknown=1)
    with pytest.raises(ValueError):
        VicinalVectorStore(embedding=ReadableEmbeddings(), consistency="never")
