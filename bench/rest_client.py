"""One load generator for every server: raw keep-alive HTTP/1.1, request bytes prepared beforehand.

Nothing is parsed while the clock runs: an answer is read to its Content-Length, and the first
answer to each query is kept and looked at afterwards.  Each connection has one request under way.
One client process for one connection, two for more; with several connections in a process they
are served by epoll.
"""
import multiprocessing
import selectors
import signal
import socket
import time

ANSWER_SECONDS_MAX = 20.0
PROCESSES_MAX = 2


def request_bytes(host, port, path, body):
    body = body.encode()
    head = (f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


def parse(data):
    """(whole length, status, body) of an answer, or None while it is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError("an answer without Content-Length: " + repr(head[:200]))
    stop = head.find(b"\r\n", at + 2)
    length = int(head[at + 17:stop if stop >= 0 else len(head)])
    if len(data) < end + 4 + length:
        return None
    return end + 4 + length, int(head[9:12]), data[end + 4:end + 4 + length]


class Connection:
    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=ANSWER_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""
        self.query = self.sent = None

    def send(self, request, query):
        self.query, self.data = query, b""
        self.sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self):
        """(status, body) when the answer is whole, else None."""
        more = self.socket.recv(1 << 18)
        if not more:
            raise ConnectionError("the server closed the connection")
        self.data = self.data + more if self.data else more
        answer = parse(self.data)
        return answer and answer[1:]


class Load:
    """What one client process does and finds."""

    def __init__(self, requests, first):
        self.requests, self.next = requests, first
        self.latencies, self.answers, self.errors = [], {}, 0

    def begin(self, connection):
        connection.send(self.requests[self.next], self.next)
        self.next = (self.next + 1) % len(self.requests)

    def take(self, connection, answer):
        self.latencies.append(time.perf_counter() - connection.sent)
        status, body = answer
        if status != 200:
            self.errors += 1
        elif connection.query not in self.answers:
            self.answers[connection.query] = body

    def run_one(self, connection, end):
        while time.perf_counter() < end:
            self.begin(connection)
            answer = None
            while answer is None:
                answer = connection.receive()
            self.take(connection, answer)

    def run_many(self, connections, end):
        with selectors.EpollSelector() as selector:
            for connection in connections:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
                self.begin(connection)
            waiting = len(connections)
            while waiting > 0:
                events = selector.select(ANSWER_SECONDS_MAX)
                if not events:
                    raise TimeoutError("no answer")
                for key, _ in events:
                    answer = key.data.receive()
                    if answer is None:
                        continue
                    self.take(key.data, answer)
                    if time.perf_counter() < end:
                        self.begin(key.data)
                    else:
                        waiting -= 1


def work(pipe, barrier, address, requests, first, count, seconds):
    load = Load(requests, first)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # the parent's handlers are not ours
    try:
        connections = [Connection(address) for _ in range(count)]
        barrier.wait(ANSWER_SECONDS_MAX)
        began = time.perf_counter()
        if count == 1:
            load.run_one(connections[0], began + seconds)
        else:
            load.run_many(connections, began + seconds)
        elapsed = time.perf_counter() - began
        for connection in connections:
            connection.socket.close()
        pipe.send((load.latencies, load.answers, load.errors, elapsed, None))
    except Exception as error:  # told to the parent, who fails
        pipe.send(([], {}, 0, 0.0, f"{type(error).__name__}: {error}"))


def quantile(ordered, share):
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def run(address, requests, connections, seconds):
    """{"qps", "p50_ms", "p99_ms", "mean_ms", "errors", "count", "bodies": {query: answer's bytes}}.

    Each process goes through the queries in order from a place of its own.  Raises RuntimeError
    when a client fails.
    """
    context = multiprocessing.get_context("fork")
    processes = min(PROCESSES_MAX, connections)
    barrier = context.Barrier(processes)
    workers = []
    try:
        for i in range(processes):
            share = connections // processes + (i < connections % processes)
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=work, daemon=True, args=(
                theirs, barrier, address, requests, i * len(requests) // processes, share, seconds))
            worker.start()
            theirs.close()
            workers.append((worker, ours))
        results = []
        for worker, pipe in workers:
            if not pipe.poll(seconds + 3 * ANSWER_SECONDS_MAX):
                raise RuntimeError("a client process does not answer")
            results.append(pipe.recv())
    finally:
        for worker, _ in workers:
            worker.join(1)
            if worker.is_alive():
                worker.kill()
                worker.join()
    failures = [failure for *_, failure in results if failure]
    if failures:
        raise RuntimeError(f"client: {failures[0]}")
    latencies = sorted(latency for result in results for latency in result[0])
    bodies = {}
    for result in results:
        bodies.update(result[1])
    return {
        "qps": sum(len(result[0]) / result[3] for result in results),
        "p50_ms": quantile(latencies, 0.5) * 1e3, "p99_ms": quantile(latencies, 0.99) * 1e3,
        "mean_ms": sum(latencies) / len(latencies) * 1e3, "count": len(latencies),
        "errors": sum(result[2] for result in results), "bodies": bodies,
    }
