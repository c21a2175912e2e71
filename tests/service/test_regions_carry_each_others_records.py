"""What is written, deleted, created or dropped in any region is so in all; concurrent writes end in
the same winner everywhere; nothing echoes; a token of one region means something in all."""
import itertools
import random
import subprocess
import threading
import time

import pytest

from suite import BIN, SLOW, Client, Suite, poll

NAMES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def three():
    with Suite(regions=",".join(NAMES), partitions=8) as suite:
        yield suite


def record(suite, region, collection, identity):
    return suite.region(region).get(f"/v1/collections/{collection}/records/{identity}?include=text,metadata")


def body_of(answer):
    return {key: value for key, value in answer.body.items() if key != "read"}


def everywhere(suite, what, path, status=200, seconds=15):
    for name in NAMES:
        suite.region(name).wait_for(f"{what} in {name}", path, seconds, status)


def test_one_line_for_each_region_in_their_order(three):
    assert three.lines == [f"ready {url}" for url in three.urls] and len(set(three.urls)) == 3
    for name in NAMES:
        assert three.region(name).get("/v1/admin/regions").body["self"] == name


def test_records_and_deletes_of_any_region_are_in_all(three, name):
    three.region("b").create(name)
    everywhere(three, "the collection", f"/v1/collections/{name}")
    for origin in NAMES:
        three.region(origin).upsert(name, [{"id": f"{origin}{i}", "vector": [i + 1, 2, 3], "text": origin,
                                            "metadata": {"from": origin}} for i in range(40)])
    three.converge()
    for origin, reader in itertools.product(NAMES, NAMES):
        for i in (0, 39):
            assert body_of(record(three, reader, name, f"{origin}{i}")) == \
                body_of(record(three, origin, name, f"{origin}{i}"))
    # Each deletes what another one wrote.
    for deleter, origin in zip(NAMES, NAMES[1:] + NAMES[:1]):
        gone = three.region(deleter).delete(f"/v1/collections/{name}/records/{origin}0")
        assert gone.status == 200
    three.converge()
    for reader in NAMES:
        counted = three.region(reader).post(f"/v1/collections/{name}/records/count", {"fresh": True})
        assert counted.body["count"] == 3 * 39
        for origin in NAMES:
            assert record(three, reader, name, f"{origin}0").status == 404
    # Everything at once.
    assert three.region("c").post(f"/v1/collections/{name}/records/delete", {"delete_all": True}).status == 200
    three.converge()
    for reader in NAMES:
        assert three.region(reader).post(f"/v1/collections/{name}/records/count",
                                         {"fresh": True}).body["count"] == 0


def test_a_collection_of_any_region_is_in_all_and_gone_from_all(three, name):
    for creator, dropper in (("a", "b"), ("b", "c"), ("c", "a")):
        three.region(creator).create(name, dimension=4)
        everywhere(three, "the collection", f"/v1/collections/{name}")
        three.region(dropper).upsert(name, [{"id": "x", "vector": [1, 2, 3, 4]}])
        three.settle()
        assert three.region(dropper).delete(f"/v1/collections/{name}").status == 204
        everywhere(three, "the collection is gone", f"/v1/collections/{name}", 404)
    # Made anew, it is empty everywhere, though records of the old one are in the logs.
    three.region("b").create(name, dimension=2)
    three.settle()
    for reader in NAMES:
        found = three.region(reader).counted(name).body
        assert found["vector"]["dimension"] == 2 and found["vector_count"] == 0
    three.converge()


