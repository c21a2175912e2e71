"""Run test programs, a few at a time; show the output of those that fail; end with a count.

A program that does not end in time is killed and counts as failed.  A program whose source says
"needs: redis postgres kafka blobs" (any of them) in its first lines finds these servers, started once
for all, under VICINAL_TEST_REDIS, VICINAL_TEST_POSTGRES, VICINAL_TEST_KAFKA and VICINAL_TEST_S3
(URLs).
"""
import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/lib"))


def needs(program):
    """Names of the servers that the program's source asks for."""
    path = pathlib.Path(program)
    source = ROOT / "tests" / path.parent.name / (path.name + ".c")
    head = source.read_text().split("*/")[0] if source.exists() else ""
    return set(re.findall(r"needs: ([a-z ]+)", head)[0].split()) if "needs: " in head else set()


def start_servers(names, stack):
    """Started servers; their URLs go into our environment, which the programs inherit."""
    if "redis" in names:
        from redis_server import RedisServer
        os.environ["VICINAL_TEST_REDIS"] = stack.enter_context(RedisServer()).url
    if "postgres" in names:
        from postgres_server import PostgresServer
        os.environ["VICINAL_TEST_POSTGRES"] = stack.enter_context(PostgresServer()).url
    if "kafka" in names:
        from kafka_broker import KafkaBroker
        os.environ["VICINAL_TEST_KAFKA"] = "kafka://" + stack.enter_context(KafkaBroker()).bootstrap
    if "blobs" in names:
        from s3_server import S3Server
        s3 = stack.enter_context(S3Server())
        os.environ["VICINAL_TEST_S3"] = s3.url("unit/tests")
        os.environ.update(s3.environment)


def run(program, timeout):
    started = time.monotonic()
    process = subprocess.Popen([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=timeout)
        verdict = "ok" if process.returncode == 0 else f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        verdict = f"no end within {timeout} s"
    return program, verdict, time.monotonic() - started, output.decode(errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("programs", nargs="*")
    options = parser.parse_args()
    failed = 0
    # Ended by a time limit, it ends its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with contextlib.ExitStack() as servers, \
            concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        start_servers(set().union(*(needs(program) for program in options.programs)), servers)
        runs = [pool.submit(run, program, options.timeout) for program in options.programs]
        for done in concurrent.futures.as_completed(runs):
            program, verdict, seconds, output = done.result()
            print(f"{verdict:8} {seconds:6.1f} s  {program}", flush=True)
            if verdict != "ok":
                failed += 1
                print(output[-20000:], flush=True)
    print(f"{len(options.programs) - failed} passed, {failed} failed")
    return 1 if failed or not options.programs else 0


if __name__ == "__main__":
    sys.exit(main())
