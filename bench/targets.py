"""The servers that are measured, behind one interface.

    start()  load()  search_requests()  ids_of(body)  upsert(rows, prefix)  restart()  stop()

Everything else (load generator, clocks, /proc) is the same for all and knows no server by name.
"""
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import processes
import rest_client
from dataset import TOP_K

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "lib"))
from suite import BIN, Suite  # noqa: E402

LOAD_SECONDS_MAX = 600.0
START_SECONDS_MAX = 60.0
COLLECTION = "docs"
LINK_BATCH = 64  # vectors that the engine links at a time


def wait_for(what, condition, seconds, every=0.02):
    """Poll; the first true value of condition()."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise RuntimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(every)


class Target:
    """What the servers have in common.  A subclass has: name, url, root (pid of the first process)."""

    def __init__(self, data):
        self.data = data

    def address(self):
        parts = urllib.parse.urlsplit(self.url)
        return parts.hostname, parts.port

    def search_requests(self):
        host, port = self.address()
        return [rest_client.request_bytes(host, port, self.search_path(), self.search_body(text))
                for text in self.data.query_texts]

    def answers(self, bodies):
        return {query: self.ids_of(json.loads(body)) for query, body in bodies.items()}

    def ask(self, connection, method, path, body=None):
        """One request on a http.client connection: (status, JSON)."""
        connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        data = response.read()
        try:
            return response.status, json.loads(data) if data else None
        except ValueError:
            return response.status, None

    def connect(self):
        return http.client.HTTPConnection(*self.address(), timeout=60)

    def call(self, method, path, body=None):
        """One request on a connection of its own; raises unless it succeeds."""
        connection = self.connect()
        try:
            status, answer = self.ask(connection, method, path, body and json.dumps(body))
        finally:
            connection.close()
        if status >= 300:
            raise RuntimeError(f"{self.name}: {method} {path}: {status} {str(answer)[:300]}")
        return answer

    def is_right(self, query, least):
        """Does a search answer, with so many of the true ten?  A server that is still starting
        does not."""
        try:
            connection = self.connect()
            try:
                status, answer = self.ask(connection, "POST", self.search_path(), self.search_body(
                    self.data.query_texts[query]))
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            return False
        return status == 200 and len(
            self.data.truth[query].intersection(self.ids_of(answer))) >= least

    def wait_right(self, seconds, every=0.02):
        wait_for("a right answer", lambda: any(self.is_right(q, TOP_K - 1) for q in range(4)),
                 seconds, every)

    def cpu(self):
        return processes.cpu_by_name(self.root())

    def memory(self):
        processes.flush(self.folder())
        return processes.memory(self.root())


class Vicinal(Target):
    def __init__(self, data, shards, ef=None):
        super().__init__(data)
        self.shards, self.ef = shards, ef
        self.name = f"Vicinal, {shards} shard" + ("s" if shards > 1 else "")
        self.suite = None

    def start(self):
        self.suite = Suite(shards=self.shards, cache="none:")
        self.suite.start(START_SECONDS_MAX)

    @property
    def url(self):
        return self.suite.url

    def root(self):
        return self.suite.process.pid

    def folder(self):
        return self.suite.data

    def stop(self):
        if self.suite is not None:
            self.suite.__exit__(None, None, None)
            self.suite = None

    def restart(self):
        """Seconds from exec to the first right answer."""
        self.suite.stop()
        began = time.perf_counter()
        self.suite.start(START_SECONDS_MAX)
        self.wait_right(START_SECONDS_MAX, 0.002)
        return time.perf_counter() - began

    def tool(self, verb, *options, seconds):
        """Run `vicinal VERB …`; its standard output."""
        command = [str(BIN / "vicinal"), verb, "--url", self.url, "--collection", COLLECTION, *options]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=seconds, cwd=self.folder())
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n"
                               + done.stderr[-2000:])
        return done.stdout

    def load(self):
        """Through `vicinal import`; {"import_s", "counted_s", "answer_s", "linked_s"} from its start."""
        data, times = self.data, {}
        began = time.perf_counter()
        self.tool("import", "--vectors", str(data.vectors_path), "--records", str(data.records_path),
                  "--metric", "cosine", "--state", str(self.folder() / "import-state"),
                  seconds=LOAD_SECONDS_MAX)
        times["import_s"] = time.perf_counter() - began
        wait_for("a fresh count of all records", lambda: self.call(
            "POST", f"/v1/collections/{COLLECTION}/records/count", {"fresh": True})["count"]
            == data.rows, LOAD_SECONDS_MAX, 0.05)
        times["counted_s"] = time.perf_counter() - began
        self.wait_right(LOAD_SECONDS_MAX, 0.05)
        times["answer_s"] = time.perf_counter() - began
        self.wait_linked()
        times["linked_s"] = time.perf_counter() - began
        return times

    def wait_linked(self):
        wait_for("all vectors in the graph", self.is_linked, LOAD_SECONDS_MAX, 0.1)

    def is_linked(self):
        """Does the graph of each shard hold all vectors but the last, unfinished batch?  That one is
        scanned, by design."""
        collections = [collection for replica in self.call("GET", "/internal/v1/status")["replicas"]
                       for collection in (replica.get("status") or {}).get("collections", [])]
        return (sum(collection["count"] for collection in collections) >= self.data.rows and
                all(collection["count"] - collection["linked"] < LINK_BATCH
                    for collection in collections))

    def params(self):
        return {"params": {"ef": self.ef}} if self.ef else {}

    def search_path(self):
        return f"/v1/collections/{COLLECTION}/search"

    def search_body(self, text):
        more = json.dumps({"top_k": TOP_K, "include": [], **self.params()})
        return '{"vector":' + text + "," + more[1:]

    def ids_of(self, body):
        return [match["id"] for match in body["matches"]]

    def upsert_body(self, rows, prefix):
        data = self.data
        records = [{"id": f"{prefix}{row}", "vector_base64": data.base64(row),
                    "text": data.records[row]["text"], "metadata": data.metadata(row)} for row in rows]
        return f"/v1/collections/{COLLECTION}/records", json.dumps({"records": records})

    def own_client(self, connections, seconds):
        """`vicinal bench`, the client of our own, with its default settings."""
        data, seconds = self.data, max(1, round(seconds))
        options = ["--queries", str(data.queries_path), "--truth", str(data.truth_path), "--top-k",
                   str(TOP_K), "--concurrency", str(connections), "--seconds", str(seconds), "--json"]
        if self.ef:
            options += ["--ef", str(self.ef)]
        return json.loads(self.tool("bench", *options, seconds=seconds + 60).splitlines()[-1])

    def engine_us(self, samples=200):
        """Median over searches of the time that the engines of all shards took, from "explain"."""
        connection = self.connect()
        times = []
        try:
            for text in self.data.query_texts[:samples]:
                body = '{"explain":true,' + self.search_body(text)[1:]
                status, answer = self.ask(connection, "POST", self.search_path(), body)
                if status != 200:
                    raise RuntimeError(f"explain: {status} {str(answer)[:300]}")
                times.append(sum(shard["plan"]["stages_us"]["search"]
                                 for shard in answer["explain"]["shards"]))
        finally:
            connection.close()
        return sorted(times)[len(times) // 2]


class Chroma(Target):
    """Chroma as `chroma run` serves it, spoken to over its REST API."""
    name = "Chroma"
    BATCH = 1000
    BASE = "/api/v2/tenants/default_tenant/databases/default_database/collections"
    ef = None

    def __init__(self, data):
        super().__init__(data)
        self.process = self.scratch = self.collection = self.port = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def root(self):
        return self.process.pid

    def folder(self):
        return self.scratch

    def start(self):
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="vicinal-bench-chroma-"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.launch()
        wait_for("Chroma's heartbeat", self.is_alive, START_SECONDS_MAX)

    def launch(self):
        program = pathlib.Path(sys.executable).parent / "chroma"
        environment = {**os.environ, "ANONYMIZED_TELEMETRY": "False"}
        with open(self.scratch / "log", "ab") as log:
            self.process = subprocess.Popen(
                [str(program), "run", "--path", str(self.scratch / "data"), "--host", "127.0.0.1",
                 "--port", str(self.port)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, start_new_session=True)

    def is_alive(self):
        if self.process.poll() is not None:
            raise RuntimeError("Chroma ended: " + (self.scratch / "log").read_text()[-1000:])
        try:
            return self.call("GET", "/api/v2/heartbeat")
        except (OSError, http.client.HTTPException, RuntimeError):
            return False

    def end(self):
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(10)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process = None

    def stop(self):
        self.end()
        if self.scratch is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)
            self.scratch = None

    def restart(self):
        self.end()
        began = time.perf_counter()
        self.launch()
        self.wait_right(START_SECONDS_MAX, 0.002)
        return time.perf_counter() - began

    def load(self):
        """Two connections, each with batches of 1,000, vectors as base64, documents and metadata."""
        times = {}
        began = time.perf_counter()
        self.collection = self.call("POST", self.BASE, {"name": COLLECTION, "configuration": {
            "hnsw": {"space": "cosine", "max_neighbors": 16, "ef_construction": 200,
                     "ef_search": 64}}})["id"]
        starts = iter(range(0, self.data.rows, self.BATCH))
        lock, failures = threading.Lock(), []

        def send():
            connection = self.connect()
            try:
                while not failures:
                    with lock:
                        start = next(starts, None)
                    if start is None:
                        break
                    rows = range(start, min(start + self.BATCH, self.data.rows))
                    status, answer = self.ask(connection, "POST", *self.upsert_body(rows, ""))
                    if status >= 300:
                        failures.append(f"{status} {str(answer)[:300]}")
            except (OSError, http.client.HTTPException) as error:
                failures.append(str(error))
            finally:
                connection.close()

        senders = [threading.Thread(target=send, daemon=True) for _ in range(2)]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(LOAD_SECONDS_MAX)
        if failures:
            raise RuntimeError(f"Chroma refuses: {failures[0]}")
        times["import_s"] = time.perf_counter() - began
        wait_for("Chroma's count", lambda: self.call("GET", f"{self.path()}/count") == self.data.rows,
                 LOAD_SECONDS_MAX, 0.05)
        times["counted_s"] = time.perf_counter() - began
        self.wait_right(LOAD_SECONDS_MAX, 0.05)
        times["answer_s"] = time.perf_counter() - began
        return times

    def path(self):
        return f"{self.BASE}/{self.collection}"

    def search_path(self):
        return self.path() + "/query"

    def search_body(self, text):
        return ('{"query_embeddings":[' + text + f'],"n_results":{TOP_K},"include":["distances"]}}')

    def ids_of(self, body):
        return body["ids"][0]

    def upsert_body(self, rows, prefix):
        data = self.data
        return self.path() + "/upsert", json.dumps({
            "ids": [f"{prefix}{row}" for row in rows],
            "embeddings": [data.base64(row) for row in rows],
            "documents": [data.records[row]["text"] for row in rows],
            "metadatas": [data.metadata(row) for row in rows]})
