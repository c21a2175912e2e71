"""Processes that stand still.  A stop takes its time on a busy machine: one thread takes the signal,
when it is its turn, and the others go on until then.

    with standing_still(*suite.pids("shard")):
        ...
"""
import contextlib
import os
import pathlib
import signal
import time


def is_still(pid):
    """Does every thread of it stand still (or is it gone)?"""
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            state = task.read_text().rpartition(") ")[2][0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "TtZX":
            return False
    return True


def _signal(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def stop(*pids, seconds=20):
    """They stand still when it returns."""
    _signal(pids, signal.SIGSTOP)
    end = time.monotonic() + seconds
    while not all(is_still(pid) for pid in pids):
        assert time.monotonic() < end, f"of the processes {pids} one does not stand still"
        time.sleep(0.002)


def go_on(*pids):
    _signal(pids, signal.SIGCONT)


@contextlib.contextmanager
def standing_still(*pids):
    try:
        stop(*pids)
        yield
    finally:
        go_on(*pids)
