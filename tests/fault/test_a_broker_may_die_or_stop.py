"""The broker of the log is killed, stopped, and fills its disk, while clients write and read.  Every
acknowledged write (200, or 202 from the spool) is there in the end, with its newest acknowledged value
or a later one; reads go on; every write is answered in time, and never wrongly; when the broker is back the suite takes writes
again by itself.  VICINAL_CUT_SECONDS: how long the broker is gone (a nightly run takes a minute)."""
import os
import threading
import time

import pytest

from suite import SLOW, Client, Suite, poll

AWAY_SECONDS = float(os.environ.get("VICINAL_CUT_SECONDS", "4"))
STOP_SECONDS = max(15, AWAY_SECONDS)  # above the ten seconds that an append may take
ANSWER_SECONDS = 20  # of any write: its append may be under way, and is then known
BACK_SECONDS = 40    # from the broker's answer to the next write that is in its log
SPOOL_SECONDS = 40   # until what was spooled meanwhile is there for readers
WRITERS = 6
REWRITTEN = 5

# A write that was answered so has not happened, and never will.
NOTHING = ("nothing was written", "takes no writes", "were committed", "recovered in between", "cannot be taken over")


class Writer:
    """New ids, and now and then one of a few again, until it is stopped."""

    def __init__(self, suite, number):
        self.suite, self.number, self.ends = suite, number, threading.Event()
        self.made, self.refused = [], []  # ids that are there for certain, and that are not
        self.newest = {}                  # of the rewritten: the newest acknowledged serial
        self.tried = 0
        self.acknowledged = self.spooled = self.failed = 0
        self.slowest, self.wrong = 0.0, []
        self.thread = threading.Thread(daemon=True, target=self.run)
        self.thread.start()

    def run(self):
        client = Client(self.suite.url, 60)
        while not self.ends.is_set():
            self.tried += 1
            is_new = self.tried % 3 != 0
            identity = f"{self.number}-{self.tried}" if is_new else f"{self.number}-again-{self.tried // 3 % REWRITTEN}"
            began = time.monotonic()
            try:
                answer = client.post("/v1/collections/c/records", {
                    "records": [{"id": identity, "vector": [self.tried % 7, 1, 2], "text": str(self.tried)}],
                    "timeout_ms": 4000})
            except OSError as error:
                self.wrong.append((identity, repr(error)))
                continue
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.note(identity, is_new, answer)
        client.close()

    def note(self, identity, is_new, answer):
        if answer.status == 200 or answer.status == 202 and answer.body.get("durability") == "spooled":
            self.acknowledged += 1
            self.spooled += answer.status == 202
            if is_new:
                self.made.append(identity)
            else:
                self.newest[identity] = self.tried
            return
        self.failed += 1
        if answer.status not in (503, 504, 507) or "code" not in answer.body:
            self.wrong.append((identity, answer))
        elif is_new and any(text in answer.body["detail"] for text in NOTHING):
            self.refused.append(identity)
        self.ends.wait(0.05)

    def stop(self):
        self.ends.set()
        self.thread.join()


class Reader:
    """Searches, and gets one record, until it is stopped."""

    def __init__(self, suite):
        self.suite, self.ends = suite, threading.Event()
        self.asked, self.failures, self.slowest = 0, [], 0.0
        self.thread = threading.Thread(daemon=True, target=self.run)
        self.thread.start()

    def run(self):
        client = Client(self.suite.url, 10)
        while not self.ends.is_set():
            self.ask(client, "search", {"vector": [self.asked % 7, 1, 2], "top_k": 5}, "matches")
            self.ask(client, "records/get", {"ids": ["first"], "include": []}, "records")
            self.ends.wait(0.02)
        client.close()

    def ask(self, client, path, body, list_of):
        self.asked += 1
        began = time.monotonic()
        try:
            answer = client.post(f"/v1/collections/c/{path}", body)
        except OSError as error:
            self.failures.append(repr(error))
            return
        self.slowest = max(self.slowest, time.monotonic() - began)
        if answer.status != 200 or not answer.body[list_of]:
            self.failures.append(answer)

    def stop(self):
        self.ends.set()
        self.thread.join()


