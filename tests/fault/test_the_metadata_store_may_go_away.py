"""The metadata store in Postgres is killed, its connections are cut in the middle of everything, from
its side and by the network, while clients write, search, and make and drop collections.  Writes and
searches of records go on without errors; a change of a collection succeeds or is 503 or 504, and afterwards
each collection is wholly there or wholly not, without anybody asking again; a repeat succeeds; and
the log says the same."""
import contextlib
import random
import threading
import time

import pytest

from fault_proxy import FaultProxy
from postgres_server import PostgresServer
from suite import SLOW, Client, Suite, poll

NAMES = 3             # of each changer
RECORD_SECONDS = 3    # of the slowest write or search of records
READ_MS = int(2500 * SLOW)  # a read's deadline, 1 s by default: a pause of the machine may take that long
CHANGE_SECONDS = 20   # of the slowest change: it may wait for one before it
REFUSED = (503, 504)
TERMINATE = """DO $$ BEGIN FOR i IN 1..20 LOOP
PERFORM pg_stat_clear_snapshot();
PERFORM pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid();
PERFORM pg_sleep(0.02); END LOOP; END $$"""


class Worker(threading.Thread):
    """Does its steps until it is stopped."""

    def __init__(self, suite, number):
        super().__init__(daemon=True)
        self.number, self.client, self.ends = number, Client(suite.url, 60), threading.Event()
        self.chance = random.Random(number)
        self.asked, self.slowest, self.wrong = 0, 0.0, []
        self.start()

    def run(self):
        while not self.ends.is_set():
            self.step()
        self.client.close()

    def ask(self, allowed, method, path, body=None):
        began = time.monotonic()
        try:
            answer = self.client.request(method, "/v1/collections/" + path, body)
        except OSError as error:
            self.wrong.append((method, path, repr(error)))
            return None
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.asked += 1
        if answer.status not in allowed:
            self.wrong.append((method, path, answer))
        return answer

    def stop(self):
        self.ends.set()
        self.join()


class User(Worker):
    """Writes records and searches for them."""

    def __init__(self, suite, number):
        self.made = []
        super().__init__(suite, number)

    def step(self):
        identity = f"{self.number}-{self.asked}"
        answer = self.ask([200], "POST", "kept/records", {
            "records": [{"id": identity, "vector": [self.asked % 7, 1, 2]}]})
        if answer is None or answer.status != 200:
            self.ends.wait(0.02)
            return
        self.made.append(identity)
        self.ask([200], "POST", "kept/search", {"vector": [self.asked % 7, 1, 2], "top_k": 3, "timeout_ms": READ_MS})
        self.ask([200], "POST", "kept/search", {"vector": [1, 1, 2], "top_k": 3, "timeout_ms": READ_MS,
                                                "read_token": answer.body["read_token"]})
        self.ask([200], "POST", "kept/records/get", {"ids": [identity], "fresh": True, "include": [],
                                                     "timeout_ms": READ_MS})


class Changer(Worker):
    """Makes and drops collections; what they are then is known, or not."""

    def __init__(self, suite, number):
        self.names = {f"of-{number}-{i}": False for i in range(NAMES)}  # there?  None: it may be
        self.changed = self.refused = 0
        super().__init__(suite, number)

    def step(self):
        name = self.chance.choice(list(self.names))
        there, makes = self.names[name], self.chance.random() < 0.5
        if makes:
            expected = {True: [200], False: [201], None: [200, 201]}[there]
            answer = self.ask([*expected, *REFUSED], "PUT", name, {"vector": {"dimension": 3, "metric": "cosine"}})
        else:
            expected = {True: [204], False: [404], None: [204, 404]}[there]
            answer = self.ask([*expected, *REFUSED], "DELETE", name)
        if answer is not None and answer.status in expected:
            self.names[name] = makes
            self.changed += 1
        elif answer is None or there is not makes:
            self.names[name] = None
        if answer is not None and answer.status in REFUSED:
            self.refused += 1
        self.ends.wait(0.01)


def changes(changers):
    return sum(changer.changed for changer in changers)


def refusals(changers):
    return sum(changer.refused for changer in changers)


# --- what is done to it, until the block ends -----------------------------------------------------

@contextlib.contextmanager
def killed(postgres, proxy):
    postgres.kill()
    yield
    postgres.start()


@contextlib.contextmanager
def stopped_by_its_operator(postgres, proxy):
    postgres.stop("fast")
    yield
    postgres.start()


@contextlib.contextmanager
def again_and_again(step):
    ends = threading.Event()

    def run():
        while not ends.is_set():
            step(ends)

    thread = threading.Thread(daemon=True, target=run)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


@contextlib.contextmanager
def terminated(postgres, proxy):
    with again_and_again(lambda ends: postgres.sql(TERMINATE)):
        yield


@contextlib.contextmanager
def disconnected(postgres, proxy):
    chance = random.Random(1)

    def step(ends):
        proxy.drop()
        ends.wait(chance.uniform(0.001, 0.06))

    with again_and_again(step):
        yield


@contextlib.contextmanager
def without_answers(postgres, proxy):
    """What was asked for has happened, and nobody is told."""
    chance = random.Random(2)
    proxy.answers = lambda data: None if chance.random() < 0.1 else data
    yield
    proxy.answers = None


