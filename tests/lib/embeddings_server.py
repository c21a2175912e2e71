"""A private embeddings server for tests: POST /v1/embeddings as OpenAI has it, honest or not.

    with EmbeddingsServer(dimension=8) as server:
        server.url              # http://127.0.0.1:PORT
        server.behave("busy", times=2)   # the next two requests; times=None: until told otherwise
        server.requests         # [(headers, body)] so far

Vectors of an honest answer are drawn from the text's words, so texts that share words are close;
they are far from unit norm and come in another order than asked for.
"""
import base64
import hashlib
import http.server
import json
import random
import threading
import time


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.owner.answer(self, body)

    def log_message(self, *_):
        pass

    def reply(self, status, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


class EmbeddingsServer:
    def __init__(self, dimension=8, key=None):
        self.dimension, self.key = dimension, key
        self.lock = threading.Lock()
        self.requests, self.plan, self.always = [], [], None
        self.released, self.let_go = threading.Event(), threading.Event()  # who hangs, who is held
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.owner = True, self
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    def behave(self, how, times=None):
        assert how is None or hasattr(self, f"do_{how}"), how
        with self.lock:
            self.plan = [how] * times if times is not None else []
            self.always = how if times is None else None

    def texts(self):
        """All texts that were asked for, in order."""
        with self.lock:
            return [text for _, body in self.requests for text in json.loads(body)["input"]]

    def answer(self, handler, body):
        with self.lock:
            self.requests.append((handler.headers, body))
            how = self.plan.pop(0) if self.plan else self.always
        try:
            getattr(self, f"do_{how or 'well'}")(handler, json.loads(body))
        except OSError:
            handler.close_connection = True

    # --- ways to answer -------------------------------------------------------------------------

    def vector(self, text):
        sums = [0.0] * self.dimension
        for word in text.lower().split():
            chance = random.Random(hashlib.sha256(word.encode()).digest())
            sums = [s + chance.gauss(0, 7) for s in sums]
        return sums

    def data(self, request):
        return [{"object": "embedding", "index": i, "embedding": self.vector(text)}
                for i, text in reversed(list(enumerate(request["input"])))]

    def do_well(self, handler, request):
        if self.key is not None and handler.headers.get("Authorization") != f"Bearer {self.key}":
            handler.reply(401, {"error": {"message": f"want the key {self.key}"}})
            return
        assert handler.path == "/v1/embeddings" and request["encoding_format"] == "float"
        handler.reply(200, {"object": "list", "model": request["model"], "data": self.data(request)})

    def do_busy(self, handler, _):
        handler.reply(429, {"error": {"message": "slow down"}}, Retry_After="1")

    def do_busy_for_long(self, handler, _):
        handler.reply(429, {"error": {"message": "slow down"}}, Retry_After="3600")

    def do_broken(self, handler, _):
        handler.reply(500, b"<html>oops</html>")

    def do_cut(self, handler, _):
        handler.close_connection = True

    def do_hang(self, handler, _):
        handler.close_connection = True
        self.released.wait(120)

    def do_held(self, handler, request):
        self.let_go.wait(120)
        self.do_well(handler, request)

    def do_refuse(self, handler, _):
        handler.reply(400, {"error": {"message": "this model has 512 tokens"}})

    def do_redirect(self, handler, _):
        handler.reply(307, b"", Location=f"{self.url}/elsewhere")

    def do_garbage(self, handler, _):
        handler.reply(200, b"\x00\xff{]" * 100)

    def do_too_few(self, handler, request):
        handler.reply(200, {"data": self.data(request)[1:]})

    def do_wrong_dimension(self, handler, request):
        data = self.data(request)
        data[0]["embedding"].append(1.0)
        handler.reply(200, {"data": data})

    def do_not_a_number(self, handler, request):
        data = self.data(request)
        data[0]["embedding"][0] = float("nan")
        handler.reply(200, {"data": data})

    def do_zeros(self, handler, request):
        data = self.data(request)
        data[0]["embedding"] = [0] * self.dimension
        handler.reply(200, {"data": data})

    def do_base64(self, handler, request):
        data = self.data(request)
        data[0]["embedding"] = base64.b64encode(bytes(4 * self.dimension)).decode()
        handler.reply(200, {"data": data})

    def do_too_big(self, handler, request):
        handler.reply(200, {"data": self.data(request), "more": "x" * (32 << 20)})

    def do_endless(self, handler, _):
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        handler.wfile.write(b'{"data":[')
        end = time.monotonic() + 120
        while time.monotonic() < end and not self.released.wait(0.01):
            handler.wfile.write(b" ")
