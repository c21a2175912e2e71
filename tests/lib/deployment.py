"""Services started one by one, each behind a proxy and on a disk of its own, so that each can be hurt
by itself: killed, stopped, cut off, slowed down, its connections reset, its answers torn, its disk filled.

    with Deployment(shards=2, replicas=2, ingests=2) as deployment:
        deployment.member("shard-0.1").stop(); ….go_on(); ….kill(); ….proxy.reset()
        deployment.disk("wal").fill(); ….free()

A member that ends is started again, as `vicinal up` would do; one that was not killed by the test is
remembered in `deaths`.  Other services reach a member through its proxy (--advertise); clients reach
the router directly.  The folder is as that of `vicinal up`, for `vicinal verify`.  Disks are of their
own (a small tmpfs each) only where we may mount them: `has_disks`.
"""
import http.client
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import standing_still
from fault_proxy import FaultProxy
from ports import free_port
from suite import BIN, Client, Door, environment, poll
from vicinal_cli import verify

DISK_BYTES = 1 << 30


class Disk:
    """A folder on a file system of its own that can be full."""

    def __init__(self, folder, is_own):
        self.folder, self.is_own = folder, is_own
        folder.mkdir(parents=True)
        if is_own:
            self._mount("-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder)

    @staticmethod
    def _mount(*words):
        subprocess.run(["mount", *words], check=True, capture_output=True)

    def _resize(self, size):
        self._mount("-o", f"remount,size={size}", self.folder)

    def fill(self):
        """It shrinks to what is used.  What is being written meanwhile may be more: once more then."""
        for _ in range(100):
            about = os.statvfs(self.folder)
            try:
                return self._resize((about.f_blocks - about.f_bfree) * about.f_frsize)
            except subprocess.CalledProcessError:
                continue
        raise AssertionError(f"{self.folder} grows faster than it shrinks")

    def free(self):
        self._resize(DISK_BYTES)

    def close(self):
        if self.is_own:
            subprocess.run(["umount", "-l", self.folder], check=False, capture_output=True)


class Member:
    """One process; again and again, on one port."""

    def __init__(self, name, program, words, log):
        self.name, self.log, self.port, self.proxy = name, log, free_port(), FaultProxy()
        self.proxy.target = ("127.0.0.1", self.port)
        self.words = [BIN / f"vicinal-{program}", "--listen", f"127.0.0.1:{self.port}", "--advertise",
                      f"http://127.0.0.1:{self.proxy.port}", "--parent-pid", str(os.getpid()), *map(str, words)]
        self.process, self.is_killed, self.stays_down, self.not_before = None, False, False, 0.0
        # The test starts and kills it, the keeper looks at it and starts it: one after the other.  Between
        # them it would be started twice, or a death that the test wanted be noted as one of its own.
        self.lock = threading.Lock()

    def start(self):
        with self.lock:
            self._start()

    def _start(self):
        self.process = subprocess.Popen(self.words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=self.log, env=environment())
        self.is_killed = self.stays_down = False

    def kill(self, stays_down=False):
        """stays_down: until start() is called."""
        with self.lock:
            self.is_killed, self.stays_down = True, stays_down
            self.process.send_signal(signal.SIGKILL)
            if stays_down:
                self.process.wait()

    def keep(self):
        """If it has ended it is started again.  Returns the exit code of an end that the test did not want."""
        with self.lock:
            code = self.process.poll()
            if code is None or self.stays_down or time.monotonic() < self.not_before:
                return None
            wanted = self.is_killed
            self.not_before = time.monotonic() + 0.1
            self._start()
            return None if wanted else code

    def stop(self):
        standing_still.stop(self.process.pid)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def get(self, path):
        """Asked past its proxy; None while it does not answer."""
        client = Client(f"http://127.0.0.1:{self.port}", 10)
        try:
            return client.get(path)
        except (OSError, http.client.HTTPException):
            return None
        finally:
            client.close()

    def metric(self, name):
        """A metric without labels; 0 while there is none.  None: it does not answer, and may have any."""
        answer = self.get("/metrics")
        if answer is None or answer.status != 200:
            return None
        return sum(float(line.split()[1]) for line in answer.body.decode().splitlines() if line.startswith(name + " "))

    def memory(self):
        """Bytes in use that are no pages of files."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("RssAnon:")).split()[1]) << 10

    def files(self):
        return len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def end(self):
        """SIGTERM must be enough."""
        if self.process is None or self.process.poll() is not None:
            return
        self.go_on()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"SIGTERM did not end {self.name}") from None


class Deployment(Door):
    def __init__(self, shards=2, replicas=2, ingests=2, partitions=16, wal=None, meta=None, cache=None, words=()):
        """wal, meta, cache: URLs instead of the embedded defaults.  words: {kind of service: further flags}."""
        self.shards, self.replicas, self.ingests, self.partitions = shards, replicas, ingests, partitions
        self.wal, self.meta, self.cache, self.more = wal, meta, cache, dict(words)
        self.local, self.members, self.disks, self.deaths = threading.local(), {}, {}, []
        self.ends = threading.Event()
        self.has_disks = os.geteuid() == 0

    def member(self, name):
        return self.members[name]

    def disk(self, name):
        return self.disks[name]

    def named(self, kind):
        return [member for name, member in sorted(self.members.items()) if name.startswith(kind)]

    # --- life -----------------------------------------------------------------------------------

    def _add(self, name, program, *words):
        words = ["--meta", self.meta, "--log-level", "warn", *words, *self.more.get(program, ())]
        member = self.members[name] = Member(name, program, words, self.log)
        member.proxy.__enter__()
        return member

    def _folder(self, name):
        self.disks[name] = Disk(self.data / "suite" / name, self.has_disks)
        return self.disks[name].folder

    def _add_all(self):
        if self.wal is None:
            self.wal = f"file:{self._folder('wal')}"
        self.log_is_shared = not self.wal.startswith("file:")
        for i in range(self.ingests):
            spool = "spool" if i == 0 else f"spool-{i}"
            self._add(f"ingest-{i}", "ingest", "--name", i, "--wal", self.wal, "--partitions", self.partitions,
                      *(["--spool", self._folder(spool)] if self.log_is_shared else []))
        for i in range(self.shards):
            for j in range(self.replicas):
                self._add(f"shard-{i}.{j}", "shard", "--shard", i, "--replica", j, "--wal", self.wal,
                          "--data", self._folder(f"shard-{i}.{j}"))
        router = self._add("router", "router", *(["--cache", self.cache] if self.cache else []))
        self.url = f"http://127.0.0.1:{router.port}"

    def start(self):
        self.data = pathlib.Path(tempfile.mkdtemp(prefix="vicinal-test-"))
        self.log = open(self.data / "log", "ab")
        self.meta = self.meta or f"sqlite:{self.data}/suite/meta.db"
        self._add_all()
        self.member("ingest-0").start()
        subprocess.run([BIN / "vicinal", "place", "--meta", self.meta, "--shards", str(self.shards),
                        "--replicas", str(self.replicas)], check=True, timeout=120, capture_output=True)
        for member in self.members.values():
            if member.process is None:
                member.start()
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()
        poll("all is well", self.is_well, 60, 0.05)
        self.wait_for("the router is ready", "/readyz", 60)
        return self

    def _keep(self):
        """Who ends is started again, a tenth of a second later."""
        while not self.ends.wait(0.02):
            for member in self.members.values():
                if (code := member.keep()) is not None:
                    self.deaths.append((member.name, code, time.monotonic()))

    def replica_states(self):
        """Of all replicas, as the router sees them: "in" use or "out"."""
        try:
            answer = self.get("/internal/v1/status")
        except (OSError, http.client.HTTPException):
            return []
        return [replica["health"] for replica in answer.body["replicas"]] if answer.status == 200 else []

    def is_well(self):
        """All replicas are in use."""
        return self.replica_states() == ["in"] * (self.shards * self.replicas)

    def stop(self):
        self.ends.set()
        if hasattr(self, "keeper"):
            self.keeper.join()
        for member in sorted(self.members.values(), key=lambda m: m.name != "router"):
            member.end()

    def verify(self):
        """What `vicinal verify` says of its folder; it has been stopped."""
        return verify(self.data / "suite")

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__(True, None, None)
            raise

    def __exit__(self, kind, value, trace):
        try:
            if kind is not None:
                self.log.flush()
                text = (self.data / "log").read_text(errors="replace")
                print("--- the services' log ---\n" + text[-15000:] + "\n--- end ---")
            self.stop()
        finally:
            for member in self.members.values():
                if member.process is not None and member.process.poll() is None:
                    member.process.kill()
                    member.process.wait()
                member.proxy.__exit__()
            for disk in self.disks.values():
                disk.close()
            self.log.close()
            shutil.rmtree(self.data, ignore_errors=True)
