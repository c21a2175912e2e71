"""32 clients create one id with `fail`, with plain upserts, deletes and If-Match in between, also
with slow disks: exactly one winner each, counts add up; meanwhile a rewritten id is never absent
from a search."""
import random
import threading

from suite import Client, Suite

CLIENTS = 32
PATIENCE_MS = 60000  # a slow machine with slow disks queues for long: that is not what is tested
ROUNDS = 12


def together(count, work):
    """Run work(i) on count threads at once; their results."""
    barrier, results, failures = threading.Barrier(count), [None] * count, []

    def run(i):
        try:
            barrier.wait()
            results[i] = work(i)
        except Exception as error:  # told below
            failures.append(error)

    threads = [threading.Thread(daemon=True, target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return results


def check_races(suite, rounds):
    suite.create("race", 3)
    clients = [Client(suite.url) for _ in range(CLIENTS)]
    token = suite.upsert("race", [{"id": "always", "vector": [0, 0, 1]}])["read_token"]
    stop, absent, searched = threading.Event(), [], [0]

    def watch():
        client = Client(suite.url)
        while not stop.is_set():
            answer = client.post("/v1/collections/race/search",
                                 {"vector": [0, 0, 1], "top_k": 10000, "include": [], "read_token": token})
            if answer.status == 200:
                searched[0] += 1
                if "always" not in [m["id"] for m in answer.body["matches"]]:
                    absent.append(answer)
        client.close()

    watcher = threading.Thread(daemon=True, target=watch)
    watcher.start()
    try:
        for round_ in range(rounds):
            identity = f"id{round_}"

            def create(i):
                clients[i].post("/v1/collections/race/records",
                                {"records": [{"id": "always", "vector": [0, i / 100, 1]}]})
                body = {"records": [{"id": identity, "vector": [1, 0, 0], "metadata": {"by": i}}],
                        "on_conflict": "fail", "timeout_ms": PATIENCE_MS}
                return clients[i].post("/v1/collections/race/records", body)

            answers = together(CLIENTS, create)
            winners = [i for i, a in enumerate(answers) if a.status == 200]
            assert len(winners) == 1, [a.status for a in answers]
            assert all(a.status in (200, 409) for a in answers)
            path = f"/v1/collections/race/records/{identity}"
            now = suite.get(path + "?fresh=true")
            assert now.body["metadata"]["by"] == winners[0]

            etag = now.headers["ETag"]
            swaps = together(CLIENTS, lambda i: clients[i].put(f"{path}?timeout_ms={PATIENCE_MS}", {"metadata": {"by": i + 100}},
                                                              {"If-Match": etag}))
            winners = [i for i, a in enumerate(swaps) if a.status == 200]
            assert len(winners) == 1 and all(a.status in (200, 412) for a in swaps), [a.status for a in swaps]
            assert suite.get(path + "?fresh=true").body["metadata"]["by"] == winners[0] + 100

            deletes = together(CLIENTS, lambda i: clients[i].post("/v1/collections/race/records/delete",
                                                                 {"ids": [identity], "timeout_ms": PATIENCE_MS}))
            assert sum(a.body["deleted_count"] for a in deletes) == 1, [a.body for a in deletes]

        # Mixed: creates, plain upserts and deletes; what was created and deleted adds up.
        created, deleted = [0] * CLIENTS, [0] * CLIENTS

        def mixed(i):
            chance = random.Random(i)
            for _ in range(8):
                if chance.random() < 0.6:
                    answer = clients[i].post("/v1/collections/race/records",
                                             {"records": [{"id": "mixed"}], "on_conflict": "fail",
                                              "timeout_ms": PATIENCE_MS})
                    created[i] += answer.status == 200
                else:
                    answer = clients[i].post("/v1/collections/race/records/delete", {"ids": ["mixed"], "timeout_ms": PATIENCE_MS})
                    assert answer.status == 200, answer.body
                    deleted[i] += answer.body["deleted_count"]

        together(CLIENTS, mixed)
        left = suite.post("/v1/collections/race/records/get", {"ids": ["mixed"], "fresh": True}).body["records"]
        assert sum(created) - sum(deleted) == len(left), (sum(created), sum(deleted), left)
    finally:
        stop.set()
        watcher.join()
        for client in clients:
            client.close()
    assert searched[0] > 0 and not absent, (searched, absent[:1])


def test_races():
    with Suite(shards=2) as suite:
        check_races(suite, ROUNDS)


def test_races_with_a_slow_disk():
    delay = ["strace", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf", "-e", "trace=fdatasync",
             "-e", "inject=fdatasync:delay_exit=50000"]
    with Suite(shards=2, wrap=delay) as suite:
        check_races(suite, 2)