@contextlib.contextmanager
def cut_off(postgres, proxy):
    proxy.cut()
    yield
    proxy.heal()


HARMS = [killed, stopped_by_its_operator, terminated, disconnected, without_answers, cut_off]


@pytest.fixture(scope="module")
def place(kafka):
    with PostgresServer() as postgres, FaultProxy(("127.0.0.1", postgres.port)) as proxy:
        meta = f"postgres://postgres@127.0.0.1:{proxy.port}/postgres?schema="
        with Suite(shards=2, wal=kafka.url("store-away"), meta=meta + "away", partitions=8) as suite:
            suite.create("kept", 3)
            suite.upsert("kept", [{"id": "first", "vector": [1, 2, 3]}], wait="searchable")
            yield postgres, proxy, suite
            # A store that knows nothing learns from the log what the other one knew.
            before = definitions(suite)
            suite.stop()
        with Suite(shards=2, wal=kafka.url("store-away"), meta=meta + "anew") as suite:
            assert "kept" in before
            poll("the log says the same", lambda: definitions(suite) == before, 20)


def definitions(suite):
    return {row["name"]: row for row in suite.get("/v1/collections").body["collections"]}


def agreed(suite, name):
    """Is it there?  Asked of all who could think otherwise: 200 or 404; otherwise what each says."""
    status = suite.get(f"/v1/collections/{name}").status
    written = suite.post(f"/v1/collections/{name}/records", {
        "records": [{"id": "x", "vector": [1, 2, 3]}, {"id": "y", "vector": [1, 2, 3]}], "wait": "searchable"})
    found = suite.post(f"/v1/collections/{name}/search", {"vector": [1, 2, 3], "fresh": True, "timeout_ms": 10000})
    listed = 200 if name in definitions(suite) else 404
    same = status in (200, 404) and {written.status, found.status, listed} == {status}
    assert not same or status == 404 or len(found.body["matches"]) == 2, (name, found)
    return status if same else (status, written, found, listed)


def settled(suite, name):
    last = [None]

    def decided():
        last[0] = agreed(suite, name)
        return last[0] in (200, 404)

    try:
        poll("it is there or not", decided, 15, 0.05)
    except AssertionError as error:
        suite.show_log()
        raise AssertionError(f"{name}: {last[0]}") from error
    return last[0] == 200


@pytest.mark.parametrize("harm", HARMS)
def test_a_store(place, harm):
    postgres, proxy, suite = place
    users = [User(suite, number) for number in range(2)]
    changers = [Changer(suite, 10 * (1 + HARMS.index(harm)) + number) for number in range(4)]
    try:
        poll("all of them work", lambda: changes(changers) > 50 and all(u.asked > 20 for u in users), 30)
        with harm(postgres, proxy):
            asked, refused = sum(u.asked for u in users), refusals(changers)
            poll("changes are refused", lambda: refusals(changers) > refused + 3, 40)
            poll("records go on", lambda: sum(u.asked for u in users) > asked + 500, 30)
            for changer in changers:
                changer.ends.set()
            for changer in changers:
                changer.stop()
        mended = time.monotonic()
        poll("collections are made again", lambda: suite.put(
            f"/v1/collections/after-{harm.__name__}", {"vector": {"dimension": 3}}).status in (200, 201), 20)
        back = time.monotonic() - mended
    finally:
        proxy.heal()
        for worker in users + changers:
            worker.ends.set()
        for worker in users + changers:
            worker.stop()
    suite.client.close()
    unsure = 0
    for changer in changers:
        for name, there in changer.names.items():
            unsure += there is None
            found = settled(suite, name)
            assert there is None or found == there, (name, there, found)
            # The same again succeeds, whatever it was.
            assert suite.put(f"/v1/collections/{name}", {"vector": {"dimension": 3, "metric": "cosine"}}).status == \
                (200 if found else 201)
            assert settled(suite, name)
            if changer.chance.random() < 0.5:
                assert suite.delete(f"/v1/collections/{name}").status == 204
                assert not settled(suite, name)
    print(f"{harm.__name__}: {sum(u.asked for u in users)} requests about records, "
          f"{sum(len(u.wrong) for u in users)} failed, slowest {max(u.slowest for u in users):.2f} s; "
          f"{changes(changers)} changes of collections, {refusals(changers)} refused, slowest "
          f"{max(c.slowest for c in changers):.1f} s; made again within {back:.1f} s; {unsure} were in doubt")
    for worker in users + changers:
        if worker.wrong:
            suite.show_log()
        assert not worker.wrong, worker.wrong[:3]
    made = [identity for user in users for identity in user.made]
    for at in range(0, len(made), 500):
        answer = suite.post("/v1/collections/kept/records/get",
                            {"ids": made[at:at + 500], "include": [], "fresh": True, "timeout_ms": 20000})
        assert answer.status == 200 and len(answer.body["records"]) == len(made[at:at + 500])
    assert max(user.slowest for user in users) < RECORD_SECONDS * SLOW
    assert max(changer.slowest for changer in changers) < CHANGE_SECONDS * SLOW
