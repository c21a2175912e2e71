"""The real suite, started as a user starts it, for tests.

    with Suite(shards=2) as suite:
        status, body = suite.post("/v1/collections/c/search", {"vector": [1, 2, 3]})

With regions="a,b" there are several doors: suite.urls in that order, suite.region("b").get(…); what
is called on the suite itself goes to the first.

It listens on a free port, keeps its data in a temporary folder, and leaves nothing behind: not a
process, not a port, not a file.  When a test fails the logs are printed.
"""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import engines

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BIN = pathlib.Path(os.environ.get("VICINAL_BIN", ROOT / "bin"))
SLOW = float(os.environ.get("VICINAL_SLOW", "1"))  # sanitized builds take longer


def poll(what, condition, seconds=10.0, every=0.01):
    """Wait until condition() is true; its value.  what: for the failure's message."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds * SLOW} s: {what}")
        time.sleep(every)


def environment():
    """Of services: VICINAL_SEED is meant for tests, and a shard would take it for its option --seed."""
    return {name: value for name, value in os.environ.items() if name != "VICINAL_SEED"}


class Answer(tuple):
    """(status, body); headers beside it, and when its head had come (monotonic)."""

    def __new__(cls, status, body, headers, came):
        self = super().__new__(cls, (status, body))
        self.status, self.body, self.headers, self.came = status, body, headers, came
        return self


IDLE_SECONDS = 5  # servers close a connection that nobody uses; a request may meet that


READS = re.compile(r"/v1/collections/[^/]+/(search|records/(get|count|scroll))$")
BATCH = re.compile(r"/v1/collections/[^/]+/search/batch$")
RECORD = re.compile(r"/v1/collections/[^/]+/records/[^/]+$")
CREATED = (200, 201)  # a PUT of what is new: 200 where no shard could tell within two seconds that it is


def patient(method, path, body):
    """path and body of a request: a read waits for a second by default, and here for as much longer as
    everything takes."""
    if SLOW <= 1:
        return path, body
    milliseconds = int(1000 * SLOW)

    def patiently(body):
        return {"timeout_ms": milliseconds, **body} if isinstance(body, dict) else body

    if method == "GET" and RECORD.match(path) and "timeout_ms=" not in path:
        path += f"{'&' if '?' in path else '?'}timeout_ms={milliseconds}"
    elif method == "POST" and READS.match(path):
        body = patiently(body)
    elif method == "POST" and BATCH.match(path) and isinstance(body, dict) and isinstance(body.get("searches"), list):
        body = {**body, "searches": [patiently(search) for search in body["searches"]]}
    return path, body


class Client:
    """One keep-alive connection of one thread."""

    def __init__(self, url, timeout=60.0):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port, self.timeout = parts.hostname, parts.port, timeout * SLOW
        self.connection = None
        self.used = 0.0

    def request(self, method, path, body=None, headers=None):
        headers = dict(headers or {})
        path, body = patient(method, path, body)
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        if time.monotonic() - self.used > IDLE_SECONDS:
            self.close()
        self.used = time.monotonic()
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            came = time.monotonic()
            data = response.read()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        if response.will_close:
            self.close()
        kind = response.headers.get_content_type()
        if kind in ("application/json", "application/problem+json") and data:
            data = json.loads(data)
        return Answer(response.status, data, response.headers, came)

    def get(self, path, headers=None):
        return self.request("GET", path, None, headers)

    def post(self, path, body, headers=None):
        return self.request("POST", path, body, headers)

    def put(self, path, body, headers=None):
        return self.request("PUT", path, body, headers)

    def delete(self, path, headers=None):
        return self.request("DELETE", path, None, headers)

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Door:
    """What is asked at one router; `url` and `local` are its owner's."""

    @property
    def client(self):
        """This thread's connection."""
        client = getattr(self.local, "client", None)
        if client is None or client.port != urllib.parse.urlsplit(self.url).port:
            client = self.local.client = Client(self.url)
        return client

    def request(self, method, path, body=None, headers=None):
        return self.client.request(method, path, body, headers)

    def get(self, path, headers=None):
        return self.client.get(path, headers)

    def post(self, path, body, headers=None):
        return self.client.post(path, body, headers)

    def put(self, path, body, headers=None):
        return self.client.put(path, body, headers)

    def delete(self, path, headers=None):
        return self.client.delete(path, headers)

    def create(self, name, dimension=3, metric="cosine", **more):
        answer = self.put(f"/v1/collections/{name}",
                          {"vector": {"dimension": dimension, "metric": metric}, **more})
        assert answer.status in (200, 201), answer
        return answer.body

    def counted(self, name):
        """A collection with its `vector_count`, which is left out while a shard does not answer."""
        def found():
            answer = self.get(f"/v1/collections/{name}")
            assert answer.status == 200, answer
            return answer if "vector_count" in answer.body else None

        return poll("its vectors are counted", found)

    def upsert(self, name, records, **more):
        answer = self.post(f"/v1/collections/{name}/records", {"records": records, **more})
        assert answer.status == 200, answer
        return answer.body

    def node_urls(self, service):
        """{name: url} of the processes that the metadata store knows."""
        return {node["name"]: node["url"] for node in self.get("/internal/v1/status").body["nodes"]
                if node["service"] == service}

    def healths(self):
        """How every replica does, as the router sees it; sorted.  A suite is ready when one replica of
        each shard is: the others may come later."""
        return sorted(replica["health"] for replica in self.get("/internal/v1/status").body["replicas"])

    def wait_for_all_replicas(self, seconds=30.0):
        poll("all replicas are in use", lambda: set(self.healths()) == {"in"}, seconds)

    def digests(self, seconds=10.0):
        """{(shard, replica): {partition: (position, digest)}} of all replicas, as they were asked for
        after this call began: the first report that comes then may have been written before."""
        def reported():
            asked = time.monotonic()
            status = self.get("/internal/v1/status").body
            age = max((r["heard_ms_ago"] if r["heard_ms_ago"] is not None else 1e9) for r in status["replicas"])
            return status if (asked - began) * 1000 > age else None

        for _ in range(2):
            began = time.monotonic()
            status = poll("all replicas report", reported, seconds)
        found = {}
        for replica in status["replicas"]:
            parts = replica.get("status", {}).get("partitions", [])
            found[replica["shard"], replica["replica"]] = {
                part["partition"]: (part["position"], part["digest"]) for part in parts}
        return found

    def wait_for(self, what, path, seconds=15.0, status=200):
        """Poll a GET until it has that status; its answer."""
        return poll(what, lambda: (lambda a: a if a.status == status else None)(self.get(path)), seconds)


