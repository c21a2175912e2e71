"""LangChain's index() keeps a store in step with its sources, in each of its clean-up modes."""
import asyncio

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager, aindex, index


@pytest.fixture(params=["sync", "async"])
def world(request, new_store):
    """run(documents, cleanup) -> (added, updated, skipped, deleted); texts() -> what is stored."""
    store = new_store(DeterministicFakeEmbedding(size=6))
    manager = InMemoryRecordManager(namespace=store.collection)
    manager.create_schema()

    def run(documents, cleanup, **options):
        options = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "sha256",
                   **options}
        if request.param == "sync":
            result = index(documents, manager, store, **options)
        else:
            async def go():
                try:
                    return await aindex(documents, manager, store, **options)
                finally:
                    await store.aclose()
            result = asyncio.run(go())
        return (result["num_added"], result["num_updated"], result["num_skipped"],
                result["num_deleted"])

    def texts():
        return sorted(d.page_content for d in store.similarity_search("anything", k=1000))

    return run, texts


def document(text, source):
    return Document(page_content=text, metadata={"source": source})


@pytest.mark.parametrize("encoder", ["sha1", "sha256", "blake2b"])
def test_without_clean_up_nothing_is_deleted(world, encoder):
    run, texts = world
    assert run([document("a", "1"), document("b", "1"), document("a", "1")], None,
               key_encoder=encoder)[0] == 2
    assert run([document("a", "1")], None, key_encoder=encoder) == (0, 0, 1, 0)
    assert run([document("c", "1")], None, key_encoder=encoder) == (1, 0, 0, 0)
    assert texts() == ["a", "b", "c"]


def test_incremental_replaces_within_the_sources_seen(world):
    run, texts = world
    assert run([document("a", "1"), document("b", "1"), document("x", "2")],
               "incremental") == (3, 0, 0, 0)
    assert run([document("a", "1"), document("b", "1"), document("x", "2")],
               "incremental") == (0, 0, 3, 0)
    assert run([document("a", "1"), document("b changed", "1")], "incremental") == (1, 0, 1, 1)
    assert texts() == ["a", "b changed", "x"]
    assert run([], "incremental") == (0, 0, 0, 0)
    assert texts() == ["a", "b changed", "x"]


def test_full_deletes_whatever_was_not_given(world):
    run, texts = world
    assert run([document("a", "1"), document("b", "1"), document("x", "2")],
               "full") == (3, 0, 0, 0)
    assert run([document("a", "1"), document("new", "3")], "full") == (1, 0, 1, 2)
    assert texts() == ["a", "new"]
    assert run([], "full") == (0, 0, 0, 2)
    assert texts() == []


def test_scoped_full_deletes_only_within_the_sources_seen(world):
    run, texts = world
    assert run([document("a", "1"), document("b", "1"), document("x", "2")],
               "scoped_full") == (3, 0, 0, 0)
    assert run([document("c", "1")], "scoped_full") == (1, 0, 0, 2)
    assert texts() == ["c", "x"]
    assert run([], "scoped_full") == (0, 0, 0, 0)
    assert texts() == ["c", "x"]


def test_clean_up_in_batches(world):
    run, texts = world
    assert run([document(f"old {i}", "1") for i in range(250)], "full", batch_size=50)[0] == 250
    assert run([document(f"new {i}", "1") for i in range(120)], "full",
               batch_size=50) == (120, 0, 0, 250)
    assert texts() == sorted(f"new {i}" for i in range(120))


def test_forced_update_writes_again(world):
    run, texts = world
    assert run([document("a", "1")], "full") == (1, 0, 0, 0)
    assert run([document("a", "1")], "full", force_update=True) == (0, 1, 0, 0)
    assert texts() == ["a"]
