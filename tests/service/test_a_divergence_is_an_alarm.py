"""Replicas of a shard are compared all the time.  A store that was altered behind its back, in a record
or in the sums that it keeps, is found, counted on /metrics and told with the range of ids; replicas
that are well raise nothing."""
import json
import pathlib
import re
import struct
import urllib.request

import pytest

from suite import SLOW, Suite, poll

pytestmark = pytest.mark.embedded("the files of the stores are altered")


def metric(suite, name):
    with urllib.request.urlopen(suite.url + "/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name):
                return float(line.split()[-1])
    return None


def told(suite, message):
    suite.log.flush()
    lines = (suite.data / "log").read_text(errors="replace").splitlines()
    return [json.loads(line) for line in lines if message in line]


def alter(suite, replica, old, new):
    """Replace bytes wherever they stand in a replica's store; the suite is stopped."""
    path = pathlib.Path(suite.data) / "suite" / f"shard-0.{replica}" / "store" / "data.mdb"
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


def write_some(suite):
    suite.create("docs", 3)
    for batch in range(30):
        suite.upsert("docs", [{"id": f"passage-{batch}-{i}", "vector": [1, batch, i]} for i in range(50)])


def expect_alarm(suite, message):
    """The line of the log that names it."""
    poll("the alarm is raised", lambda: metric(suite, 'replica_divergent_partitions{shard="0"}') == 1, 30, 0.1)
    return poll("it is told", lambda: told(suite, message), 10)[-1]


def test_replicas_that_are_well_are_compared_and_say_nothing():
    with Suite(shards=1, replicas=2, partitions=2) as suite:
        write_some(suite)
        before = metric(suite, "replica_comparisons_total")
        poll("they are compared", lambda: metric(suite, "replica_comparisons_total") > before + 4, 20, 0.1)
        poll("and scrubbed", lambda: metric(suite, "replica_scrubs_total") >= 4, 60, 0.2)
        assert metric(suite, 'replica_divergent_partitions{shard="0"}') == 0
        assert not told(suite, "differ") and not told(suite, "other ids")


def test_an_altered_record_is_found():
    with Suite(shards=1, replicas=2, partitions=1) as suite:
        write_some(suite)
        poll("both have all", lambda: len({str(d) for d in suite.digests().values()}) == 1, 20)
        suite.stop()
        # In the table of ids, length and key and stamp: one bit of the stamp's clock, in one replica.
        path = suite.data / "suite" / "shard-0.1" / "store" / "data.mdb"
        found = re.search(rb"(\x11\0\0\0\0\0\0\0passage-7-7)(.{8})", path.read_bytes(), re.DOTALL)
        assert found, "the record stands in the store"
        clock = struct.unpack("<Q", found.group(2))[0]
        alter(suite, 1, found.group(0), found.group(1) + struct.pack("<Q", clock ^ 1))
        suite.start()
        line = expect_alarm(suite, "a store holds other ids than were put into it")
        assert line["level"] == "error" and line["replica"] == "0.1" and line["partition"] == 0, line
        assert re.fullmatch(r"collection docs: ids with hashes [0-9a-f]…", line["range"]), line


def test_an_altered_sum_is_found():
    with Suite(shards=1, replicas=2, partitions=1) as suite:
        write_some(suite)
        poll("both have all", lambda: len({str(d) for d in suite.digests().values()}) == 1, 20)
        digest = suite.digests()[0, 1][0][1]
        suite.stop()
        kept = struct.pack("<QQ", int(digest[16:], 16), int(digest[:16], 16))
        alter(suite, 1, kept, bytes([kept[0] ^ 1]) + kept[1:])
        suite.start()
        line = expect_alarm(suite, "replicas of a shard differ at one position")
        assert {line["replica"], line["other"]} == {"0.0", "0.1"} and line["partition"] == 0, line
        assert "the sums that are kept are wrong" in line["range"], line
        # Built anew from the log it agrees again.
        suite.stop()
        for part in (suite.data / "suite" / "shard-0.1" / "store").iterdir():
            part.unlink()
        suite.start()
        poll("the alarm ends", lambda: metric(suite, 'replica_divergent_partitions{shard="0"}') == 0 and
             metric(suite, "replica_comparisons_total") > 0, 30 * SLOW, 0.1)
