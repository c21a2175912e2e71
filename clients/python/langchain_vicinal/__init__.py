"""LangChain on Vicinal: a vector store, and a translator of structured queries."""
from langchain_vicinal.filters import VicinalTranslator, to_filter
from langchain_vicinal.vectorstore import VicinalVectorStore

__all__ = ["VicinalTranslator", "VicinalVectorStore", "to_filter"]
