"""A log that is away for as long as the spool lasts, and a spool whose disk is full: what is not kept is
refused whole, with 503 and Retry-After, and never comes; what was acknowledged is in the log in the end,
once; writes go on when there is room.  Memory, files and disk of the ingest stay bounded meanwhile."""
import contextlib
import os
import random
import time

import pytest

from deployment import Deployment
from fault_clients import READ_MS
from kafka_broker import KafkaBroker
from spool_clerk import RECORDS
from suite import SLOW, poll

TEXT = "x" * 3000
BATCH = 20
SPOOL_BYTES = 48 << 20
REFUSALS = 30
PAGE = 500  # fewer records than a round of the replay has


class Filler:
    """New ids in batches; which of them were acknowledged, and which refused."""

    def __init__(self, deployment):
        self.deployment, self.number, self.kept, self.refused = deployment, 0, [], []

    def write(self):
        self.number += 1
        ids = [f"f{self.number}-{i}" for i in range(BATCH)]
        answer = self.deployment.post(RECORDS, {"records": [
            {"id": i, "vector": [1, 2, 3], "text": i + TEXT} for i in ids]})
        if answer.status == 202:
            assert answer.body["durability"] == "spooled" and "read_token" not in answer.body, answer
            self.kept += ids
        else:
            assert answer.status == 503 and answer.body["code"] == "unavailable", answer
            assert int(answer.headers["Retry-After"]) > 0 and "committed" not in answer.body, answer
            assert "spool" in answer.body["detail"], answer
            self.refused += ids
        return answer.status

    def spool(self, count):
        for _ in range(count):
            assert self.write() == 202

    def until_refused(self, count=REFUSALS):
        """Until so many in a row are."""
        row = 0
        while row < count:
            row = row + 1 if self.write() == 503 else 0

    def check(self):
        poll("the spool is empty", lambda: ingest_of(self.deployment).metric("spool_records") == 0, 120, 0.1)
        self.deployment.client.close()  # the router has closed it meanwhile
        there = set()
        for ids in (self.kept, self.refused):
            for at in range(0, len(ids), 500):
                answer = self.deployment.post(RECORDS + "/get", {"ids": ids[at:at + 500], "include": [], "fresh": True,
                                                                 "timeout_ms": 30000})
                assert answer.status == 200, answer
                there |= {record["id"] for record in answer.body["records"]}
        assert there == set(self.kept), (len(there), len(self.kept), sorted(there - set(self.kept))[:3],
                                         sorted(set(self.kept) - there)[:3])


def ingest_of(deployment):
    return deployment.member("ingest-0")


def log_records(deployment):
    """Of all partitions, as far as the ingest knows."""
    return sum(part["end"] for part in ingest_of(deployment).get("/internal/v1/status").body["partitions"])


def spool_bytes_on_disk(deployment):
    return sum(path.stat().st_blocks * 512 for path in deployment.disk("spool").folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def place():
    """A broker, and a deployment whose log it has."""
    words = {"ingest": ["--spool-bytes", str(SPOOL_BYTES)]}
    with KafkaBroker() as kafka, Deployment(shards=1, replicas=1, ingests=1, partitions=8, wal=kafka.url("bounded"),
                                            words=words) as deployment:
        deployment.create("c", 3)
        deployment.upsert("c", [{"id": "first", "vector": [1, 2, 3]}])
        yield kafka, deployment


def test_an_outage_that_is_longer_than_the_spool():
    with place() as (kafka, deployment):
        filler, ingest = Filler(deployment), ingest_of(deployment)
        kafka.kill()
        filler.spool(5)
        files, memory = ingest.files(), ingest.memory()
        filler.until_refused()
        kept, end = len(filler.kept), time.monotonic() + 5
        assert kept * len(TEXT) > SPOOL_BYTES // 2  # it is no timid guess
        while time.monotonic() < end:  # it does not end with that
            filler.write()
        print(f"{kept} records kept in {spool_bytes_on_disk(deployment) / 1e6:.0f} MB, {len(filler.refused)} refused; "
              f"memory {memory / 1e6:.0f} and {ingest.memory() / 1e6:.0f} MB, files {files} and {ingest.files()}")
        assert spool_bytes_on_disk(deployment) < 2 * SPOOL_BYTES
        assert ingest.files() <= files + 8  # connections
        if SLOW == 1:
            assert ingest.memory() < memory + (32 << 20)
        assert deployment.post("/v1/collections/c/search", {"vector": [1, 2, 3], "timeout_ms": READ_MS}).status == 200
        before = log_records(deployment)
        kafka.start()
        began = time.monotonic()
        filler.check()
        print(f"all in the log after {time.monotonic() - began:.1f} s")
        assert log_records(deployment) - before < 1.2 * len(filler.kept) + 500  # once, and epochs
        assert deployment.upsert("c", [{"id": "last", "vector": [1, 2, 3]}])
        assert not deployment.deaths, deployment.deaths


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small tmpfs")
def test_a_spool_whose_disk_is_full():
    with place() as (kafka, deployment):
        filler, disk, chance = Filler(deployment), deployment.disk("spool"), random.Random(7)
        kafka.kill()
        filler.spool(20)
        for _ in range(3):
            disk.fill()
            filler.until_refused()
            disk.free()
            poll("it goes on", lambda: filler.write() == 202, 20)
            filler.spool(chance.randrange(5, 30))
        # The log comes back while the disk is full: what was brought into it, once, waits to be forgotten.
        disk.fill()
        filler.until_refused()
        before = log_records(deployment)
        kafka.start()
        poll("some of it is in the log", lambda: log_records(deployment) - before >= PAGE, 60, 0.1)
        time.sleep(5)  # rounds of the replay
        grown = log_records(deployment) - before
        waiting = ingest_of(deployment).metric("spool_records")
        print(f"{len(filler.kept)} records kept, {len(filler.refused)} refused; the log has {grown} more, "
              f"{waiting:.0f} wait to be forgotten")
        assert grown < 1.2 * len(filler.kept) + 500
        disk.free()
        filler.check()
        assert deployment.upsert("c", [{"id": "last", "vector": [1, 2, 3]}])
        assert not deployment.deaths, deployment.deaths
        deployment.stop()
        assert deployment.verify()["finding_count"] == 0
