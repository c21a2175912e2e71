"""What can go wrong: problem+json answers (RFC 9457) as exceptions, and the network itself.

The stable `code` decides the class; branch on the class or on the code, never on the text.
"""
from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Type


class VicinalError(Exception):
    """Everything that this package raises by itself."""


class TransportError(VicinalError):
    """No answer: not connected, cut off, or too slow.  Of a write the outcome is not known."""


class ProblemDetail(NamedTuple):
    pointer: Optional[str]  # JSON pointer into the request
    detail: Optional[str]


class ApiError(VicinalError):
    """An answer that is not a success."""

    def __init__(self, status: int, problem: Dict[str, Any],
                 retry_after: Optional[float] = None) -> None:
        self.status = status
        self.code: str = str(problem.get("code") or "unknown")
        self.title: str = str(problem.get("title") or "")
        self.detail: str = str(problem.get("detail") or "")
        self.request_id: Optional[str] = problem.get("request_id")
        found = problem.get("errors")
        self.errors: List[ProblemDetail] = [
            ProblemDetail(e.get("pointer"), e.get("detail"))
            for e in (found if isinstance(found, list) else []) if isinstance(e, dict)]
        self.read_token: Optional[str] = problem.get("read_token")  # of the part that was committed
        self.committed: Optional[bool] = problem.get("committed")
        self.retry_after = retry_after  # seconds
        self.problem = problem
        super().__init__(self._text())

    @property
    def pointer(self) -> Optional[str]:
        """Where in the request the first fault is."""
        return next((e.pointer for e in self.errors if e.pointer is not None), None)

    def _text(self) -> str:
        text = f"{self.status} {self.code}: {self.detail or self.title}"
        for error in self.errors[:3]:
            text += f" [{error.pointer}: {error.detail}]"
        return text


class InvalidRequest(ApiError):
    """400: malformed, unknown field, bad filter, not supported."""


class CollectionNotFound(ApiError):
    pass


class RecordNotFound(ApiError):
    pass


class CollectionExists(ApiError):
    """The name is taken by a collection with another definition."""


class RecordExists(ApiError):
    """on_conflict="fail" met a record; nothing was written."""


class PreconditionFailed(ApiError):
    """The record does not have the version that was asked for."""


class DimensionMismatch(ApiError):
    pass


class RateLimited(ApiError):
    pass


class StalenessUnmet(ApiError):
    """No replica was fresh enough in time."""


class QuorumUnmet(ApiError):
    """Written, but not in the logs of as many regions in time; it goes on to the others."""


class Unavailable(ApiError):
    """503: try again later."""


_BY_CODE: Dict[str, Type[ApiError]] = {
    "collection_not_found": CollectionNotFound,
    "record_not_found": RecordNotFound,
    "collection_exists": CollectionExists,
    "record_exists": RecordExists,
    "precondition_failed": PreconditionFailed,
    "dimension_mismatch": DimensionMismatch,
    "rate_limited": RateLimited,
    "staleness_unmet": StalenessUnmet,
    "quorum_unmet": QuorumUnmet,
}
_BY_STATUS: Dict[int, Type[ApiError]] = {400: InvalidRequest, 429: RateLimited, 503: Unavailable}


def error_from(status: int, problem: Any, retry_after: Optional[float] = None) -> ApiError:
    """The exception for an answer; problem is the decoded body, of any shape."""
    if not isinstance(problem, dict):
        problem = {"title": str(problem)[:200] if problem else ""}
    kind = _BY_CODE.get(str(problem.get("code"))) or _BY_STATUS.get(status, ApiError)
    return kind(status, problem, retry_after)
