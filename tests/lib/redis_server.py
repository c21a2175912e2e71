"""A private Redis for tests: a free port, nothing on disk, nothing left behind.

    with RedisServer() as redis:
        redis.url    # redis://127.0.0.1:PORT
"""
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import standing_still
from ports import free_port


def wait_for_port(port, process, seconds):
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"port {port} is not served") from None
            time.sleep(0.02)


class RedisServer:
    def __init__(self, *flags):
        self.flags, self.process = flags, None
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"

    def start(self):
        self.folder = tempfile.mkdtemp(prefix="vicinal-redis-")
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--appendonly", "no", "--dir", self.folder, *self.flags],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(self.port, self.process, 10)
        except BaseException:
            self.kill()
            raise
        return self

    def kill(self):
        """As a crash."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.process = None

    def signal(self, number):
        self.process.send_signal(number)

    stop = kill

    def pause(self):
        standing_still.stop(self.process.pid)

    def resume(self):
        self.signal(signal.SIGCONT)

    def command(self, *words):
        """One command; the first line of its answer."""
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(b"*%d\r\n" % len(words) + b"".join(
                b"$%d\r\n%s\r\n" % (len(w), w) for w in (str(word).encode() for word in words)))
            return connection.makefile("rb").readline().decode().strip()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()
