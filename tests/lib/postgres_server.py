"""A private Postgres for tests: a free port, a folder of its own, nothing left behind.

    with PostgresServer() as postgres:
        postgres.url    # postgres://postgres@127.0.0.1:PORT/postgres

Postgres refuses to run as root: then it runs as its own user.
"""
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

import standing_still
from ports import free_port

BINARIES = pathlib.Path("/usr/lib/postgresql/15/bin")


class PostgresServer:
    def __init__(self):
        self.port = free_port()
        self.folder = None
        self.is_up = self.has_run = False
        self.url = f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    def _run(self, program, *words):
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        done = subprocess.run([*user, str(BINARIES / program), *words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", check=False,
                              timeout=60)
        if done.returncode != 0:
            raise AssertionError(f"{program}: {done.stdout.decode(errors='replace')}")
        return done.stdout.decode(errors="replace")

    def start(self):
        """Also again, on the same port, after stop or kill."""
        try:
            self._start()
        except BaseException:
            if not self.has_run:
                self.close()
            raise
        return self

    def _start(self):
        if self.folder is None:
            self.folder = tempfile.mkdtemp(prefix="vicinal-postgres-", dir="/tmp")
            if os.getuid() == 0:
                shutil.chown(self.folder, "postgres")
            self._run("initdb", "-D", f"{self.folder}/data", "-A", "trust", "-U", "postgres",
                      "--no-sync", "-E", "UTF8", "--locale=C")
        # pg_ctl hands its output on to the server: that goes to a file, or reading would not end.
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-l", f"{self.folder}/log", "-o",
                  f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off",
                  "start")
        self.is_up = self.has_run = True

    def stop(self, mode="immediate"):
        """immediate: as a crash, but orderly; smart, fast: as its operator would."""
        if self.is_up:
            self.resume()
            self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", mode, "stop")
            self.is_up = False

    def processes(self):
        """The first process and its children, from its own file and the process table."""
        text = pathlib.Path(self.folder, "data", "postmaster.pid").read_text()
        first = int(text.splitlines()[0])
        children = pathlib.Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def signal(self, number):
        """All of its processes."""
        for process in self.processes():
            try:
                os.kill(process, number)
            except ProcessLookupError:
                pass

    def pause(self):
        standing_still.stop(*self.processes())

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        """kill -9 of all of it at once, as when the machine goes down."""
        if self.is_up:
            processes = self.processes()
            self.signal(signal.SIGKILL)
            self.is_up = False
            end = time.monotonic() + 10
            # Until somebody has waited for it, a dead process is alive to the next start.
            while any(pathlib.Path(f"/proc/{process}").exists() for process in processes):
                assert time.monotonic() < end, "killed processes are still there"
                time.sleep(0.005)

    def close(self):
        """The end of it, and of its folder."""
        try:
            self.stop()
        finally:
            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None

    def sql(self, text):
        return self._run("psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-At",
                         "-c", text).strip()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()