class Region(Door):
    """One region of a suite."""

    def __init__(self, suite, name):
        self.suite, self.name, self.local = suite, name, threading.local()

    @property
    def url(self):
        return self.suite.urls[self.suite.regions.index(self.name)]

    @property
    def data(self):
        return self.suite.data

    def _url(self, option, otherwise):
        given = self.suite.options.get(option)
        return given.replace("{region}", self.name) if given else otherwise

    @property
    def wal(self):
        return self._url("wal", f"file:{self.data}/suite/{self.name}/wal")

    @property
    def meta(self):
        return self._url("meta", f"sqlite:{self.data}/suite/{self.name}/meta.db")

    def pids(self, service):
        return self.suite.pids(service, self.name)


class Suite(Door):
    def __init__(self, shards=1, replicas=1, data=None, wrap=None, **options):
        """wrap: words put before the command (strace …); options: further flags of `up`, such as
        regions="a,b", wal="kafka://…/{region}", meta=…, cache=…"""
        if engines.wanted() and not wrap and data is None and not {"wal", "meta"} & options.keys():
            options = {**engines.options(options.get("regions")), **options}
        self.shards, self.replicas, self.options = shards, replicas, options
        self.regions = [name for name in options.get("regions", "").split(",") if name]
        self.doors = {name: Region(self, name) for name in self.regions}
        self.own_data = data is None
        self.data = pathlib.Path(data) if data else None
        self.wrap = list(wrap or [])
        self.process = None
        self.log = None
        self.url = None
        self.urls = []
        self.lines = []
        self.local = threading.local()

    # --- life -----------------------------------------------------------------------------------

    def start(self, seconds=60.0):
        if self.data is None:
            self.data = pathlib.Path(tempfile.mkdtemp(prefix="vicinal-test-"))
        command = [*self.wrap, str(BIN / "vicinal"), "up", "--data", str(self.data / "suite"),
                   "--listen", "127.0.0.1:0", "--shards", str(self.shards),
                   "--replicas", str(self.replicas)]
        for name, value in self.options.items():
            command += ["--" + name.replace("_", "-"), str(value)]
        self.log = open(self.data / "log", "ab")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=self.log, start_new_session=True, env=environment())
        ready = threading.Event()

        def read(stream=self.process.stdout):
            for line in stream:
                self.lines.append(line.decode().strip())
                if sum(told.startswith("ready ") for told in self.lines) == max(1, len(self.regions)):
                    ready.set()

        self.lines = []
        self.reader = threading.Thread(target=read, daemon=True)
        self.reader.start()
        end = time.monotonic() + seconds * SLOW
        while not ready.wait(0.02):
            if self.process.poll() is not None or time.monotonic() > end:
                self.show_log()
                code = self.process.poll()
                self.kill()
                raise AssertionError(f"the suite did not become ready (exit code {code})")
        self.urls = [line.split()[1] for line in self.lines if line.startswith("ready ")]
        self.url = self.urls[0]
        return self

    def region(self, name):
        return self.doors[name]

    def stop(self, seconds=5.0):
        """SIGTERM; it must be enough."""
        if self.process is None or self.process.poll() is not None:
            return self.process.poll() if self.process else None
        os.kill(self.supervisor(), signal.SIGTERM)
        try:
            return self.process.wait(seconds * SLOW + 1)
        except subprocess.TimeoutExpired:
            self.show_log()
            self.kill()
            raise AssertionError(f"SIGTERM did not end the suite within {seconds * SLOW} s")

    def kill(self):
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(self, kind, value, trace):
        try:
            if kind is not None:
                self.show_log()
            self.stop()
            if kind is None:
                self.check_log()
        finally:
            self.kill()
            if self.log is not None:
                self.log.close()
            if self.own_data:
                shutil.rmtree(self.data, ignore_errors=True)

    def restart(self):
        self.stop()
        return self.start()

    def check_log(self):
        """A service that a sanitizer ended was started again: that would pass for well."""
        text = (self.data / "log").read_text(errors="replace")
        for sign in ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer",
                     ": runtime error: ", "Assertion `"):
            if sign in text:
                self.show_log()
                raise AssertionError(f"a service was ended: {sign}")

    def show_log(self):
        self.log.flush()
        text = (self.data / "log").read_text(errors="replace")
        print("--- the suite's log ---\n" + text[-15000:] + "\n--- end ---", file=sys.stderr)

    def supervisor(self):
        """The process `vicinal up`, also when it runs under a wrapper."""
        for entry in pathlib.Path("/proc").iterdir() if self.wrap else ():
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except OSError:
                continue
            if words[:2] == [str(BIN / "vicinal"), "up"] and str(self.data / "suite") in words:
                return int(entry.name)
        return self.process.pid

    # --- its processes --------------------------------------------------------------------------

    def children(self):
        """[(pid, command line words)] of all service processes."""
        found, parent = [], str(self.supervisor())
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().decode().split("\0")[:-1]
            except OSError:
                continue
            if words and "vicinal-" in pathlib.Path(words[0]).name and (
                    words[-2:] == ["--parent-pid", parent] or str(self.data) in " ".join(words)):
                found.append((int(entry.name), words))
        return found

    def pids(self, service, region=None):
        """Of "router", "ingest", "shard" or "replicator"; in the order of their command lines."""
        return [pid for pid, words in sorted(self.children(), key=lambda c: c[1])
                if pathlib.Path(words[0]).name == "vicinal-" + service and
                (region is None or self._meta_of(region) in words)]

    def pids_of_region(self, region):
        """Of all services of a region."""
        return [pid for pid, words in self.children() if self._meta_of(region) in words]

    def _meta_of(self, region):
        """The URL by which every process of a region can be told from the others."""
        return self.options["meta"].replace("{region}", region) if "meta" in self.options \
            else f"sqlite:{self.data}/suite/{region}/meta.db"

    # --- regions --------------------------------------------------------------------------------

    def region_digests(self):
        """{region: {partition: digest}}; None while the replicas of a region differ."""
        found = {}
        for name in self.regions:
            replicas = list(self.region(name).digests().values())
            parts = {}
            for replica in replicas:
                for partition, (_, digest) in replica.items():
                    if parts.setdefault(partition, digest) != digest:
                        return None
            found[name] = parts
        return found

    def settle(self, seconds=20.0):
        """Wait until what was committed anywhere before this call is applied everywhere."""
        began = time.monotonic()

        def followed():
            for name in self.regions:
                asked = time.monotonic()
                for region in self.region(name).get("/v1/admin/regions").body["regions"]:
                    lag = 0 if region["self"] else region["replication"].get("lag_seconds")
                    if lag is None or lag >= asked - began:
                        return False
            return True

        poll("every region follows every other", followed, seconds, 0.05)
        shipped = time.monotonic()

        def applied():
            for name in self.regions:
                asked = time.monotonic()
                for replica in self.region(name).get("/internal/v1/status").body["replicas"]:
                    ages = [part["staleness_ms"] for part in replica.get("status", {}).get("partitions", [])]
                    if not ages or None in ages or replica["heard_ms_ago"] is None or \
                            max(ages) + replica["heard_ms_ago"] >= (asked - shipped) * 1000:
                        return False
            return True

        poll("all replicas have applied it", applied, seconds, 0.05)

    def converge(self, seconds=20.0):
        """Settle; then all replicas of all regions hold the same: {partition: digest}."""
        self.settle(seconds)

        def equal():
            found = self.region_digests()
            return found and all(parts == found[self.regions[0]] for parts in found.values()) and found

        return poll("all regions have equal digests", equal, seconds, 0.05)[self.regions[0]]

    def ends(self):
        """{region: {partition: position}}, the highest of its replicas."""
        found = {}
        for name in self.regions:
            parts = found[name] = {}
            for replica in self.region(name).digests().values():
                for partition, (position, _) in replica.items():
                    parts[partition] = max(position, parts.get(partition, 0))
        return found
