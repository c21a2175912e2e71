"""Clients that know what was acknowledged, and hold every answer against it while faults go on around
them.  What is wrong in an answer is a violation, always; that a request failed is judged later, by
what was hurt at that time: the journal keeps both.

    journal = Journal()
    clients = [Writer(url, journal, 0), Ticker(url, journal), Watcher(url, journal, ticker), …]
"""
import bisect
import collections
import http.client
import random
import threading
import time

from suite import SLOW, Client

COLLECTION = "/v1/collections/c"
DIMENSION = 8
WRITER_IDS = 150
STATICS = 300
COUNTERS = 8
GAP_SECONDS = 0.2  # without a success of its kind: remembered
DOUBT_SECONDS = 0.5  # after a write of unknown outcome: as a rule what is still on its way is there before the next one
LATE_SECONDS = 5.0  # … and so long it may lie in the socket of a service that was paused, and land behind the next ones
# Of a read, also in other tests: that somebody answers is tested, not the deadline.  By default that is 1 s, and a
# stopped replica and a pause of the machine together take as long.
READ_MS = int(3000 * SLOW)
# What a request may fail with at all, where a failure is documented.
CODES = {"connection", "unavailable", "timeout", "staleness_unmet", "shards_unavailable", "read_only",
         "insufficient_storage", "rate_limited"}
WHOLE = ["vector", "text", "metadata"]

# since: when it began, or, of a read of one's own write, when that was sent.
Failure = collections.namedtuple("Failure", "kind since began ended code answer")


class Journal:
    def __init__(self):
        self.lock = threading.Lock()
        self.requests, self.failures = {}, []  # {kind: count}
        self.last, self.gaps, self.slowest = {}, {}, {}
        self.violations = []

    def note(self, kind, since, began, code=None, answer=None):
        now = time.monotonic()
        with self.lock:
            self.requests[kind] = self.requests.get(kind, 0) + 1
            self.slowest[kind] = max(self.slowest.get(kind, 0), now - began)
            if code is not None:
                self.failures.append(Failure(kind, since, began, now, code, answer))
                if code not in CODES:
                    self.violations.append((kind, code, answer))
                return
            if now - self.last.get(kind, now) > GAP_SECONDS:
                self.gaps.setdefault(kind, []).append((self.last[kind], now))
            self.last[kind] = now

    def violate(self, *what):
        with self.lock:
            self.violations.append(what)

    def succeeded_since(self, when):
        """Requests of every kind."""
        with self.lock:
            return len(self.last) > 0 and all(last > when for last in self.last.values())

    def slowest_gap(self, kind, began, ended):
        """The longest time without a success that has a part in this one, as far as it is not before it."""
        with self.lock:
            return max((b - max(a, began) for a, b in self.gaps.get(kind, []) if a < ended and b > began), default=0.0)


def vector_of(identity, serial):
    """Numbers that a float has exactly."""
    chance = random.Random(f"{identity}/{serial}")
    return [chance.randrange(-64, 65) / 64 for _ in range(DIMENSION)]


def record_of(identity, kind, serial):
    return {"id": identity, "vector": vector_of(identity, serial), "text": str(serial),
            "metadata": {"kind": kind, "serial": serial, "ok": True}}


def what_is_wrong(record, serials):
    """None, if it is the record with one of these serials, whole."""
    serial = record.get("metadata", {}).get("serial")
    if serial not in serials:
        return f"{record['id']} has {serial} of {serials}"
    wanted = record_of(record["id"], record["metadata"]["kind"], serial)
    for name in ("vector", "text", "metadata"):
        if record.get(name) != wanted[name]:
            return f"{record['id']}: {name} is {record.get(name)} instead of {wanted[name]}"
    return None


class Outcome:
    """Of all writes of an id, one after the other: what was acknowledged last, and what was given up and may be
    there: also behind what was acknowledged since, if that was not long after.  None: the id is not there."""

    def __init__(self):
        self.known, self.given_up = None, {}  # {value: when}

    def give_up(self, value):
        self.given_up[value] = time.monotonic()

    def acknowledge(self, value, sent):
        self.known = value
        self.given_up = {other: when for other, when in self.given_up.items() if sent - when < LATE_SECONDS * SLOW}

    def possible(self):
        return {self.known, *self.given_up}


