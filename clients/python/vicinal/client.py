"""The clients: one connection pool each, every operation of the public API as a method.

What both clients do is written once: an operation becomes a Call; _attempts() is a generator that
says what to send or how long to sleep, and is driven by a thread (Client) or by an event loop
(AsyncClient).

Retries: 429 always (the request was refused whole); 503 and a lost connection only where a second
run does no harm, that is reads, collections, replacing upserts, deletes and updates by ids.  Retry-After is
honoured, else the pause doubles from retry_pause on.  409 token_log_gone: the token is
dropped and the read sent again.
"""
from __future__ import annotations

import asyncio
import dataclasses
import json
import random
import threading
import time
import uuid
import weakref
from types import TracebackType
from typing import (Any, AsyncIterator, Awaitable, Callable, Dict, Generator, Generic, Iterator,
                    List, Mapping, Optional, Sequence, Type, TypeVar, Union, cast)
from urllib.parse import quote

import httpx

from vicinal.errors import ApiError, TransportError, error_from
from vicinal.session import Session
from vicinal.vectors import encode_record, encode_vector

Json = Dict[str, Any]
Consistency = str  # one of these
CONSISTENCIES = ("eventual", "read_your_writes", "fresh", "fresh_global")

RETRY_PAUSE_MAX = 30.0  # a longer Retry-After is the caller's to wait for

_J = TypeVar("_J")  # a JSON object, or its awaitable
_L = TypeVar("_L")  # a list of them
_I = TypeVar("_I")  # a number
_N = TypeVar("_N")  # nothing


@dataclasses.dataclass
class Call:
    method: str
    path: str
    body: Optional[Json] = None
    params: Optional[Dict[str, Any]] = None
    headers: Dict[str, str] = dataclasses.field(default_factory=dict)
    repeatable: bool = True  # a second run does no harm
    collection: Optional[str] = None  # whose tokens the answer carries
    token_sent: Optional[str] = None
    forget: bool = False  # the collection's tokens mean nothing afterwards
    result: Callable[[Any], Any] = lambda body: body
    timeout: Optional[float] = None


def _given(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}


def _segment(text: str) -> str:
    # "." and ".." would be taken for steps in the path.
    return "%2E" * len(text) if text in (".", "..") else quote(text, safe="")


def _path(collection: str, *rest: str) -> str:
    return "/".join(["/v1/collections", *(_segment(part) for part in (collection, *rest))])


