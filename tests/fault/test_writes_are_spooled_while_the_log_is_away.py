"""While a Kafka log is away plain writes are answered 202 and reads go on; once it is back, exactly
what was acknowledged last of each id is read, also when ingest was killed in between."""
import os
import random
import signal
import time

import pytest
import vicinal_cli
from kafka_broker import KafkaBroker
from suite import SLOW, Suite, poll

IDS = 80
WRITES = 300
FIRST_SECONDS = 10.0  # until the log is known to be away
LATER_SECONDS = 3.0
RECORDS = "/v1/collections/c/records"


def timed(call, seconds):
    began = time.monotonic()
    answer = call()
    took = time.monotonic() - began
    assert took < seconds * SLOW, f"{took:.1f} s: {answer}"
    return answer


class Clerk:
    """Writes one after the other and knows what was acknowledged last."""

    def __init__(self, suite, chance):
        self.suite, self.chance = suite, chance
        self.known = {}  # id -> text; None: deleted

    def write(self):
        """A plain write of any kind; the call, and what it makes of the ids."""
        identity = f"r{self.chance.randrange(IDS)}"
        text = f"{identity} {self.chance.random()}"
        kind = self.chance.randrange(4)
        if kind == 0:
            ids = [identity, f"r{self.chance.randrange(IDS)}"]
            return (lambda: self.suite.post(RECORDS + "/delete", {"ids": ids, "count": False})), dict.fromkeys(ids)
        if kind == 1:
            return (lambda: self.suite.put(f"{RECORDS}/{identity}", {"vector": [1, 2, 3], "text": text})), \
                {identity: text}
        return (lambda: self.suite.post(RECORDS, {"records": [
            {"id": identity, "vector": [1, 2, 3], "text": text}]})), {identity: text}

    def spool(self, count):
        for number in range(count):
            call, outcome = self.write()
            answer = timed(call, LATER_SECONDS if number else FIRST_SECONDS)
            assert answer.status == 202 and answer.body["durability"] == "spooled", answer
            assert "read_token" not in answer.body, answer
            self.known.update(outcome)

    def commit(self, count):
        for _ in range(count):
            call, outcome = self.write()
            answer = call()
            assert answer.status in (200, 201), answer
            self.known.update(outcome)

    def wrong(self, **more):
        """Ids that do not read as acknowledged; None: no read now."""
        answer = self.suite.post(RECORDS + "/get", {"ids": [f"r{i}" for i in range(IDS)], **more})
        if answer.status != 200:
            return None
        there = {r["id"]: r.get("text") for r in answer.body["records"]}
        return {i: (there.get(i), self.known.get(i)) for i in (f"r{n}" for n in range(IDS))
                if there.get(i) != self.known.get(i)}


def status_of(suite):
    return vicinal_cli.run(suite, "status", code=None).stdout


@pytest.mark.parametrize("killed", [False, True], ids=["ingest_lives", "ingest_is_killed"])
def test_writes_are_spooled_while_the_log_is_away(killed):
    seed = int(os.environ.get("VICINAL_SEED", str(int(time.time()))))
    print("VICINAL_SEED", seed)
    with KafkaBroker() as kafka, Suite(shards=2, wal=kafka.url("spool"), partitions=8) as suite:
        suite.create("c", 3)
        clerk = Clerk(suite, random.Random(seed))
        clerk.commit(60)
        poll("the shards have it", lambda: clerk.wrong() == {})
        before = dict(clerk.known)
        kafka.kill()
        clerk.spool(WRITES)
        # Reads go on, of what there was.
        there = timed(lambda: suite.post(RECORDS + "/get", {"ids": list(before)}), LATER_SECONDS)
        assert there.status == 200
        assert {r["id"]: r["text"] for r in there.body["records"]} == {i: t for i, t in before.items() if t}
        found = timed(lambda: suite.post("/v1/collections/c/search", {"vector": [1, 2, 3]}), LATER_SECONDS)
        assert found.status == 200
        # What depends on them is refused.
        refused = timed(lambda: suite.post(RECORDS + "/delete", {"ids": ["r0"]}), FIRST_SECONDS)
        assert refused.status == 503 and refused.headers["Retry-After"], refused
        assert "records wait in its spool for the log" in status_of(suite)
        if killed:
            pid = suite.pids("ingest")[0]
            os.kill(pid, signal.SIGKILL)
            poll("ingest runs again", lambda: suite.pids("ingest") not in ([], [pid]))
        kafka.start()
        poll("everything is in the log", lambda: clerk.wrong(fresh=True, timeout_ms=5000) == {}, 60, 0.1)
        poll("nothing waits", lambda: "spool" not in status_of(suite), 20, 0.1)
        clerk.commit(60)
        assert clerk.wrong(fresh=True, timeout_ms=10000) == {}
