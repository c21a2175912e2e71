"""Whatever service dies is started again on its port, and everything works as before."""
import http.client
import os
import signal

import pytest

from suite import Client, Suite, poll


def works(suite):
    client = Client(suite.url, 5)
    try:
        written = client.post("/v1/collections/c/records", {"records": [{"id": "a", "vector": [1, 2, 3]}]})
        found = client.post("/v1/collections/c/search", {"vector": [1, 2, 3], "fresh": True})
        return written.status == 200 and found.status == 200 and found.body["matches"][0]["id"] == "a"
    except OSError:
        return False
    finally:
        client.close()


def answers(suite):
    try:
        return suite.get("/v1/collections").status == 200
    except (OSError, http.client.HTTPException):
        return False


@pytest.mark.parametrize("service", ["ingest", "shard", "router"])
def test_it_is_started_again(service):
    with Suite(shards=2) as suite:
        suite.create("c")
        assert works(suite)
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            before = suite.pids(service)
            os.kill(before[0], number)
            poll("there is another process",
                 lambda: len(suite.pids(service)) == len(before) and suite.pids(service) != before, 15)
            poll("everything works again", lambda: works(suite), 15)
        assert suite.stop() == 0


def test_its_port_stays():
    with Suite() as suite:
        before = suite.get("/internal/v1/status").body
        os.kill(suite.pids("shard")[0], signal.SIGKILL)
        os.kill(suite.pids("ingest")[0], signal.SIGKILL)
        poll("both are back", lambda: len(suite.pids("shard")) == len(suite.pids("ingest")) == 1, 15)
        poll("ready again", lambda: suite.get("/readyz").status == 200, 15)
        after = suite.get("/internal/v1/status").body
        assert after["ingest_url"] == before["ingest_url"]
        assert [r["url"] for r in after["replicas"]] == [r["url"] for r in before["replicas"]]


def test_its_port_stays_where_it_is_killed_before_it_listens():
    """Who was told the router's address goes on using it: a life cut short is no sign of a taken port."""
    with Suite(shards=1) as suite:
        pid, = suite.pids("router")
        for _ in range(6):
            os.kill(pid, signal.SIGKILL)
            before = pid
            pid = poll("another router", lambda: next((p for p in suite.pids("router") if p != before), None), 10,
                       0.001)
        poll("it answers at its old address", lambda: answers(suite), 20)
