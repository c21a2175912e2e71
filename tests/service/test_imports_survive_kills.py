"""kill -9 of ingest, shard and router while an import is uploaded: the client goes on where the
upload stands; every row of an answered part is there, once, and no row comes back over what was
written after the answer."""
import json
import os
import random
import signal
import threading
import time

import pytest

from imports import binary_row
from suite import SLOW, Client, Suite, poll

DIM = 8
ROWS = 40000
KILLS_MIN = 5  # a machine that is fast is not done before
KILLS_MAX = 25  # a machine that is slow has to come through, too
PARTS_BYTES = 15000  # about 200 rows


def ask(client, method, path, body=None):
    """The answer, or None when there was none."""
    try:
        kind = "application/json" if method == "POST" else "application/octet-stream"
        return client.request(method, path, body, {"Content-Type": kind})
    except Exception:
        return None


def stand(client, path):
    """Where the upload stands, asked until somebody knows."""
    def look():
        answer = ask(client, "GET", path)
        return answer if answer is not None and answer.status == 200 else None

    return poll("somebody says where the upload stands", look, 60).body


def post(client, path, body):
    """Asked until it is answered."""
    def asked():
        answer = ask(client, "POST", path, json.dumps(body).encode())
        return answer if answer is not None and answer.status in (200, 201) else None

    return poll(path, asked, 60).body


class Killer(threading.Thread):
    def __init__(self, suite, seed):
        super().__init__(daemon=True)
        self.suite, self.chance, self.done, self.kills = suite, random.Random(seed), threading.Event(), 0

    def run(self):
        while self.kills < KILLS_MAX and not self.done.wait(self.chance.uniform(0.05, 0.5)):
            pids = self.suite.pids(self.chance.choice(["ingest", "ingest", "shard", "router"]))
            if pids:
                try:
                    os.kill(self.chance.choice(pids), signal.SIGKILL)
                    self.kills += 1
                except ProcessLookupError:
                    pass


def overwrite(client, identity, acknowledged):
    answer = ask(client, "POST", "/v1/collections/c/records",
                 ('{"records":[{"id":"%s","text":"after"}]}' % identity).encode())
    if answer is not None and answer.status == 200:
        acknowledged.add(identity)


def load(client, data, ends, killer):
    """Upload all; after each answered part one of its records is overwritten.  What was, for sure."""
    begun = post(client, "/v1/collections/c/imports", {"format": "binary"})
    path = f"/v1/collections/c/imports/{begun['id']}"
    offset, overwritten, tried, answers = 0, set(), set(), 0
    limit = time.monotonic() + 120 * SLOW
    while offset < len(data):
        assert time.monotonic() < limit, f"{offset} of {len(data)}"
        piece = data[offset:offset + PARTS_BYTES]
        final = "&final=true" if offset + len(piece) == len(data) else ""
        if final:
            poll("it was killed often enough", lambda: killer.kills >= KILLS_MIN, 30)
        answer = ask(client, "PUT", f"{path}/data?offset={offset}{final}", piece)
        if answer is not None and answer.status == 200:
            answers += 1
            assert answer.body["offset"] > offset
            row = ends[answer.body["offset"]] - 1
            offset = answer.body["offset"]
            identity = f"row-{row}"
            tried.add(identity)
            overwrite(client, identity, overwritten)
            continue
        assert answer is None or answer.status in (409, 503, 504), answer
        now = stand(client, path)
        assert now["offset"] >= offset and now["rows_done"] == ends[now["offset"]], (now, offset)
        offset = now["offset"]
    return path, overwritten, tried, answers


@pytest.mark.embedded("a holder takes over at once; on Kafka it would be killed before")
def test_an_import_survives_kills_of_every_service():
    seed = int(os.environ.get("VICINAL_SEED", str(random.randrange(1 << 30))))
    print("seed", seed)
    data, ends = bytearray(), {0: 0}
    for n in range(ROWS):
        data += binary_row(f"row-{n}", [n % 7, n, 1, 0, 0, 0, 0, 1], text=f"text {n}")
        ends[len(data)] = n + 1
    with Suite(shards=2) as suite:
        suite.create("c", DIM)
        killer, client = Killer(suite, seed), Client(suite.url, 20)
        killer.start()
        try:
            path, overwritten, tried, answers = load(client, bytes(data), ends, killer)
        finally:
            killer.done.set()
            killer.join()
        body = stand(client, path)
        assert body["state"] == "succeeded" and body["rows_done"] == ROWS and body["rows_refused"] == 0
        body = post(client, "/v1/collections/c/records/count", {"fresh": True, "timeout_ms": 10000})
        assert body["count"] == ROWS
        for n in range(0, ROWS, 1000):
            ids = [f"row-{i}" for i in range(n, n + 1000)]
            body = post(client, "/v1/collections/c/records/get", {"ids": ids, "fresh": True, "timeout_ms": 10000})
            assert [row["id"] for row in body["records"]] == ids
            for row, number in zip(body["records"], range(n, n + 1000)):
                allowed = {"after"} if row["id"] in overwritten else {"after", f"text {number}"} \
                    if row["id"] in tried else {f"text {number}"}
                assert row["text"] in allowed, row
        print(f"{killer.kills} kills, {answers} parts answered, {len(overwritten)} overwritten")
        assert killer.kills >= KILLS_MIN
