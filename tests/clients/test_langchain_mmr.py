"""The server's maximal marginal relevance chooses what LangChain's own would choose."""
import random

import numpy
import pytest
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from embeddings import ReadableEmbeddings


def text_of(vector):
    return " ".join(repr(x) for x in vector)


@pytest.fixture
def world(new_store):
    """A store of 120 vectors in clumps, so that near ones are alike."""
    chance = random.Random(11)
    centres = [[chance.gauss(0, 1) for _ in range(8)] for _ in range(12)]
    vectors = [[round(x + chance.gauss(0, 0.15), 4) for x in centres[i % 12]] for i in range(120)]
    store = new_store(ReadableEmbeddings())
    store.add_texts([text_of(v) for v in vectors], [{"even": i % 2 == 0} for i in range(120)],
                    ids=[str(i) for i in range(120)])
    queries = [[chance.gauss(0, 1) for _ in range(8)] for _ in range(5)]
    return store, vectors, queries


def oracle(vectors, query, k, fetch_k, weight, keep=lambda i: True):
    v = numpy.array(vectors)
    cosines = v @ numpy.array(query) / numpy.linalg.norm(v, axis=1)
    near = [int(i) for i in numpy.argsort(-cosines) if keep(int(i))][:fetch_k]
    picks = maximal_marginal_relevance(numpy.array(query), [vectors[i] for i in near],
                                       lambda_mult=weight, k=k)
    return [str(near[pick]) for pick in picks]


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_as_langchain_would(world, ask, weight):
    store, vectors, queries = world
    for query in queries:
        for k, fetch_k in ((4, 20), (10, 50), (1, 1), (5, 3)):
            wanted = oracle(vectors, query, k, fetch_k, weight)
            found = ask(store, "max_marginal_relevance_search_by_vector", query, k=k,
                        fetch_k=fetch_k, lambda_mult=weight)
            assert [d.id for d in found] == wanted
            found = ask(store, "max_marginal_relevance_search", text_of(query), k=k,
                        fetch_k=fetch_k, lambda_mult=weight)
            assert [d.id for d in found] == wanted


def test_one_is_relevance_and_zero_is_diversity(world, ask):
    store, vectors, queries = world
    query = queries[0]
    near = [d.id for d in ask(store, "similarity_search_by_vector", query, k=6)]
    kept = [d.id for d in ask(store, "max_marginal_relevance_search_by_vector", query, k=6,
                              fetch_k=60, lambda_mult=1.0)]
    spread = [d.id for d in ask(store, "max_marginal_relevance_search_by_vector", query, k=6,
                                fetch_k=60, lambda_mult=0.0)]
    assert kept == near and spread[0] == near[0] and spread != near
    clumps = {int(i) % 12 for i in spread}
    assert len(clumps) > len({int(i) % 12 for i in near})


def test_with_a_filter(world, ask):
    store, vectors, queries = world
    found = ask(store, "max_marginal_relevance_search_by_vector", queries[1], k=5, fetch_k=25,
                lambda_mult=0.3, filter={"even": True})
    assert [d.id for d in found] == oracle(vectors, queries[1], 5, 25, 0.3, lambda i: i % 2 == 0)


def test_vectors_are_not_part_of_the_documents(world, ask):
    store, _, queries = world
    for document in ask(store, "max_marginal_relevance_search_by_vector", queries[2]):
        assert set(document.metadata) == {"even"}


def test_nothing_to_choose_from(new_store, ask):
    store = new_store(ReadableEmbeddings())
    assert ask(store, "max_marginal_relevance_search", "1 0 0") == []
