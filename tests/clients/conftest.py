"""One suite of two shards for all these tests, and what they share.

VICINAL_TEST_URL names a suite that runs already, to be used instead.
"""
import asyncio
import os
import pathlib
import sys
import uuid

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "lib"))

from suite import Suite  # noqa: E402


@pytest.fixture(scope="session")
def url():
    running = os.environ.get("VICINAL_TEST_URL")
    if running:
        yield running
        return
    with Suite(shards=2) as suite:
        yield suite.url


@pytest.fixture
def name():
    """A collection name of this test's own."""
    return "c" + uuid.uuid4().hex[:12]


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """ask(store, "method", …): the blocking method, or its awaitable twin in one event loop."""
    if request.param == "sync":
        yield lambda store, method, *args, **kwargs: getattr(store, method)(*args, **kwargs)
        return
    loop = asyncio.new_event_loop()
    used = []

    def twin(store, method, *args, **kwargs):
        if not any(store is other for other in used):
            used.append(store)
        return loop.run_until_complete(getattr(store, "a" + method)(*args, **kwargs))

    yield twin
    for store in used:
        loop.run_until_complete(store.aclose())
    loop.close()


@pytest.fixture
def new_store(url, name):
    """new_store(embedding, …): a store of this test's own, dropped at the end."""
    from langchain_vicinal import VicinalVectorStore

    made = []

    def new(embedding, **options):
        store = VicinalVectorStore(url=url, embedding=embedding, **{"collection": name, **options})
        made.append(store)
        return store

    yield new
    for store in made:
        store.delete_collection()
        store.close()
