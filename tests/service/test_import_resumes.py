"""An import that is killed goes on where it was; one whose router goes away waits for it; a folder of
text becomes passages that searches find with file and line."""
import os
import signal
import subprocess

from suite import SLOW, Suite, poll
from vicinal_cli import command, environment, run, run_json, write_npy


ROWS = 200000 if SLOW <= 2 else 60000  # not all within a moment in which the test does not get its turn


def count(suite, name):
    answer = suite.post(f"/v1/collections/{name}/records/count", {})
    return answer.body["count"] if answer.status == 200 else -1


def test_after_a_kill_it_goes_on(tmp_path):
    with Suite(shards=2) as suite:
        vectors = [[float(i % 97), float(i % 89), 1.0] for i in range(ROWS)]
        write_npy(tmp_path / "v.npy", vectors)
        words = ["--collection", "c", "--vectors", tmp_path / "v.npy", "--batch", "50", "--threads", "2"]
        process = subprocess.Popen(command(suite, "import", *words), env=environment(suite),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        poll("some are there", lambda: count(suite, "c") > 1000, 30)
        process.kill()
        process.wait()
        before = count(suite, "c")
        assert before < ROWS, "the import was over before it could be killed"
        outcome = run_json(suite, "import", *words)
        assert outcome["count"] == ROWS
        assert outcome["imported"] == ROWS
        assert outcome["imported_before"] >= 900
        # Once complete nothing is remembered: a rerun writes everything again.
        assert list((suite.data / "state" / "vicinal").iterdir()) == []


def test_of_a_collection_made_anew_nothing_is_remembered(tmp_path):
    with Suite() as suite:
        vectors = [[float(i % 97), float(i % 89), 1.0] for i in range(ROWS)]
        write_npy(tmp_path / "v.npy", vectors)
        words = ["--collection", "c", "--vectors", tmp_path / "v.npy", "--batch", "50", "--threads", "2"]
        process = subprocess.Popen(command(suite, "import", *words), env=environment(suite),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        poll("some are there", lambda: count(suite, "c") > 1000, 30)
        process.kill()
        process.wait()
        assert suite.delete("/v1/collections/c").status == 204
        outcome = run_json(suite, "import", *words)
        assert outcome["imported_before"] == 0 and outcome["count"] == ROWS


def test_it_waits_for_a_service_that_was_killed(tmp_path):
    with Suite(shards=2) as suite:
        vectors = [[float(i % 97), float(i % 89), 1.0] for i in range(40000)]
        write_npy(tmp_path / "v.npy", vectors)
        process = subprocess.Popen(
            command(suite, "import", "--collection", "c", "--vectors", tmp_path / "v.npy", "--batch", "50", "--json"),
            env=environment(suite), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        poll("some are there", lambda: count(suite, "c") > 500, 30)
        for service in ("router", "ingest", "shard"):
            os.kill(suite.pids(service)[0], signal.SIGKILL)
            poll("it is back", lambda: len(suite.pids(service)) == (2 if service == "shard" else 1), 15)
        out, _ = process.communicate(timeout=120 * SLOW)
        assert process.returncode == 0
        suite.client.close()  # it was to the router that was killed
        poll("all are there", lambda: count(suite, "c") == 40000, 30)


def test_a_folder_becomes_passages(shared, name, tmp_path):
    docs = tmp_path / "docs"
    (docs / "sub").mkdir(parents=True)
    (docs / ".hidden").mkdir()
    (docs / "build").mkdir()
    (docs / ".gitignore").write_text("/build/\n*.tmp\n")
    (docs / ".hidden" / "a.txt").write_text("zebra")
    (docs / "build" / "b.txt").write_text("zebra")
    (docs / "c.tmp").write_text("zebra")
    (docs / "binary.dat").write_bytes(b"zebra\0\1\2")
    (docs / "latin.txt").write_bytes(b"zebra \xe4\xf6")
    (docs / "big.txt").write_text("zebra " * 800000)
    (docs / "sub" / "guide.md").write_text(
        "# Getting started\n\nFirst lines about nothing.\n" + "Filler words here. \n" * 60 +
        "\n## Passwords\n\nTo reset your password press the big green button.\n")
    (docs / "main.c").write_text("/* Counts the elephants. */\nint elephants(void)\n{\n    return 3;\n}\n")
    run(shared, "import", "--collection", name, docs)
    found = run_json(shared, "search", "--collection", name, "--fresh", "reset the password")["matches"]
    assert found[0]["metadata"]["file"] == "sub/guide.md"
    assert found[0]["metadata"]["line"] == 65
    assert found[0]["metadata"]["title"] == "Passwords"
    assert found[0]["id"] == "sub/guide.md#65"
    everything = shared.post(f"/v1/collections/{name}/records/scroll", {"fresh": True}).body["records"]
    assert {record["metadata"]["file"] for record in everything} == {"sub/guide.md", "main.c"}
    shown = run(shared, "search", "--collection", name, "--top-k", "1", "elephants").stdout
    assert "main.c:1" in shown and "Counts the elephants" in shown
    only = run_json(shared, "search", "--collection", name, "--filter", '{"file":"main.c"}', "password")["matches"]
    assert {match["metadata"]["file"] for match in only} == {"main.c"}


def test_status_and_healthcheck_tell(shared, name):
    assert run(shared, "healthcheck").stdout == ""
    shared.create(name)
    status = run_json(shared, "status")
    assert status["ready"] and len(status["cluster"]["replicas"]) == 2
    assert name in [collection["name"] for collection in status["collections"]]
    shown = run(shared, "status").stdout
    assert "SHARD" in shown and name in shown and "0.0" in shown
    nobody = type("Nobody", (), {"url": "http://127.0.0.1:1", "data": shared.data})()
    assert run(nobody, "healthcheck", code=1).stdout == ""
    assert run(nobody, "import", "--collection", name, "--retry", "0", os.getcwd(), code=1).stderr
