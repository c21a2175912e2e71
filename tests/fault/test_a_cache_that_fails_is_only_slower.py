"""The result cache in Redis is emptied in a loop, killed, stopped, filled with other entries' values,
and answers nonsense, while clients search and write.  No client sees an error or a wrong answer, and
the cache is used again by itself when it is well."""
import itertools
import random
import re
import threading
import time

import pytest

from fault_clients import READ_MS
from fault_proxy import FaultProxy
from redis_server import RedisServer
from suite import SLOW, Client, Suite, poll

HARM_SECONDS = 2.5
MANY = 4000  # requests while the cache is away
SERIALS = itertools.count(1)
SEARCH_SECONDS = 2  # of the slowest search: a cache that stands still costs milliseconds, not seconds

# Every entry gets the value of the next one.
SHIFT = """local keys = redis.call('KEYS', 'vicinal:*')
local values = {}
for i, key in ipairs(keys) do values[i] = redis.call('TYPE', key).ok == 'string' and redis.call('GET', key) end
for i, key in ipairs(keys) do if values[i] then redis.call('SET', keys[i % #keys + 1], values[i]) end end
return redis.status_reply('OK')"""

# Every value loses its end, is another text, or no text at all.
SPOIL = """for i, key in ipairs(redis.call('KEYS', 'vicinal:*')) do
local value = redis.call('TYPE', key).ok == 'string' and redis.call('GET', key)
if not value then redis.call('DEL', key)
elseif i % 3 == 0 then redis.call('SET', key, string.sub(value, 1, -3))
elseif i % 3 == 1 then redis.call('SET', key, string.rep('x', 70000))
else redis.call('DEL', key) redis.call('LPUSH', key, 'x') end end
return redis.status_reply('OK')"""


class Worker:
    """Does its steps until it is stopped; what it finds wrong is kept."""

    def __init__(self, suite, step):
        self.client, self.step, self.ends = Client(suite.url, 20), step, threading.Event()
        self.asked, self.slowest, self.wrong = 0, 0.0, []
        self.thread = threading.Thread(daemon=True, target=self.run)
        self.thread.start()

    def run(self):
        while not self.ends.is_set() and not self.wrong:
            try:
                self.step(self)
            except (OSError, AssertionError, LookupError) as error:
                self.wrong.append(repr(error))
        self.client.close()

    def ask(self, path, body):
        began = time.monotonic()
        if path.endswith("/search"):  # how long it may take is judged in the end: by default it is given up after 1 s
            body = {**body, "timeout_ms": READ_MS}
        answer = self.client.post("/v1/collections/" + path, body)
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.asked += 1
        assert answer.status == 200, answer
        return answer.body

    def stop(self):
        self.ends.set()
        self.thread.join()


def searcher(questions, chance):
    """Of a collection that nobody changes: the answer is known."""
    def step(worker):
        query, expected = chance.choice(questions)
        assert worker.ask("still/search", query)["matches"] == expected, query
    return step


def changer(number):
    """Writes a record and asks for it.  With the token there is never an older form of it; without any
    demand the answer is no older than it says."""
    written = []  # (when it was acknowledged, serial)

    def step(worker):
        query = {"vector": [number, 1, 2], "top_k": 1, "filter": {"by": number}, "include": ["text"]}
        serial = next(SERIALS)
        token = worker.ask("moving/records", {"records": [
            {"id": f"of-{number}", "vector": [number, 1, 2], "text": str(serial), "metadata": {"by": number}}],
            "wait": "searchable"})["read_token"]
        written.append((time.monotonic(), serial))
        assert worker.ask("moving/search", {**query, "read_token": token})["matches"][0]["text"] == str(serial)
        for _ in range(3):  # the same again is what a cache answers
            asked = time.monotonic()
            answer = worker.ask("moving/search", query)
            known = asked - answer["read"]["staleness_seconds"]
            while len(written) > 1 and written[1][0] < known:
                written.pop(0)
            text = int(answer["matches"][0]["text"])
            assert text <= serial and (written[0][0] >= known or text >= written[0][1]), (answer, written, known)
    return step


def hits(suite):
    text = suite.get("/metrics").body.decode()
    return sum(float(value) for value in re.findall(r"^cache_hits_total(?:{[^}]*})? ([0-9.e+]+)$", text, re.M))


def flush(redis, proxy, go_on):
    end = time.monotonic() + HARM_SECONDS * SLOW
    while time.monotonic() < end:
        redis.command("FLUSHALL")


