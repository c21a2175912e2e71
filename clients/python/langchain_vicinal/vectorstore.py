"""VicinalVectorStore: LangChain's VectorStore over Vicinal's REST API, blocking and natively async.

The collection is created at the first add, with the embedding's dimension; before that searches
find nothing.  The default consistency is "read_your_writes": what this store wrote, it finds.
Scores are Vicinal's: higher is better (the cosine, the inner product, or minus the Euclidean
distance).
"""
from __future__ import annotations

import math
import uuid
from typing import (Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence,
                    Tuple, Type, TypeVar)

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from langchain_vicinal.filters import Filter, to_filter
from vicinal import AsyncClient, Client, CollectionExists, CollectionNotFound, Session

_Store = TypeVar("_Store", bound="VicinalVectorStore")
_Row = Dict[str, Any]
Metadatas = Optional[List[Dict[str, Any]]]

_RECORDS_MAX = 1000  # of one request
_GET_BATCH = 1000  # ids of one request, so that answers stay small
_DELETE_BATCH = 10000
_BATCH_BYTES = 16 << 20  # of texts and vectors in one request; the server takes 64 MiB


def _cosine_relevance(score: float) -> float:
    return min(1.0, max(0.0, (score + 1.0) / 2.0))


def _ip_relevance(score: float) -> float:
    """An inner product has no bounds; this keeps the order."""
    if score < 0:
        power = math.exp(max(score, -700.0))
        return power / (1.0 + power)
    return 1.0 / (1.0 + math.exp(-min(score, 700.0)))


def _l2_relevance(score: float) -> float:
    return 1.0 / (1.0 + max(0.0, -score))


_RELEVANCE: Dict[str, Callable[[float], float]] = {
    "cosine": _cosine_relevance, "ip": _ip_relevance, "l2": _l2_relevance}


def _document(row: Mapping[str, Any]) -> Document:
    return Document(id=row["id"], page_content=row.get("text") or "",
                    metadata=row.get("metadata") or {})


