"""Two ingests, each with a spool, on a log in Kafka.  The one that holds the log spools writes while the
brokers are away, and is stopped or killed; the other takes the log and is written to.  When the first one is
back it hands over what it kept: what was acknowledged last of each id is there, whoever took it, also when
the hand-over is interrupted and begun again, and both empty their spools."""
import os
import random
import time

import pytest

from deployment import Deployment
from kafka_broker import KafkaBroker
from spool_clerk import Clerk
from suite import poll

SPOOLED = 150
COMMITTED = 60


def holder(deployment):
    """Who holds the log; None while nobody does."""
    for member in deployment.named("ingest"):
        answer = member.get("/internal/v1/status")
        if answer is not None and answer.body["state"] == "holder":
            return member
    return None


def other(deployment, member):
    return next(each for each in deployment.named("ingest") if each is not member)


def nothing_waits(deployment):
    """Each of them says so."""
    return all(member.metric("spool_records") == 0 for member in deployment.named("ingest"))


def go_away(member, how):
    return member.stop() if how == "stopped" else member.kill(stays_down=True)


def come_back(member, how):
    return member.go_on() if how == "stopped" else member.start()


def lose_the_holder(deployment, kafka, clerk, how):
    """It is gone with its spool, and the other one has been written to.  Returns the first."""
    first = poll("one holds the log", lambda: holder(deployment), 60, 0.1)
    clerk.commit(COMMITTED)
    kafka.kill()
    clerk.spool(SPOOLED)
    assert first.metric("spool_records") > 0
    go_away(first, how)
    kafka.start()
    second = other(deployment, first)
    poll("the other one takes the log", lambda: holder_is(second), 90, 0.1)
    poll("it is written to", lambda: wrote_one(clerk), 60, 0.1)
    clerk.commit(COMMITTED)
    return first


def holder_is(member):
    answer = member.get("/internal/v1/status")
    return answer is not None and answer.body["state"] == "holder"


def wrote_one(clerk):
    """Its outcome is known only when it succeeds: nothing else has that id."""
    answer = clerk.suite.post("/v1/collections/c/records", {"records": [{"id": "probe", "vector": [1, 2, 3]}]})
    return answer.status == 200


def expect_all(deployment, clerk):
    poll("nothing waits", lambda: nothing_waits(deployment), 60, 0.1)
    poll("everything is in the log", lambda: clerk.wrong(fresh=True, timeout_ms=5000) == {}, 30, 0.1)
    for member in deployment.named("ingest"):
        assert member.metric("spool_parked_records") == 0


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_holder_comes_back(how):
    seed = int(os.environ.get("VICINAL_SEED", str(int(time.time()))))
    print("VICINAL_SEED", seed)
    chance = random.Random(seed)
    with KafkaBroker() as kafka, \
            Deployment(shards=1, replicas=1, partitions=8, wal=kafka.url("handed-over")) as deployment:
        deployment.create("c", 3)
        clerk = Clerk(deployment, chance)
        # There and back: each of them hands over once.
        for _ in range(2):
            first = lose_the_holder(deployment, kafka, clerk, how)
            come_back(first, how)
            expect_all(deployment, clerk)
        # Whoever takes the rows is killed again and again while they come.
        first = lose_the_holder(deployment, kafka, clerk, how)
        second = other(deployment, first)
        come_back(first, how)
        for _ in range(4):
            time.sleep(chance.uniform(0.02, 0.4))
            second.kill()
        expect_all(deployment, clerk)
        poll("somebody holds the log", lambda: wrote_one(clerk), 60, 0.1)
        clerk.commit(COMMITTED)
        expect_all(deployment, clerk)
        assert not deployment.deaths, deployment.deaths
