"""While a Kafka log is away plain writes are answered 202 and reads go on; once it is back, exactly
what was acknowledged last of each id is read, also when ingest was killed in between."""
import os
import random
import signal
import time

import pytest
import vicinal_cli
from fault_clients import READ_MS
from kafka_broker import KafkaBroker
from spool_clerk import FIRST_SECONDS, LATER_SECONDS, RECORDS, Clerk, timed
from suite import Suite, poll

WRITES = 300


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
        there = timed(lambda: suite.post(RECORDS + "/get", {"ids": list(before), "timeout_ms": READ_MS}), LATER_SECONDS)
        assert there.status == 200
        assert {r["id"]: r["text"] for r in there.body["records"]} == {i: t for i, t in before.items() if t}
        found = timed(lambda: suite.post("/v1/collections/c/search", {"vector": [1, 2, 3], "timeout_ms": READ_MS}),
                      LATER_SECONDS)
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
