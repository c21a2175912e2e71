"""Writes while a log may be away, for tests of the spool."""
import time

from suite import SLOW

IDS = 80
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