class _Operations(Generic[_J, _L, _I, _N]):
    """Every operation; what they return is real (Client) or awaitable (AsyncClient).

    Options of reads, all optional: consistency ("eventual": whatever a replica has;
    "read_your_writes": at least what this session wrote and read, the default; "fresh": every write
    answered before; "fresh_global": in whichever region), max_staleness_seconds, on_stale ("fail" or
    "serve"), read_token (instead of the session's), timeout_ms, allow_partial.

    Options of writes: wait ("committed" or "searchable": a search finds it when this returns),
    write_quorum (so many regions have it in their logs; not in time: QuorumUnmet, and it stays
    written), timeout_ms.
    """

    def __init__(self, url: str, *, api_key: Optional[str], consistency: Consistency,
                 timeout: float, retries: int, retry_pause: float,
                 session: Optional[Session], headers: Optional[Mapping[str, str]]) -> None:
        _check_consistency(consistency)
        self.url = url.rstrip("/")
        self.consistency = consistency
        self.session = session if session is not None else Session()
        self._timeout, self._retries, self._retry_pause = timeout, retries, retry_pause
        self._headers = {"User-Agent": "vicinal-python", "Accept": "application/json",
                         **(headers or {})}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def _run(self, call: Call) -> Any:
        raise NotImplementedError

    # --- collections ----------------------------------------------------------------------------

    def create_collection(self, collection: str, dimension: int, metric: str = "cosine", *,
                          index: Optional[Mapping[str, Any]] = None,
                          embedder: Optional[str] = None) -> _J:
        """Create, or confirm that it exists with this definition; else CollectionExists."""
        body = _given(vector={"dimension": dimension, "metric": metric}, index=index,
                      embedder=embedder)
        return cast(_J, self._run(Call("PUT", _path(collection), body, collection=collection)))

    def get_collection(self, collection: str) -> _J:
        return cast(_J, self._run(Call("GET", _path(collection))))

    def list_collections(self, *, limit: Optional[int] = None,
                         page_token: Optional[str] = None) -> _J:
        """{"collections": […], "next_page_token": …}; no token on the last page."""
        return cast(_J, self._run(Call("GET", "/v1/collections",
                                       params=_given(limit=limit, page_token=page_token))))

    def delete_collection(self, collection: str) -> _N:
        return cast(_N, self._run(Call("DELETE", _path(collection), collection=collection,
                                       repeatable=False, forget=True,
                                       result=lambda body: None)))

    # --- writes ---------------------------------------------------------------------------------

    def upsert(self, collection: str, records: Sequence[Mapping[str, Any]], *,
               on_conflict: Optional[str] = None, wait: Optional[str] = None,
               write_quorum: Optional[int] = None, timeout_ms: Optional[int] = None,
               idempotency_key: Optional[str] = None) -> _J:
        """Write 1 to 1000 records {id, vector, text, metadata}, all of them or none.

        Records without an id get one here, so that a repeated request writes the same ones; with an
        idempotency_key the server makes them of it, the same ones also when another process asks
        again.
        """
        rows = [encode_record(record) for record in records]
        for row in rows:
            if row.get("id") is None and idempotency_key is None:
                row["id"] = str(uuid.uuid4())
        body = _given(records=rows, on_conflict=on_conflict, wait=wait, write_quorum=write_quorum,
                      timeout_ms=timeout_ms)
        return cast(_J, self._run(Call("POST", _path(collection, "records"), body,
                                       headers=_given(**{"Idempotency-Key": idempotency_key}),
                                       collection=collection,
                                       repeatable=on_conflict in (None, "replace"),
                                       timeout=_patience(timeout_ms))))

    def put_record(self, collection: str, id: str, record: Mapping[str, Any], *,
                   if_match: Optional[str] = None) -> _J:
        body = {name: value for name, value in encode_record(record).items() if name != "id"}
        return cast(_J, self._run(Call("PUT", _path(collection, "records", id), body,
                                       headers=_if_match(if_match), collection=collection,
                                       repeatable=if_match is None)))

    def delete_record(self, collection: str, id: str, *, if_match: Optional[str] = None) -> _J:
        return cast(_J, self._run(Call("DELETE", _path(collection, "records", id),
                                       headers=_if_match(if_match), collection=collection,
                                       repeatable=False)))

    def delete(self, collection: str, ids: Optional[Sequence[str]] = None, *,
               filter: Optional[Mapping[str, Any]] = None, delete_all: bool = False,
               count: Optional[bool] = None, wait: Optional[str] = None,
               write_quorum: Optional[int] = None, timeout_ms: Optional[int] = None) -> _J:
        """By exactly one of ids, filter and delete_all; {"deleted_count": …}.

        A repeated delete by ids (after a 503) counts only what the last run found.
        """
        body = _given(ids=None if ids is None else list(ids), filter=filter,
                      delete_all=delete_all or None, count=count, wait=wait,
                      write_quorum=write_quorum, timeout_ms=timeout_ms)
        return cast(_J, self._run(Call("POST", _path(collection, "records", "delete"), body,
                                       collection=collection, repeatable=ids is not None,
                                       timeout=_patience(timeout_ms))))

    def patch_record(self, collection: str, id: str, metadata: Mapping[str, Any], *,
                     if_match: Optional[str] = None) -> _J:
        """Merge into the record's metadata (RFC 7396: None removes); vector and text stay.

        {"matched_count", "updated_count", "version"}; RecordNotFound when there is none.
        """
        return cast(_J, self._run(Call("PATCH", _path(collection, "records", id),
                                       {"metadata": metadata}, headers=_if_match(if_match),
                                       collection=collection, repeatable=if_match is None)))

    def update(self, collection: str, metadata: Mapping[str, Any], *,
               ids: Optional[Sequence[str]] = None, filter: Optional[Mapping[str, Any]] = None,
               wait: Optional[str] = None, write_quorum: Optional[int] = None,
               timeout_ms: Optional[int] = None) -> _J:
        """patch_record for many, by ids or by a filter: {"matched_count", "updated_count", …}.

        A repeated update by ids (after a 503) counts as updated only what the last run changed.
        """
        body = _given(ids=None if ids is None else list(ids), filter=filter, wait=wait,
                      write_quorum=write_quorum, timeout_ms=timeout_ms)
        body["metadata"] = metadata
        return cast(_J, self._run(Call("POST", _path(collection, "records", "update"), body,
                                       collection=collection, repeatable=ids is not None,
                                       timeout=_patience(timeout_ms))))

    # --- reads ----------------------------------------------------------------------------------

    def search(self, collection: str, vector: Optional[Sequence[float]] = None, *,
               embed: Optional[str] = None, id: Optional[str] = None, top_k: Optional[int] = None,
               offset: Optional[int] = None, filter: Optional[Mapping[str, Any]] = None,
               include: Optional[Sequence[str]] = None, score_threshold: Optional[float] = None,
               mmr: Optional[Mapping[str, Any]] = None, params: Optional[Mapping[str, Any]] = None,
               explain: Optional[bool] = None, **read: Any) -> _J:
        """{"matches": [{id, score, text, metadata}…], "read": {…}}; higher scores are better."""
        body = _given(vector_base64=None if vector is None else encode_vector(vector), embed=embed,
                      id=id, top_k=top_k, offset=offset, filter=filter,
                      include=None if include is None else list(include),
                      score_threshold=score_threshold, mmr=mmr, params=params, explain=explain)
        return cast(_J, self._run(self._read(collection, "search", body, read)))

    def search_batch(self, collection: str, searches: Sequence[Mapping[str, Any]], *,
                     consistency: Optional[Consistency] = None) -> _L:
        """Up to 100 searches of bodies as in the API; for each one its answer, or {"error": …}."""
        known = self._demands(collection, consistency or self.consistency)
        rows = [{**known, **search} for search in searches]
        call = Call("POST", _path(collection, "search", "batch"), {"searches": rows},
                    collection=collection, token_sent=known.get("read_token"),
                    result=lambda body: body["results"])
        return cast(_L, self._run(call))

    def get(self, collection: str, ids: Sequence[str], *,
            include: Optional[Sequence[str]] = None, **read: Any) -> _L:
        """Records in the order asked; missing ones are left out."""
        body = _given(ids=list(ids), include=None if include is None else list(include))
        call = self._read(collection, "records/get", body, read)
        call.result = lambda answer: answer["records"]
        return cast(_L, self._run(call))

    def get_record(self, collection: str, id: str, *, include: Optional[Sequence[str]] = None,
                   **read: Any) -> _J:
        """One record, with its version; RecordNotFound when there is none."""
        call = self._read(collection, "", _given(include=None if include is None
                                                 else ",".join(include)), read)
        call.method, call.path = "GET", _path(collection, "records", id)
        call.params, call.body = call.body, None
        return cast(_J, self._run(call))

    def scroll(self, collection: str, *, filter: Optional[Mapping[str, Any]] = None,
               limit: Optional[int] = None, page_token: Optional[str] = None,
               include: Optional[Sequence[str]] = None, **read: Any) -> _J:
        """One page in id order: {"records": […], "next_page_token": …}."""
        body = _given(filter=filter, limit=limit, page_token=page_token,
                      include=None if include is None else list(include))
        return cast(_J, self._run(self._read(collection, "records/scroll", body, read)))

    def count(self, collection: str, *, filter: Optional[Mapping[str, Any]] = None,
              **read: Any) -> _I:
        call = self._read(collection, "records/count", _given(filter=filter), read)
        call.result = lambda answer: answer["count"]
        return cast(_I, self._run(call))

    def version(self) -> _J:
        return cast(_J, self._run(Call("GET", "/version")))

    # --- what they share ------------------------------------------------------------------------

    def _demands(self, collection: str, consistency: Consistency) -> Json:
        _check_consistency(consistency)
        if consistency == "eventual":
            return {}
        known = self.session.known(collection)
        fresh: Any = True if known.fresh or consistency == "fresh" else None
        return _given(read_token=known.token,
                      fresh="global" if consistency == "fresh_global" else fresh)

    def _read(self, collection: str, what: str, body: Json, options: Dict[str, Any]) -> Call:
        options = dict(options)
        demands = self._demands(collection, options.pop("consistency", None) or self.consistency)
        for name in ("fresh", "max_staleness_seconds", "on_stale", "read_token", "timeout_ms",
                     "allow_partial"):
            value = options.pop(name, None)
            if value is not None:
                demands[name] = value
        if options:
            raise TypeError(f"no such option of a read: {', '.join(sorted(options))}")
        return Call("POST", _path(collection, *what.split("/")), {**body, **demands},
                    collection=collection, token_sent=demands.get("read_token"),
                    timeout=_patience(demands.get("timeout_ms")))

    def _request(self, call: Call) -> Dict[str, Any]:
        """Arguments of httpx' request()."""
        headers = dict(call.headers)
        content = None
        if call.body is not None:
            content = json.dumps(call.body, ensure_ascii=False, allow_nan=False,
                                 separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
        params = {name: str(value).lower() if isinstance(value, bool) else value
                  for name, value in (call.params or {}).items()}
        return {"method": call.method, "url": self.url + call.path, "content": content,
                "params": params or None, "headers": headers,
                "timeout": max(self._timeout, call.timeout or 0)}

    def _attempts(self, call: Call) -> Generator[Union[float, Call], Any, Any]:
        """Yields a Call to send (answered by a response or an exception) or seconds to sleep."""
        failures = 0
        while True:
            outcome = yield call
            if isinstance(outcome, httpx.HTTPError):
                again = isinstance(outcome, (httpx.ConnectError, httpx.ConnectTimeout)) or (
                    call.repeatable and not isinstance(outcome, httpx.TimeoutException))
                error: Exception = TransportError(f"{call.method} {call.path}: {outcome!r}")
                error.__cause__ = outcome
                wanted = None
            else:
                if outcome.status_code < 400:
                    return self._accept(call, outcome)
                problem = self._problem(call, outcome)
                if problem.code == "token_log_gone" and _drop_token(call):
                    self.session.gone(cast(str, call.collection), call.token_sent)
                    call.token_sent = None
                    continue
                again = problem.status == 429 or (problem.status == 503 and call.repeatable)
                error, wanted = problem, problem.retry_after
            failures += 1
            pause = self._retry_pause * 2 ** (failures - 1) * random.uniform(0.5, 1.5)
            if wanted is not None:
                pause = wanted
            if not again or failures > self._retries or pause > RETRY_PAUSE_MAX:
                raise error
            yield pause

    def _accept(self, call: Call, response: httpx.Response) -> Any:
        body = _decoded(response) if response.content else None
        if call.collection is not None and isinstance(body, dict):
            self.session.learn(call.collection, body.get("read_token"))
            for part in [body, *(body.get("results") or [])]:
                read = part.get("read") if isinstance(part, dict) else None
                if isinstance(read, dict):
                    self.session.learn(call.collection, read.get("read_token"))
        if call.forget and call.collection is not None:
            self.session.forget(call.collection)
        return call.result(body)

    def _problem(self, call: Call, response: httpx.Response) -> ApiError:
        try:
            problem = response.json()
        except ValueError:
            problem = {"title": response.text[:200]}
        retry_after = response.headers.get("Retry-After", "")
        seconds = float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
        error = error_from(response.status_code, problem, seconds)
        if call.collection is not None:  # a part may have been committed
            self.session.learn(call.collection, error.read_token)
        return error


def _check_consistency(consistency: Consistency) -> None:
    if consistency not in CONSISTENCIES:
        raise ValueError(f"consistency is one of {', '.join(CONSISTENCIES)}, not {consistency!r}")


def _if_match(version: Optional[str]) -> Dict[str, str]:
    return {} if version is None else {"If-Match": version if version == "*" or
                                       version.startswith('"') else f'"{version}"'}


def _patience(timeout_ms: Optional[int]) -> Optional[float]:
    """The network may take no less time than the server was given."""
    return None if timeout_ms is None else timeout_ms / 1000 + 5


def _decoded(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise TransportError(f"not JSON: {response.text[:200]!r}") from error


def _drop_token(call: Call) -> bool:
    """Take the token out of the request; False when there was none."""
    places = [call.body, call.params, *((call.body or {}).get("searches") or [])]
    found = [place for place in places if isinstance(place, dict) and "read_token" in place]
    for place in found:
        del place["read_token"]
    return bool(found) and call.collection is not None


class Client(_Operations[Json, List[Json], int, None]):
    """Blocking; may be shared by threads."""

    def __init__(self, url: str = "http://127.0.0.1:8080", *, api_key: Optional[str] = None,
                 consistency: Consistency = "read_your_writes", timeout: float = 30.0,
                 retries: int = 3, retry_pause: float = 0.1, session: Optional[Session] = None,
                 headers: Optional[Mapping[str, str]] = None,
                 transport: Optional[httpx.BaseTransport] = None) -> None:
        super().__init__(url, api_key=api_key, consistency=consistency, timeout=timeout,
                         retries=retries, retry_pause=retry_pause, session=session, headers=headers)
        self._http = httpx.Client(headers=self._headers, transport=transport)

    def _run(self, call: Call) -> Any:
        attempts = self._attempts(call)
        outcome: Any = None
        while True:
            try:
                step = attempts.send(outcome)
            except StopIteration as stop:
                return stop.value
            outcome = None
            if isinstance(step, float):
                time.sleep(step)
                continue
            try:
                outcome = self._http.request(**self._request(step))
            except httpx.HTTPError as error:
                outcome = error

    def scroll_all(self, collection: str, **options: Any) -> Iterator[Json]:
        """Every record, page after page; options as of scroll()."""
        while True:
            page = self.scroll(collection, **options)
            yield from page["records"]
            options["page_token"] = page.get("next_page_token")
            if not options["page_token"]:
                return

    def ready(self) -> bool:
        """Whether searches and writes can be served."""
        try:
            return self._http.get(self.url + "/readyz", timeout=self._timeout).status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()


class AsyncClient(_Operations[Awaitable[Json], Awaitable[List[Json]], Awaitable[int],
                              Awaitable[None]]):
    """The same, awaitable.  It may be used in several event loops: each has its own connections."""

    def __init__(self, url: str = "http://127.0.0.1:8080", *, api_key: Optional[str] = None,
                 consistency: Consistency = "read_your_writes", timeout: float = 30.0,
                 retries: int = 3, retry_pause: float = 0.1, session: Optional[Session] = None,
                 headers: Optional[Mapping[str, str]] = None,
                 transport: Optional[httpx.AsyncBaseTransport] = None) -> None:
        super().__init__(url, api_key=api_key, consistency=consistency, timeout=timeout,
                         retries=retries, retry_pause=retry_pause, session=session, headers=headers)
        self._transport = transport
        self._lock = threading.Lock()
        self._https: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = (
            weakref.WeakKeyDictionary())  # guarded by _lock

    def _http(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        with self._lock:
            http = self._https.get(loop)
            if http is None:
                http = self._https[loop] = httpx.AsyncClient(headers=self._headers,
                                                             transport=self._transport)
        return http

    async def _run(self, call: Call) -> Any:
        attempts = self._attempts(call)
        outcome: Any = None
        while True:
            try:
                step = attempts.send(outcome)
            except StopIteration as stop:
                return stop.value
            outcome = None
            if isinstance(step, float):
                await asyncio.sleep(step)
                continue
            try:
                outcome = await self._http().request(**self._request(step))
            except httpx.HTTPError as error:
                outcome = error

    async def scroll_all(self, collection: str, **options: Any) -> AsyncIterator[Json]:
        """Every record, page after page; options as of scroll()."""
        while True:
            page = await self.scroll(collection, **options)
            for record in page["records"]:
                yield record
            options["page_token"] = page.get("next_page_token")
            if not options["page_token"]:
                return

    async def ready(self) -> bool:
        """Whether searches and writes can be served."""
        try:
            answer = await self._http().get(self.url + "/readyz", timeout=self._timeout)
            return answer.status_code == 200
        except httpx.HTTPError:
            return False

    async def aclose(self) -> None:
        """Close this event loop's connections; those of other loops ended with them."""
        with self._lock:
            http = self._https.pop(asyncio.get_running_loop(), None)
        if http is not None:
            await http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                        trace: Optional[TracebackType]) -> None:
        await self.aclose()
