"""Run test programs, a few at a time; show the output of those that fail; end with a count.

A program that does not end in time is killed and counts as failed.  Of a program's source the first
comment may say:

    needs: redis postgres kafka blobs   any of them: it finds these servers, started once for all, under
                                        VICINAL_TEST_REDIS, VICINAL_TEST_POSTGRES, VICINAL_TEST_KAFKA
                                        and VICINAL_TEST_S3 (URLs)
    pace: long                          it begins before the others
    pace: waits                         it needs hardly a core: one of these is run beside the others

Their folders (TMPDIR) are in memory where there is room: the disk's pace is none of their promises.
"""
import argparse
import concurrent.futures
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/lib"))
MEMORY = pathlib.Path("/dev/shm")
MEMORY_BYTES = 1 << 30  # that have to be free there; programs take some megabytes


def said(program, word):
    """What the program's source says behind this word in its first comment."""
    path = pathlib.Path(program)
    source = ROOT / "tests" / path.parent.name / (path.name + ".c")
    head = source.read_text().split("*/")[0] if source.exists() else ""
    found = re.findall(rf"\b{word}: ([a-z ]+)", head)
    return set(found[0].split()) if found else set()


def scratch(stack):
    """A folder for those of the programs; None: the system's own."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < MEMORY_BYTES:
        return None
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="vicinal-", dir=MEMORY, ignore_cleanup_errors=True))


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


def run(program, timeout, folder):
    started = time.monotonic()
    process = subprocess.Popen([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True,
                               env={**os.environ, **({"TMPDIR": folder} if folder else {})})
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
    parser.add_argument("--timeout", type=float, default=900)  # it hangs: a slow machine is no failure
    parser.add_argument("programs", nargs="*")
    options = parser.parse_args()
    failed = 0
    # Ended by a time limit, it ends its servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pace = {program: said(program, "pace") for program in options.programs}
    with contextlib.ExitStack() as stack, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool, \
            concurrent.futures.ThreadPoolExecutor(1) as waiting:
        start_servers(set().union(*(said(program, "needs") for program in options.programs)), stack)
        folder = scratch(stack)
        runs = [(waiting if "waits" in pace[program] else pool).submit(run, program, options.timeout, folder)
                for program in sorted(options.programs, key=lambda program: "long" not in pace[program])]
        try:
            for done in concurrent.futures.as_completed(runs):
                program, verdict, seconds, output = done.result()
                print(f"{verdict:8} {seconds:6.1f} s  {program}", flush=True)
                if verdict != "ok":
                    failed += 1
                    print(output[-20000:], flush=True)
        finally:  # those that have not begun do not begin when it is ended
            for each in runs:
                each.cancel()
    print(f"{len(options.programs) - failed} passed, {failed} failed")
    return 1 if failed or not options.programs else 0


if __name__ == "__main__":
    sys.exit(main())