def count(writers):
    return sum(writer.acknowledged for writer in writers)


def logged(writers):
    """Acknowledged with 200: in the broker's log, not in a spool."""
    return sum(writer.acknowledged - writer.spooled for writer in writers)


def failed(writers):
    return sum(writer.failed for writer in writers)


def read(suite, identities):
    """{id: text} of those that are there, as of now."""
    found = {}
    for at in range(0, len(identities), 500):
        answer = suite.post("/v1/collections/c/records/get", {"ids": identities[at:at + 500], "include": ["text"],
                                                              "fresh": True, "timeout_ms": 20000})
        assert answer.status == 200, answer
        found |= {record["id"]: record["text"] for record in answer.body["records"]}
    return found


def kill(broker):
    broker.kill()
    return broker.start


def stop(broker):
    broker.pause()
    return broker.resume


def fill(broker):
    """Some writes still find room; then its only log folder has failed, and it ends itself."""
    broker.limit_files(16 << 10)

    def mend():
        poll("the broker has ended", lambda: broker.process.poll() is not None, 20)
        broker.restart()
    return mend


# To fill it is tried first: its room is reckoned from the longest log, which grows by what waits meanwhile.
@pytest.mark.parametrize("harm,seconds", [(fill, AWAY_SECONDS), (kill, AWAY_SECONDS), (stop, STOP_SECONDS)])
def test_a_broker(kafka, harm, seconds):
    with Suite(shards=2, wal=kafka.url(f"harm-{harm.__name__}"), partitions=8) as suite:
        suite.create("c", 3)
        suite.upsert("c", [{"id": "first", "vector": [1, 2, 3]}], wait="searchable")
        writers = [Writer(suite, number) for number in range(WRITERS)]
        reader = Reader(suite)
        try:
            poll("writes", lambda: logged(writers) > 100, 30)
            began, before, asked = time.monotonic(), failed(writers), reader.asked
            mend = harm(kafka)
            try:
                poll("writes do not reach it", lambda: failed(writers) > before or count(writers) > logged(writers), 60)
                poll("reads go on", lambda: time.monotonic() - began > seconds and reader.asked > asked + 50,
                     seconds + 30)
            finally:
                mend()
            mended, before = time.monotonic(), logged(writers)
            poll("the log takes writes again", lambda: logged(writers) > before + WRITERS, BACK_SECONDS)
            back = time.monotonic() - mended
            before = logged(writers)
            poll("and goes on", lambda: logged(writers) > before + 100, 30)
        finally:
            reader.stop()
            for writer in writers:
                writer.stop()
        suite.client.close()  # the router has closed it meanwhile
        made = [identity for writer in writers for identity in writer.made]
        newest = {identity: serial for writer in writers for identity, serial in writer.newest.items()}
        refused = [identity for writer in writers for identity in writer.refused]
        found = {}

        def missing():
            """Those that are lost, and those that are older, so far."""
            found.update(read(suite, [i for i in made if i not in found] + list(newest)))
            return ([i for i in made if found.get(i) != i.split("-")[1]],
                    [i for i, serial in newest.items() if int(found.get(i, -1)) < serial])

        end = time.monotonic() + SPOOL_SECONDS * SLOW
        lost, older = missing()
        while (lost or older) and time.monotonic() < end:
            lost, older = missing()
        risen = read(suite, refused)
        print(f"{harm.__name__}: {count(writers)} acknowledged ({sum(w.spooled for w in writers)} spooled), "
              f"{failed(writers)} not, of which {len(refused)} refused; slowest answer "
              f"{max(w.slowest for w in writers):.1f} s; writes back within {back:.1f} s; {len(reader.failures)} of "
              f"{reader.asked} reads failed, slowest {reader.slowest:.2f} s; lost {len(lost)}, older {len(older)}, "
              f"risen {len(risen)}")
        assert not lost and not older and not risen
        wrong = [what for writer in writers for what in writer.wrong]
        assert not wrong, wrong[:3]
        assert max(writer.slowest for writer in writers) < ANSWER_SECONDS * SLOW
        assert len(reader.failures) < 0.05 * reader.asked, reader.failures[:3]
