"""What an answer says of its age holds when it comes: whatever was answered 200 more than its
staleness ago is in it.  Partitions that rest, wall clocks that step, an ingest that is absent, a
shard, a router, a replicator or everything that stands still and goes on do not make it lie."""
import contextlib
import threading
import time

import pytest

from standing_still import standing_still
from suite import SLOW, Client, Suite, poll
from wall_clock import WallClock

PATH = "/v1/collections/c/records"
# From the router's last look at the clock to ours, which may wait for its turn; lies would be of seconds.
ON_THE_WAY = 0.5 + 0.05 * SLOW


class Writer:
    """Writes record after record, and knows when each was answered."""

    def __init__(self, url, pause=0.01):
        self.url, self.pause, self.answered, self.number = url, pause, [], 0  # [(time, number)]
        self.ends = threading.Event()
        self.thread = threading.Thread(daemon=True, target=self.run)

    def run(self):
        client = Client(self.url, 30)
        while not self.ends.is_set():
            self.number += 1
            with contextlib.suppress(OSError):
                if client.post(PATH, {"records": [{"id": f"w{self.number}", "vector": [1, 0, 0],
                                                   "metadata": {"n": self.number}}]}).status == 200:
                    self.answered.append((time.monotonic(), self.number))
            self.ends.wait(self.pause)
        client.close()

    def when(self, number):
        """It was answered."""
        return next(answered for answered, known in self.answered if known == number)

    def before(self, when):
        """Numbers that were answered before that time."""
        return {number for answered, number in list(self.answered) if answered < when}

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


class Reader:
    """Reads all the time, in three ways, and holds every answer against what was written."""

    BODIES = [("/v1/collections/c/search", {"vector": [1, 0, 0], "top_k": 10000, "filter": {"n": {"$gt": 0}},
                                            "include": ["metadata"]}, "matches"),
              (PATH + "/scroll", {"limit": 10000, "include": ["metadata"]}, "records"),
              ("/v1/collections/c/search", {"vector": [1, 0, 0], "top_k": 10000, "include": ["metadata"],
                                            "max_staleness_seconds": 1, "on_stale": "serve"}, "matches")]

    def __init__(self, url, writer, fresh=False):
        self.url, self.writer, self.fresh = url, writer, fresh
        self.lies = []  # (path, the age that was told, the true one, numbers that were missing)
        self.told, self.slowest, self.refused = [], 0, 0
        self.ends = threading.Event()
        self.thread = threading.Thread(daemon=True, target=self.run)

    def run(self):
        client, turn = Client(self.url, 60), 0
        while not self.ends.is_set():
            path, body, rows = self.BODIES[turn % 3]
            turn += 1
            began = time.monotonic()
            try:
                answer = client.post(path, {**body, **({"fresh": self.fresh, "on_stale": "serve"} if self.fresh else {}),
                                            "timeout_ms": 2000})
            except OSError:
                continue
            self.slowest = max(self.slowest, answer.came - began)
            if answer.status != 200:
                self.refused += 1
                continue
            age = answer.body["read"]["staleness_seconds"]
            self.told.append(age)
            seen = {row["metadata"]["n"] for row in answer.body[rows]}
            missing = self.writer.before(answer.came - age - ON_THE_WAY) - seen
            if missing:
                self.lies.append((path, age, answer.came - self.writer.when(min(missing)), sorted(missing)[:5]))
        client.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ends.set()
        self.thread.join()


@pytest.fixture
def suite():
    with Suite(shards=2, partitions=16) as started:
        started.create("c", 3)
        yield started


def test_partitions_that_rest(suite):
    """Nothing is written: the age does not grow with that, and does not hide what then comes."""
    suite.upsert("c", [{"id": "first", "vector": [1, 0, 0], "metadata": {"n": 0}}], wait="searchable")
    ages, end = [], time.monotonic() + 3
    while time.monotonic() < end:
        ages.append(suite.post(f"{PATH}/count", {}).body["read"]["staleness_seconds"])
        time.sleep(0.02)
    assert sorted(ages)[len(ages) // 2] < 0.5 * SLOW, ages
    with Writer(suite.url, pause=0.3) as writer, Reader(suite.url, writer) as reader:
        poll("some are written", lambda: len(writer.answered) > 8, 20)
    assert not reader.lies, reader.lies[:3]


def test_an_ingest_that_is_absent_for_long(suite):
    with Writer(suite.url) as writer, Reader(suite.url, writer) as reader:
        poll("some are written", lambda: len(writer.answered) > 20, 20)
        with standing_still(*suite.pids("ingest")):
            end = time.monotonic() + 6
            while time.monotonic() < end:
                answer = suite.post(f"{PATH}/count", {"max_staleness_seconds": 1, "timeout_ms": 3000})
                assert answer.status == 200, answer
                time.sleep(0.1)
        count = len(writer.answered)
        poll("it goes on", lambda: len(writer.answered) > count + 20, 30)
    assert not reader.lies, reader.lies[:3]


@pytest.mark.parametrize("service", ["shard", "router", "everything"])
def test_a_process_that_stands_still_and_goes_on(suite, service):
    """Again and again, with questions and answers on their way: those that come late are old."""
    pids = suite.pids(service) if service != "everything" else \
        [pid for each in ("shard", "router", "ingest") for pid in suite.pids(each)]
    with Writer(suite.url, 0.002) as writer, contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Reader(suite.url, writer)) for _ in range(4)]
        for round_ in range(5):
            count = len(writer.answered)
            poll("some are written", lambda: len(writer.answered) > count + 20, 30)
            # A shard of two stands still while the other's part of the answer waits.
            with standing_still(*(pids if round_ % 2 or service != "shard" else pids[:1])):
                time.sleep(1.2)
    lies = [lie for reader in readers for lie in reader.lies]
    told = [age for reader in readers for age in reader.told]
    # From an answer's last look at the clock to the wire it is a microsecond: one in thousands of
    # those under way is stopped in it.
    assert len(lies) <= 1, lies[:3]
    assert max(reader.slowest for reader in readers) > 1
    print(f"{service}: {len(told)} answers, the oldest {max(told):.2f} s, {sum(r.refused for r in readers)} refused")


