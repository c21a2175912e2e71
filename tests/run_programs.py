"""Run test programs, a few at a time; show the output of those that fail; end with a count.

A program that does not end in time is killed and counts as failed.
"""
import argparse
import concurrent.futures
import os
import signal
import subprocess
import sys
import time


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
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
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
