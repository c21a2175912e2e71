"""Read-your-writes when it matters: a shard that was held back while the client wrote.

Each record is a write of its own, so each write's token names another partition; the reads that
follow must wait for all of them, though the last token names only one.
"""

import pytest

from standing_still import standing_still
from suite import Suite
from vicinal import Client

ROUNDS, WRITES = 12, 8


@pytest.fixture(scope="module")
def suite():
    with Suite(shards=2) as suite:
        yield suite


@pytest.mark.parametrize("consistency", ["read_your_writes", "fresh"])
def test_all_writes_are_seen(suite, consistency):
    name = "held-back-" + consistency
    with Client(suite.url, consistency=consistency) as client:
        client.create_collection(name, 3)
        for turn in range(ROUNDS):
            ids = [f"{turn} {i}" for i in range(WRITES)]
            shard = suite.pids("shard")[turn % 2]
            with standing_still(shard):
                for i, identity in enumerate(ids):
                    client.upsert(name, [{"id": identity, "vector": [1, turn, i]}])
            assert [r["id"] for r in client.get(name, ids)] == ids
            assert client.count(name) == (turn + 1) * WRITES
            assert len(client.search(name, [1, 0, 0], top_k=1000)["matches"]) == (turn + 1) * WRITES