def restart(redis, proxy, go_on):
    for _ in range(2):
        redis.kill()
        go_on(MANY)
        redis.start()


def stand_still(redis, proxy, go_on):
    redis.pause()
    go_on(MANY)
    redis.resume()


def lose_the_link(redis, proxy, go_on):
    proxy.cut()
    go_on(MANY)
    proxy.heal()


def exchange(redis, proxy, go_on):
    end = time.monotonic() + HARM_SECONDS * SLOW
    while time.monotonic() < end:
        assert redis.command("EVAL", SHIFT, 0) == "+OK"


def spoil(redis, proxy, go_on):
    end = time.monotonic() + HARM_SECONDS * SLOW
    while time.monotonic() < end:
        assert redis.command("EVAL", SPOIL, 0) == "+OK"


def nonsense(redis, proxy, go_on):
    """A new kind whenever the cache has been dialled again; its pauses grow meanwhile."""
    chance = random.Random(3)
    kept = []

    def late(data):
        """The answers to earlier questions."""
        kept.append(data)
        return kept[-2] if len(kept) > 1 else b"+OK\r\n"

    kinds = [lambda data: chance.randbytes(len(data)), lambda data: b"$999999999\r\nx", lambda data: b"*1000000000\r\n",
             lambda data: b"$5\r\nhello\r\n", lambda data: b"+OK\r\n" * 50, lambda data: b"-ERR no\r\n",
             lambda data: b":1\r\n", lambda data: data[:len(data) // 2], lambda data: data + data, lambda data: None,
             lambda data: b"x" * 200000, lambda data: b"$-1\r\n", lambda data: b"$-7\r\n", late]
    for kind in kinds:
        answered = threading.Event()

        def answer(data, kind=kind, answered=answered):
            answered.set()
            return kind(data)

        proxy.answers = answer
        assert answered.wait(10 * SLOW), "the cache is not asked any more"
        go_on(200)
    proxy.answers = None
    proxy.drop()


@pytest.fixture(scope="module")
def place():
    """Redis, the link to it, a suite, and questions whose answers are known."""
    chance = random.Random(5)
    with RedisServer() as redis, FaultProxy(("127.0.0.1", redis.port)) as proxy, \
            Suite(shards=2, cache=f"redis://127.0.0.1:{proxy.port}", partitions=8) as suite:
        suite.create("still", 8)
        suite.create("moving", 3)
        vector = lambda: [round(chance.gauss(0, 1), 3) for _ in range(8)]
        suite.upsert("still", [{"id": f"{i}", "vector": vector(), "text": f"text {i}", "metadata": {"n": i}}
                               for i in range(400)], wait="searchable")
        queries = [{"vector": vector(), "top_k": 10, "params": {"exact": True}, "filter": {"n": {"$lt": 100 + i}}}
                   for i in range(20)]
        fresh = [suite.post("/v1/collections/still/search", {**query, "fresh": True}) for query in queries]
        yield redis, proxy, suite, [(query, answer.body["matches"]) for query, answer in zip(queries, fresh)]


@pytest.mark.parametrize("harm", [flush, restart, stand_still, lose_the_link, exchange, spoil, nonsense])
def test_a_cache(place, harm):
    redis, proxy, suite, questions = place
    begun = hits(suite)
    workers = [Worker(suite, searcher(questions, random.Random(i))) for i in range(2)] + \
              [Worker(suite, changer(number)) for number in range(1, 3)]

    def asked():
        return sum(worker.asked for worker in workers)

    def go_on(requests):
        end = asked() + requests
        poll("searches and writes go on", lambda: asked() > end or any(w.wrong for w in workers), 30)

    try:
        poll("the cache is used", lambda: hits(suite) > begun + 50, 20)
        before = asked()
        harm(redis, proxy, go_on)
        meanwhile = asked() - before
        mended, before = time.monotonic(), hits(suite)
        poll("the cache is used again", lambda: hits(suite) > before + 50 or any(w.wrong for w in workers), 20)
        back = time.monotonic() - mended
    finally:
        for worker in workers:
            worker.stop()
    print(f"{harm.__name__}: {meanwhile} requests meanwhile, {sum(len(w.wrong) for w in workers)} wrong, slowest "
          f"{max(w.slowest for w in workers):.2f} s; used again within {back:.1f} s")
    for worker in workers:
        assert not worker.wrong, worker.wrong
        assert worker.slowest < SEARCH_SECONDS * SLOW
    assert meanwhile > 100