def stamp(door):
    """Of a write of now, in microseconds."""
    written = door.put(f"{PATH}/stamped", {"vector": [0, 1, 0], "metadata": {"n": 0}})
    return int(written.headers["ETag"].strip('"').split("-")[0])


def test_wall_clocks_that_step():
    """Forward and back, by seconds and by hours, in both regions: ages go by the boot time alone."""
    with WallClock() as clock, Suite(wrap=clock.wrap, regions="a,b", partitions=8) as suite:
        a, b = suite.region("a"), suite.region("b")
        a.create("c", 3)
        b.wait_for("the collection in b", "/v1/collections/c")
        with Writer(a.url) as writer, Reader(a.url, writer) as near, Reader(b.url, writer, fresh="global") as far:
            poll("some are written", lambda: len(writer.answered) > 20 and lag(b) < 1 * SLOW, 30)
            stamped = stamp(a)
            for seconds in (3600, -3600, 5, -5, 86400, 0):
                clock.step(seconds)
                # Stamps do go by it, and never back: the step is felt.
                assert stamp(a) > stamped + 3500e6, seconds
                counts = len(writer.answered), len(near.told), len(far.told)
                poll("writes and reads go on", lambda: len(writer.answered) > counts[0] + 20 and
                     len(near.told) > counts[1] + 20 and len(far.told) > counts[2] + 20, 30)
                told = near.told[counts[1]:] + far.told[counts[2]:]
                assert sorted(told)[len(told) // 2] < 1 * SLOW, (seconds, sorted(told)[-5:])
                token = a.upsert("c", [{"id": f"at{seconds}", "vector": [0, 1, 0], "metadata": {"n": 0}}],
                                 write_quorum=2)["read_token"]
                found = b.get(f"{PATH}/at{seconds}?read_token={token}&timeout_ms=20000")
                assert found.status == 200, (seconds, found)
        assert not near.lies and not far.lies, (near.lies[:3], far.lies[:3])


def lag(door):
    others = [row for row in door.get("/v1/admin/regions").body["regions"] if not row["self"]]
    seconds = others[0].get("replication", {}).get("lag_seconds")
    return 1e9 if seconds is None else seconds


def test_a_replicator_that_is_absent():
    """What is told of the other region grows with the truth: in the lag, and in what is served stale
    to reads over all regions."""
    with Suite(regions="a,b", partitions=8) as suite:
        a, b = suite.region("a"), suite.region("b")
        a.create("c", 3)
        b.wait_for("the collection in b", "/v1/collections/c")
        with Writer(a.url) as writer, Reader(b.url, writer, fresh="global") as reader:
            poll("b follows", lambda: len(writer.answered) > 20 and lag(b) < 1 * SLOW, 20)
            for _ in range(2):
                with standing_still(*suite.pids("replicator", "b")):
                    began = time.monotonic()
                    while time.monotonic() - began < 4:
                        asked = time.monotonic()
                        told = lag(b)
                        # What was answered since it stood still has not come.
                        assert told >= asked - began - 0.1 * SLOW, (told, asked - began)
                        own = b.post(f"{PATH}/count", {"max_staleness_seconds": 1, "timeout_ms": 3000})
                        assert own.status == 200, own  # of its own log it lacks nothing
                count = len(reader.told)
                poll("global reads are met again", lambda: len(reader.told) > count + 5 and reader.told[-1] < 1 * SLOW,
                     30)
        assert not reader.lies, reader.lies[:3]
        assert max(reader.told) > 1 and min(reader.told) < 1 * SLOW, reader.told[:20]
        print(f"{len(reader.told)} answers over both regions, the oldest {max(reader.told):.2f} s")