class VicinalVectorStore(VectorStore):
    """A collection as a vector store.

    url, api_key, timeout: of the server, unless client (and async_client) are given.
    metric: cosine, ip or l2; None takes an existing collection's, or cosine for a new one.
    index: {"kind", "m", "ef_construction", "code_bits"} of a new collection.
    consistency: "eventual", "read_your_writes", "fresh" or "fresh_global", for every read.
    batch_size: records of one request, at most 1000.
    relevance_score_fn: from a score to [0, 1]; the default depends on the metric.

    Searches also take, as keyword arguments: filter (a Vicinal filter or a LangChain structured
    query), score_threshold, params ({"exact", "ef", "recall"}), offset, and the options of reads of
    vicinal.Client (consistency, max_staleness_seconds, on_stale, read_token, timeout_ms,
    allow_partial).
    """

    def __init__(self, *, embedding: Embeddings, url: str = "http://127.0.0.1:8080",
                 collection: str = "langchain", metric: Optional[str] = None,
                 index: Optional[Mapping[str, Any]] = None,
                 consistency: str = "read_your_writes", api_key: Optional[str] = None,
                 timeout: float = 30.0, batch_size: int = 256,
                 relevance_score_fn: Optional[Callable[[float], float]] = None,
                 client: Optional[Client] = None,
                 async_client: Optional[AsyncClient] = None) -> None:
        if metric is not None and metric not in _RELEVANCE:
            raise ValueError(f"metric is one of {', '.join(_RELEVANCE)}, not {metric!r}")
        if not 1 <= batch_size <= _RECORDS_MAX:
            raise ValueError("batch_size is 1 to 1000")
        session = client.session if client else async_client.session if async_client else Session()
        self.client = client if client is not None else Client(
            async_client.url if async_client else url, api_key=api_key, consistency=consistency,
            timeout=timeout, session=session)
        self.async_client = async_client if async_client is not None else AsyncClient(
            self.client.url, api_key=api_key, consistency=consistency, timeout=timeout,
            session=session)
        self.collection = collection
        self._embedding = embedding
        self._metric_asked, self._index = metric, index
        self._metric = metric  # the collection's, once it is known
        self._batch_size = batch_size
        self._relevance_score_fn = relevance_score_fn
        self._is_created = False  # as far as this object knows

    @property
    def embeddings(self) -> Embeddings:
        return self._embedding

    # --- adding ---------------------------------------------------------------------------------

    def add_texts(self, texts: Iterable[str], metadatas: Metadatas = None, *,
                  ids: Optional[Sequence[Optional[str]]] = None, **kwargs: Any) -> List[str]:
        """Embed and upsert; a record with the same id is replaced.  Ids are made where None.

        Keyword arguments: batch_size, and those of vicinal.Client.upsert.
        """
        texts, rows = _rows(texts, metadatas, ids)
        return self._add(rows, self._embedding.embed_documents(texts) if texts else [], kwargs)

    async def aadd_texts(self, texts: Iterable[str], metadatas: Metadatas = None, *,
                         ids: Optional[Sequence[Optional[str]]] = None,
                         **kwargs: Any) -> List[str]:
        texts, rows = _rows(texts, metadatas, ids)
        return await self._aadd(
            rows, await self._embedding.aembed_documents(texts) if texts else [], kwargs)

    def add_embeddings(self, text_embeddings: Iterable[Tuple[str, Sequence[float]]],
                       metadatas: Metadatas = None, *,
                       ids: Optional[Sequence[Optional[str]]] = None, **kwargs: Any) -> List[str]:
        """As add_texts, with vectors that the caller has."""
        pairs = list(text_embeddings)
        _, rows = _rows([text for text, _ in pairs], metadatas, ids)
        return self._add(rows, [vector for _, vector in pairs], kwargs)

    async def aadd_embeddings(self, text_embeddings: Iterable[Tuple[str, Sequence[float]]],
                              metadatas: Metadatas = None, *,
                              ids: Optional[Sequence[Optional[str]]] = None,
                              **kwargs: Any) -> List[str]:
        pairs = list(text_embeddings)
        _, rows = _rows([text for text, _ in pairs], metadatas, ids)
        return await self._aadd(rows, [vector for _, vector in pairs], kwargs)

    def _add(self, rows: List[_Row], vectors: Sequence[Sequence[float]],
             options: Dict[str, Any]) -> List[str]:
        options = dict(options)
        for batch in self._batches(rows, vectors, options.pop("batch_size", None)):
            self._create(len(batch[0]["vector"]))
            try:
                self.client.upsert(self.collection, batch, **options)
            except CollectionNotFound:  # dropped by somebody else meanwhile
                self._is_created = False
                self._create(len(batch[0]["vector"]))
                self.client.upsert(self.collection, batch, **options)
        return [row["id"] for row in rows]

    async def _aadd(self, rows: List[_Row], vectors: Sequence[Sequence[float]],
                    options: Dict[str, Any]) -> List[str]:
        options = dict(options)
        for batch in self._batches(rows, vectors, options.pop("batch_size", None)):
            await self._acreate(len(batch[0]["vector"]))
            try:
                await self.async_client.upsert(self.collection, batch, **options)
            except CollectionNotFound:
                self._is_created = False
                await self._acreate(len(batch[0]["vector"]))
                await self.async_client.upsert(self.collection, batch, **options)
        return [row["id"] for row in rows]

    def _batches(self, rows: List[_Row], vectors: Sequence[Sequence[float]],
                 batch_size: Optional[int]) -> Iterator[List[_Row]]:
        most = min(batch_size or self._batch_size, _RECORDS_MAX)
        if len(rows) != len(vectors):
            raise ValueError(f"{len(rows)} texts, but {len(vectors)} vectors")
        batch: List[_Row] = []
        size = 0
        for row, vector in zip(rows, vectors):
            row_size = 4 * len(row["text"]) + 6 * len(vector)
            if batch and (len(batch) == most or size + row_size > _BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append({**row, "vector": vector})
            size += row_size
        if batch:
            yield batch

    # --- the collection -------------------------------------------------------------------------

    def _create(self, dimension: int) -> None:
        if self._is_created:
            return
        try:
            found = self.client.create_collection(
                self.collection, dimension, self._metric_asked or "cosine", index=self._index)
        except CollectionExists:
            found = self.client.get_collection(self.collection)
        self._take(found, dimension)

    async def _acreate(self, dimension: int) -> None:
        if self._is_created:
            return
        try:
            found = await self.async_client.create_collection(
                self.collection, dimension, self._metric_asked or "cosine", index=self._index)
        except CollectionExists:
            found = await self.async_client.get_collection(self.collection)
        self._take(found, dimension)

    def _take(self, found: Mapping[str, Any], dimension: int) -> None:
        """Go on with a collection that somebody else defined, if it is what was asked for."""
        vector = found["vector"]
        index = found.get("index") or {}
        differs = {name: index.get(name) for name, value in (self._index or {}).items()
                   if index.get(name) != value}
        if vector["dimension"] != dimension or differs or \
                self._metric_asked not in (None, vector["metric"]):
            raise ValueError(
                f"collection {self.collection!r} exists with {dict(found)}; asked for: dimension "
                f"{dimension}, metric {self._metric_asked}, index {self._index}")
        self._metric, self._is_created = vector["metric"], True

    def delete_collection(self) -> None:
        """Drop the collection and all that is in it; it need not exist."""
        self._metric, self._is_created = self._metric_asked, False
        try:
            self.client.delete_collection(self.collection)
        except CollectionNotFound:
            pass

    async def adelete_collection(self) -> None:
        self._metric, self._is_created = self._metric_asked, False
        try:
            await self.async_client.delete_collection(self.collection)
        except CollectionNotFound:
            pass

    def close(self) -> None:
        self.client.close()

    async def aclose(self) -> None:
        await self.async_client.aclose()

    # --- by id ----------------------------------------------------------------------------------

    def delete(self, ids: Optional[List[str]] = None, *, filter: Optional[Filter] = None,
               **kwargs: Any) -> Optional[bool]:
        """By ids, by filter, or (with neither) everything.  Unknown ids are no error."""
        for what in _deletions(ids, filter):
            try:
                self.client.delete(self.collection, **what, **kwargs)
            except CollectionNotFound:
                return True
        return True

    async def adelete(self, ids: Optional[List[str]] = None, *, filter: Optional[Filter] = None,
                      **kwargs: Any) -> Optional[bool]:
        for what in _deletions(ids, filter):
            try:
                await self.async_client.delete(self.collection, **what, **kwargs)
            except CollectionNotFound:
                return True
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> List[Document]:
        """In the order of ids; unknown ones are left out."""
        found: List[Document] = []
        for part in _parts(ids, _GET_BATCH):
            try:
                found += map(_document, self.client.get(self.collection, part))
            except CollectionNotFound:
                return []
        return found

    async def aget_by_ids(self, ids: Sequence[str], /) -> List[Document]:
        found: List[Document] = []
        for part in _parts(ids, _GET_BATCH):
            try:
                found += map(_document, await self.async_client.get(self.collection, part))
            except CollectionNotFound:
                return []
        return found

    # --- nearest --------------------------------------------------------------------------------

    def similarity_search_with_score_by_vector(
        self, embedding: Sequence[float], k: int = 4, *, filter: Optional[Filter] = None,
        **kwargs: Any,
    ) -> List[Tuple[Document, float]]:
        if k < 1:
            return []
        try:
            answer = self.client.search(self.collection, embedding, top_k=k,
                                        filter=to_filter(filter), **kwargs)
        except CollectionNotFound:
            return []
        return [(_document(match), match["score"]) for match in answer["matches"]]

    async def asimilarity_search_with_score_by_vector(
        self, embedding: Sequence[float], k: int = 4, *, filter: Optional[Filter] = None,
        **kwargs: Any,
    ) -> List[Tuple[Document, float]]:
        if k < 1:
            return []
        try:
            answer = await self.async_client.search(self.collection, embedding, top_k=k,
                                                    filter=to_filter(filter), **kwargs)
        except CollectionNotFound:
            return []
        return [(_document(match), match["score"]) for match in answer["matches"]]

    def similarity_search_with_score(self, query: str, k: int = 4,
                                     **kwargs: Any) -> List[Tuple[Document, float]]:
        """Documents with their scores, the highest first."""
        return self.similarity_search_with_score_by_vector(self._embedding.embed_query(query), k,
                                                           **kwargs)

    async def asimilarity_search_with_score(self, query: str, k: int = 4,
                                            **kwargs: Any) -> List[Tuple[Document, float]]:
        return await self.asimilarity_search_with_score_by_vector(
            await self._embedding.aembed_query(query), k, **kwargs)

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> List[Document]:
        return _documents(self.similarity_search_with_score(query, k, **kwargs))

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> List[Document]:
        return _documents(await self.asimilarity_search_with_score(query, k, **kwargs))

    def similarity_search_by_vector(self, embedding: List[float], k: int = 4,
                                    **kwargs: Any) -> List[Document]:
        return _documents(self.similarity_search_with_score_by_vector(embedding, k, **kwargs))

    async def asimilarity_search_by_vector(self, embedding: List[float], k: int = 4,
                                           **kwargs: Any) -> List[Document]:
        return _documents(
            await self.asimilarity_search_with_score_by_vector(embedding, k, **kwargs))

    # --- relevance ------------------------------------------------------------------------------

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        if self._relevance_score_fn is not None:
            return self._relevance_score_fn
        if self._metric is None:
            try:
                self._metric = self.client.get_collection(self.collection)["vector"]["metric"]
            except CollectionNotFound:
                pass
        return _RELEVANCE[self._metric or "cosine"]

    async def _aselect_relevance_score_fn(self) -> Callable[[float], float]:
        if self._relevance_score_fn is None and self._metric is None:
            try:
                found = await self.async_client.get_collection(self.collection)
                self._metric = found["vector"]["metric"]
            except CollectionNotFound:
                return _RELEVANCE["cosine"]
        return self._select_relevance_score_fn()

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> List[Tuple[Document, float]]:
        relevance = self._select_relevance_score_fn()
        return [(document, relevance(score)) for document, score
                in self.similarity_search_with_score(query, k, **kwargs)]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> List[Tuple[Document, float]]:
        relevance = await self._aselect_relevance_score_fn()
        return [(document, relevance(score)) for document, score
                in await self.asimilarity_search_with_score(query, k, **kwargs)]

    # --- maximal marginal relevance, chosen by the server ---------------------------------------

    def max_marginal_relevance_search_by_vector(
        self, embedding: List[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> List[Document]:
        return self.similarity_search_by_vector(
            embedding, **_mmr(k, fetch_k, lambda_mult), **kwargs)

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: List[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> List[Document]:
        return await self.asimilarity_search_by_vector(
            embedding, **_mmr(k, fetch_k, lambda_mult), **kwargs)

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> List[Document]:
        """lambda_mult: 1 = the nearest, 0 = the most different from each other."""
        return self.max_marginal_relevance_search_by_vector(
            self._embedding.embed_query(query), k, fetch_k, lambda_mult, **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> List[Document]:
        return await self.amax_marginal_relevance_search_by_vector(
            await self._embedding.aembed_query(query), k, fetch_k, lambda_mult, **kwargs)

    # --- made from texts ------------------------------------------------------------------------

    @classmethod
    def from_texts(cls: Type[_Store], texts: List[str], embedding: Embeddings,
                   metadatas: Metadatas = None, *, ids: Optional[List[str]] = None,
                   **kwargs: Any) -> _Store:
        """A store with these texts; keyword arguments are the constructor's."""
        store = cls(embedding=embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(cls: Type[_Store], texts: List[str], embedding: Embeddings,
                          metadatas: Metadatas = None, *,
                          ids: Optional[List[str]] = None, **kwargs: Any) -> _Store:
        store = cls(embedding=embedding, **kwargs)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store


def _documents(found: Iterable[Tuple[Document, float]]) -> List[Document]:
    return [document for document, _ in found]


def _mmr(k: int, fetch_k: int, lambda_mult: float) -> Dict[str, Any]:
    k = min(k, fetch_k)
    return {"k": k, "mmr": {"lambda": lambda_mult, "fetch_k": fetch_k}}


def _rows(texts: Iterable[str], metadatas: Optional[Sequence[Mapping[str, Any]]],
          ids: Optional[Sequence[Optional[str]]]) -> Tuple[List[str], List[_Row]]:
    """Texts as a list, and records that lack only their vectors."""
    texts = list(texts)
    if metadatas is not None and len(metadatas) != len(texts):
        raise ValueError(f"{len(texts)} texts, but {len(metadatas)} metadatas")
    if ids is not None and len(ids) != len(texts):
        raise ValueError(f"{len(texts)} texts, but {len(ids)} ids")
    return texts, [
        {"id": (ids[i] if ids is not None else None) or str(uuid.uuid4()), "text": text,
         "metadata": dict((metadatas[i] if metadatas is not None else None) or {})}
        for i, text in enumerate(texts)]


def _parts(ids: Sequence[str], size: int) -> Iterator[List[str]]:
    for at in range(0, len(ids), size):
        yield list(ids[at:at + size])


def _deletions(ids: Optional[Sequence[str]], filter: Optional[Filter]) -> List[Dict[str, Any]]:
    native = to_filter(filter)
    if ids is not None and filter is not None:
        raise ValueError("delete by ids or by filter, not by both")
    if ids is not None:
        return [{"ids": part} for part in _parts(ids, _DELETE_BATCH)]
    if filter is not None and native is None:
        raise ValueError("an empty filter; leave it out to delete everything")
    return [{"filter": native} if native is not None else {"delete_all": True}]