def test_the_same_ids_written_at_once_end_in_the_same_winners(three, name):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    three.create(name)
    everywhere(three, "the collection", f"/v1/collections/{name}")
    versions = []  # what each write was answered with, [(id, version)]

    def write(region, dice):
        client = Client(three.region(region).url)
        for turn in range(60):
            identity = f"k{dice.randrange(6)}"
            path = f"/v1/collections/{name}/records/{identity}"
            if dice.random() < 0.2:
                assert client.delete(path).status in (200, 404)
            else:
                written = client.put(path, {"vector": [1, 2, 3], "text": f"{region}{turn}"})
                assert written.status in (200, 201), written
                versions.append((identity, written.headers["ETag"].strip('"')))
        client.close()

    threads = [threading.Thread(daemon=True, target=write, args=(region, random.Random(f"{seed}{region}"))) for region in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(versions) > 90  # no thread has died
    three.converge()
    for i in range(6):
        found = [record(three, region, name, f"k{i}") for region in NAMES]
        assert len({answer.status for answer in found}) == 1
        if found[0].status == 200:
            assert all(body_of(answer) == body_of(found[0]) for answer in found)
            assert (f"k{i}", found[0].body["version"]) in versions
            order = [tuple(map(int, version.split("-"))) for identity, version in versions if identity == f"k{i}"]
            assert tuple(map(int, found[0].body["version"].split("-"))) == max(order)


def test_nothing_echoes(three, name):
    three.create(name)
    everywhere(three, "the collection", f"/v1/collections/{name}")
    for region in NAMES:
        three.region(region).upsert(name, [{"id": f"{region}{i}", "vector": [1, 2, 3]} for i in range(100)])
    three.converge()

    def lengths():
        return {region: sum(parts.values()) for region, parts in three.ends().items()}

    # A quiet log gets version vectors once after ten seconds; then nothing, however long one waits.
    first = last = lengths()
    changed = time.monotonic()

    def still():
        nonlocal last, changed
        now = lengths()
        if now != last:
            last, changed = now, time.monotonic()
        return time.monotonic() - changed > 12

    poll("the logs stop growing", still, 60, 0.1)
    growth = max(last[region] - first[region] for region in NAMES)
    assert growth <= 3 * 8 * 4, first  # a few for each partition and peer at most


def test_a_token_is_honoured_in_every_region(three, name):
    three.create(name)
    everywhere(three, "the collection", f"/v1/collections/{name}")
    for turn in range(20):
        origin = NAMES[turn % 3]
        token = three.region(origin).upsert(name, [{"id": f"t{turn}", "vector": [1, 2, turn + 1]}])["read_token"]
        for reader in NAMES:
            path = f"/v1/collections/{name}/records/t{turn}?timeout_ms=20000&read_token={token}"
            found = three.region(reader).get(path)
            assert found.status == 200, (origin, reader, found)
            hit = three.region(reader).post(f"/v1/collections/{name}/search", {
                "vector": [1, 2, turn + 1], "top_k": 1, "read_token": found.body["read"]["read_token"]})
            assert hit.status == 200 and hit.body["matches"][0]["id"] == f"t{turn}"


def test_a_token_is_honoured_where_the_collection_is_not_known_yet(three, name):
    for i in range(10):
        each = f"{name}-{i}"
        three.region("a").create(each)
        token = three.region("a").upsert(each, [{"id": "x", "vector": [1, 2, 3]}])["read_token"]
        for reader in ("b", "c"):
            door = three.region(reader)
            path, demand = f"/v1/collections/{each}", {"read_token": token, "timeout_ms": 20000}
            kind = i % 4
            if kind == 0:
                assert door.get(f"{path}/records/x?timeout_ms=20000&read_token={token}").status == 200
            elif kind == 1:
                assert len(door.post(f"{path}/search", {"vector": [1, 2, 3], **demand}).body["matches"]) == 1
            elif kind == 2:
                assert door.post(f"{path}/records/count", demand).body["count"] == 1
            else:
                assert len(door.post(f"{path}/records/scroll", demand).body["records"]) == 1
    token = three.region("a").upsert(each, [{"id": "y", "vector": [1, 2, 3]}])["read_token"]
    assert three.region("b").get(f"/v1/collections/{name}-none/records/x?timeout_ms=20000&read_token={token}").status == 404


def test_a_record_never_comes_before_its_collection(three, name):
    """Region a does not hear from b, which makes the collection; c, which a hears, writes into it."""
    def region(*words):
        subprocess.run([str(BIN / "vicinal"), "region", *words, "--meta",
                        three.region("a").meta], check=True, timeout=60 * SLOW)

    region("remove", "b")
    try:
        poll("a does not follow b", lambda: "b" not in [
            row["name"] for row in three.get("/v1/admin/regions").body["regions"]])
        three.region("b").create(name)
        three.region("c").wait_for("the collection in c", f"/v1/collections/{name}")
        three.region("c").upsert(name, [{"id": f"r{i}", "vector": [1, 2, 3]} for i in range(30)])
        three.wait_for("the collection in a", f"/v1/collections/{name}")
    finally:
        region("add", "b", "--wal", three.region("b").wal, "--router", three.urls[1])
    three.converge()
    for reader in NAMES:
        assert three.region(reader).post(f"/v1/collections/{name}/records/count",
                                         {"fresh": True}).body["count"] == 30


def at_once(suite, name, definitions):
    """Each region creates the collection with its own definition, at the same time."""
    gate, answers = threading.Barrier(len(definitions)), {}

    def create(region, definition):
        client = Client(suite.region(region).url)
        gate.wait()
        answers[region] = client.put(f"/v1/collections/{name}", definition)
        client.close()

    threads = [threading.Thread(daemon=True, target=create, args=item) for item in definitions.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_the_same_collection_created_at_once_is_one(three, name):
    for turn in range(5):
        own = f"{name}{turn}"
        answers = at_once(three, own, {region: {"vector": {"dimension": 3}} for region in NAMES})
        assert all(answer.status in (200, 201) for answer in answers.values()), answers
        for region in NAMES:
            three.region(region).upsert(own, [{"id": region, "vector": [1, 2, 3]}])
        three.converge()
        for region in NAMES:
            assert three.region(region).post(f"/v1/collections/{own}/records/count",
                                             {"fresh": True}).body["count"] == 3


def stored(suite, region):
    """Records of all collections, those of definitions that lost too, as the status shows them."""
    replica = suite.region(region).get("/internal/v1/status").body["replicas"][0]
    return sum(collection["count"] for collection in replica["status"]["collections"])


def test_of_different_definitions_at_once_the_smaller_change_stamp_wins(three, name):
    three.converge()
    met, taken, before = 0, 0, {region: stored(three, region) for region in NAMES}
    for turn in range(12):
        own = f"{name}{turn}"
        answers = at_once(three, own, {"a": {"vector": {"dimension": 3}}, "b": {"vector": {"dimension": 5}}})
        made = {region: tuple(map(int, answer.body["version"].split("-")))
                for region, answer in answers.items() if answer.status == 201}
        assert made, answers
        for region in made:  # into what each one has; the loser's are parked
            dimension = {"a": 3, "b": 5}[region]
            wrote = three.region(region).post(f"/v1/collections/{own}/records", {
                "records": [{"id": region, "vector": [1] * dimension}]})
            assert wrote.status in (200, 422, 503), wrote  # 503: the other definition came just then
            taken += wrote.status == 200
        three.converge()
        winner = min(made, key=made.get)
        for region in NAMES:
            found = three.region(region).counted(own).body
            assert found["vector"]["dimension"] == {"a": 3, "b": 5}[winner], (turn, region)
            assert found["vector_count"] <= 1
            loser = "b" if winner == "a" else "a"
            assert three.region(region).get(f"/v1/collections/{own}/records/{loser}").status == 404
            assert three.region(region).get(f"/v1/collections/{own}/records/{winner}").status == 200
        met += len(made) == 2
    assert met > 0, "the two never met"
    # What was taken under a definition that lost is parked, not gone.
    assert {region: stored(three, region) - before[region] for region in NAMES} == dict.fromkeys(NAMES, taken)
