"""No write is answered 200 before its sync has returned; with fdatasync failing none is, and nothing
more is accepted until the log has been opened anew; unsynced bytes never reach a reader; a full disk
is 507 and loses nothing that was acknowledged."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

import pytest
from suite import Suite, poll


def strace(pid, *words):
    return subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", *words, "-p", str(pid)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def is_traced(pid):
    """With all its threads, which are taken one after the other."""
    threads = list(pathlib.Path(f"/proc/{pid}/task").glob("*/status"))
    return bool(threads) and all("TracerPid:\t0" not in thread.read_text() for thread in threads)


def detach(tracer):
    tracer.terminate()
    tracer.wait(10)


def write(suite, identity):
    return suite.post("/v1/collections/c/records", {"records": [{"id": identity, "text": identity}],
                                                    "timeout_ms": 3000})


def test_fdatasync_that_fails():
    with Suite() as suite:
        suite.create("c", 3)
        assert write(suite, "before").status == 200
        pid = suite.pids("ingest")[0]
        tracer = strace(pid, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO")
        poll("strace is there", lambda: is_traced(pid))
        refused = []
        for i in range(6):
            answer = write(suite, f"lost{i}")
            assert answer.status in (503, 504, 507), answer
            refused.append(f"lost{i}")
        # Nothing of it was shown to a reader.
        seen = suite.post("/v1/collections/c/records/get", {"ids": refused + ["before"], "fresh": True}).body
        assert [r["id"] for r in seen["records"]] == ["before"]
        detach(tracer)
        poll("writes work again", lambda: write(suite, "after").status == 200, 20)
        seen = suite.post("/v1/collections/c/records/get",
                          {"ids": refused + ["before", "after"], "fresh": True, "timeout_ms": 10000}).body
        assert [r["id"] for r in seen["records"]] == ["before", "after"]


def test_no_answer_before_its_sync():
    """The order of the system calls of ingest: bytes into the log, sync, only then the answer."""
    with tempfile.TemporaryDirectory() as folder, Suite() as suite:
        suite.create("c", 3)
        trace = os.path.join(folder, "trace")
        pid = suite.pids("ingest")[0]
        tracer = subprocess.Popen(["strace", "-f", "-qq", "-ttt", "-s", "400", "-o", trace, "-e",
                                   "trace=pwrite64,pwritev,write,fdatasync,sendto,sendmsg,writev", "-p", str(pid)],
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        poll("strace is there", lambda: is_traced(pid))
        for i in range(30):
            assert write(suite, f"marker-{i}-x").status == 200
        detach(tracer)
        lines = open(trace, errors="replace").read().splitlines()
    checked = 0
    for i in range(30):
        marker = f"marker-{i}-x"
        places = [n for n, line in enumerate(lines) if marker in line]
        written = [n for n in places if re.search(r"pwrite|pwritev", lines[n])]
        answered = [n for n in places if re.search(r"sendto|sendmsg|writev?\(", lines[n]) and "upserted_count" in lines[n]]
        if not written or not answered:
            continue
        synced = [n for n in range(written[0], answered[0]) if "fdatasync" in lines[n] and "= 0" in lines[n]]
        assert synced, (marker, lines[written[0]:answered[0] + 1])
        checked += 1
    assert checked >= 20, f"only {checked} writes were traced whole"


def test_bytes_that_are_not_synced_reach_no_reader():
    with Suite() as suite:
        suite.create("c", 3)
        assert write(suite, "before").status == 200
        pid = suite.pids("ingest")[0]
        tracer = strace(pid, "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=3000000")
        poll("strace is there", lambda: is_traced(pid))
        import threading
        answers = []
        client = threading.Thread(daemon=True, target=lambda: answers.append(suite.post(
            "/v1/collections/c/records", {"records": [{"id": "pending"}], "timeout_ms": 30000})))
        client.start()
        end, looks = time.monotonic() + 1.5, 0
        while time.monotonic() < end:
            seen = suite.post("/v1/collections/c/records/get", {"ids": ["pending"]})
            if not answers:
                assert seen.status == 200 and seen.body["records"] == [], seen
                looks += 1
        client.join()
        assert looks > 0 and answers[0].status == 200
        detach(tracer)
        assert suite.get("/v1/collections/c/records/pending?fresh=true").status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small tmpfs")
def test_a_full_disk_is_507_and_loses_nothing():
    folder = tempfile.mkdtemp(prefix="vicinal-test-")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", folder], check=True)
    try:
        with Suite(wal=f"file:{folder}/wal") as suite:
            suite.create("c", 3)
            kept, full, number = [], None, 0
            text = "x" * 400000
            while full is None and number < 2000:
                answer = suite.post("/v1/collections/c/records",
                                    {"records": [{"id": f"{number}", "text": text}]})
                if answer.status == 200:
                    kept.append(f"{number}")
                else:
                    full = answer
                number += 1
            assert full is not None and full.status == 507, full
            assert full.body["code"] == "insufficient_storage"
            for _ in range(5):
                answer = suite.post("/v1/collections/c/records", {"records": [{"id": "more", "text": text}]})
                assert answer.status == 507, answer
            for at in range(0, len(kept), 50):
                got = suite.post("/v1/collections/c/records/get",
                                 {"ids": kept[at:at + 50], "fresh": True, "include": [], "timeout_ms": 20000})
                assert [r["id"] for r in got.body["records"]] == kept[at:at + 50]
            suite.restart()
            got = poll("reads work", lambda: (lambda a: a if a.status == 200 else None)(suite.post(
                "/v1/collections/c/records/get", {"ids": kept[-50:], "include": [], "timeout_ms": 20000,
                                                  "fresh": True})))
            assert [r["id"] for r in got.body["records"]] == kept[-50:]
            subprocess.run(["mount", "-o", "remount,size=400m", folder], check=True)
            poll("writes work again", lambda: write(suite, "after").status == 200, 20)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)
