"""Two replicas, one stopped, the other held back in reading the log: the measured staleness grows,
a read with a token never misses its write, `fresh` answers right or 503."""
import subprocess
import time

from standing_still import standing_still
from suite import SLOW, Suite, poll


def is_traced(pid):
    with open(f"/proc/{pid}/status") as file:
        return "TracerPid:\t0" not in file.read()


def test_held_back():
    with Suite(shards=1, replicas=2) as suite:
        suite.wait_for_all_replicas()
        suite.create("c", 3)
        suite.upsert("c", [{"id": "first", "vector": [1, 0, 0]}], wait="searchable")
        stopped, slow = suite.pids("shard")
        # Every read of the log takes 0.4 s longer.
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pread64", "-e",
                                   "inject=pread64:delay_enter=400000", "-p", str(slow)],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        poll("strace is there", lambda: is_traced(slow))
        staleness, answered, refused = [], 0, 0
        try:
            with standing_still(stopped):
                end, number = time.monotonic() + 6, 0
                while time.monotonic() < end:
                    token = suite.upsert("c", [{"id": f"h{number}", "vector": [1, 0, 0]}])["read_token"]
                    plain = suite.post("/v1/collections/c/search", {"vector": [1, 0, 0], "include": []})
                    if plain.status == 200:
                        staleness.append(plain.body["read"]["staleness_seconds"])
                    for demand in ({"read_token": token}, {"fresh": True}):
                        answer = suite.post("/v1/collections/c/records/get",
                                            {"ids": [f"h{number}"], "timeout_ms": 700, **demand})
                        assert answer.status in (200, 503), answer
                        if answer.status == 200:
                            assert [r["id"] for r in answer.body["records"]] == [f"h{number}"], (demand, answer)
                            answered += 1
                        else:
                            assert answer.body["code"] in ("staleness_unmet", "shards_unavailable"), answer
                            refused += 1
                    bounded = suite.post("/v1/collections/c/search", {
                        "vector": [1, 0, 0], "max_staleness_seconds": 0.05, "timeout_ms": 200, "include": []})
                    assert bounded.status in (200, 503), bounded
                    if bounded.status == 200 and not bounded.body["read"]["stale"]:
                        assert bounded.body["read"]["staleness_seconds"] <= 0.05 + 0.25 * SLOW
                    number += 1
        finally:
            tracer.terminate()
            tracer.wait(10)
        print(f"{answered} answered, {refused} refused, staleness up to {max(staleness):.2f} s")
        assert max(staleness) > 0.15, staleness
        poll("both replicas are equal", lambda: len({str(d) for d in suite.digests().values()}) == 1, 20)
