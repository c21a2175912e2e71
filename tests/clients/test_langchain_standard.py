"""LangChain's standard integration suite of vector stores, over two shards."""
import uuid

import pytest
from langchain_tests.integration_tests.vectorstores import VectorStoreIntegrationTests

from langchain_vicinal import VicinalVectorStore


class TestVicinalVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, url):
        store = VicinalVectorStore(url=url, collection="standard-" + uuid.uuid4().hex[:12],
                                   embedding=self.get_embeddings())
        yield store
        store.delete_collection()
        store.close()
