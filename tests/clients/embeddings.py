"""Embeddings whose vectors a test can read: the text "1 0 0.5" is the vector [1, 0, 0.5]."""
from langchain_core.embeddings import Embeddings


class ReadableEmbeddings(Embeddings):
    """What follows a "|" in the text is no part of the vector."""

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        return [float(word) for word in text.split("|")[0].split()]