class Worker(threading.Thread):
    """A step after the other until it is ended."""

    pause = 0.0

    def __init__(self, url, journal, seed=0):
        super().__init__(daemon=True)
        self.url, self.journal, self.chance, self.ends = url, journal, random.Random(seed), threading.Event()

    def run(self):
        self.client = Client(self.url, 60)
        while not self.ends.is_set():
            try:
                self.step()
            except Exception as error:  # none is expected: told to the test, which fails by it
                self.journal.violate(type(self).__name__, repr(error))
            self.ends.wait(self.pause)
        self.client.close()

    def ask(self, kind, path, body, since=None):
        """The answer, if it succeeded."""
        began = time.monotonic()
        since = began if since is None else since
        if kind != "write":
            body = {**body, "timeout_ms": READ_MS}
        try:
            answer = self.client.post(COLLECTION + path, body)
        except (OSError, http.client.HTTPException) as error:
            self.journal.note(kind, since, began, "connection", repr(error))
            self.ends.wait(DOUBT_SECONDS if kind == "write" else 0.02)
            return None
        if answer.status in (200, 202):
            self.journal.note(kind, since, began)
            return answer
        code = answer.body.get("code") if isinstance(answer.body, dict) else None
        self.journal.note(kind, since, began, code or f"status {answer.status}", answer)
        self.ends.wait(DOUBT_SECONDS if kind == "write" else 0.02)
        return None

    def end(self):
        self.ends.set()
        self.join()


class Writer(Worker):
    """Owns its ids; knows for each what may be there."""

    pause = 0.002

    def __init__(self, url, journal, number, seed):
        super().__init__(url, journal, seed)
        self.number, self.serial, self.acknowledged, self.spooled = number, 0, 0, 0
        self.outcomes = {}  # {id: Outcome}

    def step(self):
        ids = sorted({f"w{self.number}-{self.chance.randrange(WRITER_IDS)}"
                      for _ in range(self.chance.choice([1, 1, 1, 20]))})
        self.serial += 1
        is_delete = self.chance.random() < 0.15
        serial = None if is_delete else self.serial
        outcomes, sent = [self.outcomes.setdefault(identity, Outcome()) for identity in ids], time.monotonic()
        if is_delete:
            answer = self.ask("write", "/records/delete", {"ids": ids, "count": False})
        else:
            answer = self.ask("write", "/records", {"records": [record_of(i, "w", serial) for i in ids]})
        for outcome in outcomes:
            if answer is None:
                outcome.give_up(serial)
            else:
                outcome.acknowledge(serial, sent)
        if answer is None:
            return
        self.acknowledged += 1
        self.spooled += answer.status == 202
        if answer.status == 200 and self.chance.random() < 0.4:
            self.read_own(ids, answer.body["read_token"], sent)

    def read_own(self, ids, token, sent):
        """By the token of the write, which was sent then: what was written."""
        answer = self.ask("own read", "/records/get", {"ids": ids, "read_token": token, "include": WHOLE}, sent)
        if answer is not None:
            self.compare(ids, answer.body["records"], "by token")

    def compare(self, ids, records, how):
        there = {record["id"]: record for record in records}
        for identity in ids:
            may = self.outcomes[identity].possible()
            if identity not in there:
                if None not in may:
                    self.journal.violate("lost", how, identity, may)
            elif (wrong := what_is_wrong(there[identity], may)) is not None:
                self.journal.violate("wrong", how, wrong)


class Ticker(Worker):
    """Counters that only rise, in several partitions, all in one write; knows when each was acknowledged."""

    pause = 0.02

    def __init__(self, url, journal):
        super().__init__(url, journal)
        self.ids = [f"m{i}" for i in range(COUNTERS)]
        self.number, self.times, self.numbers = 0, [], []  # of those that were answered 200
        self.outcome, self.given_up = Outcome(), set()  # of each counter; all numbers that were ever given up

    def step(self):
        self.number += 1
        sent = time.monotonic()
        answer = self.ask("write", "/records", {"records": [record_of(i, "m", self.number) for i in self.ids]})
        if answer is None:
            self.outcome.give_up(self.number)
            self.given_up.add(self.number)
            return
        self.outcome.acknowledge(self.number, sent)
        if answer.status == 200:
            self.numbers.append(self.number)
            self.times.append(time.monotonic())

    def behind(self, numbers, least):
        """Counters that are less than this, {id: number}; one that was given up may have landed late."""
        return {i: n for i in self.ids if (n := numbers.get(i, 0)) < least.get(i, 0) and n not in self.given_up}

    def acknowledged_before(self, when):
        at = bisect.bisect_left(self.times, when)
        return self.numbers[at - 1] if at else 0


