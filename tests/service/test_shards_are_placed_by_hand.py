"""vicinal place: a suite put together by hand gets its map of shards from it, and it waits for an ingest
that has made the log, but not for ever."""
import json
import subprocess
import urllib.request

from suite import BIN, SLOW, poll


def place(meta, *words):
    return subprocess.run([BIN / "vicinal", "place", "--meta", meta, *words], capture_output=True, text=True,
                          timeout=60 * SLOW)


def test_without_a_log_there_is_nothing_to_place(tmp_path):
    run = place(f"sqlite:{tmp_path}/meta.db", "--wait", "0")
    assert run.returncode == 1 and "vicinal place:" in run.stderr and "deployment" in run.stderr, run
    run = place(f"sqlite:{tmp_path}/meta.db", "--shards", "0")
    assert run.returncode == 2 and "--shards" in run.stderr, run
    for wrong in ("4", "4,1,1", "0,1", "4,", "x,y"):
        run = place(f"sqlite:{tmp_path}/meta.db", "--replicas", "2", "--weights", wrong)
        assert run.returncode == 2 and "--weights" in run.stderr, run


def test_services_started_by_hand_serve_once_they_are_placed(tmp_path):
    meta, wal = f"sqlite:{tmp_path}/meta.db", f"file:{tmp_path}/wal"
    commands = [["ingest", "--wal", wal, "--partitions", "8"],
                *[["shard", "--shard", str(i), "--data", f"{tmp_path}/shard-{i}", "--wal", wal] for i in (0, 1)],
                ["router", "--listen", "127.0.0.1:0"]]
    processes, urls = [], []
    try:
        for program, *words in commands:
            process = subprocess.Popen([BIN / f"vicinal-{program}", "--meta", meta, "--log-level", "off", *words],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
            processes.append(process)
            if program == "ingest":
                run = place(meta, "--shards", "2")
                assert run.returncode == 0, run
            line = process.stdout.readline()
            assert line.startswith("listening on "), line
            urls.append(f"http://127.0.0.1:{line.split()[-1]}")

        def is_well(url):
            return subprocess.run([BIN / "vicinal", "healthcheck", "--url", url], capture_output=True,
                                  timeout=30 * SLOW).returncode == 0

        poll("every part is well", lambda: all(map(is_well, urls)), 60, 0.1)
        # The same again changes nothing: nobody moves.
        assert place(meta, "--shards", "2").returncode == 0
        assert all(map(is_well, urls))
        # Nor do weights, which only say who is asked how often.
        assert place(meta, "--shards", "2", "--weights", "3").returncode == 0
        poll("the weights are known", lambda: {r["weight"] for r in json.load(
            urllib.request.urlopen(urls[-1] + "/internal/v1/status"))["replicas"]} == {3}, 20)
        assert all(map(is_well, urls))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30 * SLOW)
            process.stdout.close()
