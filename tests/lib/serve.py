"""A private server for a test program that kills, pauses and restarts it.

    python3 tests/lib/serve.py redis|postgres [FLAG ...]

prints the server's URL, then obeys one command a line and answers each with a line: "ok …" or
"failed …".  At the end of its input the server is ended and its folder removed: a test that dies
leaves nothing behind.

    kill | start     as a crash, and again on the same port
    pause | resume   the whole server, with the connections open
    sql TEXT         postgres: run it        command WORD…    redis: likewise
"""
import os
import pathlib
import signal
import sys
import time

from postgres_server import PostgresServer
from redis_server import RedisServer


def is_there(process):
    """Also one that has ended and that nobody has waited for: Postgres takes it for alive."""
    return pathlib.Path(f"/proc/{process}").exists()


class Redis:
    def __init__(self, flags):
        self.server = RedisServer(*flags).start()
        self.url, self.start = self.server.url, self.server.start
        self.kill = self.end = self.server.kill

    def signal(self, number):
        self.server.signal(number)

    def command(self, text):
        return self.server.command(*text.split())


class Postgres:
    def __init__(self, _):
        self.server = PostgresServer()
        try:
            self.server.start()
        except BaseException:
            self.server.__exit__()
            raise
        self.url, self.start, self.sql = self.server.url, self.server.start, self.server.sql

    def _processes(self):
        """The first process and its children, from its own file and the process table."""
        text = pathlib.Path(self.server.folder, "data", "postmaster.pid").read_text()
        first = int(text.splitlines()[0])
        children = pathlib.Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def signal(self, number):
        for process in self._processes():
            try:
                os.kill(process, number)
            except ProcessLookupError:
                pass

    def kill(self):
        """All of it at once, as when the machine goes down.  The next start wants them gone."""
        if self.server.is_up:
            processes = self._processes()
            self.signal(signal.SIGKILL)
            end = time.monotonic() + 10
            while any(is_there(process) for process in processes):
                assert time.monotonic() < end, "killed processes are still there"
                time.sleep(0.005)
            self.server.is_up = False

    def end(self):
        if self.server.is_up:
            self.signal(signal.SIGCONT)
        self.server.__exit__()


def obey(server, line):
    word, _, rest = line.strip().partition(" ")
    if word == "pause":
        server.signal(signal.SIGSTOP)
    elif word == "resume":
        server.signal(signal.SIGCONT)
    elif word in ("kill", "start"):
        getattr(server, word)()
    elif word in ("sql", "command"):
        return getattr(server, word)(rest).replace("\n", " ")
    else:
        raise ValueError(f"no command {word}")
    return ""


def main():
    server = {"redis": Redis, "postgres": Postgres}[sys.argv[1]](sys.argv[2:])
    try:
        print(server.url, flush=True)
        for line in sys.stdin:
            try:
                answer = "ok " + obey(server, line)
            except Exception as error:  # told to the test, which fails by it
                answer = "failed " + str(error).replace("\n", " ")
            print(answer, flush=True)
    finally:
        server.end()


if __name__ == "__main__":
    main()
