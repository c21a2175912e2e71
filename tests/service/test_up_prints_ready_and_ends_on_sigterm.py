"""`up` prints one line when searches work, and SIGTERM ends everything within five seconds, with
exit code 0, without a process or a file outside the data folder left behind."""
import os
import pathlib
import signal
import subprocess
import time

import pytest

from standing_still import standing_still
from suite import BIN, SLOW, Suite, poll


def gone(pid):
    return not pathlib.Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ready_then_nothing_left(number):
    with Suite(shards=2, replicas=2) as suite:
        assert suite.lines == [f"ready {suite.url}"]
        assert not suite.url.endswith(":0")
        assert suite.get("/readyz").status == 200
        suite.create("c")
        suite.upsert("c", [{"id": "a", "vector": [1, 2, 3]}])
        pids = [pid for pid, _ in suite.children()]
        assert len(pids) == 1 + 4 + 1
        started = time.monotonic()
        suite.process.send_signal(number)
        assert suite.process.wait(20 * SLOW) == 0
        assert time.monotonic() - started < 5 * SLOW
        assert all(gone(pid) for pid in pids)
        assert suite.lines == [f"ready {suite.url}"]
        assert sorted(path.name for path in suite.data.iterdir()) == ["log", "suite"]


def test_a_stopped_service_does_not_hold_it_up():
    with Suite() as suite:
        pid = suite.pids("shard")[0]
        with standing_still(pid):
            assert suite.stop() == 0
            assert gone(pid)


def test_services_end_with_a_killed_up():
    with Suite(shards=2) as suite:
        pids = [pid for pid, _ in suite.children()]
        os.kill(suite.process.pid, signal.SIGKILL)
        suite.process.wait()
        poll("the services end by themselves", lambda: all(gone(pid) for pid in pids), 6)


def test_a_killed_up_can_be_started_again_at_once():
    with Suite() as suite:
        suite.create("c")
        suite.upsert("c", [{"id": "a", "vector": [1, 2, 3]}])
        os.kill(suite.process.pid, signal.SIGKILL)
        suite.process.wait()
        suite.start()
        assert suite.get("/v1/collections/c/records/a?fresh=true&timeout_ms=10000").status == 200


def test_a_wrong_configuration_ends_with_2(tmp_path):
    for options in (["--wal", "nothing:x"], ["--listen", "nonsense"], ["--shards", "0"],
                    ["--log-level", "loud"]):
        done = subprocess.run([str(BIN / "vicinal"), "up", "--data", str(tmp_path / "d"),
                               "--listen", "127.0.0.1:0", *options],
                              capture_output=True, text=True, timeout=30 * SLOW)
        assert done.returncode == 2, (options, done)
        assert done.stdout == "" and "vicinal" in done.stderr


def test_a_port_that_is_taken_is_said(tmp_path):
    with Suite() as suite:
        done = subprocess.run([str(BIN / "vicinal"), "up", "--data", str(tmp_path / "d"),
                               "--listen", suite.url.removeprefix("http://")],
                              capture_output=True, text=True, timeout=30 * SLOW)
        assert done.returncode == 2
        assert "listen" in done.stderr
        assert suite.get("/readyz").status == 200


def test_a_signal_during_the_start_ends_it(tmp_path):
    for seen in ("lock", "wal", "meta.db"):  # as far as the start is when the signal comes
        process = subprocess.Popen([str(BIN / "vicinal"), "up", "--data", str(tmp_path / seen),
                                    "--listen", "127.0.0.1:0"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            poll("the start has begun",
                 lambda: (tmp_path / seen / seen).exists() and
                 (seen != "lock" or (tmp_path / seen / "lock").read_text() != ""), 10, 0.001)
            process.terminate()
            # Between taking the lock and watching for signals the signal's own effect is right too.
            assert process.wait(10 * SLOW) in (0, -signal.SIGTERM)
            poll("no service is left", lambda: not any(
                str(tmp_path / seen) in words for words in command_lines()), 6)
        finally:
            process.kill()


def command_lines():
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                pass
