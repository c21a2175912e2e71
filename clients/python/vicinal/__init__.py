"""Client of the Vicinal retrieval suite.

    from vicinal import Client

    with Client("http://127.0.0.1:8080") as client:
        client.create_collection("docs", 3)
        client.upsert("docs", [{"id": "a", "vector": [1, 0, 0], "text": "hello"}])
        client.search("docs", vector=[1, 0, 0])["matches"]

A client reads its own writes: see vicinal.session.  AsyncClient has the same methods, awaitable.
"""
from vicinal.client import AsyncClient, Client
from vicinal.errors import (
    ApiError,
    CollectionExists,
    CollectionNotFound,
    DimensionMismatch,
    InvalidRequest,
    PreconditionFailed,
    ProblemDetail,
    QuorumUnmet,
    RateLimited,
    RecordExists,
    RecordNotFound,
    StalenessUnmet,
    TransportError,
    Unavailable,
    VicinalError,
)
from vicinal.session import Session

__version__ = "0.1.0"

__all__ = [
    "ApiError", "AsyncClient", "Client", "CollectionExists", "CollectionNotFound",
    "DimensionMismatch", "InvalidRequest", "PreconditionFailed", "ProblemDetail", "QuorumUnmet",
    "RateLimited", "RecordExists", "RecordNotFound", "Session", "StalenessUnmet", "TransportError",
    "Unavailable", "VicinalError",
]
