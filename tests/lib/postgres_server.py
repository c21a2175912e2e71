"""A private Postgres for tests: a free port, a folder of its own, nothing left behind.

    with PostgresServer() as postgres:
        postgres.url    # postgres://postgres@127.0.0.1:PORT/postgres

Postgres refuses to run as root: then it runs as its own user.
"""
import os
import pathlib
import shutil
import subprocess
import tempfile

from redis_server import free_port

BINARIES = pathlib.Path("/usr/lib/postgresql/15/bin")


class PostgresServer:
    def __init__(self):
        self.port = free_port()
        self.folder = None
        self.is_up = False
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
        self.is_up = True
        return self

    def stop(self, mode="immediate"):
        """immediate: as a crash."""
        if self.is_up:
            self._run("pg_ctl", "-D", f"{self.folder}/data", "-w", "-m", mode, "stop")
            self.is_up = False

    def sql(self, text):
        return self._run("psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-At",
                         "-c", text).strip()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