class Watcher(Worker):
    """Reads the counters: an answer has all that was acknowledged longer ago than it says that it may be
    old, `fresh` all that was acknowledged before it was asked for; with the token of the last read no
    counter steps back."""

    pause = 0.005

    def __init__(self, url, journal, ticker, seed):
        super().__init__(url, journal, seed)
        self.ticker, self.token, self.seen, self.oldest = ticker, None, {}, 0.0

    def step(self):
        turn, body = self.chance.randrange(4), {"ids": self.ticker.ids, "include": WHOLE}
        if turn == 1 and self.token is not None:
            body["read_token"] = self.token
        elif turn == 2:
            body["fresh"] = True
        elif turn == 3:
            body |= {"max_staleness_seconds": 2, "on_stale": "serve"}
        began = time.monotonic()
        kind = "fresh read" if "fresh" in body else "token read" if "read_token" in body else "read"
        answer = self.ask(kind, "/records/get", body)
        if answer is None:
            return
        numbers = {record["id"]: record["metadata"]["serial"] for record in answer.body["records"]}
        age = answer.body["read"]["staleness_seconds"]
        self.oldest = max(self.oldest, age)
        least = self.ticker.acknowledged_before(began - (0 if turn == 2 else age))
        if (behind := self.ticker.behind(numbers, dict.fromkeys(self.ticker.ids, least))):
            self.journal.violate("older than it says", ("plain", "token", "fresh", "bounded")[turn], age, least, behind)
        for record in answer.body["records"]:
            if (wrong := what_is_wrong(record, range(self.ticker.number + 1))) is not None:
                self.journal.violate("wrong", wrong)
        if turn == 1 and self.token is not None:
            if (back := self.ticker.behind(numbers, self.seen)):
                self.journal.violate("stepped back", self.seen, back)
        if turn == 1 or self.token is None:
            self.token, self.seen = answer.body["read"]["read_token"], numbers


class Searcher(Worker):
    """Looks for records that nobody changes: each is there, whole, finds itself by its vector, and is
    counted."""

    pause = 0.005
    ids = [f"s{i}" for i in range(STATICS)]

    def step(self):
        turn = self.chance.randrange(20)
        if turn == 0:
            answer = self.ask("read", "/records/scroll", {"filter": {"kind": "s"}, "limit": 1000, "include": WHOLE})
            if answer is not None:
                self.compare_all(answer.body["records"])
        elif turn < 4:
            answer = self.ask("read", "/records/count", {"filter": {"kind": "s", "ok": True}})
            if answer is not None and answer.body["count"] != STATICS:
                self.journal.violate("counted", answer.body)
        else:
            self.find(self.chance.choice(self.ids))

    def find(self, identity):
        answer = self.ask("read", "/search", {"vector": vector_of(identity, 0), "top_k": 1, "include": WHOLE,
                                              **({"filter": {"kind": "s"}} if self.chance.random() < 0.5 else {})})
        if answer is None:
            return
        found = answer.body["matches"]
        if [match["id"] for match in found] != [identity]:
            self.journal.violate("does not find itself", identity, found, answer.body["read"])
        elif (wrong := what_is_wrong(found[0], {0})) is not None:
            self.journal.violate("wrong", wrong)

    def compare_all(self, records):
        found = [record["id"] for record in records]
        if sorted(found) != sorted(self.ids):
            self.journal.violate("scrolled", len(found), sorted(set(self.ids) - set(found))[:5])
        for record in records:
            if (wrong := what_is_wrong(record, {0})) is not None:
                self.journal.violate("wrong", wrong)


def check_the_end(door, journal, writers, ticker):
    """All that is there, page after page: nothing is lost, changed, there twice or unknown, and counts say
    the same."""
    found, page = {}, None
    while True:
        answer = door.post(COLLECTION + "/records/scroll", {
            "limit": 500, "include": WHOLE, "fresh": True, "timeout_ms": 20000,
            **({"page_token": page} if page else {})})
        assert answer.status == 200, answer
        for record in answer.body["records"]:
            if record["id"] in found:
                journal.violate("there twice", record["id"])
            found[record["id"]] = record
        page = answer.body.get("next_page_token")
        if not page:
            break
    for writer in writers:
        writer.compare(list(writer.outcomes), [found[i] for i in writer.outcomes if i in found], "in the end")
    for identity in Searcher.ids + ticker.ids:
        may = ticker.outcome.possible() if identity in ticker.ids else {0}
        wrong = what_is_wrong(found[identity], may) if identity in found else f"{identity} is lost"
        if wrong:
            journal.violate("in the end", wrong)
    known = {i for writer in writers for i in writer.outcomes} | set(Searcher.ids) | set(ticker.ids)
    if set(found) - known:
        journal.violate("nobody wrote", sorted(set(found) - known)[:5])
    for wanted in ({}, {"kind": "w"}, {"kind": "s"}, {"kind": "m"}):
        count = sum(all(record["metadata"][k] == v for k, v in wanted.items()) for record in found.values())
        answer = door.post(COLLECTION + "/records/count",
                           {"fresh": True, "timeout_ms": 20000, **({"filter": wanted} if wanted else {})})
        if answer.status != 200 or answer.body["count"] != count:
            journal.violate("counted in the end", wanted, count, answer)
    return len(found)
